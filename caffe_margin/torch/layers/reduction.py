"""All axes from one on, as one number."""

from __future__ import annotations

from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class Reduction(Layer):
    """``coeff`` times the sum of what is there, or of its magnitudes or squares, or the mean."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.reduction_param
        self.operation, self.axis, self.coeff = param.operation, param.axis, param.coeff

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: ReductionLayer."""
        start = self.axis if self.axis >= 0 else bottom.ndim + self.axis
        axes = tuple(range(start, bottom.ndim))
        if self.operation == pb.ReductionParameter.MEAN:
            return bottom.mean(axes) * self.coeff
        if self.operation == pb.ReductionParameter.ASUM:
            bottom = bottom.abs()
        elif self.operation == pb.ReductionParameter.SUMSQ:
            bottom = bottom.square()
        return bottom.sum(axes) * self.coeff
