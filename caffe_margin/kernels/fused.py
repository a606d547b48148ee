"""The line-by-line port's numbers from three matrix products and O(M K + N K) beside them.

With W's rows of unit length, only the label's column of the output knows of the margin:

    top = X W^T,           but top_iy  = |x_i| (psi_m(c_i) + lambda c_i) / (1 + lambda)
    bottom.diff = g W,     but g_iy w_y becomes g_iy (coeff.w_i w_y + coeff.x_i x_i)
    weight.diff += g^T X,  but g_iy x_i becomes g_iy coeff.weight_i x_i

with c_i = cos(theta) of sample i and its own class, and the coefficients of
`caffe_margin.maths.gradient`. So each product runs on the plain arrays, and M rows are mended
after it.
The weight's gradient is made in blocks of rows, which are still in cache when they are added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from caffe_margin.maths import angular
from caffe_margin.maths.gradient import GradientRule, label_coefficients

FloatArray = NDArray[np.floating]

BLOCK_BYTES = 2 << 20
"""Size of a block: it fits in cache, and keeps BLAS busy."""


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


class Fused:
    """Forward and Backward of the layer; remembers between them what Backward needs.

    Args:
        m: the margin, 1 to 4.
        rule: the gradient rule. One without the projection normalises ``weight`` in place.
    """

    def __init__(self, m: int, rule: GradientRule) -> None:
        self.m = m
        self.rule = rule
        self._unit_weight: FloatArray | None = None

    def forward(
        self,
        lambda_: np.floating,
        x: FloatArray,
        label: NDArray[np.intp],
        weight: FloatArray,
        x_norm: FloatArray,
        weight_norm: FloatArray,
        top: FloatArray,
    ) -> None:
        """Write the output.

        Args:
            lambda_: in the arrays' dtype.
            x: features, (M, K).
            label: (M,), in [0, N).
            weight: (N, K).
            x_norm: length of each row of x, (M,).
            weight_norm: length of each row of weight, (N,).
            top: written, (M, N).
        """
        if self.rule.projection:
            if self._unit_weight is None or self._unit_weight.shape != weight.shape:
                self._unit_weight = np.empty_like(weight)
            unit = self._unit_weight
            row_passes().normalize(weight, weight_norm, unit)
        else:
            unit = weight
            unit *= (1 / weight_norm)[:, None]
        np.matmul(x, unit.T, out=top)

        samples = np.arange(len(label))
        plain = top[samples, label]
        cos_theta = plain / x_norm
        if self.m > 1:
            margin = x_norm * angular.psi(cos_theta, self.m)
            top[samples, label] = (margin + lambda_ * plain) / (1 + lambda_)
        self._coefficients = label_coefficients(cos_theta, x_norm, self.m, lambda_, self.rule)
        self._x, self._label, self._unit, self._weight_norm = x, label, unit, weight_norm

    def backward(
        self,
        top_diff: FloatArray,
        weight_diff: FloatArray | None,
        bottom_diff: FloatArray | None,
    ) -> None:
        """Add to ``weight_diff`` (N, K), set ``bottom_diff`` (M, K); None leaves either out."""
        coefficients, x, label = self._coefficients, self._x, self._label
        g = top_diff[np.arange(len(label)), label]

        if bottom_diff is not None:
            np.matmul(top_diff, self._unit, out=bottom_diff)
            if self.m > 1:
                bottom_diff += (g * (coefficients.w - 1))[:, None] * self._unit[label]
                bottom_diff += (g * coefficients.x)[:, None] * x

        if weight_diff is not None:
            extra = None
            if self.m > 1 and self.rule.margin_in_weight:
                extra = (g * (coefficients.weight - 1))[:, None] * x
            for rows in blocks(len(weight_diff), weight_diff[:1].nbytes):
                gradient = np.matmul(top_diff[:, rows].T, x)
                if extra is not None:
                    (samples,) = np.nonzero((label >= rows.start) & (label < rows.stop))
                    add_rows(gradient, label[samples] - rows.start, extra[samples])
                if self.rule.projection:
                    unit, norm, one = self._unit[rows], self._weight_norm[rows], g.dtype.type(1)
                    row_passes().project(gradient, unit, norm, one, weight_diff[rows])
                else:
                    weight_diff[rows] += gradient
