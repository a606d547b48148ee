"""Local response normalisation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class LRN(Layer):
    """x / (k + ``alpha`` times the mean of x^2 around it) ^ ``beta``.

    Around it is across the channels, or within a channel; there k is 1, whatever the file says.
    """

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.lrn_param
        self.size = param.local_size
        self.alpha, self.beta, self.k = param.alpha, param.beta, param.k
        self.within = param.norm_region == pb.LRNParameter.WITHIN_CHANNEL

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: LRNLayer."""
        if self.within:
            mean = F.avg_pool2d(bottom.square(), self.size, 1, self.size // 2)
            return bottom * (1 + self.alpha * mean) ** -self.beta
        return F.local_response_norm(bottom, self.size, self.alpha, self.beta, self.k)
