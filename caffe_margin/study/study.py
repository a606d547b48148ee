"""Everything the page shows, measured on one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.layer import FloatArray
from caffe_margin.layers.margin_inner_product import row_lengths
from caffe_margin.maths import angular
from caffe_margin.maths.gradient import EXACT, PAPER, GradientRule
from caffe_margin.study.compare import RULES, Comparison
from caffe_margin.study.descent import Descent, descend
from caffe_margin.study.gradient_check import CheckedDerivatives, check_gradients
from caffe_margin.study.objective import Gradients, Objective
from caffe_margin.study.pull import Pulls, coeff_norm, pulls
from caffe_margin.study.training import Training, train

MARGINS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Psi:
    """psi_m over theta, for each of `MARGINS`.

    Attributes:
        theta: from 0 to pi, (T,).
        cos_theta: their cosines, (T,).
        psi: psi_m, (4, T).
        mixed: (psi_m + lambda cos) / (1 + lambda), (4, T); cos itself where m is 1.
    """

    theta: FloatArray
    cos_theta: FloatArray
    psi: FloatArray
    mixed: FloatArray


@dataclass(frozen=True)
class Schedule:
    """Lambda over iterations.

    Attributes:
        iteration: which Forward, rising, (S,).
        lambda_: lambda there, (S,).
    """

    iteration: NDArray[np.intp]
    lambda_: FloatArray


@dataclass(frozen=True)
class CoeffNorm:
    """coeff_norm over a grid.

    Attributes:
        theta: in radians, (T,).
        x_norm: length of x, (L,).
        value: coeff_norm, (L, T).
    """

    theta: FloatArray
    x_norm: FloatArray
    value: FloatArray


@dataclass(frozen=True)
class Spread:
    """Least, median and greatest of some values."""

    least: float
    median: float
    greatest: float

    @classmethod
    def of(cls, values: FloatArray) -> Spread:
        """Return the spread of an array."""
        return cls(float(values.min()), float(np.median(values)), float(values.max()))


@dataclass(frozen=True)
class Study:
    """What `study` found.

    Attributes:
        comparison: the rules' gradients against the exact one's.
        schedule: lambda, to ten times the iteration of the comparison.
        psi: the functions.
        pulls: the label's pull of each sample.
        pull_curves: the same over theta from 0 to pi, at the median length of the features.
        coeff_norm: over theta, and |x| a little beyond the batch's.
        checks: derivatives of each rule's bottom.diff and weight.diff.
        descents: along minus each rule's bottom.diff and weight.diff.
        training: the runs, or None.
    """

    comparison: Comparison
    schedule: Schedule
    psi: Psi
    pulls: Pulls
    pull_curves: Pulls
    coeff_norm: CoeffNorm
    checks: tuple[CheckedDerivatives, ...]
    descents: tuple[Descent, ...]
    training: Training | None

    @property
    def spreads(self) -> dict[str, Spread]:
        """How the batch spreads, by what it is that spreads."""
        p = self.pulls
        return {
            "theta": Spread.of(p.theta),
            "x_norm": Spread.of(p.x_norm),
            "exact_length": Spread.of(p.exact.length),
            "paper_length": Spread.of(p.paper.length),
            "angle": Spread.of(p.angle),
            "coeff_norm": Spread.of(p.coeff_norm),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it; angles in radians; NaN and infinity as None."""
        plain: dict[str, Any] = _plain(self)
        plain["comparison"] = self.comparison.as_dict()
        plain["spreads"] = {name: _plain(spread) for name, spread in self.spreads.items()}
        for check, shown in zip(self.checks, plain["checks"], strict=True):
            shown |= {
                "scale": check.scale,
                "disagreement": check.disagreement.tolist(),
                "median": check.median,
                "largest": check.largest,
                "passes": check.passes,
            }
        for descent, shown in zip(self.descents, plain["descents"], strict=True):
            step, loss = descent.lowest
            shown |= {
                "lowest_step": step,
                "lowest_loss": loss,
                "back_at_start": descent.back_at_start,
            }
        return plain


