"""Which gradient Backward computes: the exact one, the authors', the field's, or one between.

With c = cos(theta_y) of a sample and its own class, w_y of unit length, the label's column of the
layer's output is

    f = |x| (psi_m(c) + lambda c) / (1 + lambda),

and its derivatives with respect to x and to w_y (before w_y is projected) are

    df/dx   = ((coeff_w + lambda) w_y + coeff_x x) / (1 + lambda)
    df/dw_y = (coeff_w + lambda) / (1 + lambda) x

    coeff_w = psi_m'(c),   coeff_x = (psi_m(c) - c psi_m'(c)) / |x|.

L-Softmax leaves the length of w_y in the score. With p = |w_y| |x| and s = c psi_m'(c) - psi_m(c),

    f       = p (psi_m(c) + lambda c) / (1 + lambda)
    df/dx   = ((coeff_w + lambda) w_y + coeff_x x) / (1 + lambda),   coeff_x = -s |w_y| / |x|
    df/dw_y = ((coeff_w + lambda) x + s_w w_y) / (1 + lambda),       s_w     = -s |x| / |w_y|

and w_y is projected nowhere: the term s_w w_y stands where A-Softmax has the projection. At
|w_y| = 1 the coefficients of df/dx are those above.

Code departs from this in four independent ways; a `GradientRule` says which.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from caffe_margin.maths.angular import LENGTH_FLOOR, psi, psi_derivative
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
            weight alone. In L-Softmax, which normalises nothing, the w_y term of df/dw_y is left
            out.
    """

    normalized_coefficients: bool = False
    detached_in_bottom: bool = False
    detached_in_weight: bool = False
    no_projection: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no switch, such as a rule's name."""
        for field in fields(self):
            if not isinstance(getattr(self, field.name), bool):
                raise ValueError(
                    f"{field.name} is {getattr(self, field.name)!r}; it must be True or False. A "
                    f"rule of a name is GradientRule.of('paper')"
                )

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
        weight_w: how much of w_y goes there; None for none, as always in A-Softmax.
    """

    w: Any
    x: Any
    weight: Any
    weight_w: Any = None


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
    return _coefficients(cos_theta, x_norm, m, lambda_, rule, w_in_weight=False)


def large_margin_coefficients(
    cos_theta: Array,
    x_norm: Array,
    weight_norm: Array,
    m: int,
    lambda_: Array | float,
    rule: GradientRule,
) -> LabelCoefficients:
    """Return L-Softmax's, as `label_coefficients` does A-Softmax's.

    Args:
        cos_theta: w_y . x / `large_margin_length`, (M,).
        x_norm: length of each sample, (M,).
        weight_norm: length of each sample's w_y, (M,).
        m: the margin.
        lambda_: the weight of the plain inner product.
        rule: the gradient rule.
    """
    ratio = x_norm / (weight_norm + LENGTH_FLOOR)
    return _coefficients(cos_theta, ratio, m, lambda_, rule, w_in_weight=not rule.no_projection)


def _coefficients(
    cos_theta: Array,
    ratio: Array,
    m: int,
    lambda_: Array | float,
    rule: GradientRule,
    w_in_weight: bool,
) -> LabelCoefficients:
    """Return the coefficients of the score before its projection; ``ratio`` is |x| / |w_y|."""
    one = ones_like(cos_theta)
    if m == 1:
        return LabelCoefficients(w=one, x=0 * one, weight=one)

    value = psi(cos_theta, m)

    def side(slope: Array, normalized: bool) -> tuple[Array, Array]:
        """Return coeff_w and -s, for psi' or what is taken for it."""
        rest = value - cos_theta * slope
        if normalized:
            coeff_norm = hypot(slope, rest / ratio)
            return slope / coeff_norm, rest / coeff_norm
        return slope, rest

    normalized, true = rule.normalized_coefficients, psi_derivative(cos_theta, m)
    coeff_w, rest = side(one if rule.detached_in_bottom else true, normalized)
    if rule.detached_in_weight:
        weight, weight_rest = side(one, normalized=False)
    else:
        weight, weight_rest = side(true, normalized)
    return LabelCoefficients(
        w=(coeff_w + lambda_) / (1 + lambda_),
        x=rest / ratio / (1 + lambda_),
        weight=one if rule.detached_in_weight else (weight + lambda_) / (1 + lambda_),
        weight_w=weight_rest * ratio / (1 + lambda_) if w_in_weight else None,
    )
