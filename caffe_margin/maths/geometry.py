"""The geometry of the margin: which directions each class claims, and how large m must be.

On the unit circle, class i with its weight at angle c_i claims the directions whose angle to c_i,
times m, is less than that to every other weight. For whole m that is psi_m(theta_i) > cos(theta_j).
Between the claims lies the margin. m is large enough where no two directions of a class are
farther apart than the nearest two of different classes.

Source: SphereFace (Liu et al., CVPR 2017), section 3.4 and its proofs. For two weights at an angle
theta_12 a class reaches theta_12/(m + 1) toward the other and theta_12/(m - 1) away from it (or
(2 pi - theta_12)/(m + 1), where that would lead past the point opposite the other), so that

    m_min = 2 + sqrt(3)            up to theta_12 = pi (1 + sqrt(3))/(2 + sqrt(3)), 132 degrees
    m_min = 1 + 2 pi / theta_12    beyond, which falls to 3

and for three or more weights spread evenly m_min = 3. `m_min` finds the same numbers by search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

STEPS = 52
"""Halvings of an interval: as many as a double has bits."""

TWO_CLASSES = 2 + math.sqrt(3)
"""What m_min is for two classes at any angle, by the paper's proof."""

MORE_CLASSES = 3.0
"""What m_min is for three or more classes spread evenly, by the paper's proof."""


@dataclass(frozen=True)
class Claims:
    """What the classes claim of the circle; angles in radians.

    Attributes:
        m: the margin.
        centres: where the weights are.
        reach: of each class, how far its claim goes clockwise and counter-clockwise of its weight.
        within: greatest angle between two directions of one class.
        between: least angle between directions of two classes: the margin.
    """

    m: float
    centres: tuple[float, ...]
    reach: tuple[tuple[float, float], ...]
    within: float
    between: float

    @property
    def is_enough(self) -> bool:
        """Whether no class is wider than the margin, but for rounding."""
        return self.within <= self.between * (1 + 1e-12)


def claims(m: float, centres: Sequence[float]) -> Claims:
    """Search the circle for what each class claims.

    Args:
        m: the margin, a real number from 1 on.
        centres: angles of the weights in radians, rising, over less than a full turn.

    Raises:
        ValueError: m is below 1, or there are not two different weights.
    """
    if not m >= 1:
        raise ValueError(f"m must be 1 or more, not {m:g}")
    gaps = [b - a for a, b in zip(centres, [*centres[1:], centres[0] + 2 * math.pi], strict=True)]
    if len(centres) < 2 or min(gaps) <= 0:
        raise ValueError("the weights must be two or more, at rising angles within a turn")
    reach = tuple(
        (_reach(m, centres, i, -1), _reach(m, centres, i, 1)) for i in range(len(centres))
    )
    after = [*reach[1:], reach[0]]
    return Claims(
        m=m,
        centres=tuple(centres),
        reach=reach,
        within=max(min(sum(r), math.pi) for r in reach),
        between=min(
            gap - left[1] - right[0] for gap, left, right in zip(gaps, reach, after, strict=True)
        ),
    )


def m_min(centres: Sequence[float]) -> float:
    """Return the least m at which no class is wider than the margin, by bisection."""
    low, high = 1.0, 64.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = claims(middle, centres)
        low, high = (low, middle) if found.within <= found.between else (middle, high)
    return high


def m_min_of_two(theta_12: float) -> float:
    """Return the closed form of `m_min` for two weights at an angle, in radians."""
    return (
        TWO_CLASSES if theta_12 <= math.pi * (1 - 1 / TWO_CLASSES) else 1 + 2 * math.pi / theta_12
    )


def evenly(classes: int) -> list[float]:
    """Return the angles of weights spread evenly."""
    return [2 * math.pi * i / classes for i in range(classes)]


def _reach(m: float, centres: Sequence[float], own: int, side: int) -> float:
    """Return how far from its weight a class claims, by bisection.

    Going away from the weight, m times the angle to it grows faster than that to any other.
    """
    low, high = 0.0, math.pi
    for _ in range(STEPS):
        middle = (low + high) / 2
        at = centres[own] + side * middle
        nearest = min(_between(at, c) for i, c in enumerate(centres) if i != own)
        low, high = (middle, high) if m * middle < nearest else (low, middle)
    return low


def _between(a: float, b: float) -> float:
    """Return the angle between two directions, 0 to pi."""
    return abs(math.remainder(a - b, 2 * math.pi))
