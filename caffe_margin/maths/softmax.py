"""The two numbers of Caffe's SoftmaxWithLoss that other softmaxes lack: its normaliser, its clamp.

Source: SoftmaxWithLossLayer of BVLC/caffe, src/caffe/layers/softmax_loss_layer.cpp.
"""

from __future__ import annotations

import math

import numpy as np

from caffe_margin.maths.arrays import FloatArray

FLT_MIN = float(np.finfo(np.float32).tiny)
"""The least probability that Caffe takes the logarithm of: C's FLT_MIN, in double too."""

LARGEST_LOSS = -math.log(FLT_MIN)
"""So no sample's loss exceeds 87.3365. Its gradient is that of the loss without the clamp."""

NORMALIZATIONS = ("FULL", "VALID", "BATCH_SIZE", "NONE")


def normalizer(normalization: str, outer_num: int, inner_num: int, valid_count: int) -> int:
    """Return what the summed loss is divided by; at least 1, where every label is ignored too.

    Source: ``get_normalizer``.

    Args:
        normalization: one of `NORMALIZATIONS`.
        outer_num: positions before the axis of the classes: the batch, mostly.
        inner_num: positions after it.
        valid_count: labels that are not ignored.
    """
    return max(
        1,
        {
            "FULL": outer_num * inner_num,
            "VALID": valid_count,
            "BATCH_SIZE": outer_num,
            "NONE": 1,
        }[normalization],
    )


def log_sum_exp(scores: FloatArray) -> FloatArray:
    """Return log(sum(exp(scores))) of each row, (M,); the scores are overwritten."""
    highest = scores.max(axis=1, keepdims=True)
    scores -= highest
    np.exp(scores, out=scores)
    return np.log(scores.sum(axis=1)) + highest[:, 0]
