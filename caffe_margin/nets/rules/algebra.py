"""Arithmetic over dimensions of which some are unknown, and what else the rules are made of.

A dimension is None where it is known only at run time. None agrees with every number, and a number
computed from None is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from caffe_margin import caffe_margin_pb2 as pb

Dim: TypeAlias = "int | None"
Shape: TypeAlias = "tuple[int | None, ...]"
Blobs: TypeAlias = "tuple[list[Shape], list[Shape]]"
Rule: TypeAlias = "Callable[[pb.LayerParameter, list[Shape]], Blobs]"


def count(shape: Sequence[Dim]) -> Dim:
    """The number of elements, Blob::count; None where a dimension is unknown."""
    known = [dim for dim in shape if dim is not None]
    return math.prod(known) if len(known) == len(shape) else None


def total(dims: Iterable[Dim]) -> Dim:
    """The sum of dimensions or counts; None where one is unknown."""
    known = list(dims)
    return None if None in known else sum(dim for dim in known if dim is not None)


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


def check(ok: bool, message: str) -> None:
    """Raise ValueError with the message unless all is well."""
    if not ok:
        raise ValueError(message)


def canonical_axis(shape: Shape, axis: int) -> int:
    """Blob::CanonicalAxisIndex."""
    check(-len(shape) <= axis < len(shape), f"axis {axis} is out of range for {show(shape)}")
    return axis % len(shape)


def legacy(shape: Shape) -> Shape:
    """(num, channels, height, width), Blob::LegacyShape: missing axes are 1."""
    check(len(shape) <= 4, f"the bottom must have at most 4 axes, and is {show(shape)}")
    return shape + (1,) * (4 - len(shape))


def four_axes(shape: Shape) -> Shape:
    """The shape itself, which must be (N, C, H, W)."""
    check(len(shape) == 4, f"the bottom must have 4 axes (N, C, H, W), and is {show(shape)}")
    return shape


def multiply(dim: Dim, factor: int) -> Dim:
    """A dimension times a number."""
    return None if dim is None else dim * factor


def add(dim: Dim, term: int) -> Dim:
    """A dimension plus a number."""
    return None if dim is None else dim + term


def divide(dim: Dim, parts: Dim, what: str) -> Dim:
    """A dimension in equal parts; `what` says in an error what is divided."""
    if parts is None:
        return None
    fits = parts > 0 and (dim is None or dim % parts == 0)
    check(fits, f"{what}: {'?' if dim is None else dim} cannot be divided by {parts}")
    return None if dim is None else dim // parts


def all_ones(dims: Sequence[Dim]) -> bool:
    """Whether all dimensions are, or at run time may be, 1."""
    return all(agree(dim, 1) for dim in dims)


def replace_axis(shape: Shape, axis: int, dim: Dim) -> Shape:
    """The shape with another dimension on one axis."""
    return (*shape[:axis], dim, *shape[axis + 1 :])


def differ(layer: pb.LayerParameter, bottoms: list[Shape], i: int, rule: str) -> str:
    """The message for bottoms 0 and i whose shapes break a rule."""
    first, other = layer.bottom[0], layer.bottom[i]
    return f"bottom '{first}' is {show(bottoms[0])} but '{other}' is {show(bottoms[i])}: {rule}"


def merge(layer: pb.LayerParameter, bottoms: list[Shape], skip: int | None = None) -> Shape:
    """The shape that all bottoms have, but for the axis `skip`; what one knows, all know."""
    where = "" if skip is None else f" except on axis {skip}"
    merged = bottoms[0]
    for i, shape in enumerate(bottoms[1:], 1):
        compared = merged if skip is None else replace_axis(merged, skip, None)
        check(alike(compared, shape), differ(layer, bottoms, i, f"they must be equal{where}"))
        merged = tuple(b if a is None else a for a, b in zip(merged, shape, strict=True))
    return merged


def per_top(layer: pb.LayerParameter, values: list[Any], field: str) -> list[Any]:
    """One value of a repeated field for each top: it is given once for all, or for each."""
    tops, times = len(layer.top), len(values)
    check(times in (1, tops), f"{field} must be given once or {tops} times, not {times} times")
    return values * tops if times == 1 else values


def not_in_place(layer: pb.LayerParameter) -> None:
    """Refuse a top that is the bottom."""
    check(layer.bottom[0] not in layer.top, "the layer cannot work in place")
