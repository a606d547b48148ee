"""Spatial pyramid pooling."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.rules.windows import Pool, pyramid
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer
from caffe_margin.torch.layers.pooling import average_pool, max_pool, stochastic_pool


class SPP(Layer):
    """The image pooled into 1, 4, 16, ... parts, all in one vector for each item."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.param = layer.spp_param

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: SPPLayer."""
        _, _, height, width = bottom.shape
        levels = [self._pool(bottom, pool) for pool in pyramid(self.param, height, width)]
        if len(levels) == 1:
            return levels[0]
        return torch.cat([level.flatten(1) for level in levels], dim=1)

    def _pool(self, bottom: Tensor, pool: Pool) -> Tensor:
        """Pool one level."""
        if self.param.pool == pb.SPPParameter.MAX:
            return max_pool(bottom, pool)
        if self.param.pool == pb.SPPParameter.AVE:
            return average_pool(bottom, pool)
        return stochastic_pool(bottom, pool, self.training)
