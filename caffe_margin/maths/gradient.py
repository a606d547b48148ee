"""Which gradient Backward computes: the exact one, the authors', the field's, or one between.

With c = cos(theta_y) of a sample and its own class, w_y of unit length, the label's column of the
layer's output is

    f = |x| (psi_m(c) + lambda c) / (1 + lambda),

and its derivatives with respect to x and to w_y (before w_y is projected) are

    df/dx   = ((coeff_w + lambda) w_y + coeff_x x) / (1 + lambda)
    df/dw_y = (coeff_w + lambda) / (1 + lambda) x

    coeff_w = psi_m'(c),   coeff_x = (psi_m(c) - c psi_m'(c)) / |x|.

Code departs from this in four independent ways; a `GradientRule` says which.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from caffe_margin.maths.angular import psi, psi_derivative
from caffe_margin.maths.arrays import Array, hypot, ones_like


@dataclass(frozen=True)
class GradientRule:
    """How a gradient departs from the exact one; with no departure it is the exact one.

        >>> GradientRule.of("paper").departures
        ('normalized coefficients', 'detached in weight', 'no projection')
        >>> GradientRule(no_projection=True).name
        'no projection'

    Attributes:
        normalized_coefficients: coeff_w and coeff_x are divided by sqrt(coeff_w^2 + coeff_x^2). The
            authors' trick; it reaches bottom.diff, and the weight's diff where the margin does.
        detached_in_bottom: psi' is taken as 1 in bottom.diff, so that the margin moves the value
            but not the direction.
        detached_in_weight: psi' is taken as 1 in the weight's diff: the label's column weighs 1
            there, and not (coeff_w + lambda) / (1 + lambda).
        no_projection: the derivative of the weight's normalisation is left out. A rule that leaves
            it out stores the normalised weight, as Caffe does; one that has it leaves the stored
            weight alone.
    """

    normalized_coefficients: bool = False
    detached_in_bottom: bool = False
    detached_in_weight: bool = False
    no_projection: bool = False

    @classmethod
    def of(cls, gradient: str | GradientRule) -> GradientRule:
        """Return the rule that a name of `NAMED_RULES` (in any case), or a rule, stands for.

        Raises:
            ValueError: it is neither.
        """
        if isinstance(gradient, cls):
            return gradient
        if isinstance(gradient, str) and gradient.lower() in NAMED_RULES:
            return NAMED_RULES[gradient.lower()]
        *names, last = map(repr, NAMED_RULES)
        raise ValueError(
            f"gradient must be {', '.join(names)}, {last} or a GradientRule, not {gradient!r}"
        )

    @property
    def name(self) -> str:
        """``paper``, ``exact``, ``detached``, or the departures joined by ``+``."""
        for name, rule in NAMED_RULES.items():
            if self == rule:
                return name
        return "+".join(self.departures)

    @property
    def departures(self) -> tuple[str, ...]:
        """The names of the departures that it has."""
        return tuple(f.name.replace("_", " ") for f in fields(self) if getattr(self, f.name))

    def in_blob(self, blob: str) -> tuple[bool, ...]:
        """Return what of the rule reaches a blob's diff; rules that agree in it give the same.

        Args:
            blob: ``bottom`` or ``weight``.
        """
        if blob == "bottom":
            return self.normalized_coefficients, self.detached_in_bottom
        normalized = self.normalized_coefficients and not self.detached_in_weight
        return normalized, self.detached_in_weight, self.no_projection


EXACT = GradientRule()
PAPER = GradientRule(normalized_coefficients=True, detached_in_weight=True, no_projection=True)
DETACHED = GradientRule(detached_in_bottom=True, detached_in_weight=True, no_projection=True)
NAMED_RULES = {"paper": PAPER, "exact": EXACT, "detached": DETACHED}
ALL_RULES = tuple(GradientRule(*switches) for switches in product((False, True), repeat=4))


@dataclass(frozen=True)
class LabelCoefficients:
    """What the label's column contributes to Backward, per unit of top.diff; each of shape (M,).

    Attributes:
        w: how much of w_y goes into bottom.diff.
        x: how much of x goes into bottom.diff.
        weight: how much of x goes into the weight's diff at y, before any projection.
    """

    w: Any
    x: Any
    weight: Any


def label_coefficients(
    cos_theta: Array, x_norm: Array, m: int, lambda_: Array | float, rule: GradientRule
) -> LabelCoefficients:
    """Return the label's coefficients under a rule, in the dtype of the arrays.

    Args:
        cos_theta: cosine between each sample and its own class, (M,).
        x_norm: length of each sample, (M,).
        m: the margin. At 1 there is none and lambda has no effect.
        lambda_: the weight of the plain inner product, in the arrays' dtype.
        rule: the gradient rule.
    """
    one = ones_like(cos_theta)
    if m == 1:
        return LabelCoefficients(w=one, x=0 * one, weight=one)

    def coefficients(slope: Array) -> tuple[Array, Array]:
        coeff_w, coeff_x = slope, (psi(cos_theta, m) - cos_theta * slope) / x_norm
        if rule.normalized_coefficients:
            coeff_norm = hypot(coeff_w, coeff_x)
            return coeff_w / coeff_norm, coeff_x / coeff_norm
        return coeff_w, coeff_x

    w, x = true = coefficients(psi_derivative(cos_theta, m))
    if rule.detached_in_bottom:
        w, x = coefficients(one)
    return LabelCoefficients(
        w=(w + lambda_) / (1 + lambda_),
        x=x / (1 + lambda_),
        weight=one if rule.detached_in_weight else (true[0] + lambda_) / (1 + lambda_),
    )
