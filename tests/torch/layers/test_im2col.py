import itertools

import numpy as np
import pytest
import torch

from helpers.layer_net import layer_net, run


@pytest.mark.parametrize(
    ("shape", "fields", "kernel", "stride", "pad", "dilation", "lead"),
    [
        ((2, 3, 8), "kernel_size: 3 stride: 2 dilation: 2 pad: 1", [3], [2], [1], [2], 1),
        (
            (2, 3, 5, 6),
            "kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 3 pad_h: 2 pad_w: 0",
            [2, 3],
            [1, 3],
            [2, 0],
            [1, 1],
            1,
        ),
        ((2, 2, 3, 4, 5), "kernel_size: 2 axis: 2", [2, 2], [1, 1], [0, 0], [1, 1], 2),
        ((3, 5, 4), "kernel_size: 2 axis: 0", [2, 2], [1, 1], [0, 0], [1, 1], 0),
        (
            (1, 2, 3, 4, 3),
            "kernel_size: [1, 2, 3] pad: [0, 0, 1] force_nd_im2col: true",
            [1, 2, 3],
            [1, 1, 1],
            [0, 0, 1],
            [1, 1, 1],
            1,
        ),
    ],
)
def test_is_the_loop(shape, fields, kernel, stride, pad, dilation, lead):
    net = layer_net(f"type: 'Im2col' convolution_param {{ {fields} }}", shape)
    x = np.random.default_rng(3).normal(size=shape)
    (top,), (bottom_diff,), (top_diff,) = run(net, x)
    outer, (channels, *sides), tops = shape[:lead], shape[lead:], top.shape[lead + 1 :]
    expected, diff = np.zeros(top.shape), np.zeros(shape)
    places = itertools.product(range(channels), *map(range, kernel))
    for column, (c, *k) in enumerate(places):
        for step in np.ndindex(tops):
            at = [
                i * s - p + j * d
                for i, j, s, p, d in zip(step, k, stride, pad, dilation, strict=True)
            ]
            if all(0 <= a < side for a, side in zip(at, sides, strict=True)):
                for item in np.ndindex(outer):
                    expected[(*item, column, *step)] = x[(*item, c, *at)]
                    diff[(*item, c, *at)] += top_diff[(*item, column, *step)]
    assert np.array_equal(top, expected)
    np.testing.assert_allclose(bottom_diff, diff, rtol=1e-13, atol=1e-14)


def test_is_pytorch_s_unfold():
    net = layer_net(
        "type: 'Im2col' convolution_param { kernel_size: 3 stride: 2 pad: 1 }", (2, 3, 7, 8)
    )
    x = torch.randn(4, 3, 6, 9, dtype=torch.float64)
    top = net(x0=x.contiguous(memory_format=torch.channels_last))["y0"]
    expected = torch.nn.functional.unfold(x, 3, padding=1, stride=2)
    assert torch.equal(top.flatten(2), expected)


def test_no_spatial_axis_is_refused():
    with pytest.raises(ValueError, match="no spatial axis follows axis 1"):
        layer_net("type: 'Im2col' convolution_param { kernel_size: 1 }", (2, 3))
