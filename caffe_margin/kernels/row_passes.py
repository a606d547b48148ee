"""The weight's normalisation and its derivative, in one pass each: numpy takes several."""

from __future__ import annotations

import numpy as np

from caffe_margin.kernels.caffe_math import caffe_cpu_dot, caffe_scal, compiled


@compiled(error_model="numpy")
def unit_rows(rows, unit, squares):
    """Write rows, (n, K), divided by their lengths, to ``unit``, and the lengths' squares, (n,).

    A row without a direction comes out not finite.
    """
    one = squares.dtype.type(1)
    for j in range(squares.size):
        squares[j] = caffe_cpu_dot(rows[j], rows[j])
        scale = one / np.sqrt(squares[j])
        for k in range(rows.shape[1]):
            unit[j, k] = scale * rows[j, k]


@compiled()
def squares(rows, squares):
    """Write the squares of the lengths of rows, (n, K), to (n,)."""
    for j in range(squares.size):
        squares[j] = caffe_cpu_dot(rows[j], rows[j])


@compiled()
def scale(rows, factors):
    """Multiply rows, (n, K), by their factors, (n,), in place."""
    for j in range(factors.size):
        caffe_scal(factors[j], rows[j])


@compiled()
def add_projected(gradient, rows, unit, norm, diff):
    """Carry a gradient through u = w / |w|, row by row: D += (G - (u . G) u) / |w|.

    Args:
        gradient: G, with respect to some of the unit rows, (n, K).
        rows: which, (n,); each in turn where one comes twice.
        unit: u, (N, K).
        norm: |w|, (N,).
        diff: D, (N, K).
    """
    one = norm.dtype.type(1)
    for i in range(rows.size):
        j = rows[i]
        scale, along = one / norm[j], caffe_cpu_dot(unit[j], gradient[i])
        for k in range(gradient.shape[1]):
            diff[j, k] += scale * (gradient[i, k] - along * unit[j, k])


@compiled()
def project(gradient, rows, norm):
    """Carry a gradient through u = w / |w| in place, row by row: G = (G - (u . G) u) / |w|.

    Args:
        gradient: G, with respect to the unit rows, (n, K).
        rows: w, (n, K).
        norm: |w|, (n,).
    """
    one = norm.dtype.type(1)
    for j in range(norm.size):
        # |w|^2 may be no normal number.
        scale, along = one / norm[j], caffe_cpu_dot(rows[j], gradient[j]) / norm[j] / norm[j]
        for k in range(gradient.shape[1]):
            gradient[j, k] = scale * (gradient[j, k] - along * rows[j, k])
