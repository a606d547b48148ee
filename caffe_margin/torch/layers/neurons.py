"""Layers that take each element by itself, and learn nothing."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class AbsVal(Layer):
    """|x|."""

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: AbsValLayer."""
        return bottom.abs()


class BNLL(Layer):
    """log(1 + exp(x))."""

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: BNLLLayer."""
        return F.softplus(bottom, threshold=50)  # kBNLL_THRESHOLD


class Clip(Layer):
    """min(max(x, ``min``), ``max``)."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.min = layer.clip_param.min
        self.max = max(layer.clip_param.max, self.min)  # min counts where they are crossed

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: ClipLayer."""
        return bottom.clamp(self.min, self.max)


class ELU(Layer):
    """max(x, 0) + ``alpha`` (exp(min(x, 0)) - 1)."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.alpha = layer.elu_param.alpha

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: ELULayer."""
        return F.elu(bottom, self.alpha)


class Exp(Layer):
    """``base`` ^ (``shift`` + ``scale`` x)."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.exp_param
        log_base = _log_base(param.base)
        self.inner_scale = log_base * param.scale
        self.outer_scale = math.exp(log_base * param.shift)

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: ExpLayer."""
        top = torch.exp(_times(bottom, self.inner_scale))
        return _times(top, self.outer_scale)


class Log(Layer):
    """The logarithm of ``shift`` + ``scale`` x to a ``base``."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.log_param
        log_base = _log_base(param.base)
        if log_base == 0:
            raise ValueError("base must not be 1, to which there is no logarithm")
        self.base_scale = 1 / log_base
        self.scale, self.shift = param.scale, param.shift

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: LogLayer."""
        top = torch.log(_times(bottom, self.scale) + self.shift)
        return _times(top, self.base_scale)


class Power(Layer):
    """(``shift`` + ``scale`` x) ^ ``power``."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.power_param
        self.power, self.scale, self.shift = param.power, param.scale, param.shift
        self.constant: float | None = None
        if self.power * self.scale == 0:
            self.constant = torch.tensor(self.shift, dtype=torch.float64).pow(self.power).item()

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: PowerLayer."""
        if self.constant is not None:
            # What is in the bottom does not count, not even NaN; its gradient is zero.
            everywhere = torch.ones_like(bottom, dtype=torch.bool)
            return bottom.masked_fill(everywhere, self.constant)
        top = _times(bottom, self.scale) + self.shift
        return top if self.power == 1 else top.pow(self.power)


class ReLU(Layer):
    """max(x, 0) + ``negative_slope`` min(x, 0)."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.negative_slope = layer.relu_param.negative_slope

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: ReLULayer."""
        if self.negative_slope == 0:
            return F.relu(bottom)
        return F.leaky_relu(bottom, self.negative_slope)


class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: SigmoidLayer."""
        return torch.sigmoid(bottom)


class Swish(Layer):
    """x sigmoid(``beta`` x)."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.beta = layer.swish_param.beta

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: SwishLayer."""
        if self.beta == 1:
            return F.silu(bottom)
        return bottom * torch.sigmoid(self.beta * bottom)


class TanH(Layer):
    """The hyperbolic tangent."""

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: TanHLayer."""
        return torch.tanh(bottom)


class Threshold(Layer):
    """1 above ``threshold``, and else 0; it has no gradient."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.threshold = layer.threshold_param.threshold

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: ThresholdLayer."""
        return (bottom > self.threshold).to(bottom.dtype)


def _log_base(base: float) -> float:
    """Return the logarithm of the ``base`` of Exp or Log, of which -1 stands for e."""
    if base == -1:
        return 1.0
    if not 0 < base < math.inf:
        raise ValueError(f"base must be above 0 and finite, or -1 for e, and is {base:g}")
    return math.log(base)


def _times(blob: Tensor, factor: float) -> Tensor:
    return blob if factor == 1 else blob * factor
