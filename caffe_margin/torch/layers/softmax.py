"""Probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class Softmax(Layer):
    """exp(x) over its sum along ``axis``."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.axis = layer.softmax_param.axis

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: SoftmaxLayer."""
        return torch.softmax(bottom, self.axis)
