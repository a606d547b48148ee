"""The weight's normalisation and its derivative, in one pass each: numpy takes several."""

from __future__ import annotations

from caffe_margin.kernels.caffe_math import FASTMATH, compiled


@compiled()
def normalize(weight, norm, unit):
    """Write the rows of weight, (n, K), divided by norm, (n,), to unit, (n, K)."""
    one = norm.dtype.type(1)
    for j in range(norm.size):
        scale = one / norm[j]
        for k in range(weight.shape[1]):
            unit[j, k] = scale * weight[j, k]


@compiled(fastmath=FASTMATH)
def project(gradient, rows, norm, beta, diff):
    """Carry a gradient through u = w / |w|, row by row: D = (G - (u . G) u) / |w| + beta D.

    Args:
        gradient: G, with respect to the unit rows, (n, K).
        rows: w or u, (n, K): only their directions are read.
        norm: |w|, (n,).
        beta: 1 to add to ``diff``, 0 to set it.
        diff: D, (n, K); with a beta of 0 it may be ``gradient`` itself.
    """
    one = norm.dtype.type(1)
    for j in range(norm.size):
        scale = one / norm[j]
        along = square = gradient.dtype.type(0)
        for k in range(gradient.shape[1]):
            along += rows[j, k] * gradient[j, k]
            square += rows[j, k] * rows[j, k]
        along /= square
        for k in range(gradient.shape[1]):
            projected = scale * (gradient[j, k] - along * rows[j, k])
            diff[j, k] = projected + beta * diff[j, k]
