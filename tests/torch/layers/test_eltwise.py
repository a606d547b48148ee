"""Eltwise, against loops over the elements as the C++ has them."""

import numpy as np
import pytest
import torch

from helpers.small_nets import layer

SHAPE = (2, 3)


def draw(count, seed=0):
    # Whole numbers of a small range: equals and zeros are among them.
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-2, 3, (count, 5, 4)).astype(float)
    return [torch.from_numpy(array).requires_grad_() for array in drawn]


def max_by_loop(bottoms, top_diff):
    """EltwiseLayer::Forward_cpu and Backward_cpu for MAX."""
    arrays = [bottom.detach().numpy() for bottom in bottoms]
    top, mask = np.empty_like(arrays[0]), np.empty(arrays[0].shape, int)
    for at in np.ndindex(top.shape):
        first, second = arrays[0][at], arrays[1][at]
        top[at], mask[at] = (first, 0) if first > second else (second, 1)
        for i, array in enumerate(arrays[2:], 2):
            if array[at] > top[at]:
                top[at], mask[at] = array[at], i
    return top, [np.where(mask == i, top_diff, 0) for i in range(len(arrays))]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_max_gives_each_gradient_to_one(count):
    bottoms = draw(count)
    top_diff = torch.randn(5, 4, dtype=torch.float64)
    module = layer("Eltwise", "eltwise_param { operation: MAX }", *[SHAPE] * count)
    top = module(*bottoms)
    diffs = torch.autograd.grad(top, bottoms, top_diff)
    expected, expected_diffs = max_by_loop(bottoms, top_diff.numpy())
    np.testing.assert_array_equal(top.detach(), expected)
    np.testing.assert_array_equal(torch.stack(diffs), expected_diffs)


def test_sum_of_coefficients():
    bottoms = draw(3)
    param = "eltwise_param { coeff: 1 coeff: -0.5 coeff: 0 }"
    top = layer("Eltwise", param, SHAPE, SHAPE, SHAPE)(*bottoms)
    first, second, _ = (bottom.detach() for bottom in bottoms)
    torch.testing.assert_close(top.detach(), first - second / 2)
    diffs = torch.autograd.grad(top.sum(), bottoms)
    assert [float(diff[0, 0]) for diff in diffs] == [1, -0.5, 0]


def test_product_with_zeros():
    bottoms = draw(3)
    top = layer("Eltwise", "eltwise_param { operation: PROD }", *[SHAPE] * 3)(*bottoms)
    diffs = torch.autograd.grad(top.sum(), bottoms)
    a, b, c = (bottom.detach() for bottom in bottoms)
    assert (a == 0).any()
    torch.testing.assert_close(top.detach(), a * b * c)
    torch.testing.assert_close(diffs, (b * c, a * c, a * b))


def test_the_gradient_that_is_not_stable():
    bottoms = draw(3)
    param = "eltwise_param { operation: PROD stable_prod_grad: false }"
    module = layer("Eltwise", param, *[SHAPE] * 3)
    top_diff = torch.randn(5, 4, dtype=torch.float64)
    diffs = torch.autograd.grad(module(*bottoms), bottoms, top_diff)
    arrays = [bottom.detach().numpy() for bottom in bottoms]
    with np.errstate(all="ignore"):
        expected = [np.prod(arrays, axis=0) / array * top_diff.numpy() for array in arrays]
    assert np.isnan(expected).any()
    np.testing.assert_allclose(torch.stack(diffs), expected, rtol=1e-14)


def test_without_zeros_both_are_the_gradient():
    param = "eltwise_param { operation: PROD stable_prod_grad: false }"
    module = layer("Eltwise", param, SHAPE, SHAPE)
    a, b = (torch.rand(2, 3, dtype=torch.float64) + 1 for _ in range(2))
    assert torch.autograd.gradcheck(module, (a.requires_grad_(), b.requires_grad_()))
    assert torch.autograd.gradgradcheck(module, (a, b))
    only = torch.autograd.grad(module(a.detach(), b).sum(), b)[0]
    torch.testing.assert_close(only, a.detach())


def test_shapes_are_not_broadcast():
    module = layer("Eltwise", "", SHAPE, SHAPE)
    with pytest.raises(ValueError, match="one shape"):
        module(torch.zeros(2, 3), torch.zeros(1, 3))
