"""Descent: the true loss along minus each rule's gradient, over a range of step lengths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import GradientRule
from caffe_margin.maths.softmax import log_sum_exp
from caffe_margin.study.head import make_scores
from caffe_margin.study.objective import Objective

STEPS = np.geomspace(1e-3, 10, 33)
"""Lengths of the step, over the length of what is moved."""


@dataclass(frozen=True)
class Descent:
    """The true loss along minus one rule's gradient of one blob, the other blob at rest.

    Attributes:
        rule: the rule.
        blob: ``bottom`` or ``weight``.
        steps: length of each step over the Frobenius norm of what is moved, rising, (S,).
        loss: the true mean loss after each, (S,).
        start: the loss before.
        slope: the first-order prediction: loss = start + slope step.
        gradient_norm: Frobenius norm of the gradient; where it is 0 a step goes nowhere.
    """

    rule: GradientRule
    blob: str
    steps: FloatArray
    loss: FloatArray
    start: float
    slope: float
    gradient_norm: float

    @property
    def lowest(self) -> tuple[float, float]:
        """The step that goes down farthest, and the loss there; a step of 0 where none does."""
        i = int(np.argmin(self.loss))
        if self.loss[i] >= self.start:
            return 0.0, self.start
        return float(self.steps[i]), float(self.loss[i])

    @property
    def back_at_start(self) -> float | None:
        """The first step, between two measured ones, with no gain left; None if all have some.

        0 where the first step already goes up.
        """
        above = np.flatnonzero(self.loss >= self.start)
        if not len(above):
            return None
        i = int(above[0])
        if i == 0:
            return 0.0
        a, b = self.loss[i - 1] - self.start, self.loss[i] - self.start
        return float(self.steps[i - 1] + (self.steps[i] - self.steps[i - 1]) * a / (a - b))


def descend(
    objective: Objective,
    x: FloatArray,
    weight: FloatArray,
    blob: str,
    rule: GradientRule,
    gradient: FloatArray,
    exact: FloatArray,
) -> Descent:
    """Follow minus a gradient by each of `STEPS`.

    X W^T is linear in either, so a direction costs one matrix product, and a step none.

    Args:
        objective: the loss.
        x: (M, K), float64.
        weight: (N, K), float64.
        blob: ``bottom`` or ``weight``: what is moved.
        rule: whose gradient it is.
        gradient: the rule's gradient of the blob.
        exact: the exact gradient of the blob, which predicts.
    """
    start_from = {"bottom": x, "weight": weight}[blob]
    size = float(np.linalg.norm(start_from))
    gradient_norm = float(np.linalg.norm(gradient))
    direction = gradient * (-size / gradient_norm if gradient_norm else 0.0)
    along = direction @ weight.T if blob == "bottom" else x @ direction.T
    plain = x @ weight.T

    # The squared length of a row after a step is a quadratic in the step.
    quadratic = [
        np.einsum("ik,ik->i", a, b)
        for a, b in ((start_from, start_from), (start_from, direction), (direction, direction))
    ]
    lengths = {"bottom": np.linalg.norm(x, axis=1), "weight": np.linalg.norm(weight, axis=1)}
    label, lambda_ = objective.label, objective.lambda_
    scores = np.empty_like(plain)

    def loss_at(step: float) -> float:
        moved = np.sqrt(quadratic[0] + 2 * step * quadratic[1] + step**2 * quadratic[2])
        norms = lengths | {blob: moved}
        np.multiply(along, step, out=scores)
        np.add(scores, plain, out=scores)
        norms_of_both = norms["bottom"], norms["weight"]
        own = make_scores(scores, objective.layer_param, *norms_of_both, label, lambda_)
        return float(np.mean(log_sum_exp(scores) - own))

    return Descent(
        rule=rule,
        blob=blob,
        steps=STEPS,
        loss=np.array([loss_at(step) for step in STEPS]),
        start=loss_at(0.0),
        slope=float(np.vdot(exact, direction)),
        gradient_norm=gradient_norm,
    )
