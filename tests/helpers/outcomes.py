"""Outcomes whose numbers are planned."""

import numpy as np

from caffe_margin.maths.gradient import EXACT, PAPER
from caffe_margin.study.outcome import Outcome
from caffe_margin.study.variants import Variant
from caffe_margin.study.whole_net import COLUMNS, Run

N = 8


def features(rng, spread=0.5):
    """Features of 12 classes of five, round the classes' own directions."""
    label = np.repeat(np.arange(12), 5)
    x = rng.standard_normal((12, 6))[label] + spread * rng.standard_normal((60, 6))
    return x, label


def make_run(name="paper", seed=1, rate=1.0):
    rule = EXACT if name == "exact" else PAPER
    return Run(Variant(name, "QUADRUPLE", rule), seed, rate)


def make_outcome(
    name="paper", seed=1, rate=1.0, *, loss=1.0, spread=0.5, rows=200, drawn=None, **more
):
    """A run of 200 iterations whose columns are planned."""
    log = {column: np.full(rows, 0.25) for column in COLUMNS[:-1]}
    log["iteration"] = np.arange(1, rows + 1.0)
    log["loss"] = np.concatenate([np.full(rows - 100, 5.0), np.full(100, loss)])
    unseen = features(np.random.default_rng(seed), spread) if rows == 200 else None
    digests = {"start": f"s{seed}", "batches": f"b{seed}", "rates": f"r{seed}", **more}
    return Outcome(
        make_run(name, seed, rate),
        **digests,
        log=log,
        sought=True,
        unseen=unseen,
        drawn=drawn,
        classes=N,
        iterations=200,
    )


def three(name, **options):
    return [make_outcome(name, seed, **options) for seed in (1, 2, 3)]
