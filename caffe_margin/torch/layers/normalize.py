"""Unit length, as SSD's Caffe has it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.broadcast import spread
from caffe_margin.torch.layers.layer import Layer


class Normalize(Layer):
    """scale x / sqrt(sum of squares + ``eps``), a place or, ``across_spatial``, an image.

    There is a scale for each channel, or, ``channel_shared``, one for all.
    """

    scale: Tensor

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.norm_param
        self.eps, self.across_spatial = param.eps, param.across_spatial
        one = pb.FillerParameter(value=1)
        filler = param.scale_filler if param.HasField("scale_filler") else one
        self.add_blob("scale", shapes.params[0], filler)

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: NormalizeLayer of weiliu89/caffe."""
        dims = tuple(range(1, bottom.dim())) if self.across_spatial else (1,)
        squares = bottom.detach().square().sum(dims, keepdim=True)
        return ScaledUnit.apply(
            bottom, spread(self.scale, bottom, 1), (squares + self.eps).rsqrt(), dims
        )


class ScaledUnit(torch.autograd.Function):
    """(x, scale, inverse_norm, dims) -> scale x inverse_norm, the norm being that over ``dims``.

    Backward_cpu leaves the scale out of the dot product of x and the diff, and multiplies by it
    afterwards. Where it differs from channel to channel, that is not the gradient.
    """

    @staticmethod
    def forward(x: Tensor, scale: Tensor, inverse_norm: Tensor, dims: tuple[int, ...]) -> Tensor:
        """Multiply."""
        return x * inverse_norm * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save the inputs."""
        *tensors, ctx.dims = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, diff: Tensor) -> tuple[Tensor | None, ...]:
        """Take out what would change the length."""
        x, scale, inverse_norm = ctx.saved_tensors
        unit = x * inverse_norm
        along = (unit * diff).sum(ctx.dims, keepdim=True)
        of_x = (diff - unit * along) * inverse_norm * scale
        return of_x, (unit * diff).sum_to_size(scale.shape), None, None
