"""The pictures, drawn with matplotlib; computes nothing.

They are 8 inches wide, and legible when shown 800 pixels wide. Colours are those of Okabe and Ito,
which colour-blind readers can tell apart, and no two lines differ by colour alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

try:
    import matplotlib
except ModuleNotFoundError as error:
    raise ValueError(
        "pictures need matplotlib, which is not installed: pip install 'caffe_margin[report]'"
    ) from error
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullFormatter

from caffe_margin.files.atomic import atomic_write
from caffe_margin.files.visible import visible
from caffe_margin.maths.annealing import share_of_margin
from caffe_margin.maths.gradient import DETACHED, EXACT, PAPER, GradientRule
from caffe_margin.solver.schedule import Curve
from caffe_margin.study.compare import RuleMeasures
from caffe_margin.study.descent import Descent
from caffe_margin.study.gradient_check import CheckedDerivatives
from caffe_margin.study.pull import Pulls
from caffe_margin.study.study import MARGINS, CoeffNorm, Psi, Study
from caffe_margin.study.training import MODIFIED_SOFTMAX, SOFTMAX, Training

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A"

PER_INCH = 180
WIDTH = 8.0

STYLE: Any = {
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
}

LINES: dict[str, dict[str, Any]] = {
    "exact": {"color": BLUE, "linestyle": "-", "linewidth": 2.6, "marker": "o"},
    "paper": {"color": VERMILION, "linestyle": (0, (5, 1.5)), "linewidth": 2.6, "marker": "s"},
    "detached": {"color": GREEN, "linestyle": (0, (6, 1, 1, 1)), "linewidth": 2.6, "marker": "P"},
    "normalized coefficients": {"color": SKY, "linestyle": "--", "marker": "^"},
    "detached in bottom": {"color": GREY, "linestyle": (0, (2, 1)), "marker": "<"},
    "detached in weight": {"color": PURPLE, "linestyle": (0, (4, 1.5, 1, 1.5)), "marker": "D"},
    "no projection": {"color": ORANGE, "linestyle": ":", "marker": "v"},
    MODIFIED_SOFTMAX: {"color": BLACK, "linestyle": "--", "linewidth": 1.4, "marker": "x"},
    SOFTMAX: {"color": GREY, "linestyle": "-", "linewidth": 1.4, "marker": "+"},
}
"""How each rule is drawn, wherever it is."""

FIRST_ORDER: dict[GradientRule, Any] = {EXACT: (0, (1, 1)), PAPER: (0, (5, 1.5, 1, 1.5))}

MARGIN_LINES: tuple[dict[str, Any], ...] = (
    {"color": GREY, "linestyle": "--"},
    {"color": ORANGE, "linestyle": (0, (4, 1.5, 1, 1.5))},
    {"color": GREEN, "linestyle": ":", "linewidth": 2.6},
    {"color": BLUE, "linestyle": "-"},
)

DEEPEST = 6
"""coeff_norm is drawn as 2^-DEEPEST where it is less."""

THETA = "angle θ to the own class (degrees)"
FORWARDS = "iteration (Forward passes)"


def style() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn in our style."""
    return matplotlib.rc_context(STYLE)


def figures(study: Study) -> dict[str, Figure]:
    """Return every figure of the page by name, in the page's order."""
    large = study.comparison.layer_type == "LargeMarginInnerProduct"
    length = "|x|/|w_y|" if large else "|x|"
    with style():
        drawn = {
            "annealing": annealing(study.annealing, study.comparison.iteration),
            "psi": psi(study.psi, study.pulls, study.comparison.m, study.comparison.lambda_, large),
            "pull": pull(study.pulls, study.pull_curves, length, large),
            "coeff_norm": coeff_norm(study.coeff_norm, study.pulls, length),
            "departures": departures(study.comparison.measures),
            "check": check(study.checks),
            "descent": descent(study.descents),
        }
        if study.training:
            drawn["training"] = training(study.training)
        return drawn


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, `PER_INCH` pixels an inch; the file appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_write(path) as unfinished, style():
        figure.savefig(unfinished, dpi=PER_INCH, format="png")


def annealing(curve: Curve, iteration: int) -> Figure:
    """Draw lambda over iterations, and where the page stands; ``iteration`` is one of them."""
    figure, (ax,) = _figure(3.2)
    _draw_lambda(ax, curve)
    here = curve.lambda_[np.searchsorted(curve.iteration, iteration)]
    ax.plot(
        [iteration],
        [here],
        "o",
        color=VERMILION,
        markersize=9,
        label=f"this page: iteration {iteration:,}, λ = {here:.4g}",
    )
    ax.set_xlabel(FORWARDS)
    _legend(figure, [ax])
    return figure


