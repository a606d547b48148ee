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
def add_projected(gradient, unit, norm, diff):
    """Carry a gradient through u = w / |w|, row by row, and add it: (G - (u . G) u) / |w|.

    Args:
        gradient: with respect to the unit rows, (n, K).
        unit: the unit rows, (n, K).
        norm: length of each row before it was normalised, (n,).
        diff: added to, (n, K).
    """
    one = norm.dtype.type(1)
    for j in range(norm.size):
        along = gradient.dtype.type(0)
        for k in range(gradient.shape[1]):
            along += unit[j, k] * gradient[j, k]
        scale = one / norm[j]
        for k in range(gradient.shape[1]):
            diff[j, k] += scale * (gradient[j, k] - along * unit[j, k])
