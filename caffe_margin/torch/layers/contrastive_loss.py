"""ContrastiveLoss: pairs that are alike are drawn together, others pushed apart."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer

_EPS = 1e-4


class ContrastiveLoss(Layer):
    """Half the mean of d^2 for similar pairs, and of max(0, margin - d)^2 for the others.

    ``legacy_version`` has max(0, margin - d^2) for these.
    """

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.contrastive_loss_param
        self.margin = param.margin
        self.legacy = param.legacy_version

    def forward(self, first: Tensor, second: Tensor, similar: Tensor) -> Tensor:
        """Source: ContrastiveLossLayer."""
        num = first.shape[0]
        diff = first.reshape(num, -1) - second.reshape(num, -1)
        squares = diff.square().sum(1)
        if self.legacy:
            apart = F.relu(self.margin - squares)
        else:
            apart = F.relu(self.margin - Length.apply(diff)).square()
        similar = similar.detach().reshape(num).long() != 0
        return torch.where(similar, squares, apart).sum() / num / 2


class Length(torch.autograd.Function):
    """diff -> the length of each row, in whose derivative 1e-4 is added to it.

    Source: ContrastiveLossLayer::Backward_cpu.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(diff: Tensor) -> Tensor:
        """Take the root of the squares' sum."""
        return diff.square().sum(1).sqrt()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Save both."""
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, top_diff: Tensor) -> Tensor:
        """Divide by the length and a little: 0 where the length is."""
        diff, length = ctx.saved_tensors
        return (top_diff / (length + _EPS))[:, None] * diff
