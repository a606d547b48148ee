"""Layers that pick items: against numpy's indexing."""

import numpy as np
import pytest
import torch

from helpers.small_nets import layer

X = np.random.default_rng(0).standard_normal((5, 3, 2))


@pytest.mark.parametrize("index", [[4, 0, 0, 2, 0, 4, 1], [2.9, 0.5], []])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_batch_reindex(index, dtype):
    module = layer("BatchReindex", "", (4, 3, 2), (6,))
    x = torch.from_numpy(X).requires_grad_()
    top = module(x, torch.tensor(index, dtype=dtype))
    whole = np.array(index, int)  # static_cast<int> cuts
    np.testing.assert_array_equal(top.detach(), X[whole])
    top_diff = torch.randn(top.shape, dtype=torch.float64)
    (diff,) = torch.autograd.grad(top, x, top_diff)
    expected = np.zeros_like(X)
    np.add.at(expected, whole, top_diff.numpy())
    np.testing.assert_allclose(diff, expected, rtol=1e-14)


@pytest.mark.parametrize("index", [-1.0, -0.5, 5.0, float("nan")])
def test_an_index_outside(index):
    module = layer("BatchReindex", "", (5, 3), (2,))
    with pytest.raises(ValueError, match=r"not in \[0, 5\)"):
        module(torch.zeros(5, 3), torch.tensor([0, index]))


@pytest.mark.parametrize("selector", [[0, 1, 0, -2, 0.5], [1] * 5, [0] * 5])
def test_filter(selector):
    module = layer("Filter", "", (4, 3, 2), (4,), (4, 1, 1), tops=2)
    x = torch.from_numpy(X).requires_grad_()
    numbers = torch.arange(5)
    first, second = module(x, numbers, torch.tensor(selector).reshape(5, 1, 1))
    chosen = np.flatnonzero(selector)
    np.testing.assert_array_equal(first.detach(), X[chosen])
    np.testing.assert_array_equal(second, chosen)
    (diff,) = torch.autograd.grad(first.sum(), x)
    np.testing.assert_array_equal(diff[:, 0, 0], np.isin(np.arange(5), chosen))


def test_a_selector_of_another_length():
    module = layer("Filter", "", (4, 3), (4,))
    with pytest.raises(ValueError, match="one element for each item"):
        module(torch.zeros(4, 3), torch.ones(5))