def annealing_of_run(curve: Curve, reached: int | None, net: str, layer: str) -> Figure:
    """Draw lambda, and the share of the margin in force, over the Forwards of a run.

    Args:
        curve: lambda over the run.
        reached: the Forward at which lambda comes down to lambda_min; None where none does.
        net: its name, for the title.
        layer: its name, for the title.
    """
    title = f"{visible(net, 40)}: {visible(layer, 30)}"
    with style():
        figure, (above, below) = _figure(6.4, 2, sharex=True)
        if reached is not None:
            title += f"\nlambda_min, {curve.lambda_[-1]:g}, from iteration {reached:,} on (dashed)"
            for ax in (above, below):
                ax.axvline(reached, color=BLACK, linestyle="--", linewidth=1)
        above.set_title(title, parse_math=False)
        _draw_lambda(above, curve)
        below.plot(curve.iteration, 100 * share_of_margin(curve.lambda_), color=VERMILION)
        below.set_ylabel("margin in force, 1 / (1 + λ) (%)")
        below.set_ylim(bottom=0)
        below.set_xlabel(FORWARDS)
        below.set_xlim(curve.iteration[0], curve.iteration[-1])
    return figure


def _draw_lambda(ax: Axes, curve: Curve) -> None:
    """Draw lambda over iterations, both logarithmic; a lambda of 0 has no logarithm."""
    ax.plot(curve.iteration, curve.lambda_, color=BLUE, label="λ")
    ax.set_xscale("log")
    if curve.lambda_.min() > 0:
        ax.set_yscale("log")
    ax.set_ylabel("λ (weight of the plain cosine)")


def psi(psi: Psi, pulls: Pulls, m: int, lambda_: float, large: bool) -> Figure:
    """Draw psi_m, plain and mixed, above the batch's angles; ``large`` is L-Softmax's."""
    figure, axes = _figure(5.6, 2, 2, sharex=True, height_ratios=[3.2, 1])
    theta = np.degrees(psi.theta)
    for ax, curves, title in (
        (axes[0], psi.psi, "ψₘ(θ)"),
        (axes[1], psi.mixed, f"mixed: (ψₘ + λ cos θ) / (1 + λ), λ = {lambda_:.4g}"),
    ):
        for margin, curve, line in zip(MARGINS, curves, MARGIN_LINES, strict=True):
            ours = ", this layer" if margin == m else ""
            name = f"m = 1: cos θ{ours}" if margin == 1 else f"m = {margin}{ours}"
            width = {"linewidth": 3.2} if margin == m else {}
            ax.plot(theta, curve, label=name, **(line | width))
        ax.set_title(title)
    axes[0].set_ylabel(f"factor of {'|w_y| |x|' if large else '|x|'} in the label's score")
    for ax in axes[2:]:
        ax.hist(np.degrees(pulls.theta), bins=list(range(0, 181, 5)), color=SKY, edgecolor="white")
        _degrees(ax)
    axes[2].set_ylabel("samples / 5°")
    _legend(figure, axes[:1])
    return figure


def pull(pulls: Pulls, curves: Pulls, length: str, large: bool) -> Figure:
    """Draw the label's pull under the named rules: length, angle between, and its two parts.

    Args:
        pulls: of the batch.
        curves: over theta, at one length.
        length: what the features' length is called.
        large: whether the pulls are L-Softmax's, in units of |w_y|.
    """
    figure, axes = _figure(7.2, 2, 2, sharex=True)
    theta, samples = np.degrees(curves.theta), np.degrees(pulls.theta)
    for ax, title, part in (
        (axes[0], "length of the label's pull", "length"),
        (axes[2], f"its part along w_y{'/|w_y|' if large else ''}", "along_w"),
        (axes[3], "its part along x/|x|", "along_x"),
    ):
        for rule, of_samples, curve in (
            ("exact", pulls.exact, curves.exact),
            ("paper", pulls.paper, curves.paper),
            ("detached", pulls.detached, curves.detached),
        ):
            style = LINES[rule]
            ax.plot(
                theta,
                getattr(curve, part),
                color=style["color"],
                linestyle=style["linestyle"],
                label=f"{rule}, line",
            )
            ax.plot(
                samples,
                getattr(of_samples, part),
                linestyle="",
                marker=style["marker"],
                markersize=3,
                color=style["color"],
                alpha=0.45,
                label=f"{rule}, this batch",
            )
        ax.set_title(title)
        ax.set_ylabel(f"per unit of top.diff{' and |w_y|' if large else ''}")
    ax = axes[1]
    ax.plot(theta, np.degrees(curves.angle), color=BLACK, label="angle, line")
    ax.plot(
        samples,
        np.degrees(pulls.angle),
        linestyle="",
        marker="D",
        markersize=3,
        color=BLACK,
        alpha=0.45,
        label="angle, this batch",
    )
    ax.set_title("angle between paper's pull and exact")
    ax.set_ylabel("degrees")
    ax.set_ylim(bottom=0)
    for ax in axes[2:]:
        _degrees(ax)
    figure.supxlabel(f"lines: at the batch's median {length}, {curves.x_norm[0]:.3g}", fontsize=9)
    _legend(figure, axes[:2])
    return figure


