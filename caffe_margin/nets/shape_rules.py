"""For each layer type of Caffe: from the shapes of its bottoms to those of its tops and parameters.

A rule takes a LayerParameter and the shapes of the bottoms and returns (tops, params). It raises
ValueError where Caffe's LayerSetUp or Reshape would abort. `LAYER_TYPES`, at the end, is the table.

A dimension is None where it is known only at run time. None agrees with every number, and a number
computed from None is None.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from caffe_margin import caffe_margin_pb2 as pb

Dim: TypeAlias = "int | None"
Shape: TypeAlias = "tuple[int | None, ...]"
Blobs: TypeAlias = "tuple[list[Shape], list[Shape]]"
Rule: TypeAlias = "Callable[[pb.LayerParameter, list[Shape]], Blobs]"


def count(shape: Sequence[Dim]) -> Dim:
    """The number of elements, Blob::count; None where a dimension is unknown."""
    known = [dim for dim in shape if dim is not None]
    return math.prod(known) if len(known) == len(shape) else None


def show(shape: Sequence[Dim]) -> str:
    """The shape as people write it, with ? for an unknown dimension: (256, 3, ?, ?)."""
    dims = ", ".join("?" if dim is None else str(dim) for dim in shape)
    return f"({dims},)" if len(shape) == 1 else f"({dims})"


def agree(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are, or at run time may be, the same."""
    return a is None or b is None or a == b


def alike(a: Shape, b: Shape) -> bool:
    """Whether two shapes are, or at run time may be, the same."""
    return len(a) == len(b) and all(map(agree, a, b))


# What the rules are made of.


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def _axis(shape: Shape, axis: int) -> int:
    """Blob::CanonicalAxisIndex."""
    _check(-len(shape) <= axis < len(shape), f"axis {axis} is out of range for {show(shape)}")
    return axis % len(shape)


def _legacy(shape: Shape) -> Shape:
    """(num, channels, height, width), Blob::LegacyShape: missing axes are 1."""
    _check(len(shape) <= 4, f"the bottom must have at most 4 axes, and is {show(shape)}")
    return shape + (1,) * (4 - len(shape))


def _four_axes(shape: Shape) -> Shape:
    _check(len(shape) == 4, f"the bottom must have 4 axes (N, C, H, W), and is {show(shape)}")
    return shape


def _times(dim: Dim, factor: int) -> Dim:
    return None if dim is None else dim * factor


def _plus(dim: Dim, term: int) -> Dim:
    return None if dim is None else dim + term


def _divide(dim: Dim, parts: int, what: str) -> Dim:
    fits = parts > 0 and (dim is None or dim % parts == 0)
    _check(fits, f"{what}: {'?' if dim is None else dim} cannot be divided by {parts}")
    return None if dim is None else dim // parts


def _ones(dims: Sequence[Dim]) -> bool:
    return all(agree(dim, 1) for dim in dims)


def _replace(shape: Shape, axis: int, dim: Dim) -> Shape:
    return (*shape[:axis], dim, *shape[axis + 1 :])


def _differ(layer: pb.LayerParameter, bottoms: list[Shape], i: int, rule: str) -> str:
    """The message for bottoms 0 and i whose shapes break a rule."""
    first, other = layer.bottom[0], layer.bottom[i]
    return f"bottom '{first}' is {show(bottoms[0])} but '{other}' is {show(bottoms[i])}: {rule}"


def _merge(layer: pb.LayerParameter, bottoms: list[Shape], skip: int | None = None) -> Shape:
    """The shape that all bottoms have, but for the axis `skip`; what one knows, all know."""
    where = "" if skip is None else f" except on axis {skip}"
    merged = bottoms[0]
    for i, shape in enumerate(bottoms[1:], 1):
        compared = merged if skip is None else _replace(merged, skip, None)
        _check(alike(compared, shape), _differ(layer, bottoms, i, f"they must be equal{where}"))
        merged = tuple(b if a is None else a for a, b in zip(merged, shape, strict=True))
    return merged


def _per_top(layer: pb.LayerParameter, values: list[Any], field: str) -> list[Any]:
    tops, times = len(layer.top), len(values)
    _check(times in (1, tops), f"{field} must be given once or {tops} times, not {times} times")
    return values * tops if times == 1 else values


def _not_in_place(layer: pb.LayerParameter) -> None:
    _check(layer.bottom[0] not in layer.top, "the layer cannot work in place")


# Data.