def study(
    comparison: Comparison,
    layer_param: pb.LayerParameter,
    x: FloatArray,
    label: NDArray,
    weight: FloatArray,
    *,
    train_iterations: int = 0,
    train_batch: int = 256,
    solver_param: pb.SolverParameter | None = None,
    seed: int = 0,
    track: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Study:
    """Measure everything, beside a comparison that was made of the same batch.

    The weight's rows are first brought to unit length, as Caffe's own Forward stores them, so that
    every rule starts from the same place; then everything is computed in float64, but for the
    training, which keeps the dtype of x.

    Args:
        comparison: what `compare` found on the batch.
        layer_param: the MarginInnerProduct layer.
        x: features, of the layer's bottom shape.
        label: their labels.
        weight: (N, K).
        train_iterations: how many updates the heads are trained for; 0 for no training.
        train_batch: samples in a batch there.
        solver_param: how they are trained; needed where they are.
        seed: for whatever is drawn.
        track: wraps the steps as they are gone through, for a progress bar.
    """
    m, lambda_, iteration = comparison.m, comparison.lambda_, comparison.iteration
    flat = pb.LayerParameter()
    flat.CopyFrom(layer_param)
    flat.ClearField("blobs")
    flat.margin_inner_product_param.ClearField("axis")
    x = np.ascontiguousarray(x).reshape(-1, weight.shape[1])
    label = np.asarray(label).reshape(-1).astype(np.intp)
    unit = weight.astype(np.float64)
    unit /= row_lengths(unit, "the weight")[:, None]

    samples = _sample_pulls(x, label, unit, m, lambda_)
    theta = np.linspace(0, np.pi, 1801)
    lengths = np.full_like(theta, np.median(samples.x_norm))
    checks, descents = _checks_and_descents(
        Objective(flat, label, iteration), x.astype(np.float64), unit, seed, track
    )
    training = None
    if train_iterations:
        if solver_param is None:
            raise ValueError("training needs a solver_param")
        training = train(
            flat,
            x,
            label,
            unit.astype(x.dtype),
            iteration,
            train_iterations,
            train_batch,
            solver_param,
            seed,
            track,
        )
    return Study(
        comparison=comparison,
        schedule=_schedule(layer_param.margin_inner_product_param, iteration),
        psi=_psi(lambda_),
        pulls=samples,
        pull_curves=pulls(theta, lengths, m, lambda_),
        coeff_norm=_coeff_norm(samples.x_norm, m),
        checks=checks,
        descents=descents,
        training=training,
    )


def _sample_pulls(
    x: FloatArray, label: NDArray[np.intp], unit: FloatArray, m: int, lambda_: float
) -> Pulls:
    x = x.astype(np.float64)
    x_norm = row_lengths(x, "the features")
    cos_theta = np.einsum("ik,ik->i", x, unit[label]) / x_norm
    return pulls(np.arccos(np.clip(cos_theta, -1, 1)), x_norm, m, lambda_)


def _psi(lambda_: float) -> Psi:
    theta = np.linspace(0, np.pi, 361)
    c = np.cos(theta)
    psi = np.stack([angular.psi(c, m) for m in MARGINS])
    return Psi(theta, c, psi, (psi + lambda_ * c) / (1 + lambda_))


def _schedule(param: pb.MarginInnerProductParameter, iteration: int) -> Schedule:
    first = param.iteration + 1
    last = max(10 * (iteration - first + 1), 1000)
    since = np.geomspace(1, last, 200).round().astype(np.intp)
    iterations = np.unique(np.append(first - 1 + since, iteration))
    at = angular.annealed_lambda(iterations, param.base, param.gamma, param.power, param.lambda_min)
    return Schedule(iterations, at)


def _coeff_norm(x_norm: FloatArray, m: int) -> CoeffNorm:
    theta = np.linspace(0, np.pi, 181)
    lengths = np.geomspace(x_norm.min() / 1.2, x_norm.max() * 1.2, 61)
    return CoeffNorm(theta, lengths, coeff_norm(theta[None, :], lengths[:, None], m))


def _checks_and_descents(
    objective: Objective,
    x: FloatArray,
    unit: FloatArray,
    seed: int,
    track: Callable[[Iterable[Any]], Iterable[Any]],
) -> tuple[tuple[CheckedDerivatives, ...], tuple[Descent, ...]]:
    """Check PAPER and EXACT; descend by each rule that gives the blob a gradient of its own."""
    exact = objective.gradients(x, unit, EXACT)
    kept: dict[GradientRule, Gradients] = {}
    descents = []
    for rule in track(RULES):
        gradients = exact if rule == EXACT else objective.gradients(x, unit, rule)
        if rule in (PAPER, EXACT):
            kept[rule] = gradients
            descents.append(
                descend(
                    objective, x, unit, "bottom", rule, gradients.bottom_diff, exact.bottom_diff
                )
            )
        descents.append(
            descend(objective, x, unit, "weight", rule, gradients.weight_diff, exact.weight_diff)
        )
    checks = check_gradients(objective, x, unit, kept, np.random.default_rng(seed))
    return tuple(checks), tuple(sorted(descents, key=lambda walk: walk.blob))


def _plain(value: Any) -> Any:
    """Return dataclasses as dicts, arrays as lists, and what JSON lacks as None."""
    if isinstance(value, GradientRule):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name.rstrip("_"): _plain(getattr(value, field.name)) for field in fields(value)
        }
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
