"""Layers that take each element by itself, and learn nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


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


class TanH(Layer):
    """The hyperbolic tangent."""

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: TanHLayer."""
        return torch.tanh(bottom)