def coeff_norm(grid: CoeffNorm, pulls: Pulls, length: str) -> Figure:
    """Draw coeff_norm over theta and the length of x, as ``length`` calls it; the batch on it."""
    figure, (ax,) = _figure(4.6)
    ax.grid(visible=False)
    exponent = np.log2(np.maximum(grid.value, 2.0**-DEEPEST))
    reach = max(1, int(np.ceil(np.abs(exponent).max())))
    colours = ax.contourf(
        np.degrees(grid.theta),
        grid.x_norm,
        exponent,
        levels=np.arange(-reach - 0.25, reach + 0.5, 0.5),
        cmap="PuOr_r",
    )
    few = len(pulls.theta) <= 500
    ax.plot(
        np.degrees(pulls.theta),
        pulls.x_norm,
        linestyle="",
        marker="o",
        markersize=4 if few else 2.5,
        markerfacecolor=BLACK,
        markeredgecolor="white",
        markeredgewidth=0.6 if few else 0.3,
        label="samples of this batch",
    )
    ax.set_yscale("log")
    few_ticks(ax)
    ax.set_ylabel(f"length of the feature {length}")
    _degrees(ax)
    bar = figure.colorbar(colours, ax=ax, pad=0.02)
    bar.ax.yaxis.set_major_locator(MultipleLocator(max(1, reach // 6)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power_of_two(value)))
    bar.set_label("coeff_norm (the step is divided by it)")
    _legend(figure, [ax])
    return figure


def departures(measures: Sequence[RuleMeasures]) -> Figure:
    """Draw how far each rule's gradients are from the exact ones."""
    figure, axes = _figure(5.4, 1, 2, sharey=True)
    shown = [measure for measure in measures if measure.rule != EXACT][::-1]
    whole = {PAPER: "paper: three at once", DETACHED: "detached: three at once"}
    names = [whole.get(m.rule, m.rule.name) for m in shown]
    at = np.arange(len(shown))
    for blob, offset, colour, hatch in (
        ("bottom_diff", 0.2, BLUE, ""),
        ("weight_diff", -0.2, ORANGE, "///"),
    ):
        differences = [getattr(measure, blob) for measure in shown]
        for ax, values, fmt in (
            (axes[0], [np.degrees(difference.angle) for difference in differences], "{:.2f}°"),
            (axes[1], [difference.ratio for difference in differences], "{:.3f}"),
        ):
            bars = ax.barh(
                at + offset,
                np.nan_to_num(values),
                height=0.36,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=blob.replace("_", "."),
            )
            ax.bar_label(
                bars,
                [fmt.format(v) if np.isfinite(v) else "none" for v in values],
                padding=4,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )
    axes[0].set_title("direction")
    axes[0].set_xlabel("angle to the exact gradient (degrees)")
    axes[1].set_title("length")
    axes[1].set_xlabel("length over the exact gradient's")
    axes[1].axvline(1, color=BLACK, linewidth=1, zorder=0.9)
    axes[0].set_yticks(at, names)
    for ax in axes:
        ax.grid(visible=False, axis="y")
        ax.margins(x=0.2)
        ax.set_xlim(left=0)
    _legend(figure, axes[:1])
    return figure


def check(checks: Sequence[CheckedDerivatives]) -> Figure:
    """Draw each rule's derivatives over the measured ones."""
    figure, axes = _figure(4.4, 1, 2)
    for ax, blob, title in (
        (axes[0], "bottom", "bottom.diff, a direction a sample"),
        (axes[1], "weight", "weight.diff, a direction a row"),
    ):
        for of_rule in (c for c in checks if c.blob == blob):
            name = of_rule.rule.name
            ax.plot(
                of_rule.measured,
                of_rule.claimed,
                linestyle="",
                marker=LINES[name]["marker"],
                markersize=3.5,
                color=LINES[name]["color"],
                label=name,
            )
        ax.axline((0, 0), slope=1, color=BLACK, linewidth=1, zorder=1, label="they agree")
        ax.set_title(title)
        ax.set_xlabel("measured: Δloss / step (nats per unit)")
        _plain_numbers(ax)
    axes[0].set_ylabel("claimed: gradient · direction (nats per unit)")
    _legend(figure, axes[:1])
    return figure


def descent(descents: Sequence[Descent]) -> Figure:
    """Draw the true loss along minus each rule's gradient, and what the slope predicts."""
    figure, axes = _figure(5.0, 1, 2, sharey=True)
    start = descents[0].start
    highest = min(1.5 * start, max(float(walk.loss.max()) for walk in descents)) or 1.0
    for ax, blob, title in (
        (axes[0], "bottom", "features, step against bottom.diff"),
        (axes[1], "weight", "weight, step against weight.diff"),
    ):
        for walk in (d for d in descents if d.blob == blob):
            style = dict(LINES[walk.rule.name])
            style["markevery"] = [int(np.argmin(walk.loss))]
            ax.plot(walk.steps, walk.loss, label=walk.rule.name, **style)
            if walk.rule in (PAPER, EXACT):
                ax.plot(
                    walk.steps,
                    walk.start + walk.slope * walk.steps,
                    color=style["color"],
                    linestyle=FIRST_ORDER[walk.rule],
                    linewidth=1.2,
                    label=f"{walk.rule.name}, first order",
                )
        ax.axhline(start, color=GREY, linewidth=1, zorder=1, label="before the step")
        ax.set_xscale("log")
        ax.set_title(title)
        ax.set_xlabel("length of the step / length of what moves")
    axes[0].set_ylabel("mean loss (nats)")
    axes[0].set_ylim(-0.03 * highest, 1.05 * highest)
    _legend(figure, axes, columns=3)
    return figure


def training(training: Training) -> Figure:
    """Draw the heads' training: loss, accuracy, angles."""
    figure, axes = _figure(7.4, 2, 2, sharex=True)
    for ax, part, scale, title, unit in (
        (axes[0], "loss", 1.0, "loss under the layer's rules", "nats"),
        (axes[1], "accuracy", 100.0, "accuracy on these features", "%"),
        (axes[2], "own_angle", 180 / np.pi, "mean angle to the own class", "degrees"),
        (axes[3], "other_angle", 180 / np.pi, "mean angle to the nearest other", "degrees"),
    ):
        for i, run in enumerate(training.runs):
            if part == "loss" and run.rule is None:
                continue
            every = max(1, len(run.iterations) // 8)
            ax.plot(
                run.iterations,
                getattr(run, part) * scale,
                # The features are at rest, and the two have one weight.diff.
                label="paper, detached" if run.rule == PAPER else run.name,
                markevery=(i % every, every),
                **LINES[run.name],
            )
        ax.set_title(title)
        ax.set_ylabel(unit)
    # Every run leaves the start in a leap, next to which the rest would be a line: show the rest.
    settled = len(training.runs[0].iterations) // 10
    for ax in axes:
        seen = np.concatenate([np.asarray(line.get_ydata())[settled:] for line in ax.lines])
        low, high = seen.min(), seen.max()
        if high > 100 * low > 0:  # a run that goes astray would make a line of the others
            ax.set_yscale("log")
            ax.set_ylim(low / 1.5, high * 1.5)
        else:
            room = 0.06 * (high - low) or 1.0
            ax.set_ylim(low - room, high + room)
    for ax in axes[2:]:
        ax.set_xlabel("iteration (updates)")
    if settled:
        figure.supxlabel(
            "vertical axes: the range of what follows the first tenth of the iterations", fontsize=9
        )
    _legend(figure, axes[1:], columns=3)
    return figure


def _figure(
    height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def _legend(figure: Figure, axes: Sequence[Axes], columns: int = 4) -> None:
    """Put the legend above the axes, where there is no data; a name once."""
    named: dict[str, Any] = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    figure.legend(list(named.values()), list(named), loc="outside upper left", ncols=columns)


def _degrees(ax: Axes) -> None:
    ax.set_xlim(0, 180)
    ax.xaxis.set_major_locator(MultipleLocator(45))
    ax.set_xlabel(THETA)


def few_ticks(ax: Axes) -> None:
    """Label a logarithmic axis in plain numbers, at 1, 2 and 5."""
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _plain_numbers(ax: Axes) -> None:
    ax.ticklabel_format(style="sci", scilimits=(-3, 4), useMathText=True)


def _power_of_two(exponent: float) -> str:
    """Return 2^exponent as a reader expects it: 1/4, 1, 16."""
    return f"{2**exponent:.3g}" if exponent >= 0 else f"1/{2**-exponent:.3g}"
