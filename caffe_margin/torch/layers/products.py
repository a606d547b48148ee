"""Layers that multiply features by a weight."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.checks import check_label, values_are_free
from caffe_margin.torch.layers.layer import Layer


class InnerProduct(Layer):
    """All axes from ``axis`` on, flattened, times the weight, plus the bias."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.inner_product_param
        self.axis = param.axis
        self.transpose = param.transpose
        self.add_weight_and_bias(param, shapes)

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: InnerProductLayer."""
        weight = self.weight.T if self.transpose else self.weight
        return F.linear(bottom.flatten(self.axis), weight, self.bias)


class Embed(Layer):
    """The weight's row of each index, plus the bias."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.embed_param
        self.add_weight_and_bias(param, shapes)

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: EmbedLayer."""
        if values_are_free(bottom):
            check_label(bottom.flatten(), len(self.weight))
        top = F.embedding(bottom.long(), self.weight)
        return top if self.bias is None else top + self.bias
