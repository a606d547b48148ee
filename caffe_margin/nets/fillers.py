"""Caffe's weight fillers: what a blob holds before training.

The distributions are those of caffe/filler.hpp. The random numbers are numpy's, so a seed
reproduces a run of this library, never a run of Caffe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.names import near

_Shape = tuple[int, ...]
_Rng = np.random.Generator
_Dtype = np.dtype[Any]
_Fill = Callable[[pb.FillerParameter, _Shape, _Rng, _Dtype], np.ndarray]


def fill(
    filler: pb.FillerParameter,
    shape: Sequence[int],
    rng: np.random.Generator,
    dtype: DTypeLike = np.float32,
) -> np.ndarray:
    """Return a new array, filled as Caffe fills a blob.

    Args:
        filler: `type` names the filler: constant (the default), uniform, gaussian,
            positive_unitball, xavier, msra or bilinear. Its other fields are those of Caffe.
        shape: The blob's shape, any number of axes.
        rng: Where the random numbers come from; constant and bilinear draw none.
        dtype: float32 or float64. The numbers are drawn in this type.

    Returns:
        A C-contiguous array of `shape` and `dtype`.

    Raises:
        ValueError: The type is unknown, the parameters are ones that Caffe's CHECKs refuse, the
            shape does not suit the filler or has no elements, or dtype is another type.
            Nothing has been drawn from `rng` then.

    Source: GetFiller and the Filler classes of caffe/filler.hpp.
    """
    shape = tuple(shape)
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"a blob is float32 or float64, not {dtype}")
    if any(dim < 1 for dim in shape):
        raise ValueError(f"a blob of shape {shape} has no elements to fill")
    check_type(filler)
    if filler.sparse != -1 and filler.type != "gaussian":
        raise ValueError(f"sparse works with the gaussian filler only, not with {filler.type}")
    return _FILLERS[filler.type](filler, shape, rng, dtype)


def fill_rows(
    filler: pb.FillerParameter,
    shape: tuple[int, int],
    rows: range,
    rng: np.random.Generator,
    block: int = 8192,
) -> np.ndarray:
    """Return some rows of the float32 matrix that `fill` would return, and draw what it would.

    The others' numbers are drawn too, a block of rows at a time, and let go: so a matrix is the
    same in however many parts it is had.

    Args:
        filler: as `fill`.
        shape: the whole matrix's.
        rows: those to return.
        rng: as there.
        block: how many rows are drawn at a time.

    Raises:
        ValueError: as there; or the filler is sparse, or of a type that looks at the whole.
    """
    if filler.sparse != -1 or filler.type == "bilinear":
        what = "bilinear" if filler.type == "bilinear" else "sparse"
        raise ValueError(f"the filler is {what}: its rows cannot be drawn one after the other")
    if filler.type in ("xavier", "msra"):
        filler = _without_fan(filler, shape)
    taken = np.empty((len(rows), shape[1]), np.float32)
    for start in range(0, shape[0], block):
        stop = min(start + block, shape[0])
        drawn = fill(filler, (stop - start, shape[1]), rng)
        own = range(max(start, rows.start), min(stop, rows.stop))
        if own:
            at = own.start - rows.start
            taken[at : at + len(own)] = drawn[own.start - start : own.stop - start]
    return taken


def check_type(filler: pb.FillerParameter) -> None:
    """Raise ValueError where Caffe has no such filler."""
    if filler.type not in _FILLERS:
        meant = near(filler.type, _FILLERS)
        known = f"did you mean {meant!r}?" if meant else f"known types: {', '.join(_FILLERS)}"
        raise ValueError(f"unknown filler type {filler.type!r}; {known}")


def _constant(filler: pb.FillerParameter, shape: _Shape, rng: _Rng, dtype: _Dtype) -> np.ndarray:
    return np.full(shape, filler.value, dtype)


def _uniform(filler: pb.FillerParameter, shape: _Shape, rng: _Rng, dtype: _Dtype) -> np.ndarray:
    return _draw_uniform(filler.min, filler.max, shape, rng, dtype)


def _gaussian(filler: pb.FillerParameter, shape: _Shape, rng: _Rng, dtype: _Dtype) -> np.ndarray:
    mean, std, sparse = filler.mean, filler.std, filler.sparse
    if not 0 < std < math.inf:
        raise ValueError(f"the gaussian filler needs a finite std above 0, not {std:g}")
    if not math.isfinite(mean):
        raise ValueError(f"the gaussian filler needs a finite mean, not {mean:g}")
    if sparse < -1:
        raise ValueError(f"sparse is -1 (off) or a number of inputs, not {sparse}")
    if sparse >= 0 and not shape:
        raise ValueError("sparse needs a blob with at least one axis")
    if sparse >= 0 and sparse > shape[0]:
        raise ValueError(f"sparse {sparse} is above the blob's first dimension, {shape[0]}")

    values = _draw_gaussian(mean, std, shape, rng, dtype)
    if sparse >= 0:
        # Caffe divides by the number of outputs, though sparse speaks of inputs.
        values *= rng.random(shape, np.float32) < sparse / shape[0]
    return values


def _positive_unitball(
    filler: pb.FillerParameter, shape: _Shape, rng: _Rng, dtype: _Dtype
) -> np.ndarray:
    # (0, 1] instead of [0, 1): a row of zeros has no sum to divide by.
    values = rng.random(shape, dtype)
    np.subtract(1, values, out=values)
    rows = values.reshape(_dim(shape, 0), -1)
    rows /= rows.sum(axis=1, keepdims=True)
    return values


def _xavier(filler: pb.FillerParameter, shape: _Shape, rng: _Rng, dtype: _Dtype) -> np.ndarray:
    scale = math.sqrt(3 / _fan(filler, shape))
    return _draw_uniform(-scale, scale, shape, rng, dtype)


def _msra(filler: pb.FillerParameter, shape: _Shape, rng: _Rng, dtype: _Dtype) -> np.ndarray:
    return _draw_gaussian(0, math.sqrt(2 / _fan(filler, shape)), shape, rng, dtype)


def _bilinear(filler: pb.FillerParameter, shape: _Shape, rng: _Rng, dtype: _Dtype) -> np.ndarray:
    if len(shape) != 4 or shape[2] != shape[3]:
        raise ValueError(
            f"the bilinear filler needs a blob of 4 axes whose last two are equal, not {shape}"
        )
    width = shape[3]
    factor = math.ceil(width / 2)
    # BVLC's centre. The older one in the SphereFace tree is off the middle for half the widths.
    centre = (width - 1) / (2 * factor)
    hat = 1 - np.abs(np.arange(width) / factor - centre)
    return np.full(shape, np.outer(hat, hat), dtype)


_FILLERS: dict[str, _Fill] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}


def _dim(shape: _Shape, axis: int) -> int:
    """Return the dimension of one axis, 1 where there is no such axis (Blob::LegacyShape)."""
    return shape[axis] if axis < len(shape) else 1


def _fan(filler: pb.FillerParameter, shape: _Shape) -> float:
    """Return the n of the xavier and msra fillers: fan-in, fan-out or their average."""
    count = math.prod(shape)
    fan_in = count // _dim(shape, 0)
    fan_out = count // _dim(shape, 1)
    if filler.variance_norm == pb.FillerParameter.FAN_OUT:
        return fan_out
    if filler.variance_norm == pb.FillerParameter.AVERAGE:
        return (fan_in + fan_out) / 2
    return fan_in


def _without_fan(filler: pb.FillerParameter, shape: _Shape) -> pb.FillerParameter:
    """Return the filler that is xavier or msra for a shape, whatever the shape it then fills."""
    fan = _fan(filler, shape)
    if filler.type == "msra":
        return pb.FillerParameter(type="gaussian", mean=0, std=math.sqrt(2 / fan))
    scale = math.sqrt(3 / fan)
    return pb.FillerParameter(type="uniform", min=-scale, max=scale)


def _draw_uniform(low: float, high: float, shape: _Shape, rng: _Rng, dtype: _Dtype) -> np.ndarray:
    """Draw from [low, high] (caffe_rng_uniform)."""
    if not 0 <= high - low <= np.finfo(dtype).max:
        raise ValueError(f"the uniform filler needs finite min <= max, not {low:g} and {high:g}")
    values = rng.random(shape, dtype)
    values *= high - low
    values += low
    return values


def _draw_gaussian(mean: float, std: float, shape: _Shape, rng: _Rng, dtype: _Dtype) -> np.ndarray:
    """Draw from the normal distribution (caffe_rng_gaussian)."""
    values = rng.standard_normal(shape, dtype)
    values *= std
    values += mean
    return values
