"""The pictures of whole nets trained under several heads; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from caffe_margin.report.features_figure import draw_features
from caffe_margin.report.figures import (
    BLUE,
    GREEN,
    LINES,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH,
    few_ticks,
    style,
)
from caffe_margin.study.heads import Heads
from caffe_margin.study.outcome import EDGES, FAR_GRID, POINTS, Outcome
from caffe_margin.study.variants import TYPES

OTHERS: tuple[dict[str, Any], ...] = tuple(
    {"color": colour, "linestyle": dashes}
    for dashes in ("-", "--", ":")
    for colour in (SKY, PURPLE, ORANGE, GREEN, VERMILION, BLUE)
)
"""How heads are drawn that `LINES` does not name, in turn."""

DEGREES = 180 / np.pi
PANELS: tuple[tuple[str, str, float], ...] = (
    ("loss", "loss (nats)", 1.0),
    ("length", "length of features, |x|", 1.0),
    ("accuracy", "accuracy on the classes trained (%)", 100.0),
    ("lambda", "λ", 1.0),
    ("own_angle", "angle to the own class (degrees)", DEGREES),
    ("other_angle", "angle to the nearest other (degrees)", DEGREES),
)
LOGARITHMIC = ("length", "lambda")


def heads_figures(heads: Heads) -> dict[str, Figure]:
    """Return every figure of the page by name, in the page's order."""
    lines = lines_of(heads)
    with style():
        drawn = {"summary": summary(heads, lines), "course": course(heads, lines)}
        if any(outcome.verification for outcome in heads.outcomes):
            drawn |= {"roc": roc(heads, lines), "cosines": cosines(heads)}
        if heads.tried:
            drawn["rates"] = rates(heads, lines)
        first = [outcomes[0] for outcomes in heads.by_variant.values()]
        first.sort(key=lambda outcome: TYPES.index(outcome.run.variant.type))
        panels = {o.run.variant.name: o.drawn for o in first if o.drawn is not None}
        if panels:
            drawn["features"] = draw_features(panels)
        return drawn


def lines_of(heads: Heads) -> dict[str, dict[str, Any]]:
    """Return how each head is drawn."""
    others = iter(OTHERS * len(heads.by_variant))
    plain = {name: {k: v for k, v in line.items() if k != "marker"} for name, line in LINES.items()}
    return {name: plain.get(name) or next(others) for name in heads.by_variant}


def summary(heads: Heads, lines: Mapping[str, dict[str, Any]]) -> Figure:
    """Draw loss and |x| over the run, and each run's equal error rate."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots(1, 3 if heads.verified else 2)
    for ax, (column, title, scale) in zip(axes, PANELS[:2], strict=False):
        _over_iterations(ax, heads, lines, column, scale)
        ax.set_title(title)
        ax.set_xlabel("iteration")
    if heads.verified:
        _dots(axes[2], heads, lines)
    _legend(figure, axes[0])
    return figure


def course(heads: Heads, lines: Mapping[str, dict[str, Any]]) -> Figure:
    """Draw all that was seen over the iterations."""
    figure = Figure(figsize=(WIDTH, 8.0), layout="constrained")
    axes = list(figure.subplots(3, 2, sharex=True).flat)
    for ax, (column, title, scale) in zip(axes, PANELS, strict=True):
        _over_iterations(ax, heads, lines, column, scale)
        ax.set_title(title)
    for ax in axes[-2:]:
        ax.set_xlabel("iteration")
    _legend(figure, axes[0])
    return figure


def roc(heads: Heads, lines: Mapping[str, dict[str, Any]]) -> Figure:
    """Draw true accepts over false ones, the mean over the seeds and how far they go."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    ax = figure.subplots()
    lowest = 1.0
    far = FAR_GRID
    for name, outcomes in heads.by_variant.items():
        seen = [o.verification for o in outcomes if o.verification]
        if not seen:
            continue
        far = FAR_GRID[seen[0].different.sum() * FAR_GRID >= 1]
        rates = np.array([[one.curve.tar_at(rate) for rate in far] for one in seen])
        ax.plot(far, rates.mean(axis=0), label=name, **lines[name])
        _band(ax, far, rates, lines[name])
        lowest = min(lowest, rates.min())
    ax.set_xscale("log")
    ax.set_xlim(far[0], 1)
    ax.set_ylim(max(0, lowest - 0.02), 1.005)
    ax.set_xlabel("false accepts, of the pairs of two classes")
    ax.set_ylabel("true accepts, of the pairs of one class")
    _legend(figure, ax)
    return figure


