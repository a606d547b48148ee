"""The numbers of Caffe's softmax losses that other softmaxes lack: their normaliser, their clamps.

Source: SoftmaxWithLossLayer of BVLC/caffe, src/caffe/layers/softmax_loss_layer.cpp, and
include/caffe/layers/loss_layer.hpp.
"""

from __future__ import annotations

import math

import numpy as np

from caffe_margin.maths.arrays import Array, FloatArray, at_least

FLT_MIN = float(np.finfo(np.float32).tiny)
"""The least probability that Caffe takes the logarithm of: C's FLT_MIN, in double too."""

LARGEST_LOSS = -math.log(FLT_MIN)
"""So no sample's loss exceeds 87.3365. Its gradient is that of the loss without the clamp."""

LOG_THRESHOLD = 1e-20
"""The least probability that the other losses take the logarithm of: kLOG_THRESHOLD."""

NORMALIZATIONS = ("FULL", "VALID", "BATCH_SIZE", "NONE")


def normalizer(normalization: str, outer_num: int, inner_num: int, valid_count: Array) -> Array:
    """Return what the summed loss is divided by; at least 1, where every label is ignored too.

    Source: ``get_normalizer``.

    Args:
        normalization: one of `NORMALIZATIONS`.
        outer_num: positions before the axis of the classes: the batch, mostly.
        inner_num: positions after it.
        valid_count: labels that are not ignored, a number or an array of no dimensions; under
            VALID the result is an array.
    """
    if normalization == "VALID":
        return at_least(valid_count, 1)
    return max(
        1, {"FULL": outer_num * inner_num, "BATCH_SIZE": outer_num, "NONE": 1}[normalization]
    )


def log_sum_exp(scores: FloatArray) -> FloatArray:
    """Return log(sum(exp(scores))) of each row, (M,); the scores are overwritten."""
    highest = scores.max(axis=1, keepdims=True)
    scores -= highest
    np.exp(scores, out=scores)
    return np.log(scores.sum(axis=1)) + highest[:, 0]
