"""A ReLU that learns its slope."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class PReLU(Layer):
    """max(x, 0) + slope min(x, 0), with a slope for each channel, or one for all."""

    slope: Tensor

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.prelu_param
        quarter = pb.FillerParameter(value=0.25)
        filler = param.filler if param.HasField("filler") else quarter
        self.add_blob("slope", shapes.params[0], filler)

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: PReLULayer."""
        return F.prelu(bottom, self.slope)
