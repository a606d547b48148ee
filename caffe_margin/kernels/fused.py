"""The line-by-line port's numbers from three matrix products and O(M K + N K) beside them.

With W's rows of unit length, only the label's column of the output knows of the margin:

    top = X W^T,           but top_iy  = |x_i| (psi_m(c_i) + lambda c_i) / (1 + lambda)
    bottom.diff = g W,     but g_iy w_y becomes g_iy (coeff.w_i w_y + coeff.x_i x_i)
    weight.diff += g^T X,  but g_iy x_i becomes g_iy coeff.weight_i x_i

with c_i = cos(theta) of sample i and its own class, and the coefficients of
`caffe_margin.maths.gradient`. So each product runs on the plain arrays, and M rows are mended
after it. The weight's gradient is made in blocks of rows, which are still in cache when they are
added up.

`caffe_margin.kernels.fused_large_margin` is L-Softmax, which differs in Forward: W is taken as it
is, and Backward is the same but for one term more in the label's row of the weight's gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from caffe_margin.kernels.call import Call
from caffe_margin.maths.angular import label_score
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import LabelCoefficients, label_coefficients

BLOCK_BYTES = 4 << 20
"""Size of a block: it fits in cache, and keeps BLAS busy."""

COMPILED_SIZE = 1 << 16
"""Numbers in an array that are worth numba's import, where numpy would do."""


def blocks(length: int, row_bytes: int) -> Iterator[slice]:
    """Yield slices that cover ``length`` rows, `BLOCK_BYTES` or less each."""
    rows = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, length, rows):
        yield slice(start, min(start + rows, length))


def add_rows(array: FloatArray, rows: NDArray[np.intp], values: FloatArray) -> None:
    """Add values[i] to array[rows[i]], for each i in turn: np.add.at, but five times as fast."""
    for row, value in zip(rows.tolist(), values, strict=True):
        array[row] += value


def row_passes() -> ModuleType:
    """Return the module of that name; it brings numba, whose import takes a third of a second."""
    from caffe_margin.kernels import row_passes

    return row_passes


def row_squares(rows: FloatArray) -> FloatArray:
    """Return the square of each row's length, (n,)."""
    if (passes := _passes_for(rows)) is None:
        return np.einsum("ik,ik->i", rows, rows)
    squares = np.empty(len(rows), rows.dtype)
    passes.squares(rows, squares)
    return squares


def scale_rows(rows: FloatArray, factors: FloatArray) -> None:
    """Multiply rows[i] by factors[i] in place, for each i."""
    if (passes := _passes_for(rows)) is None:
        rows *= factors[:, None]
    else:
        passes.scale(rows, factors)


def _passes_for(rows: FloatArray) -> ModuleType | None:
    """Return `row_passes` for what numpy takes longer over; None too where there is no numba."""
    if rows.size < COMPILED_SIZE or not rows.flags.carray:
        return None
    try:
        return row_passes()
    except ImportError:
        return None


@dataclass(frozen=True)
class Saved:
    """What Backward needs of its Forward.

    Attributes:
        call: the Forward.
        weight: what Backward multiplies with, (N, K). In A-Softmax rows of unit length, which are
            the stored ones under a rule without the projection; in L-Softmax the stored ones.
        coefficients: of the label's column.
    """

    call: Call
    weight: FloatArray
    coefficients: LabelCoefficients


def forward(call: Call, top: FloatArray) -> Saved:
    """Write the output, (M, N); what is stored in the weight changes last."""
    weight = call.weight if call.unit is None else call.unit
    inverse_norm = 1 / call.weight_norm
    np.matmul(call.x, weight.T, out=top)
    if call.unit is None:
        top *= inverse_norm

    samples = np.arange(len(call.label))
    plain = top[samples, call.label]
    top[samples, call.label] = label_score(plain, call.x_norm, call.m, call.lambda_)
    coefficients = label_coefficients(
        plain / call.x_norm, call.x_norm, call.m, call.lambda_, call.rule
    )
    if call.unit is None:
        scale_rows(weight, inverse_norm)
    return Saved(call, weight, coefficients)


def backward(
    saved: Saved,
    top_diff: FloatArray,
    weight_diff: FloatArray | None,
    bottom_diff: FloatArray | None,
) -> None:
    """Add to ``weight_diff`` (N, K), set ``bottom_diff`` (M, K); None leaves either out."""
    call, weight, coefficients = saved.call, saved.weight, saved.coefficients
    x, label = call.x, call.label
    g = top_diff[np.arange(len(label)), label]

    if bottom_diff is not None:
        np.matmul(top_diff, weight, out=bottom_diff)
        if call.m > 1:
            bottom_diff += _times(weight[label], g * (coefficients.w - 1))
            bottom_diff += (g * coefficients.x)[:, None] * x

    if weight_diff is not None:
        norm = call.weight_norm
        for rows in blocks(len(weight_diff), weight_diff[:1].nbytes):
            gradient = np.matmul(top_diff[:, rows].T, x)
            if call.unit is None:
                weight_diff[rows] += gradient
            else:
                which = np.arange(rows.start, rows.stop)
                row_passes().add_projected(gradient, which, call.unit, norm, weight_diff)

        extra = _extra_for_weight(saved, g)
        if extra is not None and call.unit is None:
            add_rows(weight_diff, label, extra)
        elif extra is not None:
            row_passes().add_projected(extra, label, call.unit, norm, weight_diff)


def _extra_for_weight(saved: Saved, g: FloatArray) -> FloatArray | None:
    """Return what each sample adds to row y of g^T X, (M, K); None where there is nothing."""
    call, coefficients = saved.call, saved.coefficients
    extra = None
    if call.m > 1 and not call.rule.detached_in_weight:
        extra = (g * (coefficients.weight - 1))[:, None] * call.x
    if coefficients.weight_w is not None:
        along_w = _times(saved.weight[call.label], g * coefficients.weight_w)
        extra = along_w if extra is None else np.add(extra, along_w, out=extra)
    return extra


def _times(rows: FloatArray, factors: FloatArray) -> FloatArray:
    """Multiply rows[i] by factors[i] in place: fresh memory would cost more than the product."""
    rows *= factors[:, None]
    return rows
