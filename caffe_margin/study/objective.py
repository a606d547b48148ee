"""The true loss, which both rules claim to descend: A-Softmax under softmax and cross entropy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.layer import FloatArray
from caffe_margin.layers.margin_inner_product import MarginInnerProduct
from caffe_margin.layers.softmax_with_loss import SoftmaxWithLoss
from caffe_margin.maths import angular
from caffe_margin.maths.gradient import EXACT, GradientRule


@dataclass(frozen=True)
class Gradients:
    """What Backward gives below SoftmaxWithLoss: of the mean loss of the batch.

    Attributes:
        bottom_diff: (M, K).
        weight_diff: (N, K).
    """

    bottom_diff: FloatArray
    weight_diff: FloatArray


@dataclass(frozen=True)
class Objective:
    """One batch's loss as a function of features and weight, in float64.

    Attributes:
        layer_param: the MarginInnerProduct layer, with ``axis`` 1.
        label: (M,).
        iteration: which Forward it is, for lambda.
    """

    layer_param: pb.LayerParameter
    label: NDArray[np.intp]
    iteration: int

    @property
    def m(self) -> int:
        """The margin."""
        return self.layer_param.margin_inner_product_param.type + 1

    @property
    def lambda_(self) -> float:
        """Lambda, computed in float64."""
        p = self.layer_param.margin_inner_product_param
        at = angular.annealed_lambda(
            self.iteration, p.base, p.gamma, p.power, p.lambda_min, np.float64
        )
        return float(at)

    def _layer(self, weight: FloatArray, rule: GradientRule) -> MarginInnerProduct:
        layer = MarginInnerProduct(self.layer_param, gradient=rule, dtype=np.float64)
        layer.param_propagate_down = [True]
        layer.weight = weight
        layer.iteration = self.iteration - 1
        return layer

    def loss_changes(
        self, x: FloatArray, weight: FloatArray
    ) -> Callable[[FloatArray, FloatArray], FloatArray]:
        """Return a function of another (x, weight): each sample's loss there less that here, (M,).

        It comes from the changes of the scores, so it keeps its digits where they are small next to
        the loss; and without Caffe's ceiling of 87.3365.
        """
        here = self._scores(x, weight)
        share = np.exp(here - here.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)

        def change(x: FloatArray, weight: FloatArray) -> FloatArray:
            by = self._scores(x, weight) - here
            own = by[np.arange(len(by)), self.label]
            return np.log1p(np.einsum("ij,ij->i", share, np.expm1(by))) - own

        return change

    def _scores(self, x: FloatArray, weight: FloatArray) -> FloatArray:
        return self._layer(weight, EXACT).forward(x, self.label)

    def gradients(self, x: FloatArray, weight: FloatArray, rule: GradientRule) -> Gradients:
        """Return a rule's gradients at (x, weight)."""
        layer, loss = self._layer(weight, rule), SoftmaxWithLoss()
        loss.forward(layer.forward(x, self.label), self.label)
        return Gradients(layer.backward(loss.backward()), layer.blobs[0].diff)


def log_sum_exp(scores: FloatArray) -> FloatArray:
    """Return log(sum(exp(scores))) of each row, (M,); the scores are overwritten."""
    highest = scores.max(axis=1, keepdims=True)
    scores -= highest
    np.exp(scores, out=scores)
    return np.log(scores.sum(axis=1)) + highest[:, 0]
