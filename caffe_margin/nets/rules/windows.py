"""Layers that slide windows over a bottom: convolutions and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

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

D = TypeVar("D", int, "int | None")
"""A dimension: what is computed from a known one is known."""


class Windows(NamedTuple):
    """The channels' axis, and for each axis after it how windows lie on it."""

    axis: int
    kernel: list[int]
    stride: list[int]
    pad: list[int]
    dilation: list[int]

    @property
    def steps(self) -> tuple[list[int], list[int], list[int]]:
        """The stride, the pad, and from a window's first element to its last, for each axis."""
        extent = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        return self.stride, self.pad, extent


def windows(param: pb.ConvolutionParameter, bottom: Shape) -> Windows:
    """What BaseConvolutionLayer::LayerSetUp and Im2colLayer::LayerSetUp read.

    Raises:
        ValueError: a field has not a value for each axis, or one that Caffe refuses.
    """
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
    return Windows(axis, kernel, stride, pad, dilation)


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


def groups(layer: pb.LayerParameter, channels: Dim) -> Dim:
    """In how many groups a convolution's channels are: a depthwise one's default is one each."""
    param = layer.convolution_param
    depthwise = "Depthwise" in layer.type and not param.HasField("group")
    return channels if depthwise else param.group


def convolution(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """BaseConvolutionLayer::LayerSetUp and Reshape, for Convolution and its relatives."""
    check(len(layer.top) == len(bottoms), f"{len(bottoms)} bottoms need as many tops")
    param, bottom = layer.convolution_param, merge(layer, bottoms)
    slid = windows(param, bottom)
    axis = slid.axis
    n, channels = param.num_output, bottom[axis]
    check(n > 0, "num_output must be positive")
    group = groups(layer, channels)
    channels_each = divide(channels, group, "channels by group")
    n_each = divide(n, group, "num_output by group")
    if layer.type == "Deconvolution":
        resize, weight = _spread, (channels, n_each, *slid.kernel)
    else:
        resize, weight = _slide, (n, channels_each, *slid.kernel)
    top = (*bottom[:axis], n, *map(resize, bottom[axis + 1 :], *slid.steps))
    return [top] * len(bottoms), [weight, (n,)] if param.bias_term else [weight]


def im2col(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """Im2colLayer::Reshape."""
    bottom = bottoms[0]
    slid = windows(layer.convolution_param, bottom)
    axis = slid.axis
    check(axis + 1 < len(bottom), f"no spatial axis follows axis {axis} of {show(bottom)}")
    columns = multiply(bottom[axis], math.prod(slid.kernel))
    return [(*bottom[:axis], columns, *map(_slide, bottom[axis + 1 :], *slid.steps))], []


def _pooled(size: D, kernel: int, stride: int, pad: int, padded: bool, floor: bool) -> D:
    """One dimension of PoolingLayer::Reshape: the rounding, then the clip of the last window."""
    if size is None:
        return None
    room = size + 2 * pad - kernel
    pooled = (room // stride if floor else -(-room // stride)) + 1
    if padded and (pooled - 1) * stride >= size + pad:
        pooled -= 1
    check(pooled > 0, f"a kernel of {kernel} finds no place on a side of {size}, pad {pad}")
    return pooled


class Pool(NamedTuple):
    """How pooling windows lie on an image, (height, width) each, and how sides are rounded."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    floor: bool = False


def read_pool(param: pb.PoolingParameter) -> Pool | None:
    """PoolingLayer::LayerSetUp; None where one window is the whole image.

    Raises:
        ValueError: fields are missing, exclude each other, or do not go with the method.
    """

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
        return None
    _check_unpadded(param.pool == pb.PoolingParameter.STOCHASTIC, pad)
    floor = param.round_mode == pb.PoolingParameter.FLOOR
    return Pool(read("kernel_size", "kernel"), stride, pad, floor)


def _check_unpadded(stochastic: bool, pad: tuple[int, int]) -> None:
    """PoolingLayer::LayerSetUp, which SPP's levels pass too."""
    check(not (stochastic and any(pad)), "stochastic pooling takes no pad")


def pooled_sides(sides: Sequence[D], pool: Pool) -> list[D]:
    """PoolingLayer::Reshape: height and width.

    Raises:
        ValueError: a window finds no place.
    """
    kernel, stride, pad, floor = pool
    check(min(kernel) > 0 and min(stride) > 0, "the kernel and the stride must be positive")
    fits = not any(pad) or all(p < k for p, k in zip(pad, kernel, strict=True))
    check(fits, f"pad {show(pad)} must be smaller than the kernel, {show(kernel)}")
    each = zip(sides, kernel, stride, pad, strict=True)
    return [_pooled(*side, any(pad), floor) for side in each]


def pooling(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """PoolingLayer::Reshape."""
    param, (num, channels, *sides) = layer.pooling_param, four_axes(bottoms[0])
    check(
        len(layer.top) == 1 or param.pool == pb.PoolingParameter.MAX,
        "only max pooling has a second top, the mask",
    )
    pool = read_pool(param)
    top: Shape = (num, channels, *([1, 1] if pool is None else pooled_sides(sides, pool)))
    return [top, top], []


def pyramid(param: pb.SPPParameter, height: int, width: int) -> list[Pool]:
    """SPPLayer::GetPoolingParam: level i pools into at most 2^i by 2^i bins.

    Raises:
        ValueError: a level would pad stochastic pooling.
    """
    pools = []
    for bins in (2**level for level in range(param.pyramid_height)):
        kernel = -(-height // bins), -(-width // bins)
        pad = (kernel[0] * bins - height + 1) // 2, (kernel[1] * bins - width + 1) // 2
        _check_unpadded(param.pool == pb.SPPParameter.STOCHASTIC, pad)
        pools.append(Pool(kernel, kernel, pad))
    return pools


def spp(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """SPPLayer::Reshape."""
    param, (num, channels, height, width) = layer.spp_param, four_axes(bottoms[0])
    check(param.pyramid_height > 0, "pyramid_height must be positive")
    if param.pyramid_height == 1:
        return [(num, channels, 1, 1)], []
    if height is None or width is None:
        return [(num, None)], []
    pools = pyramid(param, height, width)
    bins = sum(count(pooled_sides((height, width), pool)) or 0 for pool in pools)
    return [(num, multiply(channels, bins))], []
