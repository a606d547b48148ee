"""The gradient check: each rule's derivatives against differences of the true loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import GradientRule
from caffe_margin.study.head import Gradients
from caffe_margin.study.objective import Objective

TOLERANCE = 1e-3
"""Largest disagreement that passes: the threshold that Caffe's own layer tests use."""

STEP = 1e-5
"""Step of the difference quotient, over the length of the row it moves."""

FLOOR = 1e-4
"""Least `CheckedDerivatives.scale`, over the mean |w_y| for bottom.diff, |x| for weight.diff.

Those are the sizes of derivatives of scores x w; next to them differences resolve no less. A
gradient far below, or of zero, would be held against rounding alone.
"""

WEIGHT_ROWS = 8
"""Rows of the weight that are checked; each costs four Forwards."""


@dataclass(frozen=True)
class CheckedDerivatives:
    """One rule's directional derivatives of one blob beside the measured ones.

    Attributes:
        rule: the rule.
        blob: ``bottom`` or ``weight``.
        claimed: the rule's gradient times the direction.
        measured: the true loss's derivative along it, from central differences.
        floor: the least that `scale` is.
    """

    rule: GradientRule
    blob: str
    claimed: FloatArray
    measured: FloatArray
    floor: float

    @property
    def scale(self) -> float:
        """Root mean square of the measured derivatives, or the floor where that is greater."""
        return max(float(np.sqrt(np.mean(self.measured**2))), self.floor)

    @property
    def disagreement(self) -> FloatArray:
        """|claimed - measured| over `scale`, a direction each."""
        return np.abs(self.claimed - self.measured) / self.scale

    @property
    def median(self) -> float:
        """Median of `disagreement`."""
        return float(np.median(self.disagreement))

    @property
    def largest(self) -> float:
        """Greatest of `disagreement`."""
        return float(self.disagreement.max())

    @property
    def passes(self) -> bool:
        """Whether no direction disagrees by `TOLERANCE` or more."""
        return self.largest < TOLERANCE


def check_gradients(
    objective: Objective,
    x: FloatArray,
    weight: FloatArray,
    gradients: Mapping[GradientRule, Gradients],
    rng: np.random.Generator,
) -> list[CheckedDerivatives]:
    """Check each rule's gradients along directions that mix x, w_y and noise.

    A sample's loss depends on no other sample, so all M are moved at once, each along a direction
    of its own. Rows of the weight are moved one by one, at most `WEIGHT_ROWS` of the batch's own.

    Args:
        objective: the loss.
        x: (M, K), float64.
        weight: (N, K), float64.
        gradients: each rule's gradients at (x, weight).
        rng: draws the directions.
    """
    M = len(x)
    own = weight[objective.label]
    length, own_length = (np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, own))
    toward = _mixed(rng, x / length, own / own_length)
    change = objective.loss_changes(x, weight)
    bottom_measured = _derivative(lambda step: change(x + step * length * toward, weight))
    bottom_measured /= length[:, 0]

    classes, samples = np.unique(objective.label, return_index=True)
    picked = rng.permutation(len(classes))[:WEIGHT_ROWS]
    rows, samples = classes[picked], samples[picked]
    row_toward = _mixed(rng, (x / length)[samples], (own / own_length)[samples])
    moved = weight.copy()

    def change_with(row: int, move: FloatArray, step: float) -> FloatArray:
        moved[row] = weight[row] + step * move
        changes = change(x, moved)
        moved[row] = weight[row]
        return changes.mean()

    weight_measured = np.array(
        [
            _derivative(partial(change_with, row, move))
            for row, move in zip(rows, own_length[samples] * row_toward, strict=True)
        ]
    )
    weight_measured /= own_length[samples, 0]

    checked = []
    for rule, gradient in gradients.items():
        # A sample's loss is a part in M of the batch's.
        claimed = M * np.einsum("ik,ik->i", gradient.bottom_diff, toward)
        floor = FLOOR * float(own_length.mean())
        checked.append(CheckedDerivatives(rule, "bottom", claimed, bottom_measured, floor))
        claimed = np.einsum("jk,jk->j", gradient.weight_diff[rows], row_toward)
        floor = FLOOR * float(length.mean())
        checked.append(CheckedDerivatives(rule, "weight", claimed, weight_measured, floor))
    return checked


def _derivative(change: Callable[[float], FloatArray]) -> FloatArray:
    """Return d loss / d step at 0, from changes of the loss.

    Where psi's pieces meet its second derivative jumps, and a central difference is off by a
    multiple of its step; twice the difference less the one over twice the step is not.
    """
    narrow, wide = ((change(step) - change(-step)) / (2 * step) for step in (STEP, 2 * STEP))
    return 2 * narrow - wide


def _mixed(rng: np.random.Generator, a: FloatArray, b: FloatArray) -> FloatArray:
    """Return rows of unit length: a, b and noise of unit length, mixed at random."""
    noise = rng.normal(size=a.shape)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    mixed = sum(rng.normal(size=(len(a), 1)) * part for part in (a, b, noise))
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
