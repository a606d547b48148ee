"""Training the head alone: the weight on given features, under each rule, and without a margin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.layer import FloatArray
from caffe_margin.layers.margin_inner_product import MarginInnerProduct, row_lengths
from caffe_margin.layers.softmax_with_loss import SoftmaxWithLoss
from caffe_margin.maths import angular
from caffe_margin.maths.gradient import PAPER, GradientRule
from caffe_margin.solver.sgd import SGD
from caffe_margin.study.compare import RULES
from caffe_margin.study.objective import log_sum_exp

POINTS = 60
"""How often a run is looked at, at most; each look costs a Forward over all the features."""

MODIFIED_SOFTMAX = "modified softmax (SINGLE)"
SOFTMAX = "plain softmax"


@dataclass(frozen=True)
class TrainingRun:
    """How one head came along; the arrays have a value for each of ``iterations``.

    Attributes:
        name: the rule's name, or `MODIFIED_SOFTMAX` or `SOFTMAX`.
        rule: the rule, or None for the two without a margin.
        iterations: after how many updates.
        loss: the mean of the run's own loss over all the features: A-Softmax with that iteration's
            lambda for the rules, its own for the two without a margin.
        accuracy: share of the features whose own class scores highest, without the margin.
        own_angle: mean angle between the features and their own class, in radians.
        other_angle: mean angle to the nearest other class, in radians.
        weight_length: mean length of the weight's rows as they are stored.
    """

    name: str
    rule: GradientRule | None
    iterations: NDArray[np.intp]
    loss: FloatArray
    accuracy: FloatArray
    own_angle: FloatArray
    other_angle: FloatArray
    weight_length: FloatArray


@dataclass(frozen=True)
class Training:
    """The runs, and what they share.

    Attributes:
        runs: one for each of `caffe_margin.study.compare.RULES`, then the two without a margin.
        batch: samples in a batch.
        base_lr: the learning rate.
        momentum: its momentum.
        weight_decay: and decay.
        first: which Forward the first was, for lambda.
        lambdas: lambda at the first and the last Forward.
    """

    runs: tuple[TrainingRun, ...]
    batch: int
    base_lr: float
    momentum: float
    weight_decay: float
    first: int
    lambdas: tuple[float, float]


def train(
    layer_param: pb.LayerParameter,
    x: FloatArray,
    label: NDArray[np.intp],
    weight: FloatArray,
    first: int,
    iterations: int,
    batch: int,
    solver_param: pb.SolverParameter,
    seed: int,
    track: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Training:
    """Train the head from the same start on the same batches in the same order.

    The features are at rest, so bottom.diff goes nowhere, and a rule shows by its weight.diff.

    Args:
        layer_param: the MarginInnerProduct layer, with ``axis`` 1.
        x: (M, K).
        label: (M,).
        weight: the start, (N, K), rows of unit length, in the dtype of x.
        first: which Forward the first is, for lambda; it falls on from there as the net has it.
        iterations: how many updates.
        batch: samples in a batch; M where there are fewer.
        solver_param: the learning rate and what else Caffe's SGD has.
        seed: for the order of the samples.
        track: wraps the names of the runs as they are gone through, for a progress bar.

    Raises:
        ValueError: a run diverged: its weight's length overflows.
    """
    batch = min(batch, len(x))
    rules: dict[str, GradientRule | None] = {rule.name: rule for rule in RULES}
    rules |= {MODIFIED_SOFTMAX: None, SOFTMAX: None}
    looks = np.unique(np.linspace(0, iterations, min(POINTS, iterations) + 1).astype(np.intp))
    p = layer_param.margin_inner_product_param
    schedule = (p.base, p.gamma, p.power, p.lambda_min)

    runs = []
    for name in track(rules):
        rule = rules[name]
        head = _Head(layer_param, name, rule, weight, first)
        sgd, seen = SGD(solver_param), []
        batches = _batches(len(x), batch, np.random.default_rng(seed))
        for iteration in range(iterations + 1):
            if iteration in looks:
                lambda_ = float(angular.annealed_lambda(first + iteration, *schedule))
                seen.append(head.look(x, label, 1 if rule is None else p.type + 1, lambda_))
            if iteration < iterations:
                samples = next(batches)
                diff = head.gradient(x[samples], label[samples])
                with np.errstate(over="ignore", invalid="ignore"):
                    sgd.step([head.weight], [diff])
                if not np.isfinite(np.vdot(head.weight, head.weight)):
                    raise ValueError(
                        f"training under {name!r} diverged at iteration {iteration + 1}: lower the "
                        f"learning rate (--lr), which is {solver_param.base_lr:g}"
                    )
        runs.append(TrainingRun(name, rule, looks, *np.array(seen).T))
    ends = angular.annealed_lambda([first, first + iterations], *schedule)
    return Training(
        runs=tuple(runs),
        batch=batch,
        base_lr=solver_param.base_lr,
        momentum=solver_param.momentum,
        weight_decay=solver_param.weight_decay,
        first=first,
        lambdas=(float(ends[0]), float(ends[1])),
    )


class _Head:
    """A weight, its gradient on a batch, and how it does on all the features."""

    def __init__(
        self,
        layer_param: pb.LayerParameter,
        name: str,
        rule: GradientRule | None,
        weight: FloatArray,
        first: int,
    ) -> None:
        self.is_plain = name == SOFTMAX
        self.loss = SoftmaxWithLoss()
        param = pb.LayerParameter()
        param.CopyFrom(layer_param)
        if rule is None:
            param.margin_inner_product_param.type = pb.MarginInnerProductParameter.SINGLE
        self.layer = MarginInnerProduct(param, gradient=rule or PAPER)
        self.layer.param_propagate_down = [True]
        self.layer.weight = weight
        self.layer.iteration = first - 1

    @property
    def weight(self) -> FloatArray:
        return self.layer.blobs[0].data

    def gradient(self, x: FloatArray, label: NDArray[np.intp]) -> FloatArray:
        """Return the weight's gradient on a batch."""
        if self.is_plain:
            self.loss.forward(x @ self.weight.T, label)
            return self.loss.backward().T @ x
        self.loss.forward(self.layer.forward(x, label), label)
        diff = self.layer.blobs[0].diff
        diff[...] = 0
        self.layer.backward(self.loss.backward())
        return diff

    def look(self, x: FloatArray, label: NDArray[np.intp], m: int, lambda_: float) -> tuple:
        """Return loss, accuracy, own angle, angle to the nearest other, length of the rows."""
        samples = np.arange(len(x))
        x_norm = row_lengths(x, "the features")
        weight_norm = row_lengths(self.weight, "the weight")
        plain = x @ self.weight.T
        scores = plain / weight_norm
        own = np.clip(scores[samples, label] / x_norm, -1, 1)
        others = scores.copy()
        others[samples, label] = -np.inf
        nearest = np.clip(others.max(axis=1) / x_norm, -1, 1)
        if self.is_plain:
            scores = plain
            is_right = scores.argmax(axis=1) == label
        else:
            is_right = scores.argmax(axis=1) == label
            mixed = (angular.psi(own, m) + lambda_ * own) / (1 + lambda_) if m > 1 else own
            scores[samples, label] = x_norm * mixed
        own_score = scores[samples, label]
        return (
            np.mean(log_sum_exp(scores) - own_score),
            is_right.mean(),
            np.arccos(own).mean(),
            np.arccos(nearest).mean(),
            weight_norm.mean(),
        )


def _batches(M: int, batch: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Yield batches without end; every sample comes once before any comes again."""
    order = np.empty(0, np.intp)
    while True:
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(M)])
        yield order[:batch]
        order = order[batch:]
