"""Layers that put blobs together, take them apart, or give them another shape."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class Split(Layer):
    """A copy for each reader, which costs nothing."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.tops = len(layer.top)

    def forward(self, bottom: Tensor) -> tuple[Tensor, ...]:
        """Source: SplitLayer."""
        # Views, for each has a gradient of its own.
        return tuple(bottom.view_as(bottom) for _ in range(self.tops))


class Eltwise(Layer):
    """The sum, the product or the larger of blobs of one shape."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.eltwise_param
        self.operation = param.operation
        self.coeff = list(param.coeff) or [1.0] * len(layer.bottom)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Source: EltwiseLayer."""
        first, *others = bottoms
        if self.operation == pb.EltwiseParameter.SUM:
            top = first if self.coeff[0] == 1 else first * self.coeff[0]
            for other, coeff in zip(others, self.coeff[1:], strict=True):
                top = torch.add(top, other, alpha=coeff)
            return top
        raise NotImplementedError
