"""Held against loops over every window, and Deconvolution against the transpose of those."""

import itertools

import numpy as np
import pytest
import torch

from helpers.layer_net import layer_net, run

SHAPES = {
    # Bottom, and the fields of convolution_param.
    "no spatial axis": ((3, 4), "num_output: 6 group: 2"),
    "1-d": ((2, 4, 9), "num_output: 6 kernel_size: 3 stride: 2 pad: 1 dilation: 2 group: 2"),
    "1-d, the last axis by a negative": ((2, 3, 4, 9), "num_output: 2 kernel_size: 2 axis: -2"),
    "no batch": ((3, 5, 6), "num_output: 2 kernel_size: 2 axis: 0"),
    "_h and _w": (
        (2, 3, 8, 7),
        "num_output: 2 kernel_h: 1 kernel_w: 4 stride_h: 3 stride_w: 1 pad_h: 2 pad_w: 3",
    ),
    "a pad beyond the kernel": ((1, 2, 3, 3), "num_output: 2 kernel_size: 1 pad: 2 stride: 3"),
    "repeated": (
        (2, 4, 7, 8),
        "num_output: 4 kernel_size: [2, 3] stride: [2, 1] pad: [0, 1] dilation: [1, 2] group: 4",
    ),
    "axis 2": ((2, 3, 4, 5, 6), "num_output: 2 kernel_size: 3 pad: 1 axis: 2 bias_term: false"),
    "3-d": ((2, 2, 4, 5, 3), "num_output: 4 kernel_size: [3, 2, 1] stride: 2 pad: 1 group: 2"),
    "4-d": (
        (2, 4, 3, 4, 3, 5),
        "num_output: 2 kernel_size: [1, 2, 3, 2] stride: [1, 2, 1, 2] pad: [0, 1, 1, 0] "
        "dilation: [1, 1, 1, 2] group: 2",
    ),
    "4-d without bias": ((1, 2, 2, 2, 3, 2), "num_output: 3 kernel_size: 2 bias_term: false"),
}


def windows_of(net):
    """Kernel, stride, pad, dilation and group, read from the message by hand."""
    param = net.param.layer[-1].convolution_param
    axes = net.layer.weight.ndim - 2

    def read(name, default, short):
        if axes == 2 and param.HasField(f"{short}_h"):
            return [getattr(param, f"{short}_h"), getattr(param, f"{short}_w")]
        values = list(getattr(param, name)) or [default]
        return values * axes if len(values) == 1 else values

    return (
        read("kernel_size", 0, "kernel"),
        read("stride", 1, "stride"),
        read("pad", 0, "pad"),
        list(param.dilation) * (axes if len(param.dilation) == 1 else 1) or [1] * axes,
        param.group,
    )


def taps(net, sides, steps):
    """Yield (channel of the larger blob, place there, weight's index, place of the step).

    The larger blob is what the windows lie on: a Convolution's bottom, a Deconvolution's top.
    """
    kernel, stride, pad, dilation, group = windows_of(net)
    weight = net.layer.weight
    rows = weight.shape[0] // group
    for o, c in itertools.product(*map(range, weight.shape[:2])):
        channel = o // rows * weight.shape[1] + c
        for k in itertools.product(*map(range, kernel)):
            for step in itertools.product(*map(range, steps)):
                at = tuple(
                    i * s - p + j * d
                    for i, j, s, p, d in zip(step, k, stride, pad, dilation, strict=True)
                )
                if all(0 <= a < side for a, side in zip(at, sides, strict=True)):
                    yield channel, at, (o, c, *k), o, step


def convolved(net, bottom, top_shape):
    """The tops by loops, of items (N, C, ...)."""
    top = np.zeros(top_shape)
    weight = net.layer.weight.detach().numpy()
    for channel, at, w, o, step in taps(net, bottom.shape[2:], top_shape[2:]):
        top[(slice(None), o, *step)] += weight[w] * bottom[(slice(None), channel, *at)]
    return top + bias_of(net, top.ndim)


def deconvolved(net, bottom, top_shape):
    top = np.zeros(top_shape)
    weight = net.layer.weight.detach().numpy()
    for channel, at, w, o, step in taps(net, top_shape[2:], bottom.shape[2:]):
        top[(slice(None), channel, *at)] += weight[w] * bottom[(slice(None), o, *step)]
    return top + bias_of(net, top.ndim)


def top_sides(net, kind, sides):
    """compute_output_shape of ConvolutionLayer and of DeconvolutionLayer."""
    for n, k, s, p, d in zip(sides, *windows_of(net)[:4], strict=True):
        extent = d * (k - 1) + 1
        convolved = kind == "Convolution"
        yield (n + 2 * p - extent) // s + 1 if convolved else s * (n - 1) + extent - 2 * p


