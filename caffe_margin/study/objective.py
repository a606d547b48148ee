"""The true loss, which every rule claims to descend: softmax and cross entropy of the layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.maths.annealing import Annealing
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import EXACT, GradientRule
from caffe_margin.nets.margin import margin_param
from caffe_margin.study.head import Gradients, Head


@dataclass(frozen=True)
class Objective:
    """One batch's loss as a function of features and weight, in float64.

    Attributes:
        layer_param: the layer, with ``axis`` 1.
        label: (M,).
        iteration: which Forward it is, for lambda.
    """

    layer_param: pb.LayerParameter
    label: NDArray[np.intp]
    iteration: int

    @property
    def m(self) -> int:
        """The margin."""
        return margin_param(self.layer_param).type + 1

    @property
    def lambda_(self) -> float:
        """Lambda, computed in float64."""
        annealing = Annealing.of(margin_param(self.layer_param))
        return float(annealing.lambda_at(self.iteration, np.float64))

    def _head(self, weight: FloatArray, rule: GradientRule) -> Head:
        return Head(self.layer_param, weight, self.iteration, rule, np.float64)

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
        return self._head(weight, EXACT).layer.forward(x, self.label)

    def gradients(self, x: FloatArray, weight: FloatArray, rule: GradientRule) -> Gradients:
        """Return a rule's gradients at (x, weight)."""
        return self._head(weight, rule).gradients(x, self.label)
