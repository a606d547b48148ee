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
from caffe_margin.layers.checks import as_labels, as_whole_number, canonical_axis, check_dtype
from caffe_margin.layers.layer import BlobLike, Layer
from caffe_margin.maths.softmax import FLT_MIN, NORMALIZATIONS, normalizer
from caffe_margin.nets.loss import ignored_label, normalization_name


class SoftmaxWithLoss(Layer):
    """The layer ``type: "SoftmaxWithLoss"``, over float32 or float64.

        >>> import numpy as np
        >>> layer = SoftmaxWithLoss()
        >>> loss = layer.forward(np.zeros((4, 10)), [1, 0, 7, 7])   # (M, N) scores, M labels
        >>> print(f"{loss:.6f}")                                    # log(10)
        2.302585
        >>> layer.backward().shape                                  # times loss_weight
        (4, 10)

    `forward` takes scores and one label for every position outside the axis of the classes; it
    returns the loss, a scalar, not yet times ``loss_weight``. `backward` returns the gradient with
    respect to the scores, times ``loss_weight``.

    Args:
        axis: of the scores, the one over the classes.
        ignore_label: samples with this label do not count.
        normalization: what the summed loss is divided by: ``"FULL"``, ``"VALID"``,
            ``"BATCH_SIZE"`` or ``"NONE"``; see `caffe_margin.maths.softmax.normalizer`.
        loss_weight: a factor on the gradient.
        name: what errors call the layer.

    Attributes:
        prob: the probabilities of the last forward, of the shape of the scores.

    Raises:
        TypeError: ``axis`` is no whole number, but a message, say.
        ValueError: ``normalization`` is none of the above.
    """

    type = "SoftmaxWithLoss"

    def __init__(
        self,
        axis: int = 1,
        *,
        ignore_label: int | None = None,
        normalization: str = "VALID",
        loss_weight: float = 1.0,
        name: str = "",
    ) -> None:
        super().__init__(name, loss_weight)
        if normalization not in NORMALIZATIONS:
            raise ValueError(
                f"normalization must be {', '.join(NORMALIZATIONS)}, not {normalization!r}"
            )
        self.axis = as_whole_number(axis, "axis", type(self))
        self.ignore_label = ignore_label
        self.normalization = normalization

    @classmethod
    def from_param(cls, layer_param: pb.LayerParameter) -> SoftmaxWithLoss:
        """Make the layer that a message describes.

            >>> from google.protobuf import text_format
            >>> from caffe_margin.caffe_margin_pb2 import LayerParameter
            >>> text = 'name: "loss" type: "SoftmaxWithLoss" loss_param { ignore_label: 255 }'
            >>> SoftmaxWithLoss.from_param(text_format.Parse(text, LayerParameter())).ignore_label
            255

        Raises:
            TypeError: ``layer_param`` is no LayerParameter.
            ValueError: the layer is of another type.
        """
        param = cls.check_message(layer_param).loss_param
        return cls(
            axis=layer_param.softmax_param.axis,
            ignore_label=ignored_label(param),
            normalization=normalization_name(param),
            loss_weight=(*layer_param.loss_weight, 1.0)[0],
            name=layer_param.name,
        )

    def __repr__(self) -> str:
        name = "" if self.name == self.type else f", name={self.name!r}"
        ignored = "" if self.ignore_label is None else f", ignore_label={self.ignore_label}"
        return (
            f"{type(self).__name__}(axis={self.axis}{name}{ignored}, "
            f"normalization={self.normalization!r}, loss_weight={self.loss_weight:g})"
        )

    def _dimensions(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return outer_num, the number of classes and inner_num, for scores of a shape."""
        axis = canonical_axis(self.axis, shape, self.name)
        return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])

    def check(self, bottom: Sequence[BlobLike]) -> None:
        """Check scores and labels.

        Raises:
            ValueError: shapes that disagree, a dtype that is not float32 or float64, or a label
                that is NaN, infinite or outside [0, classes) and not ``ignore_label``.
        """
        scores, label = bottom[0].data, bottom[1].data
        check_dtype(scores, f"bottom[0] of layer {self.name!r}")
        outer_num, classes, inner_num = self._dimensions(scores.shape)
        if label.size != outer_num * inner_num:
            raise ValueError(
                f"bottom[0] of layer {self.name!r} is {scores.shape}, {outer_num * inner_num} "
                f"predictions of {classes} classes, but bottom[1], the labels, is {label.shape}"
            )
        as_labels(label, classes, f"bottom[1] of layer {self.name!r}", self.ignore_label)

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
        loss = 0 - np.log(np.maximum(label_prob, prob.dtype.type(FLT_MIN))).sum()
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
        if self.ignore_label is not None:
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
        if self.ignore_label is not None:
            positions = positions[label != self.ignore_label]
        return positions // inner_num, label[positions], positions % inner_num

    def _normalizer(self, shape: tuple[int, int, int], valid_count: int) -> int:
        outer_num, _, inner_num = shape
        return int(normalizer(self.normalization, outer_num, inner_num, valid_count))