def bias_of(net, ndim):
    if net.layer.bias is None:
        return 0
    return net.layer.bias.detach().numpy().reshape(-1, *[1] * (ndim - 2))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_is_the_loop(kind, name):
    shape, fields = SHAPES[name]
    if kind == "Deconvolution" and name == "a pad beyond the kernel":
        fields = fields.replace("pad: 2", "pad: 1")
    net = layer_net(f"type: '{kind}' convolution_param {{ {fields} }}", shape)
    bottom = np.random.default_rng(2).normal(size=shape)
    (top,), (bottom_diff,), (top_diff,) = run(net, bottom)
    axes = net.layer.weight.ndim - 2
    lead = bottom.ndim - 1 - axes
    items = bottom.reshape(-1, *bottom.shape[lead:])
    sides = tuple(top_sides(net, kind, items.shape[2:]))
    num_output = net.param.layer[-1].convolution_param.num_output
    assert top.shape == (*bottom.shape[:lead], num_output, *sides)
    loop = convolved if kind == "Convolution" else deconvolved
    expected = loop(net, items, (len(items), *top.shape[lead:])).reshape(top.shape)
    np.testing.assert_allclose(top, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    # It is linear, so the gradients are the transpose: <y - b, dy> = <x, dx> = <w, dw>.
    bias = bias_of(net, 2 + axes)
    inner = (
        (top.reshape(len(items), *top.shape[lead:]) - bias).reshape(top.shape) * top_diff
    ).sum()
    weight = net.layer.weight
    assert (bottom * bottom_diff).sum() == pytest.approx(inner, rel=1e-12)
    assert (weight.detach() * weight.grad).sum().item() == pytest.approx(inner, rel=1e-12)


@pytest.mark.parametrize("kind", ["DepthwiseConvolution", "ConvolutionDepthwise"])
def test_a_depthwise_one_has_a_group_a_channel(kind):
    net = layer_net(
        f"type: '{kind}' convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 stride: 2 }}",
        (2, 3, 5, 6),
    )
    assert net.layer.weight.shape == (6, 1, 3, 3)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    each = [
        torch.nn.functional.conv2d(
            x[:, [c // 2]], net.layer.weight[[c]], net.layer.bias[[c]], stride=2, padding=1
        )
        for c in range(6)
    ]
    torch.testing.assert_close(net(x0=x)["y0"], torch.cat(each, 1))


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_several_pairs_of_blobs_share_the_weight(kind):
    net = layer_net(
        f"type: '{kind}' convolution_param {{ num_output: 2 kernel_size: 3 }}",
        (2, 3, 5, 6),
        (2, 3, 5, 6),
        tops=2,
    )
    a, b = torch.randn(2, 2, 3, 5, 6, dtype=torch.float64)
    tops = net(x0=a, x1=b)
    sum(top.sum() for top in tops.values()).backward()
    both = net.layer.weight.grad.clone()
    net.layer.weight.grad = None
    single = net(x0=torch.cat([a, b]), x1=b)["y0"]
    torch.testing.assert_close(single, torch.cat([tops["y0"], tops["y1"]]))
    single.sum().backward()
    torch.testing.assert_close(net.layer.weight.grad, both)


def test_other_sizes_and_channels_last():
    net = layer_net(
        "type: 'Convolution' convolution_param { num_output: 4 kernel_size: 3 stride: 2 }",
        (2, 3, 5, 6),
        dtype=torch.float32,
    )
    x = torch.randn(5, 3, 9, 8)
    top = net(x0=x.contiguous(memory_format=torch.channels_last))["y0"]
    assert top.shape == (5, 4, 4, 3)
    assert top.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(top, net(x0=x)["y0"])


@pytest.mark.parametrize("shape", [(3, 5, 6), (2, 3, 5, 6, 1)])
def test_the_number_of_axes_may_not_change(shape):
    net = layer_net(
        "type: 'Convolution' convolution_param { num_output: 4 kernel_size: 3 }", (2, 3, 5, 6)
    )
    with pytest.raises(ValueError, match=f"must have 4 axes, and has {len(shape)}"):
        net(x0=torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("num_output: 4 kernel_size: 3 dilation: 0", "dilation must be positive"),
        ("num_output: 4 kernel_size: 0", "kernel_size must be positive"),
        ("num_output: 4 kernel_h: 3", "kernel_size must be positive"),
        ("num_output: 4 kernel_size: 3 stride: 0", "stride must be positive"),
        ("num_output: 4 kernel_size: 3 stride: [1, 1, 1]", "must be given once or 2 times"),
        ("num_output: 4 kernel_size: 3 kernel_h: 3 kernel_w: 3", "exclude each other"),
        ("num_output: 4 kernel_size: 3 group: 2", "3 cannot be divided by 2"),
        ("num_output: 4 kernel_size: 3 group: 3", "4 cannot be divided by 3"),
        ("num_output: 4 kernel_size: 8", "the kernel spans 8"),
        ("kernel_size: 3", "num_output must be positive"),
        ("num_output: 4 kernel_size: 3 weight_filler { type: 'xaver' }", "unknown filler"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        layer_net(f"type: 'Convolution' convolution_param {{ {fields} }}", (2, 3, 5, 6))


def test_exports_with_a_free_batch():
    net = layer_net(
        "type: 'Deconvolution' convolution_param { num_output: 4 kernel_size: 3 stride: 2 }",
        (2, 3, 5, 6),
    )
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    batch = torch.export.Dim("batch")
    program = torch.export.export(net.layer, (x,), dynamic_shapes=(({0: batch},),))
    more = torch.randn(7, 3, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(program.module()(more)[0], net(x0=more)["y0"])
