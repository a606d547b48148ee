"""The pictures of ``caffe-margin pairs``: curves, and how the scores lie; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from caffe_margin.report.figures import BLACK, BLUE, GREEN, ORANGE, VERMILION, WIDTH
from caffe_margin.study.pairs import Bools, Curve, Evaluation

LINES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-"},
    {"color": VERMILION, "linestyle": (0, (5, 1.5))},
    {"color": GREEN, "linestyle": ":"},
)
BINS = 60


def draw_roc(curves: Mapping[str, Curve]) -> Figure:
    """Draw the ROC curve of each protocol, false accepts from the first that there can be."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    ax = figure.subplots()
    least = min(curve.fpr[curve.fpr > 0].min() for curve in curves.values())
    for (name, curve), line in zip(curves.items(), LINES, strict=False):
        label = f"{name}: AUC {curve.auc:.5f}, EER {100 * curve.eer:.2f} %"
        # The last point without a false accept has no place on a logarithmic axis but its end.
        fpr = np.maximum(curve.fpr, least / 2)
        ax.plot(fpr, curve.tpr, drawstyle="steps-post", label=label, **line)
    far = np.geomspace(least / 2, 1, 200)
    ax.plot(far, 1 - far, color=BLACK, linewidth=0.9, linestyle="--", label="equal errors")
    ax.set_xscale("log")
    ax.set_xlim(least / 2, 1)
    ax.set_ylim(min(0.9, *(_at(curve, least) for curve in curves.values())), 1.003)
    ax.set_xlabel("false accepts, of the pairs of different people")
    ax.set_ylabel("true accepts, of the pairs\nof the same person")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def _at(curve: Curve, far: float) -> float:
    return float(curve.tpr[curve.fpr <= far].max())


def draw_scores(evaluations: Sequence[Evaluation], same: Bools) -> Figure:
    """Draw two histograms of scores a protocol, and where its thresholds lie."""
    rows = len(evaluations)
    figure = Figure(figsize=(WIDTH, 1.0 + 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for ax, evaluation in zip(axes, evaluations, strict=True):
        scores = evaluation.scores
        edges = np.linspace(scores.min(), scores.max(), BINS + 1)
        for kind, colour, hatch, label in (
            (same, BLUE, "", "the same person"),
            (~same, ORANGE, "///", "different people"),
        ):
            ax.hist(
                scores[kind],
                edges,
                color=colour,
                alpha=0.55,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.3,
                label=label,
            )
        sign = -1 if evaluation.protocol == "insightface" else 1
        low, high = sorted((sign * evaluation.threshold.min(), sign * evaluation.threshold.max()))
        ax.axvspan(low, high, color=BLACK, alpha=0.25, linewidth=0)
        ax.axvline((low + high) / 2, color=BLACK, linewidth=1.2, label="thresholds of the folds")
        ax.set_title(evaluation.protocol)
        ax.set_xlabel("minus the squared distance" if sign < 0 else "cosine")
        ax.set_ylabel("pairs")
        handles = ax.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=3)
    return figure