def _input(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """InputLayer::LayerSetUp."""
    shapes = [tuple(shape.dim) for shape in layer.input_param.shape]
    _check(bool(shapes), "the file gives no shape; give one among the input shapes")
    return _per_top(layer, shapes, "shape"), []


def _dummy_data(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """DummyDataLayer::LayerSetUp."""
    param = layer.dummy_data_param
    legacy = {name: list(getattr(param, name)) for name in ("num", "channels", "height", "width")}
    if any(legacy.values()):
        _check(not param.shape, "shape and num, channels, height, width exclude each other")
        dims = [_per_top(layer, values, name) for name, values in legacy.items()]
        return list(zip(*dims, strict=True)), []
    return _per_top(layer, [tuple(shape.dim) for shape in param.shape], "shape"), []


def _parameter(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ParameterLayer::LayerSetUp."""
    shape = tuple(layer.parameter_param.shape.dim)
    return [shape], [shape]


def _images(batch: int, channels: Dim, height: Dim, width: Dim) -> Blobs:
    """Images and one label for each."""
    _check(batch > 0, "batch_size must be positive")
    return [(batch, channels, height, width), (batch,)], []


def _crop_size(layer: pb.LayerParameter) -> Dim:
    return layer.transform_param.crop_size or None


def _transformed_channels(layer: pb.LayerParameter) -> Dim:
    """DataTransformer::Transform takes one mean_value, or one per channel."""
    means = len(layer.transform_param.mean_value)
    return means if means > 1 else None


def _data(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """DataLayer::DataLayerSetUp. The database knows what crop_size does not say."""
    crop = _crop_size(layer)
    return _images(layer.data_param.batch_size, _transformed_channels(layer), crop, crop)


def _image_data(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ImageDataLayer::DataLayerSetUp. Images not resized and not cropped are as the files are."""
    param, crop = layer.image_data_param, _crop_size(layer)
    size = (param.new_height or None, param.new_width or None)
    _check((size[0] is None) == (size[1] is None), "new_height and new_width go together")
    smallest = min(param.new_height, param.new_width) or None
    _check(
        crop is None or smallest is None or crop <= smallest,
        f"crop_size {crop} is larger than the image of {show(size)}",
    )
    channels = 3 if param.is_color else 1
    return _images(param.batch_size, channels, crop or size[0], crop or size[1])


def _memory_data(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """MemoryDataLayer::DataLayerSetUp."""
    param = layer.memory_data_param
    image = (param.channels, param.height, param.width)
    _check(min(image) > 0, "channels, height and width must be positive")
    return _images(param.batch_size, *image)


def _window_data(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """WindowDataLayer::DataLayerSetUp. The window file gives the channels."""
    crop = _crop_size(layer)
    _check(crop is not None, "transform_param needs a crop_size")
    return _images(layer.window_data_param.batch_size, _transformed_channels(layer), crop, crop)


def _hdf5_data(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """HDF5DataLayer::LayerSetUp."""
    raise ValueError("the shapes are in the HDF5 files; give them among the input shapes")


# Sliding windows.


class _Windows(NamedTuple):
    """What BaseConvolutionLayer::LayerSetUp and Im2colLayer::LayerSetUp read: a value per axis."""

    axis: int
    kernel: list[int]
    stride: list[int]
    pad: list[int]
    extent: list[int]


def _windows(param: pb.ConvolutionParameter, bottom: Shape) -> _Windows:
    axis = _axis(bottom, param.axis)
    axes = len(bottom) - axis - 1

    def read(field: str, default: int | None, pair: str | None) -> list[int]:
        values = list(getattr(param, field))
        if pair and (param.HasField(f"{pair}_h") or param.HasField(f"{pair}_w")):
            _check(axes == 2, f"{pair}_h and {pair}_w are for 2 spatial axes, here are {axes}")
            _check(not values, f"{field} and {pair}_h, {pair}_w exclude each other")
            return [getattr(param, f"{pair}_h"), getattr(param, f"{pair}_w")]
        if not values and default is not None:
            values = [default]
        times = len(values)
        _check(times in (1, axes), f"{field} must be given once or {axes} times, not {times} times")
        return values * axes if times == 1 else values

    kernel = read("kernel_size", None, "kernel")
    stride = read("stride", 1, "stride")
    pad = read("pad", 0, "pad")
    dilation = read("dilation", 1, None)
    _check(all(kernel), f"kernel_size must be positive, and is {kernel}")
    _check(all(stride), f"stride must be positive, and is {stride}")
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
    _check(extent <= room, f"the kernel spans {extent}, and the padded bottom only {room}")
    return (room - extent) // stride + 1


def _spread(dim: Dim, stride: int, pad: int, extent: int) -> Dim:
    """DeconvolutionLayer::compute_output_shape."""
    if dim is None:
        return None
    top = stride * (dim - 1) + extent - 2 * pad
    _check(top > 0, f"pad {pad} leaves nothing of {top + 2 * pad}")
    return top


def _convolution(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """BaseConvolutionLayer::LayerSetUp and Reshape, for Convolution and Deconvolution."""
    _check(len(layer.top) == len(bottoms), f"{len(bottoms)} bottoms need as many tops")
    param, bottom = layer.convolution_param, _merge(layer, bottoms)
    axis, kernel, *steps = _windows(param, bottom)
    n, channels = param.num_output, bottom[axis]
    _check(n > 0, "num_output must be positive")
    channels_each = _divide(channels, param.group, "channels by group")
    n_each = _divide(n, param.group, "num_output by group")
    if layer.type == "Deconvolution":
        resize, weight = _spread, (channels, n_each, *kernel)
    else:
        resize, weight = _slide, (n, channels_each, *kernel)
    top = (*bottom[:axis], n, *map(resize, bottom[axis + 1 :], *steps))
    return [top] * len(bottoms), [weight, (n,)] if param.bias_term else [weight]


def _im2col(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """Im2colLayer::Reshape."""
    bottom = bottoms[0]
    axis, kernel, *steps = _windows(layer.convolution_param, bottom)
    _check(axis + 1 < len(bottom), f"no spatial axis follows axis {axis} of {show(bottom)}")
    columns = _times(bottom[axis], math.prod(kernel))
    return [(*bottom[:axis], columns, *map(_slide, bottom[axis + 1 :], *steps))], []


def _pooled(size: Dim, kernel: int, stride: int, pad: int, padded: bool) -> Dim:
    """One dimension of PoolingLayer::Reshape: the ceiling, then the clip of the last window."""
    if size is None:
        return None
    pooled = -((kernel - size - 2 * pad) // stride) + 1
    if padded and (pooled - 1) * stride >= size + pad:
        pooled -= 1
    _check(pooled > 0, f"a kernel of {kernel} finds no place on a side of {size}, pad {pad}")
    return pooled


def _pool(
    bottom: Shape, kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int], method: int
) -> Shape:
    """PoolingLayer::Reshape; `method` is PoolingParameter.pool."""
    _check(min(kernel) > 0 and min(stride) > 0, "the kernel and the stride must be positive")
    if any(pad):
        _check(method != pb.PoolingParameter.STOCHASTIC, "stochastic pooling takes no pad")
        fits = all(p < k for p, k in zip(pad, kernel, strict=True))
        _check(fits, f"pad {show(pad)} must be smaller than the kernel, {show(kernel)}")
    sides = zip(bottom[2:], kernel, stride, pad, strict=True)
    return (*bottom[:2], *(_pooled(*side, any(pad)) for side in sides))


def _pooling(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """PoolingLayer::LayerSetUp and Reshape."""
    param, bottom = layer.pooling_param, _four_axes(bottoms[0])
    _check(
        len(layer.top) == 1 or param.pool == pb.PoolingParameter.MAX,
        "only max pooling has a second top, the mask",
    )

    def read(single: str, pair: str) -> tuple[int, int]:
        h, w = param.HasField(f"{pair}_h"), param.HasField(f"{pair}_w")
        both = f"{single}, or {pair}_h and {pair}_w"
        _check(h == w and not (h and param.HasField(single)), f"give {both}")
        if h:
            return getattr(param, f"{pair}_h"), getattr(param, f"{pair}_w")
        return (getattr(param, single),) * 2

    stride, pad = read("stride", "stride"), read("pad", "pad")
    if param.global_pooling:
        given = [f for f in ("kernel_size", "kernel_h", "kernel_w") if param.HasField(f)]
        _check(not given, f"global_pooling and {' and '.join(given)} exclude each other")
        _check(stride == (1, 1) and pad == (0, 0), "global_pooling takes neither pad nor stride")
        top: Shape = (*bottom[:2], 1, 1)
    else:
        top = _pool(bottom, read("kernel_size", "kernel"), stride, pad, param.pool)
    return [top, top], []


def _spp(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """SPPLayer::GetPoolingParam and Reshape: level i pools into at most 2^i by 2^i bins."""
    param, (num, channels, *sides) = layer.spp_param, _four_axes(bottoms[0])
    _check(param.pyramid_height > 0, "pyramid_height must be positive")
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
    return [(num, _times(channels, bins))], []


# Products.


def _inner_product(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """InnerProductLayer::LayerSetUp and Reshape."""
    param, bottom = layer.inner_product_param, bottoms[0]
    n, axis = param.num_output, _axis(bottom, param.axis)
    _check(n > 0, "num_output must be positive")
    k = count(bottom[axis:])
    weight = (k, n) if param.transpose else (n, k)
    return [(*bottom[:axis], n)], [weight, (n,)] if param.bias_term else [weight]


def _margin_inner_product(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """MarginInnerProductLayer::LayerSetUp and Reshape; its ancestor of L-Softmax does the same."""
    own = layer.type == "MarginInnerProduct"
    param = layer.margin_inner_product_param if own else layer.largemargin_inner_product_param
    bottom, label = bottoms
    n, axis = param.num_output, _axis(bottom, param.axis)
    _check(n > 0, "num_output must be positive")
    m = count(bottom[:axis])
    fits = agree(_legacy(bottom)[0], _legacy(label)[0]) and agree(m, count(label))
    _check(fits, _differ(layer, bottoms, 1, "there must be one label for each row"))
    return [(*bottom[:axis], n), (1,)], [(n, count(bottom[axis:]))]


def _embed(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """EmbedLayer::LayerSetUp and Reshape."""
    param = layer.embed_param
    n, k = param.num_output, param.input_dim
    _check(n > 0 and k > 0, "num_output and input_dim must be positive")
    return [(*bottoms[0], n)], [(k, n), (n,)] if param.bias_term else [(k, n)]


# One bottom, element by element.


def _neuron(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """NeuronLayer::Reshape."""
    return bottoms[:1], []


def _prelu(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """PReLULayer::LayerSetUp."""
    bottom = bottoms[0]
    _check(len(bottom) >= 2, f"the bottom must have at least 2 axes, and is {show(bottom)}")
    channels = _legacy(bottom)[1]
    return [bottom], [() if layer.prelu_param.channel_shared else (channels,)]


def _batch_norm(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """BatchNormLayer::LayerSetUp: mean, variance, and the moving average's factor."""
    channels = bottoms[0][_axis(bottoms[0], 1)]
    return bottoms[:1], [(channels,), (channels,), (1,)]


def _lrn(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """LRNLayer::LayerSetUp and Reshape."""
    size = layer.lrn_param.local_size
    _check(size % 2 == 1, f"local_size must be odd, and is {size}")
    return [_four_axes(bottoms[0])], []


def _mvn(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """MVNLayer::Reshape, which gives every top 4 axes."""
    return [_legacy(bottoms[0])], []


def _softmax(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """SoftmaxLayer::Reshape."""
    _axis(bottoms[0], layer.softmax_param.axis)
    return bottoms[:1], []


# Broadcasts.


def _broadcast(layer: pb.LayerParameter, bottoms: list[Shape], axis: int, num_axes: int) -> Shape:
    """The shape that ScaleLayer and BiasLayer spread over bottom 0, from `axis` on.

    It is bottom 1's where there is one, and else `num_axes` axes of bottom 0 (-1 is all of them).
    """
    bottom = bottoms[0]
    if len(bottoms) == 1:
        start = _axis(bottom, axis)
        stop = len(bottom) if num_axes == -1 else start + num_axes
        _check(
            num_axes >= -1 and stop <= len(bottom),
            f"axis {axis} and num_axes {num_axes} reach beyond {show(bottom)}",
        )
        return bottom[start:stop]
    other = bottoms[1]
    # A scalar fits everywhere.
    part = bottom[_axis(bottom, axis) :][: len(other)] if other else ()
    rule = f"they must agree from axis {axis} on"
    _check(alike(part, other), _differ(layer, bottoms, 1, rule))
    return other


def _scale(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ScaleLayer::LayerSetUp and Reshape."""
    param = layer.scale_param
    scale = _broadcast(layer, bottoms, param.axis, param.num_axes)
    params = [scale] if len(bottoms) == 1 else []
    if param.bias_term:
        params.append(_broadcast(layer, bottoms[:1], param.axis, len(scale)))
    return bottoms[:1], params


def _bias(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """BiasLayer::LayerSetUp and Reshape."""
    bias = _broadcast(layer, bottoms, layer.bias_param.axis, layer.bias_param.num_axes)
    return bottoms[:1], [bias] if len(bottoms) == 1 else []


# Together and apart.


def _eltwise(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """EltwiseLayer::LayerSetUp and Reshape."""
    param = layer.eltwise_param
    if param.coeff:
        _check(param.operation != pb.EltwiseParameter.PROD, "a product takes no coeff")
        _check(len(param.coeff) == len(bottoms), f"{len(bottoms)} bottoms need as many coeff")
    return [_merge(layer, bottoms)], []


def _old_axis(param: pb.ConcatParameter | pb.SliceParameter, old_name: str, bottom: Shape) -> int:
    """The axis of ConcatLayer and SliceLayer, which has an old name that takes no negative."""
    if not param.HasField(old_name):
        return _axis(bottom, param.axis)
    _check(not param.HasField("axis"), f"axis and {old_name} exclude each other")
    return _axis(bottom, getattr(param, old_name))


def _concat(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ConcatLayer::Reshape."""
    axis = _old_axis(layer.concat_param, "concat_dim", bottoms[0])
    merged = _merge(layer, bottoms, skip=axis)
    dims = [bottom[axis] for bottom in bottoms]
    total = None if None in dims else sum(dim for dim in dims if dim is not None)
    return [_replace(merged, axis, total)], []


def _slice(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """SliceLayer::Reshape."""
    param, bottom, tops = layer.slice_param, bottoms[0], len(layer.top)
    axis = _old_axis(param, "slice_dim", bottom)
    dim, points = bottom[axis], list(param.slice_point)
    if points:
        _check(len(points) == tops - 1, f"{tops} tops need {tops - 1} slice_point")
        sizes: list[Dim] = [b - a for a, b in itertools.pairwise([0, *points])]
        sizes.append(_plus(dim, -points[-1]))
        rising = all(size is None or size > 0 for size in sizes)
        _check(
            rising, f"slice_point must rise inside axis {axis} of {show(bottom)}, and is {points}"
        )
    else:
        sizes = [_divide(dim, tops, f"axis {axis} among the tops")] * tops
    return [_replace(bottom, axis, size) for size in sizes], []


def _split(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """SplitLayer::Reshape."""
    _not_in_place(layer)
    return bottoms * len(layer.top), []


def _tile(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """TileLayer::Reshape."""
    bottom, tiles = bottoms[0], layer.tile_param.tiles
    axis = _axis(bottom, layer.tile_param.axis)
    _check(tiles > 0, "tiles must be given, and positive")
    return [_replace(bottom, axis, _times(bottom[axis], tiles))], []


def _crop(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """CropLayer::LayerSetUp and Reshape."""
    (bottom, like), offsets = bottoms, list(layer.crop_param.offset)
    start = _axis(bottom, layer.crop_param.axis)
    cropped = len(bottom) - start
    _check(
        len(offsets) in (0, 1, cropped),
        f"offset must be given once or {cropped} times, and is given {len(offsets)} times",
    )
    _check(len(like) >= len(bottom), _differ(layer, bottoms, 1, "it has too few axes"))
    offsets = offsets * cropped if len(offsets) == 1 else offsets or [0] * cropped
    for axis, offset in enumerate(offsets, start):
        size, wanted = bottom[axis], like[axis]
        _check(
            size is None or wanted is None or offset + wanted <= size,
            f"on axis {axis}, {wanted} from {offset} on are to be cropped out of {size}",
        )
    return [(*bottom[:start], *like[start : len(bottom)])], []


def _batch_reindex(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """BatchReindexLayer::Reshape."""
    bottom, index = bottoms
    _check(len(index) == 1, _differ(layer, bottoms, 1, "the second must have one axis"))
    return [(index[0], *bottom[1:])], []


def _filter(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """FilterLayer::Reshape. How many items pass is known at run time."""
    *filtered, selector = bottoms
    _check(len(layer.top) == len(filtered), f"{len(bottoms)} bottoms need {len(filtered)} tops")
    for i, shape in enumerate(bottoms):
        _axis(shape, 0)
        same = agree(shape[0], bottoms[0][0])
        _check(same, _differ(layer, bottoms, i, "the first dimensions must agree"))
    _check(_ones(selector[1:]), f"the selector must be (N, 1, ...), and is {show(selector)}")
    return [(None, *shape[1:]) for shape in filtered], []


# Another shape for the same elements, or fewer.


def _flatten(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """FlattenLayer::Reshape."""
    _not_in_place(layer)
    param, bottom = layer.flatten_param, bottoms[0]
    start, stop = _axis(bottom, param.axis), _axis(bottom, param.end_axis) + 1
    _check(start <= stop, f"end_axis {param.end_axis} comes before axis {param.axis}")
    return [(*bottom[:start], count(bottom[start:stop]), *bottom[stop:])], []


def _reshape(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ReshapeLayer::LayerSetUp and Reshape."""
    _not_in_place(layer)
    param, bottom, dims = layer.reshape_param, bottoms[0], list(layer.reshape_param.shape.dim)
    start = param.axis if param.axis >= 0 else len(bottom) + param.axis + 1
    stop = len(bottom) if param.num_axes == -1 else start + param.num_axes
    _check(
        0 <= start <= stop <= len(bottom),
        f"axis {param.axis} and num_axes {param.num_axes} reach beyond {show(bottom)}",
    )
    _check(min(dims, default=0) >= -1, "a dimension must be positive, 0 (copied) or -1 (inferred)")
    _check(dims.count(-1) <= 1, "only one dimension can be -1")

    # A dimension that is copied into its own place cancels out, known or not.
    replaced = list(bottom[start:stop])
    new: list[Dim] = []
    explicit: list[Dim] = []
    for i, dim in enumerate(dims):
        new.append(dim)
        if dim == 0:
            _check(start + i < len(bottom), f"{show(bottom)} has no axis {start + i} to copy")
            new[i] = bottom[start + i]
            if start + i < stop:
                replaced[i] = 1
            else:
                explicit.append(new[i])
        elif dim > 0:
            explicit.append(dim)

    have, want = count(replaced), count(explicit)
    message = f"{show(bottom)} cannot be reshaped: {have} elements into {show(new)}"
    if -1 in dims:
        _check(want != 0 and (have is None or want is None or have % want == 0), message)
        new[dims.index(-1)] = None if have is None or want is None else have // want
    else:
        _check(agree(have, want), message)
    return [(*bottom[:start], *new, *bottom[stop:])], []


def _reduction(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ReductionLayer::Reshape."""
    return [bottoms[0][: _axis(bottoms[0], layer.reduction_param.axis)]], []


def _argmax(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ArgMaxLayer::LayerSetUp and Reshape."""
    param, bottom = layer.argmax_param, bottoms[0]
    _axis(bottom, 0)
    if param.HasField("axis"):
        axis = _axis(bottom, param.axis)
        candidates, top = bottom[axis], _replace(bottom, axis, param.top_k)
    else:
        candidates = count(bottom[1:])
        kinds = 2 if param.out_max_val else 1
        top = (bottom[0], kinds, param.top_k) + (1,) * (len(bottom) - 3)
    _check(
        param.top_k > 0 and (candidates is None or param.top_k <= candidates),
        f"top_k must be positive and fit {show(bottom)}, and is {param.top_k}",
    )
    return [top], []


# Losses, accuracy, and layers that only swallow.


def _loss(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """LossLayer::Reshape."""
    for shape in bottoms[:2]:
        _axis(shape, 0)
    same = agree(bottoms[0][0], bottoms[1][0])
    _check(same, _differ(layer, bottoms, 1, "the first dimensions must agree"))
    return [(), bottoms[0]], []


def _check_labels(layer: pb.LayerParameter, bottoms: list[Shape], axis: int) -> int:
    """One label for each position of bottom 0 outside the axis of the classes, which it returns."""
    axis = _axis(bottoms[0], axis)
    positions = count(_replace(bottoms[0], axis, 1))
    rule = f"with the classes on axis {axis} there must be {positions} labels"
    _check(agree(positions, count(bottoms[1])), _differ(layer, bottoms, 1, rule))
    return axis


def _softmax_loss(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """SoftmaxWithLossLayer::Reshape; the second top is the softmax."""
    _check_labels(layer, bottoms, layer.softmax_param.axis)
    return _loss(layer, bottoms)


def _infogain_loss(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """InfogainLossLayer::Reshape; the second top is the softmax."""
    classes = bottoms[0][_check_labels(layer, bottoms, layer.infogain_loss_param.axis)]
    if len(bottoms) == 3:
        square = None if classes is None else classes**2
        rule = f"the matrix must be {classes} by {classes}"
        _check(agree(count(bottoms[2]), square), _differ(layer, bottoms, 2, rule))
    else:
        _check(layer.infogain_loss_param.HasField("source"), "no matrix: neither source nor bottom")
    return _loss(layer, bottoms)


def _equal_counts_loss(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """EuclideanLossLayer::Reshape and SigmoidCrossEntropyLossLayer::Reshape."""
    tops = _loss(layer, bottoms)
    same = agree(count(bottoms[0][1:]), count(bottoms[1][1:]))
    _check(same, _differ(layer, bottoms, 1, "they must hold as many elements"))
    return tops


def _multinomial_loss(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """MultinomialLogisticLossLayer::Reshape."""
    single = _ones(_legacy(bottoms[1])[1:])
    _check(single, f"there must be one label for each item, and they are {show(bottoms[1])}")
    return _loss(layer, bottoms)


def _contrastive_loss(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ContrastiveLossLayer::LayerSetUp."""
    a, b, similar = map(_legacy, bottoms)
    pairs = agree(a[1], b[1]) and _ones(a[2:]) and _ones(b[2:])
    _check(pairs, _differ(layer, bottoms, 1, "both must be (N, C)"))
    _check(_ones(similar[1:]), _differ(layer, bottoms, 2, "there must be one mark for each pair"))
    return _loss(layer, bottoms)


def _accuracy(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """AccuracyLayer::Reshape; the second top is the accuracy per class."""
    param = layer.accuracy_param
    classes = bottoms[0][_check_labels(layer, bottoms, param.axis)]
    possible = classes is None or param.top_k <= classes
    _check(possible, f"top_k {param.top_k} is more than the {classes} classes")
    return [(), (classes,)], []


def _sink(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """SilenceLayer and HDF5OutputLayer, which have no tops."""
    return [], []


# Recurrent.


def _recurrent(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """RecurrentLayer::LayerSetUp and Reshape, RNNLayer:: and LSTMLayer::FillUnrolledNet."""
    lstm = layer.type == "LSTM"
    param, (x, cont) = layer.recurrent_param, bottoms[:2]
    n, states = param.num_output, (2 if lstm else 1) * param.expose_hidden
    static = len(bottoms) - 2 - states
    _check(n > 0, "num_output must be positive")
    _check(
        static in (0, 1) and len(layer.top) == 1 + states,
        f"{2 + states} or {3 + states} bottoms and {1 + states} tops are needed",
    )
    _check(len(x) >= 3, f"the first bottom must be (T, N, ...), and is {show(x)}")
    _check(alike(x[:2], cont), _differ(layer, bottoms, 1, "they must be (T, N, ...) and (T, N)"))
    gates, hidden = 4 * n if lstm else n, (1, x[1], n)
    params: list[Shape] = [(gates, count(x[2:])), (gates,)]
    if static:
        fixed = bottoms[2]
        fits = len(fixed) >= 2 and agree(fixed[0], x[1])
        _check(fits, _differ(layer, bottoms, 2, "they must be (T, N, ...) and (N, ...)"))
        params.append((gates, count(fixed[1:])))
    params.append((gates, n))
    if not lstm:
        params += [(n, n), (n,)]
    for i, state in enumerate(bottoms[2 + static :], 2 + static):
        rule = f"a hidden state must be {show(hidden)}"
        _check(alike(state, hidden), _differ(layer, bottoms, i, rule))
    return [(*x[:2], n)] + [hidden] * states, params


def _lstm_unit(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """LSTMUnitLayer::Reshape."""
    cell, gates, cont = bottoms
    _check(len(cell) == 3, f"the first bottom must be (1, N, H), and is {show(cell)}")
    _, n, h = cell
    fits = alike(cell, (1, n, h)) and alike(gates, (1, n, _times(h, 4))) and alike(cont, (1, n))
    shapes = ", ".join(map(show, bottoms))
    _check(fits, f"the bottoms must be (1, N, H), (1, N, 4H) and (1, N), and are {shapes}")
    return [cell, cell], []


class LayerType(NamedTuple):
    """A rule, and how many bottoms and tops the layer takes, from and to."""

    rule: Rule
    bottoms: tuple[int, int] = (1, 1)
    tops: tuple[int, int] = (1, 1)


_MANY = 2**31 - 1

LAYER_TYPES: dict[str, LayerType] = {
    "Input": LayerType(_input, (0, 0), (1, _MANY)),
    "DummyData": LayerType(_dummy_data, (0, 0), (1, _MANY)),
    "Data": LayerType(_data, (0, 0), (1, 2)),
    "ImageData": LayerType(_image_data, (0, 0), (2, 2)),
    "HDF5Data": LayerType(_hdf5_data, (0, 0), (1, _MANY)),
    "MemoryData": LayerType(_memory_data, (0, 0), (2, 2)),
    "WindowData": LayerType(_window_data, (0, 0), (2, 2)),
    "Parameter": LayerType(_parameter, (0, 0)),
    "Convolution": LayerType(_convolution, (1, _MANY), (1, _MANY)),
    "Deconvolution": LayerType(_convolution, (1, _MANY), (1, _MANY)),
    "Im2col": LayerType(_im2col),
    "Pooling": LayerType(_pooling, tops=(1, 2)),
    "SPP": LayerType(_spp),
    "InnerProduct": LayerType(_inner_product),
    "MarginInnerProduct": LayerType(_margin_inner_product, (2, 2), (1, 2)),
    "LargeMarginInnerProduct": LayerType(_margin_inner_product, (2, 2), (1, 2)),
    "Embed": LayerType(_embed),
    "AbsVal": LayerType(_neuron),
    "BNLL": LayerType(_neuron),
    "Clip": LayerType(_neuron),
    "Dropout": LayerType(_neuron),
    "ELU": LayerType(_neuron),
    "Exp": LayerType(_neuron),
    "Log": LayerType(_neuron),
    "Power": LayerType(_neuron),
    "ReLU": LayerType(_neuron),
    "Sigmoid": LayerType(_neuron),
    "Swish": LayerType(_neuron),
    "TanH": LayerType(_neuron),
    "Threshold": LayerType(_neuron),
    "PReLU": LayerType(_prelu),
    "BatchNorm": LayerType(_batch_norm),
    "LRN": LayerType(_lrn),
    "MVN": LayerType(_mvn),
    "Softmax": LayerType(_softmax),
    "Scale": LayerType(_scale, (1, 2)),
    "Bias": LayerType(_bias, (1, 2)),
    "Eltwise": LayerType(_eltwise, (2, _MANY)),
    "Concat": LayerType(_concat, (1, _MANY)),
    "Slice": LayerType(_slice, tops=(1, _MANY)),
    "Split": LayerType(_split, tops=(1, _MANY)),
    "Tile": LayerType(_tile),
    "Crop": LayerType(_crop, (2, 2)),
    "BatchReindex": LayerType(_batch_reindex, (2, 2)),
    "Filter": LayerType(_filter, (2, _MANY), (1, _MANY)),
    "Flatten": LayerType(_flatten),
    "Reshape": LayerType(_reshape),
    "Reduction": LayerType(_reduction),
    "ArgMax": LayerType(_argmax),
    "Accuracy": LayerType(_accuracy, (2, 2), (1, 2)),
    # A loss without a top gets one of its own (Layer::AutoTopBlobs).
    "SoftmaxWithLoss": LayerType(_softmax_loss, (2, 2), (0, 2)),
    "InfogainLoss": LayerType(_infogain_loss, (2, 3), (0, 2)),
    "EuclideanLoss": LayerType(_equal_counts_loss, (2, 2), (0, 1)),
    "SigmoidCrossEntropyLoss": LayerType(_equal_counts_loss, (2, 2), (0, 1)),
    "HingeLoss": LayerType(_loss, (2, 2), (0, 1)),
    "MultinomialLogisticLoss": LayerType(_multinomial_loss, (2, 2), (0, 1)),
    "ContrastiveLoss": LayerType(_contrastive_loss, (3, 3), (0, 1)),
    "Silence": LayerType(_sink, (1, _MANY), (0, 0)),
    "HDF5Output": LayerType(_sink, (2, 2), (0, 0)),
    "RNN": LayerType(_recurrent, (2, 4), (1, 2)),
    "LSTM": LayerType(_recurrent, (2, 5), (1, 3)),
    "LSTMUnit": LayerType(_lstm_unit, (3, 3), (2, 2)),
}


def check_counts(type: str, bottoms: int, tops: int) -> None:
    """Raise ValueError unless a layer of a type may have so many bottoms and tops.

    Source: Layer::CheckBlobCounts.
    """
    layer_type = LAYER_TYPES[type]
    for what, number, (least, most) in (
        ("bottoms", bottoms, layer_type.bottoms),
        ("tops", tops, layer_type.tops),
    ):
        if not least <= number <= most:
            wanted = f"at least {least}" if number < least else f"at most {most}"
            wanted = str(least) if least == most else wanted
            raise ValueError(f"the number of {what} must be {wanted}, and is {number}")
