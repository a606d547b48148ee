"""Layers without tops."""

from __future__ import annotations

import warnings

from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class Silence(Layer):
    """Reads blobs, so that they are no outputs of the net."""

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Source: SilenceLayer."""
        return ()


class HDF5Output(Silence):
    """Writes nothing here, and says so: ``net(keep=...)`` returns the blobs it would write."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        blobs = " and ".join(map(repr, layer.bottom))
        warnings.warn(
            f"layer {layer.name!r} (HDF5Output) writes no file; keep= returns {blobs}",
            stacklevel=6,
        )
