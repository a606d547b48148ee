"""Layers that look at the largest scores; of equals the highest index comes first."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.loss import ignored_label
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.class_labels import class_labels, class_scores
from caffe_margin.torch.layers.layer import Layer


class Accuracy(Layer):
    """The share of labels among the ``top_k`` largest scores; a second top has it for each class.

    It is NaN where every label is ignored, and 0 for a class without labels. Later versions of
    Caffe have 0 in both cases, and take no label that has an equal.
    """

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.accuracy_param
        self.top_k = param.top_k
        self.axis = param.axis
        self.ignored = ignored_label(param)
        self.tops = len(layer.top)

    def forward(self, bottom: Tensor, label: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Source: AccuracyLayer."""
        scores = class_scores(bottom.detach(), self.axis)
        classes = scores.shape[1]
        label, counts = class_labels(label, classes, self.ignored)
        label = label[:, None]
        own = scores.gather(1, label)
        # As std::pair compares: all are equal where all are NaN.
        later = torch.arange(classes, device=scores.device) > label
        before = (scores > own) | (~(scores < own) & later)
        right = counts & (before.sum(1) < self.top_k)
        accuracy = right.sum().to(scores.dtype) / counts.sum()
        if self.tops < 2:
            return accuracy
        zeros = scores.new_zeros(classes)
        rights = zeros.index_add(0, label[:, 0], right.to(scores.dtype))
        labels = zeros.index_add(0, label[:, 0], counts.to(scores.dtype))
        return accuracy, rights / labels.clamp(min=1)


class ArgMax(Layer):
    """Where the ``top_k`` largest values are, or these values, or both, along an axis or in all."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.argmax_param
        self.top_k = param.top_k
        self.axis = param.axis if param.HasField("axis") else None
        self.out_max_val = param.out_max_val

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: ArgMaxLayer."""
        bottom = bottom.detach()
        if self.axis is not None:
            values, indices = self._largest(bottom, self.axis)
            return values if self.out_max_val else indices
        values, indices = self._largest(bottom.reshape(bottom.shape[0], -1), 1)
        top = torch.stack([indices, values] if self.out_max_val else [indices], dim=1)
        return top.reshape(*top.shape, *[1] * (bottom.ndim - 3))

    def _largest(self, bottom: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """Return the values and, as numbers of their dtype, their indices."""
        # Backwards, for PyTorch has the first of equals first.
        backwards = bottom.flip(axis)
        if self.top_k == 1:
            values, indices = backwards.max(axis, keepdim=True)
        else:
            values, indices = backwards.sort(stable=True, dim=axis, descending=True)
            values = values.narrow(axis, 0, self.top_k)
            indices = indices.narrow(axis, 0, self.top_k)
        return values, (bottom.shape[axis] - 1 - indices).to(bottom.dtype)
