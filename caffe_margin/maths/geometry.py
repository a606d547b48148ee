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

L-Softmax does not normalise the weights. With |x| cancelled, class 1 claims the directions where

    |w_1| psi_m(theta_1) > |w_2| cos(theta_2),

so that the ratio of the lengths moves the boundaries; the length of x does not. A claim need not
hold its own weight then, nor be in one piece. `sectors` finds it by search, and `boundaries` has
the ends in closed form: on the piece k of psi_m, at z = exp(i phi), they are roots of a polynomial
of degree 2m. At equal lengths both are A-Softmax's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffe_margin.maths.angular import psi
from caffe_margin.maths.arrays import FloatArray

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


Sectors = tuple[tuple[float, float], ...]
"""Where sectors of the circle begin and end, counter-clockwise, each end above its beginning."""

POINTS = 7200
"""Directions in which `sectors` looks for a claim: one narrower than their distance is missed."""


@dataclass(frozen=True)
class TwoClaims:
    """What two classes claim of the circle, whose weights have lengths; angles in radians.

    Attributes:
        m: the margin.
        centres: where the weights are: 0 and theta_12.
        lengths: of the weights; only their ratio matters.
        sectors: of each class, what it claims.
    """

    m: int
    centres: tuple[float, float]
    lengths: tuple[float, float]
    sectors: tuple[Sectors, Sectors]

    @property
    def between(self) -> float | None:
        """Least angle between directions of the two; None where one claims nothing."""
        first, second = self.sectors
        gaps = [
            _between(end, begin)
            for one, other in ((first, second), (second, first))
            for _, end in one
            for begin, _ in other
        ]
        return min(gaps, default=None)

    def claimant(self, at: float) -> int:
        """Return which class claims a direction, 1 or 2, or 0 for neither."""
        for i, of_class in enumerate(self.sectors):
            if any((at - a) % (2 * math.pi) < b - a for a, b in of_class):
                return i + 1
        return 0


def two_claims(m: int, theta_12: float, lengths: tuple[float, float]) -> TwoClaims:
    """Search the circle for what each of two classes claims under L-Softmax.

    Args:
        m: the margin.
        theta_12: the angle between the weights, in radians.
        lengths: of the weights; where they are equal, the claims are A-Softmax's.

    Raises:
        ValueError: m is no whole number from 1 on, or a length is not positive and finite.
    """
    if not all(0 < length < math.inf for length in lengths):
        raise ValueError(
            f"the weights' lengths must be positive, not {lengths[0]:g}, {lengths[1]:g}"
        )
    own, other = lengths
    of_1 = sectors(m, theta_12, own, other)
    # From w_2 the other lies clockwise: turned over, it is the same figure.
    of_2 = tuple((theta_12 - b, theta_12 - a) for a, b in sectors(m, theta_12, other, own))
    return TwoClaims(m, (0.0, theta_12), lengths, (of_1, of_2))


def sectors(m: int, theta_12: float, own: float, other: float) -> Sectors:
    """Search the circle for the directions that a class claims, counter-clockwise of its weight.

    Args:
        m: the margin.
        theta_12: where the other class's weight is.
        own: the length of the class's weight.
        other: that of the other's.
    """
    step = 2 * math.pi / POINTS
    # Half a step off, so that no point lies on a boundary of two equal weights.
    low = (np.arange(POINTS) - POINTS // 2 + 0.5) * step
    claimed = _lead(low, m, theta_12, own, other) > 0
    changes = claimed != np.roll(claimed, -1)
    if not changes.any():
        return ((-math.pi, math.pi),) if claimed[0] else ()
    low, inside = low[changes], claimed[changes]
    high = low + step
    for _ in range(STEPS):
        middle = (low + high) / 2
        same = (_lead(middle, m, theta_12, own, other) > 0) == inside
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    begins, ends = low[~inside].tolist(), low[inside].tolist()
    if ends[0] < begins[0]:
        ends = [*ends[1:], ends[0] + 2 * math.pi]
    return tuple(zip(begins, ends, strict=True))


def boundaries(m: int, theta_12: float, own: float, other: float) -> list[float]:
    """Return the closed form of where the sectors of `sectors` begin and end, from -pi to pi.

    On the piece k the boundary is (-1)^k own cos(m phi) - 2k own = other cos(phi - theta_12).
    """
    found = []
    for k in range(m):
        polynomial = np.zeros(2 * m + 1, complex)
        polynomial[[0, 2 * m]] += (-1) ** k * own
        polynomial[m] -= 4 * k * own
        polynomial[m - 1] -= other * np.exp(-1j * theta_12)
        polynomial[m + 1] -= other * np.exp(1j * theta_12)
        roots = np.roots(polynomial)
        angles = np.angle(roots[np.abs(np.abs(roots) - 1) < 1e-7])
        on_piece = np.floor(np.abs(angles) * m / np.pi).clip(max=m - 1) == k
        found += angles[on_piece].tolist()
    found.sort()
    # A boundary between two pieces is a root of both.
    return [a for i, a in enumerate(found) if i == 0 or a - found[i - 1] > 1e-9]


def disagreements(first: TwoClaims, second: TwoClaims) -> list[tuple[float, float, int, int]]:
    """Return the sectors that the two do not give to one class, and to whom each gives them."""
    ends = sorted(
        {
            end % (2 * math.pi)
            for found in (first, second)
            for of_class in found.sectors
            for sector in of_class
            for end in sector
        }
    )
    found = []
    for a, b in zip(ends, [*ends[1:], ends[0] + 2 * math.pi] if ends else [], strict=True):
        whose = first.claimant((a + b) / 2), second.claimant((a + b) / 2)
        # Ends that are one but for rounding have nothing between them.
        if whose[0] != whose[1] and b - a > 1e-9:
            found.append((a, b, *whose))
    return found


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


def _lead(at: FloatArray, m: int, theta_12: float, own: float, other: float) -> FloatArray:
    """Return by how much a class's score leads the other's, over |x|."""
    lead: FloatArray = own * psi(np.cos(at), m) - other * np.cos(at - theta_12)
    return lead
