"""Lambda over a run of training: where it stops falling, and where a resumed run stands."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffe_margin.maths.annealing import Annealing, share_of_margin


class Step(NamedTuple):
    """One Forward of a run.

    Attributes:
        iteration: the layer's count of Forwards.
        lambda_: lambda there.
        share: how much of the margin is in force, 1 / (1 + lambda): the label's column of the
            output is ``(psi_m + lambda cos(theta)) / (1 + lambda)``.
        note: why this Forward is of interest.
    """

    iteration: int
    lambda_: float
    share: float
    note: str


class Start(NamedTuple):
    """Where a run began, in two counts: the layer's Forwards and the solver's iterations.

    The layer counts from the `iteration` of its prototxt, the solver from 0, or from the snapshot
    it resumed; neither knows the other's count. Source: ``MarginInnerProductLayer::LayerSetUp``,
    ``Solver::Restore``.

    Attributes:
        iteration: the layer's count, in the prototxt that the run began with.
        solver_iteration: the solver's count then; 0 also where the run began with weights.
        iter_size: Forwards an iteration of the solver.
    """

    iteration: int
    solver_iteration: int = 0
    iter_size: int = 1

    def count_at(self, solver_iteration: int) -> int:
        """Return the layer's count when the solver has come to an iteration.

        >>> Start(iteration=2000).count_at(500)
        2500
        >>> Start(iteration=2000, solver_iteration=1000, iter_size=2).count_at(1500)
        3000
        """
        return self.iteration + self.iter_size * (solver_iteration - self.solver_iteration)


def possible_starts(iteration: int, iter_size: int, solver_iteration: int) -> list[Start]:
    """Return where a run may have begun whose solver comes to an iteration; the likelier first.

    A prototxt does not say whether its `iteration` is what a new run begins with, or was written
    when a run that began with 0 was resumed.

    Args:
        iteration: the layer's, in the prototxt.
        iter_size: Forwards an iteration of the solver.
        solver_iteration: what the solver comes to.

    >>> possible_starts(2000, 1, 500)
    [Start(iteration=2000, solver_iteration=0, iter_size=1)]
    >>> [start.count_at(16000) for start in possible_starts(2000, 1, 16000)]
    [18000, 16000]
    """
    resumed, rest = divmod(iteration, iter_size)
    within = 0 < resumed <= solver_iteration and not rest
    return [Start(iteration, at, iter_size) for at in ((0, resumed) if within else (0,))]


def steps(annealing: Annealing, last: int, notes: Mapping[int, str] | None = None) -> list[Step]:
    """Return the Forwards of a run that are worth a look, in order.

    These are the first, the powers of ten, the one where lambda reaches lambda_min, and the last.

    Args:
        annealing: the layer's.
        last: the last Forward.
        notes: more of them, and what to say of each.

    Raises:
        ValueError: lambda is not finite or not above -1 somewhere, which the layer refuses.
    """
    first = annealing.iteration + 1
    noted: dict[int, list[str]] = {first: ["first"]}
    noted |= {10**power: [] for power in range(len(str(last))) if 10**power > first}
    for iteration, note in {**(notes or {}), last: "last"}.items():
        noted.setdefault(iteration, []).append(note)
    reached = iteration_of_lambda_min(annealing)
    if reached is not None:
        noted.setdefault(reached, []).insert(0, "lambda_min reached")
    within = sorted(iteration for iteration in noted if first <= iteration <= last)
    return [
        Step(iteration, value, _share(value), ", ".join(noted[iteration]))
        for iteration, value in zip(within, annealing.lambda_at(within).tolist(), strict=True)
    ]


def _share(lambda_: float) -> float:
    if not -1 < lambda_ < math.inf:
        raise ValueError(f"lambda is {lambda_:g}; it must be finite and above -1")
    return share_of_margin(lambda_)


@dataclass(frozen=True)
class Curve:
    """Lambda over a run, to draw.

    Attributes:
        iteration: Forwards, rising, evenly spread over the logarithm of the run, (S,).
        lambda_: lambda at each, (S,).
    """

    iteration: NDArray[np.intp]
    lambda_: NDArray[np.floating]


def curve(annealing: Annealing, last: int, through: int | None = None) -> Curve:
    """Return lambda from the first Forward to the last, and at the one called ``through``."""
    before = max(annealing.iteration, 0)  # the axis is logarithmic
    spread = np.geomspace(1, max(last - before, 2), 2000).round().astype(np.intp)
    iterations = np.unique(np.append(before + spread, last if through is None else through))
    return Curve(iterations, annealing.lambda_at(iterations).astype(np.float64))


def iteration_of_lambda_min(annealing: Annealing) -> int | None:
    """Return the first Forward at which lambda is lambda_min, or None where it never gets there."""
    a = annealing
    if a.base > a.lambda_min and (a.gamma <= 0 or a.power <= 0):
        return None
    forwards = range(a.iteration + 1, 2**31)  # the C++ counts in an int
    if a.lambda_at(forwards[0]) <= np.float32(a.lambda_min):  # where lambda rises, only there
        return forwards[0]
    # In float32 lambda gets there sooner than on paper, by thousands where the curve is flat.
    index = bisect.bisect_left(
        forwards, True, key=lambda i: a.lambda_at(i) <= np.float32(a.lambda_min)
    )
    return forwards[index] if index < len(forwards) else None
