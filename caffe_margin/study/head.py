"""The head of a net, its margin's layer below SoftmaxWithLoss, and the batch it is measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import DTypeLike, NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.checks import row_lengths
from caffe_margin.layers.large_margin_inner_product import LargeMarginInnerProduct
from caffe_margin.layers.margin_layers import margin_layer
from caffe_margin.layers.softmax_with_loss import SoftmaxWithLoss
from caffe_margin.maths.angular import label_score, large_margin_length
from caffe_margin.maths.annealing import Annealing
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import GradientRule
from caffe_margin.nets.margin import margin_param


@dataclass(frozen=True)
class Gradients:
    """What Forward and Backward give of one batch.

    Attributes:
        loss: the mean loss of the batch.
        bottom_diff: its gradient with respect to the features, of their shape.
        weight_diff: and the weight, (N, K).
    """

    loss: float
    bottom_diff: FloatArray
    weight_diff: FloatArray


class Head:
    """The layer and the loss, at an iteration, under a rule, on a weight.

    Args:
        layer_param: a layer of `MARGIN_LAYERS`; its ``lr_mult`` and blobs do not count.
        weight: (N, K); copied.
        iteration: which Forward the next one is, for lambda.
        gradient: the rule.
        dtype: of the computation; None for that of the weight.

    Attributes:
        layer: the layer.
    """

    def __init__(
        self,
        layer_param: pb.LayerParameter,
        weight: FloatArray,
        iteration: int,
        gradient: GradientRule,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.layer = margin_layer(layer_param, gradient=gradient, dtype=dtype)
        self.layer.param_propagate_down = [True]
        self.layer.weight = weight
        self.layer.iteration = iteration - 1
        self._loss_layer = SoftmaxWithLoss(axis=-1)

    @property
    def weight(self) -> FloatArray:
        """The stored weight, (N, K)."""
        return self.layer.weight

    def gradients(self, x: FloatArray, label: NDArray) -> Gradients:
        """Run Forward and Backward on a batch."""
        loss = self._loss_layer.forward(self.layer.forward(x, label), label)
        weight_diff = self.layer.blobs[0].diff
        weight_diff[...] = 0
        bottom_diff = self.layer.backward(self._loss_layer.backward())
        return Gradients(float(loss), bottom_diff, weight_diff)


def keeps_lengths(layer_param: pb.LayerParameter) -> bool:
    """Return whether the weight's rows keep their lengths in the scores: those of L-Softmax do."""
    return layer_param.type == LargeMarginInnerProduct.type


def make_scores(
    plain: FloatArray,
    layer_param: pb.LayerParameter,
    x_norm: FloatArray,
    weight_norm: FloatArray,
    label: NDArray[np.intp],
    lambda_: float,
) -> FloatArray:
    """Make the layer's output of X W^T, in place.

    Args:
        plain: X W^T, (M, N).
        layer_param: the layer.
        x_norm: length of each row of x, (M,).
        weight_norm: length of each row of the weight, (N,).
        label: (M,).
        lambda_: the weight of the plain inner product.

    Returns:
        The label's column, (M,).
    """
    if keeps_lengths(layer_param):
        length = large_margin_length(x_norm, weight_norm[label])
    else:
        plain /= weight_norm
        length = x_norm
    at_label = np.arange(len(label)), label
    own = label_score(plain[at_label], length, margin_param(layer_param).type + 1, lambda_)
    plain[at_label] = own
    return own


@dataclass(frozen=True)
class Batch:
    """What the measures run on.

    Attributes:
        layer_param: the layer.
        iteration: which Forward it is, for lambda; the prototxt's first is its ``iteration`` + 1.
        x: features, of the layer's bottom shape.
        label: their labels.
        weight: (N, K), in the dtype of x.
    """

    layer_param: pb.LayerParameter
    iteration: int
    x: FloatArray
    label: NDArray
    weight: FloatArray

    @property
    def m(self) -> int:
        """The margin."""
        return margin_param(self.layer_param).type + 1

    @property
    def annealing(self) -> Annealing:
        """Lambda over the layer's run."""
        return Annealing.of(margin_param(self.layer_param))

    def head(self, gradient: GradientRule, dtype: DTypeLike | None = None) -> Head:
        """Return the head under a rule."""
        return Head(self.layer_param, self.weight, self.iteration, gradient, dtype)

    def flattened(self) -> Batch:
        """Return it with x (M, K), label (M,), and a weight to start from, in float64.

        A-Softmax's rows are brought to unit length, as Caffe's own Forward stores them, so that
        every rule starts from the same place. L-Softmax's keep their lengths, which count.
        """
        flat = pb.LayerParameter()
        flat.CopyFrom(self.layer_param)
        flat.ClearField("blobs")
        margin_param(flat).ClearField("axis")
        weight = self.weight.astype(np.float64)
        if not keeps_lengths(self.layer_param):
            weight /= row_lengths(weight, "the weight")[:, None]
        return replace(
            self,
            layer_param=flat,
            x=np.ascontiguousarray(self.x, np.float64).reshape(-1, weight.shape[1]),
            label=np.asarray(self.label).reshape(-1).astype(np.intp),
            weight=weight,
        )

    def own_angles(self) -> FloatArray:
        """Return the angle between each sample and its own class, in radians, (M,)."""
        x, own = self._pairs()
        cos_theta = np.einsum("ik,ik->i", x, own) / (
            row_lengths(x, "the features") * row_lengths(own, "the weight")
        )
        return np.arccos(np.clip(cos_theta, -1, 1))

    def length_ratios(self) -> FloatArray:
        """Return |x| / |w_y| of each sample and its own class, (M,)."""
        x, own = self._pairs()
        return row_lengths(x, "the features") / row_lengths(own, "the weight")

    def _pairs(self) -> tuple[FloatArray, FloatArray]:
        """Return each sample, and the weight of its own class, (M, K) each."""
        x = self.x.reshape(-1, self.weight.shape[1])
        return x, self.weight[np.asarray(self.label).reshape(-1).astype(np.intp)]
