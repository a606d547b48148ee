"""Which gradient Backward computes: the authors', the exact one, or one between.

With c = cos(theta_y) of a sample and its own class, w_y of unit length, the label's column of the
layer's output is

    f = |x| (psi_m(c) + lambda c) / (1 + lambda),

and its derivatives with respect to x and to w_y (before w_y is projected) are

    df/dx   = ((coeff_w + lambda) w_y + coeff_x x) / (1 + lambda)
    df/dw_y = (coeff_w + lambda) / (1 + lambda) x

    coeff_w = psi_m'(c),   coeff_x = (psi_m(c) - c psi_m'(c)) / |x|.

The C++ layer departs from this in three independent ways; a `GradientRule` says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from caffe_margin.maths import angular


@dataclass(frozen=True)
class GradientRule:
    """Three switches between the authors' gradient and the exact one.

    Attributes:
        normalized_coefficients: divide coeff_w and coeff_x by sqrt(coeff_w^2 + coeff_x^2). The
            authors' trick; it reaches bottom.diff, and the weight's diff where the margin does.
        margin_in_weight: let the label's column weigh (coeff_w + lambda)/(1 + lambda) in the
            weight's gradient, rather than 1.
        projection: carry the weight's gradient through the normalisation of the weight. A rule
            with it leaves the stored weight alone; one without it stores the normalised weight,
            as Caffe does.
    """

    normalized_coefficients: bool
    margin_in_weight: bool
    projection: bool

    @classmethod
    def of(cls, gradient: str | GradientRule) -> GradientRule:
        """Return the rule that ``"paper"``, ``"exact"`` (in any case) or a rule stands for.

        Raises:
            ValueError: neither a rule nor one of the two names.
        """
        if isinstance(gradient, cls):
            return gradient
        if isinstance(gradient, str) and gradient.lower() in NAMED_RULES:
            return NAMED_RULES[gradient.lower()]
        raise ValueError(
            f"gradient must be {' or '.join(map(repr, NAMED_RULES))} or a GradientRule, "
            f"not {gradient!r}"
        )

    @property
    def name(self) -> str:
        """``paper``, ``exact``, or the departures from exact joined by ``+``."""
        for name, rule in NAMED_RULES.items():
            if self == rule:
                return name
        return "+".join(name for name, departs in self.departures.items() if departs)

    @property
    def departures(self) -> dict[str, bool]:
        """Whether the rule departs from the exact gradient, in each of the three ways."""
        return {
            "normalized coefficients": self.normalized_coefficients,
            "no margin in weight": not self.margin_in_weight,
            "no projection": not self.projection,
        }


PAPER = GradientRule(normalized_coefficients=True, margin_in_weight=False, projection=False)
EXACT = GradientRule(normalized_coefficients=False, margin_in_weight=True, projection=True)
NAMED_RULES = {"paper": PAPER, "exact": EXACT}
ALL_RULES = tuple(GradientRule(*switches) for switches in product((False, True), repeat=3))


@dataclass(frozen=True)
class LabelCoefficients:
    """What the label's column contributes to Backward, per unit of top.diff; each of shape (M,).

    Attributes:
        w: how much of w_y goes into bottom.diff.
        x: how much of x goes into bottom.diff.
        weight: how much of x goes into the weight's diff at y, before any projection.
    """

    w: NDArray[np.floating]
    x: NDArray[np.floating]
    weight: NDArray[np.floating]


def label_coefficients(
    cos_theta: NDArray[np.floating],
    x_norm: NDArray[np.floating],
    m: int,
    lambda_: float | np.floating,
    rule: GradientRule,
) -> LabelCoefficients:
    """Return the label's coefficients under a rule, in the dtype of the arrays.

    Args:
        cos_theta: cosine between each sample and its own class, (M,).
        x_norm: length of each sample, (M,).
        m: the margin, 1 to 4. At 1 there is no margin and lambda has no effect.
        lambda_: the weight of the plain inner product, in the arrays' dtype.
        rule: the gradient rule.
    """
    one, zero = np.ones_like(cos_theta), np.zeros_like(cos_theta)
    if m == 1:
        return LabelCoefficients(w=one, x=zero, weight=one)
    coeff_w = angular.psi_derivative(cos_theta, m)
    coeff_x = (angular.psi(cos_theta, m) - cos_theta * coeff_w) / x_norm
    if rule.normalized_coefficients:
        coeff_norm = np.hypot(coeff_w, coeff_x)
        coeff_w, coeff_x = coeff_w / coeff_norm, coeff_x / coeff_norm
    mixed = (coeff_w + lambda_) / (1 + lambda_)
    return LabelCoefficients(
        w=mixed, x=coeff_x / (1 + lambda_), weight=mixed if rule.margin_in_weight else one
    )
