"""A part of a blob, as large as another one."""

from __future__ import annotations

from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.rules.algebra import canonical_axis
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class Crop(Layer):
    """The first bottom from ``offset`` on, as long as the second on each axis from ``axis`` on."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        bottom, param = shapes.bottoms[layer.bottom[0]] or (), layer.crop_param
        self.axis = canonical_axis(bottom, param.axis)
        offsets = list(param.offset) or [0]
        self.offsets = offsets * (len(bottom) - self.axis) if len(offsets) == 1 else offsets

    def forward(self, bottom: Tensor, like: Tensor) -> Tensor:
        """Source: CropLayer."""
        for axis, offset in enumerate(self.offsets, self.axis):
            bottom = bottom.narrow(axis, offset, like.shape[axis])
        return bottom
