"""Paper against exact: what each departure of the authors' gradient does, in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from caffe_margin.files.plain_json import plain
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import DETACHED, EXACT, PAPER, GradientRule
from caffe_margin.study.head import Batch

RULES = (
    EXACT,
    PAPER,
    DETACHED,
    GradientRule(normalized_coefficients=True),
    GradientRule(detached_in_bottom=True),
    GradientRule(detached_in_weight=True),
    GradientRule(no_projection=True),
)
"""The exact gradient, the paper's, the detached one, and the exact one with a departure alone."""


def distinct(blob: str) -> tuple[GradientRule, ...]:
    """Return those of `RULES` that give a blob, ``bottom`` or ``weight``, a gradient of its own."""
    first: dict[tuple[bool, ...], GradientRule] = {}
    for rule in RULES:
        first.setdefault(rule.in_blob(blob), rule)
    return tuple(first.values())


@dataclass(frozen=True)
class Difference:
    """One gradient held against the exact one.

    Attributes:
        norm: Frobenius norm of the gradient.
        ratio: its norm over the exact one's.
        cosine: cosine of the angle between the two, as vectors of all their elements.
        difference: norm of their difference over the exact one's norm.
    """

    norm: float
    ratio: float
    cosine: float
    difference: float

    @property
    def angle(self) -> float:
        """The angle of `cosine`, in radians."""
        return math.acos(min(1.0, max(-1.0, self.cosine))) if self.norm else math.nan

    @classmethod
    def between(cls, gradient: FloatArray, exact: FloatArray) -> Difference:
        """Measure a gradient against the exact one of the same shape, in float64."""
        a, b = gradient.ravel().astype(np.float64), exact.ravel().astype(np.float64)
        norm, exact_norm = float(np.linalg.norm(a)), float(np.linalg.norm(b))
        if norm == 0 or exact_norm == 0:
            return cls(norm, math.nan, math.nan, math.nan)
        return cls(
            norm=norm,
            ratio=norm / exact_norm,
            cosine=float(a @ b) / (norm * exact_norm),
            difference=float(np.linalg.norm(a - b)) / exact_norm,
        )


@dataclass(frozen=True)
class RuleMeasures:
    """What one rule gives on the batch."""

    rule: GradientRule
    bottom_diff: Difference
    weight_diff: Difference


@dataclass(frozen=True)
class Comparison:
    """Every rule of `RULES` on one batch.

    Attributes:
        layer_type: MarginInnerProduct or LargeMarginInnerProduct.
        m: the margin.
        shape: (M, N, K).
        dtype: name of the dtype.
        iteration: which Forward lambda is of.
        lambda_: lambda there.
        loss: SoftmaxWithLoss over the layer's output, the same under every rule.
        theta: angle between each sample and its own class, in radians, (M,).
        measures: one for each of `RULES`, in their order.
    """

    layer_type: str
    m: int
    shape: tuple[int, int, int]
    dtype: str
    iteration: int
    lambda_: float
    loss: float
    theta: FloatArray
    measures: tuple[RuleMeasures, ...]

    def as_dict(self) -> dict[str, object]:
        """Return everything as JSON has it; NaN, which JSON lacks, as None."""

        def shown(difference: Difference) -> dict[str, float]:
            return asdict(difference) | {"angle": difference.angle}

        M, N, K = self.shape
        return {
            "layer_type": self.layer_type,
            "m": self.m,
            "M": M,
            "N": N,
            "K": K,
            "dtype": self.dtype,
            "iteration": self.iteration,
            "lambda": self.lambda_,
            "loss": self.loss,
            "theta": plain(self.theta),
            "rules": [
                {
                    "name": measure.rule.name,
                    **asdict(measure.rule),
                    "bottom_diff": plain(shown(measure.bottom_diff)),
                    "weight_diff": plain(shown(measure.weight_diff)),
                }
                for measure in self.measures
            ],
        }


def compare(batch: Batch, rules: Iterable[GradientRule] = RULES) -> Comparison:
    """Run Forward and Backward under each of `RULES`, below SoftmaxWithLoss.

    Args:
        batch: features, labels and weight.
        rules: `RULES`, the exact one first, which a caller may watch as they are gone through.

    Raises:
        ValueError: as `MarginInnerProduct`.
    """
    measures: list[RuleMeasures] = []
    for rule in rules:
        head = batch.head(rule)
        gradients = head.gradients(batch.x, batch.label)
        if not measures:
            exact = gradients
        measures.append(
            RuleMeasures(
                rule,
                Difference.between(gradients.bottom_diff, exact.bottom_diff),
                Difference.between(gradients.weight_diff, exact.weight_diff),
            )
        )
    theta = batch.own_angles()
    return Comparison(
        layer_type=batch.layer_param.type,
        m=batch.m,
        shape=(len(theta), *batch.weight.shape),
        dtype=str(batch.x.dtype),
        iteration=batch.iteration,
        lambda_=float(head.layer.lambda_),
        loss=gradients.loss,
        theta=theta,
        measures=tuple(measures),
    )
