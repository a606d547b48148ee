"""Heads of a whole net held against each other: means over seeds, and what differs for certain."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from caffe_margin.files.plain_json import plain
from caffe_margin.study.outcome import EDGES, FAR_GRID, LAST, MEASURES, Outcome

JUDGED_BY = ("eer", "tar_0.001")
"""The measures by which two heads are told apart."""
JUDGING, CHOOSING = 0, 1
"""The halves of the classes never seen: one chooses a rate, the other judges it."""


@dataclass(frozen=True)
class Spread:
    """A number over the seeds.

    Attributes:
        mean: of the runs that have it; NaN where none has.
        sd: the standard deviation of one of these.
        runs: how many they are: those that diverged have none.
    """

    mean: float
    sd: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return that of some values, of which NaN are none."""
        finite = [value for value in values if math.isfinite(value)]
        mean = float(np.mean(finite)) if finite else math.nan
        return cls(mean, float(np.std(finite, ddof=1)) if len(finite) > 1 else 0.0, len(finite))


@dataclass(frozen=True)
class Difference:
    """A measure of one head less another's, seed by seed.

    Attributes:
        first: the one's name.
        second: the other's.
        measure: of `MEASURES`.
        by_seed: the differences; NaN where one of the two diverged.
        low: of the 95 % interval of their mean, by Student's t.
        high: its other end.
    """

    first: str
    second: str
    measure: str
    by_seed: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """The mean difference, of the seeds that have one."""
        return Spread.of(self.by_seed).mean

    @property
    def stands(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    @classmethod
    def between(cls, a: Sequence[Outcome], b: Sequence[Outcome], measure: str) -> Difference:
        """Compare two heads that were trained with the same seeds.

        One seed has no interval, which is then all numbers; nor have differences that are all the
        same, as those of rates over few pairs may be.
        """
        from scipy import stats

        pairs = zip(a, b, strict=True)
        gaps = tuple(x.measures[measure] - y.measures[measure] for x, y in pairs)
        found, low, high = Spread.of(gaps), -math.inf, math.inf
        if found.sd > 1e-9 * abs(found.mean):
            reach = stats.t.ppf(0.975, found.runs - 1) * found.sd / math.sqrt(found.runs)
            low, high = float(found.mean - reach), float(found.mean + reach)
        return cls(a[0].run.variant.name, b[0].run.variant.name, measure, gaps, low, high)


@dataclass(frozen=True)
class Heads:
    """All runs of a plan, head by head.

    Attributes:
        outcomes: each head with each seed, in that order.
        tuned: for each head those at the rate that suits it best; empty where none was looked for.
        tried: those that were looked at for it, of the first seed.
    """

    outcomes: tuple[Outcome, ...]
    tuned: tuple[Outcome, ...] = ()
    tried: tuple[Outcome, ...] = ()

    def __post_init__(self) -> None:
        """Check that what is compared began alike, and was fed alike.

        Raises:
            ValueError: it was not.
        """
        for seed in {outcome.run.seed for outcome in self.outcomes}:
            of_seed = [o for o in (*self.outcomes, *self.tuned, *self.tried) if o.run.seed == seed]
            whole = [outcome for outcome in of_seed if not outcome.diverged]
            for what, digests in (
                ("started at the same weights", {o.start for o in of_seed}),
                ("been fed the same batches", {o.batches for o in whole}),
                ("had the same learning rates", {o.rates for o in whole}),
            ):
                if len(digests) > 1:
                    raise ValueError(
                        f"the runs of seed {seed} have not {what}: net or data have changed since "
                        f"the first of them; remove them"
                    )

    @cached_property
    def by_variant(self) -> dict[str, list[Outcome]]:
        """The outcomes of each head."""
        return _by_variant(self.outcomes)

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return list(dict.fromkeys(outcome.run.seed for outcome in self.outcomes))

    @property
    def verified(self) -> bool:
        """Whether there are classes never seen."""
        return any(outcome.sought for outcome in self.outcomes)

    @property
    def last(self) -> int:
        """Over how many iterations the end of a run is taken."""
        return min(LAST, self.outcomes[0].iterations)

    def spreads(self) -> dict[str, dict[str, Spread]]:
        """Return each head's measures over the seeds."""
        return {
            name: {m: Spread.of([o.measures[m] for o in outcomes]) for m in MEASURES}
            for name, outcomes in self.by_variant.items()
        }

    def differences(self) -> list[Difference]:
        """Return by how much each two heads differ, in each of `JUDGED_BY`."""
        return [
            Difference.between(a, b, measure)
            for measure in JUDGED_BY
            for a, b in itertools.combinations(self.by_variant.values(), 2)
        ]

    def at_best_rate(self) -> dict[str, BestRate]:
        """Return what the rate that suits it best makes of each head."""
        tuned = _by_variant(self.tuned)
        return {
            name: BestRate(own[0].run.rate, judged(self.by_variant[name]), judged(own))
            for name, own in tuned.items()
        }

    def as_dict(self) -> dict[str, object]:
        """Return all numbers, as JSON has them."""
        found: dict[str, object] = plain(
            {
                "seeds": self.seeds,
                "iterations": self.outcomes[0].iterations,
                "iterations_at_the_end": self.last,
                "classes": self.outcomes[0].classes,
                "far": FAR_GRID,
                "cosine_edges": EDGES,
                "heads": {name: _dicts(spreads) for name, spreads in self.spreads().items()},
                "differences": [
                    asdict(d) | {"mean": d.mean, "stands": d.stands} for d in self.differences()
                ],
                "at_best_rate": {name: asdict(best) for name, best in self.at_best_rate().items()},
            }
        )
        return found | {
            "runs": [outcome.as_dict() for outcome in self.outcomes],
            "tried": [
                outcome.as_dict() | {"chosen_by": chosen_by(outcome)} for outcome in self.tried
            ],
            "tuned": [outcome.as_dict() for outcome in self.tuned],
        }


@dataclass(frozen=True)
class BestRate:
    """A head at the rate that suits it best, by classes that had no part in choosing it.

    Attributes:
        rate: over the solver's.
        before: its measures at the solver's rate.
        after: and at this.
    """

    rate: float
    before: dict[str, Spread]
    after: dict[str, Spread]


def choose(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Return the rate of each head's run of the least equal error rate by the choosing half."""
    least = {}
    for name, own in _by_variant(outcomes).items():
        rates = [(rate, o.run.rate) for o in own if (rate := chosen_by(o)) is not None]
        least[name] = min(rates)[1] if rates else 1.0
    return least


def chosen_by(outcome: Outcome) -> float | None:
    """Return the equal error rate by the choosing half; None where there is none."""
    seen = outcome.verified(CHOOSING)
    return seen.curve.eer if seen else None


def judged(outcomes: Sequence[Outcome]) -> dict[str, Spread]:
    """Return what the judging half says of a head."""
    halves = [outcome.verified(JUDGING) for outcome in outcomes]
    found = [half.measures for half in halves if half]
    return {name: Spread.of([one[name] for one in found]) for name in (found[0] if found else ())}


def _by_variant(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.run.variant.name, []).append(outcome)
    return found


def _dicts(spreads: dict[str, Spread]) -> dict[str, dict[str, float]]:
    return {name: asdict(spread) for name, spread in spreads.items()}
