"""Losses of scores, or of probabilities, against classes."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.binaryproto import read_binaryproto
from caffe_margin.maths.softmax import LARGEST_LOSS, LOG_THRESHOLD, normalizer
from caffe_margin.nets.loss import ignored_label, normalization_name
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.clamped import Clamped
from caffe_margin.torch.layers.class_labels import class_labels, class_scores
from caffe_margin.torch.layers.layer import Layer


class SoftmaxLoss(Layer):
    """Base of the losses with a softmax inside, whose second top is the probabilities.

    Labels get no gradient: Caffe refuses a net that would need one. Nor does Backward know of a
    gradient of the second top.
    """

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes, axis: int) -> None:
        super().__init__(layer, shapes)
        self.axis = axis
        self.tops = len(layer.top)
        self.ignored = ignored_label(layer.loss_param)
        self.normalization = normalization_name(layer.loss_param)

    def averaged(
        self, losses: Tensor, counts: Tensor, bottom: Tensor
    ) -> Tensor | tuple[Tensor, ...]:
        """Return the tops.

        Args:
            losses: of each position.
            counts: whether its label does.
            bottom: the scores.
        """
        outer = math.prod(bottom.shape[: self.axis % bottom.ndim])
        inner = counts.shape[0] // max(outer, 1)
        divisor = normalizer(self.normalization, outer, inner, counts.sum())
        loss = losses.where(counts, 0).sum() / divisor
        return loss if self.tops < 2 else (loss, bottom.detach().softmax(self.axis))


class SoftmaxWithLoss(SoftmaxLoss):
    """The negative logarithm of the label's softmax, which is clamped at FLT_MIN."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes, layer.softmax_param.axis)

    def forward(self, bottom: Tensor, label: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Source: SoftmaxWithLossLayer."""
        scores = class_scores(bottom, self.axis)
        label, counts = class_labels(label, scores.shape[1], self.ignored)
        losses = F.cross_entropy(scores, label, reduction="none")
        return self.averaged(Clamped.apply(losses, None, LARGEST_LOSS), counts, bottom)


class InfogainLoss(SoftmaxLoss):
    """The logarithms of the softmax, clamped at 1e-20, weighted by the label's row of a matrix.

    The matrix comes from a file, or is a third bottom; it gets no gradient.
    """

    matrix: Tensor | None

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes, layer.infogain_loss_param.axis)
        if layer.loss_param.HasField("normalize"):
            raise ValueError("normalize is not for this type: say normalization: VALID or another")
        if len(layer.bottom) == 3:
            self.matrix = None
        else:
            path = layer.infogain_loss_param.source
            matrix = torch.from_numpy(read_binaryproto(path))
            scores = shapes.bottoms[layer.bottom[0]]
            classes = scores and scores[self.axis]
            if classes and matrix.numel() != classes**2:
                raise ValueError(
                    f"{path}: the matrix is {tuple(matrix.shape)}, and there are {classes} classes"
                )
            self.register_buffer("matrix", matrix, persistent=False)

    def forward(
        self, bottom: Tensor, label: Tensor, matrix: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Source: InfogainLossLayer."""
        scores = class_scores(bottom, self.axis)
        classes = scores.shape[1]
        label, counts = class_labels(label, classes, self.ignored)
        matrix = cast("Tensor", self.matrix) if matrix is None else matrix.detach()
        weight = matrix.reshape(classes, classes)[label].to(scores.dtype)
        logs = Clamped.apply(scores.log_softmax(1), math.log(LOG_THRESHOLD), None)
        return self.averaged(-(weight * logs).sum(1), counts, bottom)


class MultinomialLogisticLoss(Layer):
    """The negative logarithm of the label's probability, which is clamped at 1e-20."""

    def forward(self, bottom: Tensor, label: Tensor) -> Tensor:
        """Source: MultinomialLogisticLossLayer."""
        probability = bottom.reshape(bottom.shape[0], -1)
        label, _ = class_labels(label, probability.shape[1])
        chosen = probability.gather(1, label[:, None])
        return -Clamped.apply(chosen, LOG_THRESHOLD, None).log().sum() / bottom.shape[0]


class HingeLoss(Layer):
    """max(0, 1 - x) of the label's score, max(0, 1 + x) of the others; under L2 their squares."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.squared = layer.hinge_loss_param.norm == pb.HingeLossParameter.L2

    def forward(self, bottom: Tensor, label: Tensor) -> Tensor:
        """Source: HingeLossLayer."""
        scores = bottom.reshape(bottom.shape[0], -1)
        label, _ = class_labels(label, scores.shape[1])
        own = torch.arange(scores.shape[1], device=scores.device) == label[:, None]
        slack = F.relu(1 + torch.where(own, -scores, scores))
        return (slack.square() if self.squared else slack).sum() / bottom.shape[0]
