"""L-Softmax in three matrix products: `caffe_margin.kernels.fused`, but for Forward.

The weight is not normalised, and the label's score keeps its length:

    top = X W^T,                      but top_iy = p_i (psi_m(c_i) + lambda c_i) / (1 + lambda)
    weight.diff += g^T X,             but g_iy x_i becomes g_iy (coeff.weight_i x_i
                                                                 + coeff.weight_w_i w_y)

with p_i = |w_y| |x_i| + 1e-9 and c_i = w_y . x_i / p_i.
"""

from __future__ import annotations

import numpy as np

from caffe_margin.kernels.call import Call
from caffe_margin.kernels.fused import Saved, backward
from caffe_margin.maths.angular import label_score, large_margin_length
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import large_margin_coefficients

__all__ = ["Saved", "backward", "forward"]


def forward(call: Call, top: FloatArray) -> Saved:
    """Write the output, (M, N); the weight is left alone, and Backward reads it again."""
    np.matmul(call.x, call.weight.T, out=top)
    samples, weight_norm = np.arange(len(call.label)), call.weight_norm[call.label]
    plain, length = top[samples, call.label], large_margin_length(call.x_norm, weight_norm)
    top[samples, call.label] = label_score(plain, length, call.m, call.lambda_)
    coefficients = large_margin_coefficients(
        plain / length, call.x_norm, weight_norm, call.m, call.lambda_, call.rule
    )
    return Saved(call, call.weight, coefficients)
