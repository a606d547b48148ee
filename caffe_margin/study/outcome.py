"""What a run of a whole net came to."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from caffe_margin.files.plain_json import plain
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.nets.margin import margin_param
from caffe_margin.study.pairs import Curve, cosine, draw_pairs, roc
from caffe_margin.study.variants import head_of
from caffe_margin.study.whole_net import COLUMNS, FEATURES, UNSEEN, Plan, Run

LAST = 100
"""The end of a run is the mean over so many iterations."""
CHANCE = 0.02
"""A loss as near as this to ln N is at it."""
FARS = (0.01, 0.001)
FAR_GRID = np.geomspace(1e-5, 1, 61)
EDGES = np.linspace(-1, 1, 101)
POINTS = 200
"""What is drawn over iterations are means over this many stretches of the run."""

MEASURES: dict[str, str] = {
    "loss": "loss",
    "accuracy": "accuracy",
    "length": "|x|",
    "own_angle": "own angle",
    "other_angle": "nearest other",
    "clamped": "at the clamp",
    "eer": "EER",
    "auc": "AUC",
    **{f"tar_{far:g}": f"TAR at FAR {far:g}" for far in FARS},
}
"""What a run is summed up by. The first six are means over its end; of images in training."""


@dataclass(frozen=True)
class Verification:
    """How well pairs of images of classes never seen are told apart by the cosine.

    Attributes:
        curve: all thresholds.
        same: how many pairs of one class have a cosine within each two of `EDGES`.
        different: how many of two classes.
    """

    curve: Curve
    same: NDArray[np.intp]
    different: NDArray[np.intp]

    @property
    def measures(self) -> dict[str, float]:
        """Those of `MEASURES` that it has."""
        rates = {f"tar_{far:g}": self.curve.tar_at(far) for far in FARS}
        return {"eer": self.curve.eer, "auc": self.curve.auc, **rates}


def verify(x: FloatArray, label: NDArray[np.intp], half: int | None = None) -> Verification:
    """Tell pairs of images apart by the cosine of their features.

    Args:
        x: features, (n, K).
        label: their classes, (n,).
        half: of the classes, 0 or 1, every other one; None for all.

    Raises:
        ValueError: a feature is zero or not finite, or there are too few classes.
    """
    if half is not None:
        chosen = np.isin(label, np.unique(label)[half::2])
        x, label = x[chosen], label[chosen]
    left, right, same = draw_pairs(label)
    scores = cosine(x[left], x[right])
    curve = roc(scores, same)
    kinds = (np.histogram(scores[kind], EDGES)[0] for kind in (same, ~same))
    return Verification(curve, *kinds)


@dataclass(frozen=True)
class Outcome:
    """One run, to its end.

    Attributes:
        run: which.
        start: a digest of the parameters before the first iteration.
        batches: of all that it was fed.
        rates: of its learning rates, over the factor of the run.
        log: `COLUMNS` but for the last, a value an iteration.
        sought: whether there are classes never seen.
        unseen: features and labels of these; None where there are none, or where the run diverged.
        drawn: features, labels and weight, where they are of few dimensions.
        classes: N.
        iterations: how many there should be.
    """

    run: Run
    start: str
    batches: str
    rates: str
    log: Mapping[str, FloatArray]
    sought: bool
    unseen: tuple[FloatArray, NDArray[np.intp]] | None
    drawn: tuple[FloatArray, NDArray[np.intp], FloatArray] | None
    classes: int
    iterations: int

    @classmethod
    def of(cls, plan: Plan, run: Run) -> Outcome:
        """Read a run that is done."""
        folder = plan.folder / run.name
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        *columns, batches = zip(*lines, strict=True)
        log = {name: np.array(c, float) for name, c in zip(COLUMNS, columns, strict=False)}
        rates = (log["rate"] / run.rate).astype(np.float32)
        with np.load(folder / FEATURES) as arrays:
            found = dict(arrays)
        unseen = {}
        if plan.unseen is not None:
            with np.load(folder / UNSEEN) as arrays:
                unseen = dict(arrays)
        start = json.loads((folder / "run.json").read_text("utf-8"))["start"]
        return cls(
            run,
            start,
            hashlib.sha256("".join(batches).encode()).hexdigest(),
            hashlib.sha256(rates.tobytes()).hexdigest(),
            log,
            plan.unseen is not None,
            (unseen["x"], unseen["label"]) if "x" in unseen else None,
            (found["x"], found["label"], found["weight"]) if "x" in found else None,
            margin_param(head_of(plan.net)).num_output,
            plan.solver.max_iter,
        )

    @property
    def diverged(self) -> bool:
        """Whether it ended before its time, at numbers that are none."""
        return bool(self.log["iteration"][-1] < self.iterations) or not math.isfinite(self["loss"])

    @property
    def collapsed(self) -> bool:
        """Whether its loss stands at ln N, with short features: all classes are as likely."""
        return abs(self["loss"] - math.log(self.classes)) < CHANCE and self["length"] < 1

    def __getitem__(self, column: str) -> float:
        """Return the mean of a column of the log over the end of the run."""
        return float(self.log[column][-LAST:].mean())

    @property
    def verification(self) -> Verification | None:
        """By all pairs; None where there are no features, or one of them is zero."""
        return self.verified()

    def verified(self, half: int | None = None) -> Verification | None:
        """Return `verification` by every other class."""
        if half not in self._verified:
            try:
                self._verified[half] = verify(*self.unseen, half) if self.unseen else None
            except ValueError:
                self._verified[half] = None
        return self._verified[half]

    @cached_property
    def _verified(self) -> dict[int | None, Verification | None]:
        """What was asked for: the command, the page and its numbers all do."""
        return {}

    @cached_property
    def problem(self) -> str:
        """Why there is no `verification`, where there should be; "" where there is."""
        try:
            if self.unseen and self.verification is None:
                verify(*self.unseen)
        except ValueError as error:
            return str(error)
        return ""

    @cached_property
    def measures(self) -> dict[str, float]:
        """The run in the numbers of `MEASURES`; NaN for what it has not, as one that diverged."""
        in_training = {name: self[name] for name in list(MEASURES)[:6] if not self.diverged}
        unseen = self.verification.measures if self.verification else {}
        return dict.fromkeys(MEASURES, math.nan) | in_training | unseen

    def curve(self, column: str) -> FloatArray:
        """Return means of a column over `POINTS` stretches of the whole run, NaN beyond its end."""
        ends = np.linspace(0, self.iterations, min(POINTS, self.iterations) + 1).astype(int)
        values = self.log[column]
        parts = (values[a:b] for a, b in itertools.pairwise(ends))
        return np.array([part.mean() if len(part) else math.nan for part in parts])

    def as_dict(self) -> dict[str, object]:
        """Return its numbers, as JSON has them."""
        found: dict[str, object] = {
            "head": self.run.variant.name,
            "seed": self.run.seed,
            "rate": self.run.rate,
            "diverged": self.diverged,
            "collapsed": self.collapsed,
            "start": self.start,
            "batches": self.batches,
            "rates": self.rates,
            "iterations": len(self.log["loss"]),
            "measures": self.measures,
            "curves": {name: self.curve(name) for name in COLUMNS[:-1]},
        }
        if self.verification:
            found["tar"] = [self.verification.curve.tar_at(far) for far in FAR_GRID]
            found["same"] = self.verification.same
            found["different"] = self.verification.different
        plainly: dict[str, object] = plain(found)
        return plainly
