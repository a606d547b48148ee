"""Training the head alone: the weight on given features, under each rule, and without a margin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.checks import row_lengths
from caffe_margin.layers.large_margin_inner_product import LargeMarginInnerProduct
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import PAPER, GradientRule
from caffe_margin.maths.softmax import log_sum_exp
from caffe_margin.nets.margin import margin_param
from caffe_margin.solver.sgd import SGD
from caffe_margin.study.compare import distinct
from caffe_margin.study.head import Batch, keeps_lengths, make_scores

POINTS = 60
"""How often a run is looked at, at most; each look costs a Forward over all the features."""

MODIFIED_SOFTMAX = "modified softmax (SINGLE)"
SOFTMAX = "plain softmax"

RUNS: dict[str, GradientRule | None] = {
    **{rule.name: rule for rule in distinct("weight")},
    MODIFIED_SOFTMAX: None,
    SOFTMAX: None,
}
"""Each run, and its rule; the two without a margin have none.

Rules that differ in bottom.diff alone train alike here: the detached one as the paper's. L-Softmax
has no run of the modified softmax: without a margin it is the plain one.
"""


def runs_of(layer_param: pb.LayerParameter) -> tuple[str, ...]:
    """Return the names of the runs that a layer has, of `RUNS`."""
    return tuple(
        name for name in RUNS if name != MODIFIED_SOFTMAX or not keeps_lengths(layer_param)
    )


@dataclass(frozen=True)
class TrainingRun:
    """How one head came along; the arrays have a value for each of ``iterations``.

    Attributes:
        name: the rule's name, or `MODIFIED_SOFTMAX` or `SOFTMAX`.
        rule: the rule, or None for the two without a margin.
        iterations: after how many updates.
        loss: the mean of the run's own loss over all the features: the layer's with that
            iteration's lambda for the rules, its own for the two without a margin.
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
        runs: one for each of `runs_of` the layer.
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
    batch: Batch,
    iterations: int,
    size: int,
    solver_param: pb.SolverParameter,
    seed: int,
    names: Iterable[str] | None = None,
) -> Training:
    """Train the head from the same start on the same batches in the same order.

    The features are at rest, so bottom.diff goes nowhere, and a rule shows by its weight.diff. The
    start is the weight of `Batch.flattened`; the dtype is that of x.

    Args:
        batch: the features, their labels, and where weight and lambda start; lambda falls on from
            there as the net has it.
        iterations: how many updates.
        size: samples in a batch of the training; all of them where there are fewer.
        solver_param: the learning rate and what else Caffe's SGD has.
        seed: for the order of the samples.
        names: `runs_of` the layer, which a caller may watch as they are gone through.

    Raises:
        ValueError: a run diverged: its weight's length overflows.
    """
    dtype = batch.x.dtype
    batch = batch.flattened()
    batch = replace(batch, x=batch.x.astype(dtype), weight=batch.weight.astype(dtype))
    size = min(size, len(batch.x))
    looks = np.unique(np.linspace(0, iterations, min(POINTS, iterations) + 1).astype(np.intp))

    runs = []
    for name in names or runs_of(batch.layer_param):
        samples = _samples(len(batch.x), size, np.random.default_rng(seed))
        seen = _train_one(name, batch, iterations, looks, samples, solver_param)
        runs.append(TrainingRun(name, RUNS[name], looks, *np.array(seen).T))
    ends = batch.annealing.lambda_at([batch.iteration, batch.iteration + iterations])
    return Training(
        runs=tuple(runs),
        batch=size,
        base_lr=solver_param.base_lr,
        momentum=solver_param.momentum,
        weight_decay=solver_param.weight_decay,
        first=batch.iteration,
        lambdas=(float(ends[0]), float(ends[1])),
    )


def _train_one(
    name: str,
    batch: Batch,
    iterations: int,
    looks: NDArray[np.intp],
    samples: Iterator[NDArray[np.intp]],
    solver_param: pb.SolverParameter,
) -> list[tuple]:
    """Return what is seen at each look."""
    batch = replace(batch, layer_param=_layer_of(batch.layer_param, name))
    head = batch.head(RUNS[name] or PAPER)
    sgd, seen = SGD(solver_param), []
    for iteration in range(iterations + 1):
        if iteration in looks:
            lambda_ = float(batch.annealing.lambda_at(batch.iteration + iteration))
            seen.append(_look(head.weight, batch, lambda_))
        if iteration < iterations:
            drawn = next(samples)
            diff = head.gradients(batch.x[drawn], batch.label[drawn]).weight_diff
            with np.errstate(over="ignore", invalid="ignore"):
                sgd.step([head.weight], [diff])
            if not np.isfinite(np.vdot(head.weight, head.weight)):
                raise ValueError(
                    f"training under {name!r} diverged at iteration {iteration + 1}: lower the "
                    f"learning rate (--lr), which is {solver_param.base_lr:g}"
                )
    return seen


def _layer_of(layer_param: pb.LayerParameter, name: str) -> pb.LayerParameter:
    """Return the layer of a run: the given one, or one without a margin."""
    if RUNS[name]:
        return layer_param
    param = pb.LayerParameter(name=layer_param.name, type=layer_param.type)
    if name == SOFTMAX:
        param.type = LargeMarginInnerProduct.type  # at an m of 1, which is the default
    margin_param(param).num_output = margin_param(layer_param).num_output
    return param


def _look(weight: FloatArray, batch: Batch, lambda_: float) -> tuple:
    """Return loss, accuracy, own angle, angle to the nearest other, length of the rows."""
    x, label = batch.x, batch.label
    samples = np.arange(len(x))
    x_norm, weight_norm = row_lengths(x, "the features"), row_lengths(weight, "the weight")
    scores = x @ weight.T
    cosines = scores / weight_norm
    cosines /= x_norm[:, None]
    own = np.clip(cosines[samples, label], -1, 1)
    is_right = (scores if keeps_lengths(batch.layer_param) else cosines).argmax(axis=1) == label
    cosines[samples, label] = -np.inf
    nearest = np.clip(cosines.max(axis=1), -1, 1)
    own_score = make_scores(scores, batch.layer_param, x_norm, weight_norm, label, lambda_)
    return (
        np.mean(log_sum_exp(scores) - own_score),
        is_right.mean(),
        np.arccos(own).mean(),
        np.arccos(nearest).mean(),
        weight_norm.mean(),
    )


def _samples(M: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Yield batches without end; every sample comes once before any comes again."""
    order = np.empty(0, np.intp)
    while True:
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(M)])
        yield order[:size]
        order = order[size:]
