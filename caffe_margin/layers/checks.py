"""What the layers ask of the arrays they are handed, before anything changes."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caffe_margin.kernels.fused import row_passes, row_squares
from caffe_margin.maths.arrays import FloatArray

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def as_native(array: ArrayLike) -> NDArray:
    """Return a plain array in the machine's byte order, itself if it is one.

    Raises:
        ValueError: it is a masked array, whose mask would be lost.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError("a masked array has no values where it is masked: use .filled() first")
    array = np.asarray(array)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def as_whole_number(value: Any, what: str, cls: type) -> int:
    """Return an argument of a layer's constructor as an int of 32 bits, which Caffe has.

    Raises:
        TypeError: it is none; a net, or a layer's message, is told what to call.
        ValueError: it takes more bits.
    """
    try:
        number = int(operator.index(value))
    except TypeError:
        call = {"NetParameter": "from_net(net, name)", "LayerParameter": "from_param(layer_param)"}
        method = call.get(type(value).__name__)
        hint = f": call {cls.__name__}.{method}" if method else ""
        raise TypeError(f"{what} is a whole number, not a {type(value).__name__}{hint}") from None
    if not -(2**31) <= number < 2**31:
        raise ValueError(f"{what} is {number}; it must lie in [-2^31, 2^31)")
    return number


def describe(array: NDArray) -> str:
    """Return an array's shape and dtype in words."""
    return f"{array.shape} {array.dtype}"


def canonical_axis(axis: int, shape: tuple[int, ...], layer: str) -> int:
    """Return ``axis`` counted from the front. Source: Blob::CanonicalAxisIndex.

    Raises:
        ValueError: there is no such axis.
    """
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"layer {layer!r}: axis {axis} is out of range for a bottom of {shape}")
    return axis % len(shape)


def check_dtype(array: NDArray, what: str) -> None:
    """Raise ValueError unless the array is float32 or float64."""
    if array.dtype not in DTYPES:
        raise ValueError(f"{what} is {describe(array)}; it must be float32 or float64")


def as_labels(
    label: NDArray, num_classes: int, what: str, ignore_label: int | None = None
) -> NDArray[np.intp]:
    """Return labels as Caffe reads them, cast to int by truncation, in one dimension.

    Raises:
        ValueError: a label is NaN, infinite or outside [0, num_classes), and is not
            ``ignore_label``; names the first such row.
    """
    if label.dtype.kind not in "iuf":
        raise ValueError(f"{what} is {describe(label)}; labels are integers or floats")
    flat = label.reshape(-1)
    # NaN fails every comparison. Caffe compares ignore_label with the truncated label.
    good = (flat >= 0) & (flat < num_classes)
    if ignore_label is not None:
        good |= np.trunc(flat) == ignore_label
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"row {row} of {what} is label {flat[row]}; labels must lie in [0, {num_classes})"
        )
    return flat.astype(np.intp)


def as_matrix(blob: FloatArray, what: str) -> FloatArray:
    """Return a blob as (N, K): old files write it as (1, 1, N, K).

    Raises:
        ValueError: it is no matrix with ones before it.
    """
    if blob.ndim < 2 or any(dim != 1 for dim in blob.shape[:-2]):
        raise ValueError(f"{what} is {blob.shape}; it must be (N, K)")
    return blob.reshape(blob.shape[-2:])


def row_lengths(rows: FloatArray, what: str, unit: FloatArray | None = None) -> FloatArray:
    """Return the length of each row of an (n, K) array.

    Args:
        rows: the array.
        what: it is, in words.
        unit: the rows divided by their lengths are written to it.

    Raises:
        ValueError: the square of a length is no normal number: the row is zero, not finite, or so
            short or so long that its length cannot be had from it; names the first such row.
    """
    if unit is None:
        with np.errstate(over="ignore", invalid="ignore"):
            squares = row_squares(rows)
    else:
        squares = np.empty(len(rows), rows.dtype)
        row_passes().unit_rows(rows, unit, squares)
    good = (squares >= np.finfo(rows.dtype).tiny) & (squares < np.inf)
    if not good.all():
        row = int(np.argmin(good))
        if not np.isfinite(rows[row]).all():
            reason = "has a value that is not finite"
        elif squares[row] < 1:
            short = "is so short that its square is no normal number"
            reason = short if rows[row].any() else "is zero"
        else:
            reason = "is so long that its square overflows"
        raise ValueError(f"row {row} of {what} {reason}; it has no direction")
    return np.sqrt(squares)


def check_lambda(
    lambda_: float,
    m: int,
    lengths: FloatArray,
    what: str,
    where: str = "",
    longest: str = "longest feature, of length",
) -> np.floating:
    """Return lambda in the dtype of the lengths p that multiply psi_m: |x|, or |w_y| |x|.

    Raises:
        ValueError: it is not finite or not above -1, or so large that the label's score,
            p (psi_m + lambda cos(theta)) over 1 + lambda, overflows before it is divided.
    """
    with np.errstate(over="ignore"):
        real: np.floating = lengths.dtype.type(lambda_)
        largest = lengths.max(initial=1) * (lengths.dtype.type(2 * m) + real)
    if not (np.isfinite(real) and real > -1):
        raise ValueError(f"{what} is {real}{where}; it must be finite and above -1")
    if not np.isfinite(largest):
        raise ValueError(
            f"{what} is {real}{where}, so large that it overflows times the {longest} "
            f"{lengths.max():g}"
        )
    return real
