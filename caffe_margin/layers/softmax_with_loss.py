"""SoftmaxWithLoss: softmax and multinomial cross entropy, as Caffe computes them.

Source: SoftmaxWithLossLayer and SoftmaxLayer of BVLC/caffe, src/caffe/layers/softmax_loss_layer.cpp
and softmax_layer.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.layer import (
    BlobLike,
    Layer,
    as_labels,
    canonical_axis,
    check_dtype,
)

# Caffe clamps the probability at C's FLT_MIN, in double too: no sample's loss exceeds 87.3365.
FLT_MIN = np.finfo(np.float32).tiny

_LossParameter = pb.LossParameter


class SoftmaxWithLoss(Layer):
    """The layer ``type: "SoftmaxWithLoss"``, over float32 or float64.

    `forward` takes scores, whose ``softmax_param { axis }`` (1) runs over the classes, and one
    label for every other position; it returns the loss, a scalar, not yet times ``loss_weight``.
    `backward` returns the gradient with respect to the scores, times ``loss_weight``.

    Attributes:
        prob: the probabilities of the last forward, of the shape of the scores.
    """

    type = "SoftmaxWithLoss"
    default_loss_weight = 1.0

    def __init__(self, layer_param: pb.LayerParameter | None = None) -> None:
        super().__init__(layer_param or pb.LayerParameter(type=self.type))
        param = self.layer_param.loss_param
        self._ignore_label = param.ignore_label if param.HasField("ignore_label") else None
        if param.HasField("normalize") and not param.HasField("normalization"):
            self._normalization = (
                _LossParameter.VALID if param.normalize else _LossParameter.BATCH_SIZE
            )
        else:
            self._normalization = param.normalization

    def _dimensions(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return outer_num, the number of classes and inner_num, for scores of a shape."""
        axis = canonical_axis(
            self.layer_param.softmax_param.axis, shape, self.layer_param.name or self.type
        )
        return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])

    def check(self, bottom: Sequence[BlobLike]) -> None:
        """Check scores and labels.

        Raises:
            ValueError: shapes that disagree, a dtype that is not float32 or float64, or a label
                that is NaN, infinite or outside [0, classes) and not ``ignore_label``.
        """
        name = self.layer_param.name or self.type
        if len(bottom) != 2:
            raise ValueError(f"layer {name!r} needs scores and labels, not {len(bottom)} bottoms")
        scores, label = bottom[0].data, bottom[1].data
        check_dtype(scores, f"bottom[0] of layer {name!r}")
        outer_num, classes, inner_num = self._dimensions(scores.shape)
        if label.size != outer_num * inner_num:
            raise ValueError(
                f"bottom[0] of layer {name!r} is {scores.shape}, {outer_num * inner_num} "
                f"predictions of {classes} classes, but bottom[1], the labels, is {label.shape}"
            )
        as_labels(label, classes, f"bottom[1] of layer {name!r}", self._ignore_label)

    def reshape(self, bottom: Sequence[BlobLike], top: Sequence[BlobLike]) -> None:
        """Shape the tops: the loss is a scalar, a second top holds the probabilities."""
        top[0].reshape()
        if len(top) == 2:
            top[1].reshape(*bottom[0].data.shape)

    def forward_cpu(self, bottom: Sequence[BlobLike], top: Sequence[BlobLike]) -> None:
        """Source: ``SoftmaxLayer::Forward_cpu`` and ``SoftmaxWithLossLayer::Forward_cpu``."""
        scores = bottom[0].data
        shape = self._dimensions(scores.shape)
        # softmax: subtract the maximum to avoid overflow, exponentiate, divide by the sum
        prob = scores.reshape(shape) - scores.reshape(shape).max(axis=1, keepdims=True)
        np.exp(prob, out=prob)
        prob /= prob.sum(axis=1, keepdims=True)
        self.prob = prob.reshape(scores.shape)

        outer, class_, inner = self._label_indices(bottom)
        label_prob = prob[outer, class_, inner]
        loss = 0 - np.log(np.maximum(label_prob, FLT_MIN.astype(prob.dtype))).sum()
        top[0].data[...] = loss / self._normalizer(shape, len(class_))
        if len(top) == 2:
            top[1].data[...] = self.prob

    def backward_cpu(
        self, top: Sequence[BlobLike], propagate_down: Sequence[bool], bottom: Sequence[BlobLike]
    ) -> None:
        """Source: ``SoftmaxWithLossLayer::Backward_cpu``."""
        if not propagate_down[0]:
            return
        shape = self._dimensions(bottom[0].data.shape)
        outer, class_, inner = self._label_indices(bottom)
        diff = bottom[0].diff.reshape(shape)
        diff[...] = self.prob.reshape(shape)
        diff[outer, class_, inner] -= 1
        if self._ignore_label is not None:
            counted = np.zeros((shape[0], 1, shape[2]), bool)
            counted[outer, 0, inner] = True
            diff *= counted
        diff *= top[0].diff[()] / self._normalizer(shape, len(class_))

    def _label_indices(
        self, bottom: Sequence[BlobLike]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """Return (outer, class, inner) of each label that counts."""
        _, _, inner_num = self._dimensions(bottom[0].data.shape)
        label = bottom[1].data.reshape(-1).astype(np.intp)
        positions = np.arange(label.size)
        if self._ignore_label is not None:
            positions = positions[label != self._ignore_label]
        return positions // inner_num, label[positions], positions % inner_num

    def _normalizer(self, shape: tuple[int, int, int], valid_count: int) -> float:
        """Source: ``get_normalizer``; the maximum prevents NaN where every label is ignored."""
        outer_num, _, inner_num = shape
        return max(
            1,
            {
                _LossParameter.FULL: outer_num * inner_num,
                _LossParameter.VALID: valid_count,
                _LossParameter.BATCH_SIZE: outer_num,
                _LossParameter.NONE: 1,
            }[self._normalization],
        )
