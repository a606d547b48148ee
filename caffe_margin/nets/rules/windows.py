"""Layers that slide windows over a bottom: convolutions and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.rules.algebra import (
    Blobs,
    Dim,
    Shape,
    canonical_axis,
    check,
    count,
    divide,
    four_axes,
    merge,
    multiply,
    show,
)


class _Windows(NamedTuple):
    """What BaseConvolutionLayer::LayerSetUp and Im2colLayer::LayerSetUp read: a value per axis."""

    axis: int
    kernel: list[int]
    stride: list[int]
    pad: list[int]
    extent: list[int]


def _windows(param: pb.ConvolutionParameter, bottom: Shape) -> _Windows:
    axis = canonical_axis(bottom, param.axis)
    axes = len(bottom) - axis - 1

    def read(field: str, default: int | None, pair: str | None) -> list[int]:
        values = list(getattr(param, field))
        if pair and (param.HasField(f"{pair}_h") or param.HasField(f"{pair}_w")):
            check(axes == 2, f"{pair}_h and {pair}_w are for 2 spatial axes, here are {axes}")
            check(not values, f"{field} and {pair}_h, {pair}_w exclude each other")
            return [getattr(param, f"{pair}_h"), getattr(param, f"{pair}_w")]
        if not values and default is not None:
            values = [default]
        times = len(values)
        check(times in (1, axes), f"{field} must be given once or {axes} times, not {times} times")
        return values * axes if times == 1 else values

    kernel = read("kernel_size", None, "kernel")
    stride = read("stride", 1, "stride")
    pad = read("pad", 0, "pad")
    dilation = read("dilation", 1, None)
    check(all(kernel), f"kernel_size must be positive, and is {kernel}")
    check(all(stride), f"stride must be positive, and is {stride}")
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    return _Windows(axis, kernel, stride, pad, extent)


def _slide(dim: Dim, stride: int, pad: int, extent: int) -> Dim:
    """ConvolutionLayer::compute_output_shape.

    Caffe does not compare. Its division truncates: a window too large by less than a stride
    counts as one that fits.
    """
    if dim is None:
        return None
    room = dim + 2 * pad
    check(extent <= room, f"the kernel spans {extent}, and the padded bottom only {room}")
    return (room - extent) // stride + 1


def _spread(dim: Dim, stride: int, pad: int, extent: int) -> Dim:
    """DeconvolutionLayer::compute_output_shape."""
    if dim is None:
        return None
    top = stride * (dim - 1) + extent - 2 * pad
    check(top > 0, f"pad {pad} leaves nothing of {top + 2 * pad}")
    return top


def convolution(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """BaseConvolutionLayer::LayerSetUp and Reshape, for Convolution and its relatives.

    A depthwise one without `group` has as many groups as channels.
    """
    check(len(layer.top) == len(bottoms), f"{len(bottoms)} bottoms need as many tops")
    param, bottom = layer.convolution_param, merge(layer, bottoms)
    axis, kernel, *steps = _windows(param, bottom)
    n, channels = param.num_output, bottom[axis]
    check(n > 0, "num_output must be positive")
    depthwise = "Depthwise" in layer.type and not param.HasField("group")
    group = channels if depthwise else param.group
    channels_each = divide(channels, group, "channels by group")
    n_each = divide(n, group, "num_output by group")
    if layer.type == "Deconvolution":
        resize, weight = _spread, (channels, n_each, *kernel)
    else:
        resize, weight = _slide, (n, channels_each, *kernel)
    top = (*bottom[:axis], n, *map(resize, bottom[axis + 1 :], *steps))
    return [top] * len(bottoms), [weight, (n,)] if param.bias_term else [weight]


def im2col(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """Im2colLayer::Reshape."""
    bottom = bottoms[0]
    axis, kernel, *steps = _windows(layer.convolution_param, bottom)
    check(axis + 1 < len(bottom), f"no spatial axis follows axis {axis} of {show(bottom)}")
    columns = multiply(bottom[axis], math.prod(kernel))
    return [(*bottom[:axis], columns, *map(_slide, bottom[axis + 1 :], *steps))], []


def _pooled(size: Dim, kernel: int, stride: int, pad: int, padded: bool, floor: bool) -> Dim:
    """One dimension of PoolingLayer::Reshape: the rounding, then the clip of the last window."""
    if size is None:
        return None
    room = size + 2 * pad - kernel
    pooled = (room // stride if floor else -(-room // stride)) + 1
    if padded and (pooled - 1) * stride >= size + pad:
        pooled -= 1
    check(pooled > 0, f"a kernel of {kernel} finds no place on a side of {size}, pad {pad}")
    return pooled


def _pool(
    bottom: Shape,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    method: int,
    floor: bool = False,
) -> Shape:
    """PoolingLayer::Reshape; `method` is PoolingParameter.pool, `floor` its round_mode."""
    check(min(kernel) > 0 and min(stride) > 0, "the kernel and the stride must be positive")
    if any(pad):
        check(method != pb.PoolingParameter.STOCHASTIC, "stochastic pooling takes no pad")
        fits = all(p < k for p, k in zip(pad, kernel, strict=True))
        check(fits, f"pad {show(pad)} must be smaller than the kernel, {show(kernel)}")
    sides = zip(bottom[2:], kernel, stride, pad, strict=True)
    return (*bottom[:2], *(_pooled(*side, any(pad), floor) for side in sides))


def pooling(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """PoolingLayer::LayerSetUp and Reshape."""
    param, bottom = layer.pooling_param, four_axes(bottoms[0])
    check(
        len(layer.top) == 1 or param.pool == pb.PoolingParameter.MAX,
        "only max pooling has a second top, the mask",
    )

    def read(single: str, pair: str) -> tuple[int, int]:
        h, w = param.HasField(f"{pair}_h"), param.HasField(f"{pair}_w")
        both = f"{single}, or {pair}_h and {pair}_w"
        check(h == w and not (h and param.HasField(single)), f"give {both}")
        if h:
            return getattr(param, f"{pair}_h"), getattr(param, f"{pair}_w")
        return (getattr(param, single),) * 2

    stride, pad = read("stride", "stride"), read("pad", "pad")
    if param.global_pooling:
        given = [f for f in ("kernel_size", "kernel_h", "kernel_w") if param.HasField(f)]
        check(not given, f"global_pooling and {' and '.join(given)} exclude each other")
        check(stride == (1, 1) and pad == (0, 0), "global_pooling takes neither pad nor stride")
        top: Shape = (*bottom[:2], 1, 1)
    else:
        floor = param.round_mode == pb.PoolingParameter.FLOOR
        top = _pool(bottom, read("kernel_size", "kernel"), stride, pad, param.pool, floor)
    return [top, top], []


def spp(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """SPPLayer::GetPoolingParam and Reshape: level i pools into at most 2^i by 2^i bins."""
    param, (num, channels, *sides) = layer.spp_param, four_axes(bottoms[0])
    check(param.pyramid_height > 0, "pyramid_height must be positive")
    if param.pyramid_height == 1:
        return [(num, channels, 1, 1)], []
    known = [side for side in sides if side is not None]
    if len(known) < len(sides):
        return [(num, None)], []
    bins = 0
    for level in range(param.pyramid_height):
        kernel = [-(-side // 2**level) for side in known]
        pad = [(k * 2**level - side + 1) // 2 for k, side in zip(kernel, known, strict=True)]
        _, _, *pooled = _pool((num, channels, *known), kernel, kernel, pad, param.pool)
        bins += count(pooled) or 0
    return [(num, multiply(channels, bins))], []
