"""Losses of one blob against another of its size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.maths.softmax import normalizer
from caffe_margin.nets.loss import ignored_label, normalization_name
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class EuclideanLoss(Layer):
    """Half the mean squared distance of a batch."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Source: EuclideanLossLayer."""
        return (first - second.reshape(first.shape)).square().sum() / (2 * first.shape[0])


class SigmoidCrossEntropyLoss(Layer):
    """The cross entropy of sigmoids with targets, which get no gradient."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.ignored = ignored_label(layer.loss_param)
        self.normalization = normalization_name(layer.loss_param, "BATCH_SIZE")

    def forward(self, bottom: Tensor, target: Tensor) -> Tensor:
        """Source: SigmoidCrossEntropyLossLayer."""
        target = target.detach().reshape(bottom.shape).to(bottom.dtype)
        losses = F.binary_cross_entropy_with_logits(bottom, target, reduction="none")
        valid_count: int | Tensor = bottom.numel()
        if self.ignored is not None:
            counts = target.long() != self.ignored
            losses, valid_count = losses.where(counts, 0), counts.sum()
        outer = bottom.shape[0]
        inner = bottom.numel() // max(outer, 1)
        return losses.sum() / normalizer(self.normalization, outer, inner, valid_count)
