"""Everything the page shows, measured on one batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from caffe_margin.files.plain_json import plain
from caffe_margin.maths import angular
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import EXACT, NAMED_RULES, GradientRule
from caffe_margin.solver.schedule import Curve, curve
from caffe_margin.study.compare import RULES, Comparison, distinct
from caffe_margin.study.descent import Descent, descend
from caffe_margin.study.gradient_check import CheckedDerivatives, check_gradients
from caffe_margin.study.head import Batch, Gradients
from caffe_margin.study.objective import Objective
from caffe_margin.study.pull import Pulls, coeff_norm, pulls
from caffe_margin.study.training import Training

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
class CoeffNorm:
    """coeff_norm over a grid.

    Attributes:
        theta: in radians, (T,).
        x_norm: length of x in units of |w_y|, (L,).
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
        annealing: lambda, to ten times the iteration of the comparison.
        psi: the functions.
        pulls: the label's pull of each sample.
        pull_curves: the same over theta from 0 to pi, at the median length of the features.
        coeff_norm: over theta, and |x| a little beyond the batch's.
        checks: derivatives of each rule's bottom.diff and weight.diff.
        descents: along minus each rule's bottom.diff and weight.diff.
        training: the runs, or None.
    """

    comparison: Comparison
    annealing: Curve
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
        found: dict[str, Any] = _plain(self)
        found["comparison"] = self.comparison.as_dict()
        found["spreads"] = {name: _plain(spread) for name, spread in self.spreads.items()}
        for check, shown in zip(self.checks, found["checks"], strict=True):
            shown |= {
                "scale": check.scale,
                "disagreement": check.disagreement.tolist(),
                "median": check.median,
                "largest": check.largest,
                "passes": check.passes,
            }
        for descent, shown in zip(self.descents, found["descents"], strict=True):
            step, loss = descent.lowest
            shown |= {
                "lowest_step": step,
                "lowest_loss": loss,
                "back_at_start": descent.back_at_start,
            }
        return found


def study(
    comparison: Comparison,
    batch: Batch,
    training: Training | None = None,
    seed: int = 0,
    rules: Iterable[GradientRule] = RULES,
) -> Study:
    """Measure everything, beside a comparison that was made of the same batch.

    Everything is computed in float64, on `Batch.flattened`.

    Args:
        comparison: what `compare` found on the batch.
        batch: features, labels and weight.
        training: what `train` found on the batch, where it was asked for.
        seed: for the directions of the gradient check.
        rules: `RULES`, which a caller may watch as they are gone through.
    """
    m, lambda_ = comparison.m, comparison.lambda_
    batch = batch.flattened()
    samples = pulls(batch.own_angles(), batch.length_ratios(), m, lambda_)
    theta = np.linspace(0, np.pi, 1801)
    lengths = np.full_like(theta, np.median(samples.x_norm))
    checks, descents = _checks_and_descents(batch, seed, rules)
    return Study(
        comparison=comparison,
        annealing=_annealing(batch),
        psi=_psi(lambda_),
        pulls=samples,
        pull_curves=pulls(theta, lengths, m, lambda_),
        coeff_norm=_coeff_norm(samples.x_norm, m),
        checks=checks,
        descents=descents,
        training=training,
    )


def _psi(lambda_: float) -> Psi:
    theta = np.linspace(0, np.pi, 361)
    c = np.cos(theta)
    return Psi(
        theta,
        c,
        psi=np.stack([angular.psi(c, m) for m in MARGINS]),
        mixed=np.stack([angular.label_score(c, 1.0, m, lambda_) for m in MARGINS]),
    )


def _annealing(batch: Batch) -> Curve:
    first = batch.annealing.iteration + 1
    last = first - 1 + max(10 * (batch.iteration - first + 1), 1000)
    return curve(batch.annealing, last, through=batch.iteration)


def _coeff_norm(x_norm: FloatArray, m: int) -> CoeffNorm:
    theta = np.linspace(0, np.pi, 181)
    lengths = np.geomspace(x_norm.min() / 1.2, x_norm.max() * 1.2, 61)
    return CoeffNorm(theta, lengths, coeff_norm(theta[None, :], lengths[:, None], m))


def _checks_and_descents(
    batch: Batch, seed: int, rules: Iterable[GradientRule]
) -> tuple[tuple[CheckedDerivatives, ...], tuple[Descent, ...]]:
    """Check the named rules; descend by each that gives the blob a gradient of its own."""
    objective = Objective(batch.layer_param, batch.label, batch.iteration)
    x, weight = batch.x, batch.weight
    exact = objective.gradients(x, weight, EXACT)
    named: dict[GradientRule, Gradients] = {}
    descents = []
    for rule in rules:
        gradients = exact if rule == EXACT else objective.gradients(x, weight, rule)
        if rule in NAMED_RULES.values():
            named[rule] = gradients
        for blob in ("bottom", "weight"):
            if rule in distinct(blob):
                diffs = (getattr(of, f"{blob}_diff") for of in (gradients, exact))
                descents.append(descend(objective, x, weight, blob, rule, *diffs))
    checks = check_gradients(objective, x, weight, named, np.random.default_rng(seed))
    return tuple(checks), tuple(sorted(descents, key=lambda walk: walk.blob))


def _plain(value: Any) -> Any:
    """Return dataclasses as dicts, arrays as lists, and what JSON lacks as None."""
    if isinstance(value, GradientRule):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name.rstrip("_"): _plain(getattr(value, field.name)) for field in fields(value)
        }
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return plain(value)
