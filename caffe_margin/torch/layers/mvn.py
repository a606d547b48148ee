"""Each image brought to mean 0 and variance 1."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer
from caffe_margin.torch.layers.standardized import Standardized


class MVN(Layer):
    """(x - mean) / (std + ``eps``), a channel or, ``across_channels``, an image."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.mvn_param
        self.eps = param.eps
        self.normalize_variance = param.normalize_variance
        self.dims = (1, 2, 3) if param.across_channels else (2, 3)

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: MVNLayer."""
        bottom = bottom.reshape(*bottom.shape, *(1,) * (4 - bottom.dim()))
        if not self.normalize_variance:
            return bottom - bottom.mean(self.dims, keepdim=True)
        # Backward_cpu takes the derivative of the std as if eps were none of the divisor.
        variance, mean = torch.var_mean(bottom.detach(), self.dims, correction=0, keepdim=True)
        return Standardized.apply(bottom, mean, 1 / (variance.sqrt() + self.eps), self.dims)
