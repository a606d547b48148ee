"""Layers that spread a small blob over a large one: a factor, a term."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class Scale(Layer):
    """The first bottom times the second, or a parameter, from ``axis`` on, and plus a bias."""

    scale: Tensor | None
    bias: Tensor | None

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.scale_param
        self.axis = param.axis
        self.scale = self.bias = None
        params = list(shapes.params)
        if len(layer.bottom) == 1:
            del self.scale
            one = pb.FillerParameter(value=1)
            filler = param.filler if param.HasField("filler") else one
            self.add_blob("scale", params.pop(0), filler)
        if param.bias_term:
            del self.bias
            self.add_blob("bias", params.pop(0), param.bias_filler)

    def forward(self, bottom: Tensor, factor: Tensor | None = None) -> Tensor:
        """Source: ScaleLayer."""
        factor = self.scale if factor is None else factor
        assert factor is not None
        factor = spread(factor, bottom, self.axis)
        if self.bias is None:
            return bottom * factor
        return torch.addcmul(spread(self.bias, bottom, self.axis), bottom, factor)


class Bias(Layer):
    """The first bottom plus the second, or a parameter, from ``axis`` on."""

    bias: Tensor | None

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.bias_param
        self.axis = param.axis
        if shapes.params:
            self.add_blob("bias", shapes.params[0], param.filler)
        else:
            self.bias = None

    def forward(self, bottom: Tensor, term: Tensor | None = None) -> Tensor:
        """Source: BiasLayer."""
        term = self.bias if term is None else term
        assert term is not None
        return bottom + spread(term, bottom, self.axis)


def spread(blob: Tensor, over: Tensor, axis: int) -> Tensor:
    """Return a view of a blob that broadcasts over another one from ``axis`` on."""
    if blob.dim() == 0:
        return blob
    behind = over.dim() - axis % over.dim() - blob.dim()
    return blob.reshape(*blob.shape, *(1,) * behind)