def cosines(heads: Heads) -> Figure:
    """Draw how the cosines of pairs lie, of the first seed."""
    first = {name: outcomes[0].verification for name, outcomes in heads.by_variant.items()}
    seen = {name: verification for name, verification in first.items() if verification}
    rows = -(-max(len(seen), 1) // 2)
    figure = Figure(figsize=(WIDTH, 0.7 + 1.9 * rows), layout="constrained")
    axes = list(figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).flat)
    for ax, (name, verification) in zip(axes, seen.items(), strict=False):
        for counts, colour, hatch, label in (
            (verification.same, BLUE, "", "one class"),
            (verification.different, ORANGE, "///", "two classes"),
        ):
            share = 100 * counts / counts.sum()
            ax.stairs(share, EDGES, fill=True, color=colour, alpha=0.55, hatch=hatch, label=label)
        ax.set_title(name)
        ax.set_ylabel("% of the pairs")
    for ax in axes[len(seen) :]:
        ax.set_axis_off()
    for ax in axes[: len(seen)][-2:]:
        ax.set_xlabel("cosine of a pair")
        ax.tick_params(labelbottom=True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def rates(heads: Heads, lines: Mapping[str, dict[str, Any]]) -> Figure:
    """Draw each head's equal error rate over the learning rate, of the first seed."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    ax = figure.subplots()
    for name, line in lines.items():
        own = sorted(
            (o.run.rate, 100 * o.measures["eer"]) for o in heads.tried if o.run.variant.name == name
        )
        ax.plot(*zip(*own, strict=True), label=name, marker="o", **line)
    ax.set_xscale("log")
    found = sorted({outcome.run.rate for outcome in heads.tried})
    ax.set_xticks(found, [f"{rate:g}" for rate in found], minor=False)
    ax.set_xticks([], minor=True)
    # A head that stands at ln N would make a line of the others.
    ax.set_yscale("log")
    few_ticks(ax)
    ax.set_xlabel("learning rate, over the solver's")
    ax.set_ylabel("equal error rate (%)")
    _legend(figure, ax)
    return figure


def _over_iterations(
    ax: Axes, heads: Heads, lines: Mapping[str, dict[str, Any]], column: str, scale: float
) -> None:
    """Draw a column's mean over the seeds, and how far they go; what diverged, on its own."""
    shown = []
    for name, outcomes in heads.by_variant.items():
        if column == "lambda" and not outcomes[0].run.variant.has_margin:
            continue
        at, line = _middles(outcomes[0]), lines[name]
        values = [scale * o.curve(column) for o in outcomes if not o.diverged]
        if values:
            shown += values
            ax.plot(at, np.mean(values, axis=0), label=name, **line)
            _band(ax, at, np.array(values), line)
        for outcome in outcomes:
            if outcome.diverged:
                ended = ~np.isnan(curve := scale * outcome.curve(column))
                label = None if values else name
                ax.plot(at[ended], curve[ended], **line | {"linewidth": 0.9, "label": label})
    if column in LOGARITHMIC:
        ax.set_yscale("log")
        few_ticks(ax)
    if shown:
        # What diverged would leave the others a line.
        low, high = np.min(shown), np.max(shown)
        room = 0.05 * (high - low) or 0.5
        ax.set_ylim(
            *((low / 1.2, high * 1.2) if column in LOGARITHMIC else (low - room, high + room))
        )


def _middles(outcome: Outcome) -> Any:
    ends = np.linspace(0, outcome.iterations, min(POINTS, outcome.iterations) + 1)
    return (ends[1:] + ends[:-1]) / 2


def _band(ax: Axes, at: Any, values: Any, line: Mapping[str, Any]) -> None:
    if len(values) > 1:
        ax.fill_between(
            at, values.min(axis=0), values.max(axis=0), color=line["color"], alpha=0.15, lw=0
        )


def _dots(ax: Axes, heads: Heads, lines: Mapping[str, dict[str, Any]]) -> None:
    """Draw the equal error rate of every run, and their means."""
    spreads = heads.spreads()
    for row, (name, outcomes) in enumerate(heads.by_variant.items()):
        rates = [100 * outcome.measures["eer"] for outcome in outcomes]
        colour = lines[name]["color"]
        ax.plot(rates, [row] * len(rates), "o", color=colour, alpha=0.7)
        mean = spreads[name]["eer"].mean
        ax.plot([100 * mean], [row], "|", color=colour, markersize=18, markeredgewidth=2.5)
    ax.set_ylim(len(heads.by_variant) - 0.5, -0.5)
    ax.set_yticks([])
    ax.set_title("EER, classes never seen (%)")
    ax.set_xlabel("a dot a seed, a bar their mean")


def _legend(figure: Figure, ax: Axes) -> None:
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=3)
