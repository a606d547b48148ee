"""Elements left out at random."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class Dropout(Layer):
    """In training zero with the chance ``dropout_ratio``, and else scaled by 1 / (1 - ratio)."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.ratio = layer.dropout_param.dropout_ratio
        if not 0 <= self.ratio < 1:
            raise ValueError(f"dropout_ratio must be in [0, 1), and is {self.ratio:g}")

    def draw(self, bottom: Tensor) -> Tensor:
        """Return which elements are kept, 1 or 0 each, in the bottom's dtype."""
        return torch.empty_like(bottom).bernoulli_(1 - self.ratio)

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: DropoutLayer."""
        if not self.training:
            return bottom
        return bottom * (self.draw(bottom) * (1 / (1 - self.ratio)))
