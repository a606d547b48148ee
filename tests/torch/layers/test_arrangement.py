"""Layers of arrangement: against numpy, and blobs of other sizes than they were made for."""

import numpy as np
import pytest
import torch

from helpers.small_nets import layer

MADE = (2, 4, 3, 6)
X = np.random.default_rng(0).standard_normal((5, 4, 3, 6))

CASES = [
    ("Flatten", "", lambda x: x.reshape(5, -1)),
    ("Flatten", "flatten_param { axis: 2 }", lambda x: x.reshape(5, 4, 18)),
    ("Flatten", "flatten_param { axis: 0 end_axis: -2 }", lambda x: x.reshape(60, 6)),
    ("Flatten", "flatten_param { axis: -3 end_axis: 1 }", lambda x: x),
    ("Flatten", "flatten_param { axis: 2 end_axis: 1 }", lambda x: x[:, :, None]),
    ("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }", lambda x: x.reshape(5, 72)),
    (
        "Reshape",
        "reshape_param { shape { dim: 0 dim: 2 dim: 2 dim: 0 dim: -1 } }",
        None,  # the fourth 0 copies axis 3, which is 6: 5 * 2 * 2 * 6 * -1
    ),
    (
        "Reshape",
        "reshape_param { axis: 1 num_axes: 2 shape { dim: 6 dim: 2 } }",
        lambda x: x.reshape(5, 6, 2, 6),
    ),
    (
        "Reshape",
        "reshape_param { axis: -1 num_axes: 0 shape { dim: 1 dim: 1 } }",
        lambda x: x[..., None, None],
    ),
    ("Reshape", "reshape_param { axis: 1 shape { dim: -1 } }", lambda x: x.reshape(5, 72)),
    ("Tile", "tile_param { tiles: 3 }", lambda x: np.tile(x, (1, 3, 1, 1))),
    ("Tile", "tile_param { tiles: 2 axis: -4 }", lambda x: np.tile(x, (2, 1, 1, 1))),
    ("Permute", "", lambda x: x),
    (
        "Permute",
        "permute_param { order: 0 order: 2 order: 3 order: 1 }",
        lambda x: x.transpose(0, 2, 3, 1),
    ),
    ("Permute", "permute_param { order: 2 }", lambda x: x.transpose(2, 0, 1, 3)),
]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("type_", "param", "expected"), CASES)
def test_another_batch(type_, param, expected, memory_format):
    x = torch.from_numpy(X).to(memory_format=memory_format).requires_grad_()
    module = layer(type_, param, MADE)
    top = module(x)
    wanted = X.reshape(5, 2, 2, 6, 3) if expected is None else expected(X)
    np.testing.assert_array_equal(top.detach(), wanted)
    # Each element of the top sends its own diff to the element it came from.
    numbers = np.arange(X.size).reshape(X.shape)
    origin = numbers.reshape(5, 2, 2, 6, 3) if expected is None else expected(numbers)
    top_diff = torch.randn(top.shape, dtype=torch.float64)
    (diff,) = torch.autograd.grad(top, x, top_diff)
    sums = np.bincount(origin.ravel(), top_diff.numpy().ravel(), X.size)
    np.testing.assert_allclose(diff.numpy().ravel(), sums, rtol=1e-14)


@pytest.mark.parametrize(
    ("param", "axis", "sizes"),
    [
        ("", 1, [2, 2]),
        ("slice_param { axis: -1 }", 3, [3, 3]),
        ("slice_param { slice_dim: 0 slice_point: 1 }", 0, [1, 4]),
        ("slice_param { axis: 3 slice_point: 1 slice_point: 4 }", 3, [1, 3, 2]),
    ],
)
def test_slice_and_concat_undo_each_other(param, axis, sizes):
    x = torch.from_numpy(X)
    tops = layer("Slice", param, MADE, tops=len(sizes))(x)
    assert [top.shape[axis] for top in tops] == sizes
    pieces = np.split(X, np.cumsum(sizes)[:-1], axis)
    for top, piece in zip(tops, pieces, strict=True):
        np.testing.assert_array_equal(top, piece)
    shapes = [tuple(top.shape) for top in tops]
    for name in ("axis", "concat_dim"):
        joined = layer("Concat", f"concat_param {{ {name}: {axis} }}", *shapes)(*tops)
        assert torch.equal(joined, x)
    negative = layer("Concat", f"concat_param {{ axis: {axis - 4} }}", *shapes)(*tops)
    assert torch.equal(negative, x)


def test_concat_of_one():
    assert torch.equal(layer("Concat", "", MADE)(torch.from_numpy(X)), torch.from_numpy(X))


def test_slices_that_do_not_fit_another_size():
    with pytest.raises(RuntimeError, match="split_sizes"):
        layer("Slice", "", MADE, tops=2)(torch.zeros(2, 5, 3, 6))
    with pytest.raises(RuntimeError):
        layer("Slice", "slice_param { slice_point: 3 }", MADE, tops=2)(torch.zeros(2, 2))


def test_each_copy_has_its_own_gradient():
    x = torch.ones(3, requires_grad=True)
    first, second = layer("Split", "", (3,), tops=2)(x)
    for copy in (first, second):
        copy.retain_grad()
    (2 * first + 3 * second).sum().backward()
    assert (first.grad[0], second.grad[0], x.grad[0]) == (2, 3, 5)


@pytest.mark.parametrize(
    ("type_", "param", "message"),
    [
        ("Flatten", "flatten_param { axis: 2 end_axis: 0 }", "comes before"),
        ("Tile", "", "tiles must be given"),
        ("Permute", "permute_param { order: 4 }", "each once"),
        ("Permute", "permute_param { order: 1 order: 1 }", "each once"),
        ("Concat", "concat_param { axis: 1 concat_dim: 1 }", "exclude"),
        ("Slice", "slice_param { slice_point: 1 }", "need 0 slice_point"),
    ],
)
def test_what_caffe_refuses(type_, param, message):
    with pytest.raises(ValueError, match=message):
        layer(type_, param, MADE)
