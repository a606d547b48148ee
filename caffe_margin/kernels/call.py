"""What an engine is told of one Forward, and its Backward with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import GradientRule


@dataclass(frozen=True)
class Call:
    """One call of the layer: checked arrays, C-contiguous and of one dtype, float32 or float64.

    Attributes:
        m: the margin.
        rule: the gradient rule. One without the projection normalises ``weight`` in place.
        lambda_: in the arrays' dtype.
        x: features, (M, K).
        label: (M,), in [0, N).
        weight: (N, K).
        x_norm: length of each row of x, (M,).
        weight_norm: length of each row of weight before the call, (N,).
        unit: the weight's rows divided by their lengths, (N, K), for the fused A-Softmax under a
            rule with the projection; None elsewhere.
    """

    m: int
    rule: GradientRule
    lambda_: np.floating
    x: FloatArray
    label: NDArray[np.intp]
    weight: FloatArray
    x_norm: FloatArray
    weight_norm: FloatArray
    unit: FloatArray | None = None
