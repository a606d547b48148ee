"""Batch normalization with scale and shift, as the L-Softmax authors' Caffe has it."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer
from caffe_margin.torch.layers.standardized import Standardized


class BN(Layer):
    """scale (x - mean) / sqrt(variance + ``eps``) + shift, a channel.

    ``mean`` and ``inverse_std``, 1 / sqrt(variance + ``eps``), are moving averages, by which it is
    normalised outside of training, and, where it is ``frozen``, always. Other forks have other
    layers of this name, which store the variance itself.
    """

    scale: Tensor
    shift: Tensor
    mean: Tensor
    inverse_std: Tensor

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.bn_param
        self.eps, self.momentum, self.frozen = param.eps, param.momentum, param.frozen
        scale, shift, mean, inverse_std = shapes.params
        self.add_blob("scale", scale, param.slope_filler)
        self.add_blob("shift", shift, param.bias_filler)
        self.add_blob("mean", mean, learned=False)
        self.add_blob("inverse_std", inverse_std, pb.FillerParameter(value=1), learned=False)

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: BNLayer of wy1iu/LargeMargin_Softmax_Loss."""
        if self.training and not self.frozen:
            scale, shift = self.scale.flatten(), self.shift.flatten()
            top, mean, inverse_std = torch.native_batch_norm(
                bottom, scale, shift, None, None, True, 0.0, self.eps
            )
            with torch.no_grad():
                self._move(self.mean, mean)
                self._move(self.inverse_std, inverse_std)
            return top
        scale, shift, mean, inverse_std = (
            blob.reshape(1, -1, *(1,) * (bottom.dim() - 2)) for blob in self.blobs
        )
        if self.frozen:  # Backward_cpu returns before the parameters
            return (bottom - mean) * inverse_std * scale.detach() + shift.detach()
        # Backward_cpu takes the stored statistics for the batch's.
        dims = (0, *range(2, bottom.dim()))
        return Standardized.apply(bottom, mean, inverse_std, dims) * scale + shift

    def _move(self, average: Tensor, value: Tensor) -> None:
        average.mul_(self.momentum).add_(value.reshape(average.shape), alpha=1 - self.momentum)
