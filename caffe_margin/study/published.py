"""The label's pull in heads that others published, over theta: which rule whose code computes.

A head here is what its forward and backward make of the label's column; ``docs/gradients.md`` says
whose files say so. Where the rule is one of ours, our coefficients compute it. A head that brings
every feature to a length s first is the same rule at |x| = s, and the normalisation's derivative
after it: s / |x| times the tangential part, and no radial one. Where no rule of ours is theirs,

    f = p phi(theta),   df/dx = slope w_y + (phi - slope cos(theta)) x/|x|,   df/dw_y = slope x,

with phi and its slope, d phi / d cos(theta) or 1 where it is detached, as their forward has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import (
    DETACHED,
    EXACT,
    PAPER,
    GradientRule,
    LabelCoefficients,
    label_coefficients,
    large_margin_coefficients,
)

MARGIN = 4
"""m of psi_m."""

FRACTIONAL_MARGIN = 1.5
"""m of SphereFace-R's cos(min(m theta, pi))."""

ADDITIVE_MARGIN = 0.5
"""What ArcFace adds to theta, in radians."""

SCALE = 30.0
"""s, the length that a head brings every feature to, where it does."""


@dataclass(frozen=True)
class PublishedHead:
    """How a head makes the label's pull.

    Attributes:
        name: whose it is.
        coefficients: takes cos(theta), the feature's length as the score has it and lambda.
        normalizes_features: whether features are brought to the length `SCALE` first.
        projected: whether the weight's normalisation is differentiated.
    """

    name: str
    coefficients: Callable[[FloatArray, FloatArray, float], LabelCoefficients]
    normalizes_features: bool
    projected: bool


@dataclass(frozen=True)
class Parts:
    """The label's pull per unit of top.diff, at a |w_y| of 1; each of the shape of theta.

    Tangential is across x (across w_y), toward the other of the two; radial is along it.

    Attributes:
        tangential_x: of df/dx.
        radial_x: of df/dx.
        tangential_w: of df/dw_y, over the feature's length as the score has it.
        radial_w: of df/dw_y, over the same.
    """

    tangential_x: FloatArray
    radial_x: FloatArray
    tangential_w: FloatArray
    radial_w: FloatArray


def parts(head: PublishedHead, theta: FloatArray, x_norm: float, lambda_: float = 0.0) -> Parts:
    """Return a head's pull.

    Args:
        head: one of `HEADS`.
        theta: angles between feature and own class, strictly between 0 and pi.
        x_norm: length of the features.
        lambda_: the weight of the plain inner product, in those that have it.
    """
    cos_theta, sin_theta = np.cos(theta), np.sin(theta)
    length = np.full_like(theta, SCALE if head.normalizes_features else x_norm)
    c = head.coefficients(cos_theta, length, lambda_)
    tangential, radial = c.w * sin_theta, c.w * cos_theta + c.x * length
    if head.normalizes_features:
        tangential, radial = length / x_norm * tangential, 0 * radial
    along_w = c.weight * cos_theta + (0 if c.weight_w is None else c.weight_w / length)
    return Parts(
        tangential_x=tangential,
        radial_x=radial,
        tangential_w=c.weight * sin_theta,
        radial_w=0 * along_w if head.projected else along_w,
    )


def _margin(m: int, rule: GradientRule) -> Callable[..., LabelCoefficients]:
    return lambda c, length, lambda_: label_coefficients(c, length, m, lambda_, rule)


def _large_margin(c: FloatArray, length: FloatArray, lambda_: float) -> LabelCoefficients:
    return large_margin_coefficients(c, length, np.ones_like(length), MARGIN, lambda_, EXACT)


def _formula(
    formula: Callable[[FloatArray], tuple[FloatArray, FloatArray]],
    c: FloatArray,
    length: FloatArray,
    lambda_: float,
) -> LabelCoefficients:
    """Return the coefficients of a phi and slope; there is no lambda in it."""
    phi, slope = formula(np.arccos(c))
    return LabelCoefficients(w=slope, x=(phi - c * slope) / length, weight=slope)


def _clipped_multiple(theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    return np.cos(np.minimum(FRACTIONAL_MARGIN * theta, np.pi)), np.ones_like(theta)


def _additive(theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return cos(theta + a), and beyond pi - a cos(theta) - a sin(a), with the true slope."""
    a, within = ADDITIVE_MARGIN, theta < np.pi - ADDITIVE_MARGIN
    phi = np.where(within, np.cos(theta + a), np.cos(theta) - a * math.sin(a))
    return phi, np.where(within, np.sin(theta + a) / np.sin(theta), 1.0)


DETACHED_PROJECTED = GradientRule(detached_in_bottom=True, detached_in_weight=True)

HEADS = (
    PublishedHead("A-Softmax, the authors' C++", _margin(MARGIN, PAPER), False, False),
    PublishedHead("L-Softmax, the authors' C++", _large_margin, False, False),
    PublishedHead("clcarwin, pytorch-metric-learning", _margin(MARGIN, EXACT), False, True),
    PublishedHead(
        "opensphere SphereFace, SphereFace-R H (v0, v1, v2)", _margin(MARGIN, DETACHED), True, False
    ),
    PublishedHead(
        "opensphere SphereFace-R S, v1", partial(_formula, _clipped_multiple), False, False
    ),
    # v2 leaves the label's column plain, and raises the others' to cos(theta_j / m).
    PublishedHead("opensphere SphereFace-R S, v2", _margin(1, DETACHED), False, False),
    PublishedHead("insightface ArcFace", _margin(MARGIN, DETACHED_PROJECTED), True, True),
    PublishedHead("TFace, FaceX-Zoo ArcFace", partial(_formula, _additive), True, True),
)
"""The heads, and the rule of each."""
