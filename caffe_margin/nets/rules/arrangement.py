"""Layers that put bottoms together, take them apart, reshape them, or keep a part."""

from __future__ import annotations

import itertools

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.rules.algebra import (
    Blobs,
    Dim,
    Shape,
    add,
    agree,
    all_ones,
    canonical_axis,
    check,
    count,
    differ,
    divide,
    merge,
    multiply,
    not_in_place,
    replace_axis,
    show,
    total,
)


def eltwise(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """EltwiseLayer::LayerSetUp and Reshape."""
    param = layer.eltwise_param
    if param.coeff:
        check(param.operation != pb.EltwiseParameter.PROD, "a product takes no coeff")
        check(len(param.coeff) == len(bottoms), f"{len(bottoms)} bottoms need as many coeff")
    return [merge(layer, bottoms)], []


def _old_axis(param: pb.ConcatParameter | pb.SliceParameter, old_name: str, bottom: Shape) -> int:
    """The axis of ConcatLayer and SliceLayer, which has an old name that takes no negative."""
    if not param.HasField(old_name):
        return canonical_axis(bottom, param.axis)
    check(not param.HasField("axis"), f"axis and {old_name} exclude each other")
    return canonical_axis(bottom, getattr(param, old_name))


def concat(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ConcatLayer::Reshape."""
    axis = _old_axis(layer.concat_param, "concat_dim", bottoms[0])
    merged = merge(layer, bottoms, skip=axis)
    return [replace_axis(merged, axis, total(bottom[axis] for bottom in bottoms))], []


def slice_(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """SliceLayer::Reshape."""
    param, bottom, tops = layer.slice_param, bottoms[0], len(layer.top)
    axis = _old_axis(param, "slice_dim", bottom)
    dim, points = bottom[axis], list(param.slice_point)
    if points:
        check(len(points) == tops - 1, f"{tops} tops need {tops - 1} slice_point")
        sizes: list[Dim] = [b - a for a, b in itertools.pairwise([0, *points])]
        sizes.append(add(dim, -points[-1]))
        rising = all(size is None or size > 0 for size in sizes)
        check(
            rising, f"slice_point must rise inside axis {axis} of {show(bottom)}, and is {points}"
        )
    else:
        sizes = [divide(dim, tops, f"axis {axis} among the tops")] * tops
    return [replace_axis(bottom, axis, size) for size in sizes], []


def split(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """SplitLayer::Reshape."""
    not_in_place(layer)
    return bottoms * len(layer.top), []


def tile(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """TileLayer::Reshape."""
    bottom, tiles = bottoms[0], layer.tile_param.tiles
    axis = canonical_axis(bottom, layer.tile_param.axis)
    check(tiles > 0, "tiles must be given, and positive")
    return [replace_axis(bottom, axis, multiply(bottom[axis], tiles))], []


def crop(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """CropLayer::LayerSetUp and Reshape."""
    (bottom, like), offsets = bottoms, list(layer.crop_param.offset)
    start = canonical_axis(bottom, layer.crop_param.axis)
    cropped = len(bottom) - start
    check(
        len(offsets) in (0, 1, cropped),
        f"offset must be given once or {cropped} times, and is given {len(offsets)} times",
    )
    check(len(like) >= len(bottom), differ(layer, bottoms, 1, "it has too few axes"))
    offsets = offsets * cropped if len(offsets) == 1 else offsets or [0] * cropped
    for axis, offset in enumerate(offsets, start):
        size, wanted = bottom[axis], like[axis]
        check(
            size is None or wanted is None or offset + wanted <= size,
            f"on axis {axis}, {wanted} from {offset} on are to be cropped out of {size}",
        )
    return [(*bottom[:start], *like[start : len(bottom)])], []


def batch_reindex(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """BatchReindexLayer::Reshape."""
    bottom, index = bottoms
    check(len(index) == 1, differ(layer, bottoms, 1, "the second must have one axis"))
    return [(index[0], *bottom[1:])], []


def filter_(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """FilterLayer::Reshape. How many items pass is known at run time."""
    *filtered, selector = bottoms
    check(len(layer.top) == len(filtered), f"{len(bottoms)} bottoms need {len(filtered)} tops")
    for i, shape in enumerate(bottoms):
        canonical_axis(shape, 0)
        same = agree(shape[0], bottoms[0][0])
        check(same, differ(layer, bottoms, i, "the first dimensions must agree"))
    check(all_ones(selector[1:]), f"the selector must be (N, 1, ...), and is {show(selector)}")
    return [(None, *shape[1:]) for shape in filtered], []


# Another shape for the same elements, or fewer.


def flatten(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """FlattenLayer::Reshape."""
    not_in_place(layer)
    param, bottom = layer.flatten_param, bottoms[0]
    start, stop = canonical_axis(bottom, param.axis), canonical_axis(bottom, param.end_axis) + 1
    check(start <= stop, f"end_axis {param.end_axis} comes before axis {param.axis}")
    return [(*bottom[:start], count(bottom[start:stop]), *bottom[stop:])], []


def reshape(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ReshapeLayer::LayerSetUp and Reshape."""
    not_in_place(layer)
    param, bottom, dims = layer.reshape_param, bottoms[0], list(layer.reshape_param.shape.dim)
    start = param.axis if param.axis >= 0 else len(bottom) + param.axis + 1
    stop = len(bottom) if param.num_axes == -1 else start + param.num_axes
    check(
        0 <= start <= stop <= len(bottom),
        f"axis {param.axis} and num_axes {param.num_axes} reach beyond {show(bottom)}",
    )
    check(min(dims, default=0) >= -1, "a dimension must be positive, 0 (copied) or -1 (inferred)")
    check(dims.count(-1) <= 1, "only one dimension can be -1")

    # A dimension that is copied into its own place cancels out, known or not.
    replaced = list(bottom[start:stop])
    new: list[Dim] = []
    explicit: list[Dim] = []
    for i, dim in enumerate(dims):
        new.append(dim)
        if dim == 0:
            check(start + i < len(bottom), f"{show(bottom)} has no axis {start + i} to copy")
            new[i] = bottom[start + i]
            if start + i < stop:
                replaced[i] = 1
            else:
                explicit.append(new[i])
        elif dim > 0:
            explicit.append(dim)

    have, want = count(replaced), count(explicit)
    top = (*bottom[:start], *new, *bottom[stop:])
    elements = "?" if (size := count(bottom)) is None else size
    message = f"{show(bottom)} cannot be reshaped: {elements} elements into {show(top)}"
    if -1 in dims:
        check(want != 0 and (have is None or want is None or have % want == 0), message)
        new[dims.index(-1)] = None if have is None or want is None else have // want
    else:
        check(agree(have, want), message)
    return [(*bottom[:start], *new, *bottom[stop:])], []


def permute(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """PermuteLayer::LayerSetUp and Reshape, of SSD."""
    order, (bottom,) = list(layer.permute_param.order), bottoms
    check(
        len(set(order)) == len(order) and max(order, default=-1) < len(bottom),
        f"order must name axes of {show(bottom)}, each once, and is {order}",
    )
    rest = (axis for axis in range(len(bottom)) if axis not in order)
    return [tuple(bottom[axis] for axis in (*order, *rest))], []


def reduction(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ReductionLayer::Reshape."""
    return [bottoms[0][: canonical_axis(bottoms[0], layer.reduction_param.axis)]], []


def argmax(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ArgMaxLayer::LayerSetUp and Reshape."""
    param, bottom = layer.argmax_param, bottoms[0]
    canonical_axis(bottom, 0)
    if param.HasField("axis"):
        axis = canonical_axis(bottom, param.axis)
        candidates, top = bottom[axis], replace_axis(bottom, axis, param.top_k)
    else:
        candidates = count(bottom[1:])
        kinds = 2 if param.out_max_val else 1
        top = (bottom[0], kinds, param.top_k) + (1,) * (len(bottom) - 3)
    check(
        param.top_k > 0 and (candidates is None or param.top_k <= candidates),
        f"top_k must be positive and fit {show(bottom)}, and is {param.top_k}",
    )
    return [top], []
