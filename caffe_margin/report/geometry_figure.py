"""The picture of ``caffe-margin geometry``; computes nothing but the curves it is asked to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Wedge
from matplotlib.ticker import MultipleLocator

from caffe_margin.maths.geometry import Claims, Sectors, TwoClaims, disagreements, two_claims
from caffe_margin.report.figures import BLACK, BLUE, GREEN, ORANGE, VERMILION, WIDTH


def draw_geometry(
    drawn: Sequence[Claims],
    over_m: Sequence[Claims],
    of_two: Sequence[tuple[float, float]],
    of_more: Sequence[tuple[int, float]],
    formula: Sequence[tuple[float, float]],
    of_lengths: Sequence[TwoClaims] = (),
) -> Figure:
    """Draw the claims of two classes at each m, how they change with m, and the bounds on m.

    Args:
        drawn: two classes' claims, a circle each, at most four.
        over_m: the same over a range of real m, rising.
        of_two: angle between two weights, and m_min by search.
        of_more: number of classes spread evenly, and m_min by search.
        formula: angle between two weights, and m_min by the formula.
        of_lengths: the same classes under L-Softmax, of ``drawn``'s m; drawn below them.
    """
    rows = 2 if of_lengths else 1
    figure = Figure(figsize=(WIDTH, 4.1 + 2.3 * rows), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[rows, 1.25])  # type: ignore[misc]
    circles = above.subplots(rows, len(drawn), squeeze=False, sharex=True, sharey=True)
    for ax, of_m in zip(circles[0], drawn, strict=True):
        sectors = [
            ((c - back, c + ahead),)
            for c, (back, ahead) in zip(of_m.centres, of_m.reach, strict=True)
        ]
        ax.set_title(f"m = {of_m.m:g}\nmargin {math.degrees(of_m.between):.1f}°")
        _circle(ax, of_m.centres, (1, 1), sectors)
    for ax, claimed in zip(circles[-1], of_lengths, strict=False):
        between = claimed.between
        ax.set_title(
            "one claims nothing" if between is None else f"margin {math.degrees(between):.1f}°"
        )
        _circle(ax, claimed.centres, claimed.lengths, claimed.sectors)
        _disagreements(ax, claimed)
    for ax, name in zip(circles[:, 0], ("A-Softmax", "L-Softmax"), strict=False):
        ax.set_ylabel(f"{name}\nx2/|x|" if of_lengths else "second coordinate of x/|x|", fontsize=9)
    for ax in circles[-1]:
        ax.set_xlabel("x1/|x|" if of_lengths else "first coordinate", fontsize=9)
    above.legend(*circles[-1][0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    left, right = below.subplots(1, 2)
    _over_m(left, drawn, over_m)
    _bounds(right, of_two, of_more, formula)
    return figure


def _circle(
    ax: Axes,
    centres: Sequence[float],
    lengths: Sequence[float],
    sectors: Sequence[Sectors],
) -> None:
    """Draw the sectors of two classes, and their weights, the longer of length 1."""
    ax.set_aspect("equal")
    ax.grid(visible=False)
    turn = np.linspace(0, 2 * np.pi, 361)
    ax.plot(np.cos(turn), np.sin(turn), color=BLACK, linewidth=0.8)
    for i, (centre, length, of_class, colour, hatch) in enumerate(
        zip(centres, lengths, sectors, (BLUE, ORANGE), ("", "///"), strict=True)
    ):
        for begin, end in of_class:
            ax.add_patch(_wedge(begin, end, facecolor=colour, alpha=0.55, hatch=hatch))
        # For the legend, also where the class claims nothing.
        ax.fill(
            [],
            [],
            facecolor=colour,
            alpha=0.55,
            hatch=hatch,
            edgecolor="white",
            label=f"claimed by class {i + 1}",
        )
        across, up = math.cos(centre), math.sin(centre)
        shown = length / max(lengths)
        ax.annotate(
            "",
            (shown * across, shown * up),
            (0, 0),
            arrowprops={
                "arrowstyle": "-|>",
                "color": BLACK,
                "linewidth": 1.6,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
        ax.text(1.3 * across, 1.3 * up, f"w{i + 1}", ha="center", va="center")
    ax.set_xlim(-1.45, 1.45)
    ax.set_ylim(-1.45, 1.45)
    ax.set_xticks([-1, 0, 1])
    ax.set_yticks([-1, 0, 1])


def _disagreements(ax: Axes, claimed: TwoClaims) -> None:
    """Draw, round the circle, where A-Softmax does not agree."""
    equal = two_claims(claimed.m, claimed.centres[1], (1, 1))
    for begin, end, *_ in disagreements(equal, claimed):
        ax.add_patch(_wedge(begin, end, radius=1.14, width=0.09, facecolor=VERMILION))
    ax.fill([], [], facecolor=VERMILION, label="A-Softmax disagrees")


def _wedge(begin: float, end: float, radius: float = 1, **style: Any) -> Wedge:
    return Wedge((0, 0), radius, math.degrees(begin), math.degrees(end), edgecolor="white", **style)


def _over_m(ax: Axes, drawn: Sequence[Claims], over_m: Sequence[Claims]) -> None:
    ms = [found.m for found in over_m]
    for part, colour, style, marker, name in (
        ("between", GREEN, "-", "o", "margin between the classes"),
        ("within", VERMILION, "--", "s", "width of a class"),
    ):
        ax.plot(ms, [math.degrees(getattr(f, part)) for f in over_m], style, color=colour)
        ax.plot(
            [f.m for f in drawn],
            [math.degrees(getattr(f, part)) for f in drawn],
            marker,
            color=colour,
        )
        ax.plot([], [], style, marker=marker, color=colour, label=name)
    a, b = over_m[0].centres
    ax.set_title(f"two classes at {math.degrees(b - a):g}°")
    ax.set_xlabel("m")
    ax.set_ylabel("angle (degrees)")
    ax.yaxis.set_major_locator(MultipleLocator(45))
    ax.xaxis.set_major_locator(MultipleLocator(1))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.12), borderaxespad=0, ncols=1)


def _bounds(
    ax: Axes,
    of_two: Sequence[tuple[float, float]],
    of_more: Sequence[tuple[int, float]],
    formula: Sequence[tuple[float, float]],
) -> None:
    for pairs, style, name in (
        (formula, {"linestyle": "-"}, "two classes, formula"),
        (
            of_two,
            {"linestyle": "", "marker": "o", "markerfacecolor": "white"},
            "two classes, by search",
        ),
    ):
        angle, least = np.array(pairs).T
        ax.plot(np.degrees(angle), least, color=BLUE, label=name, **style)  # type: ignore[arg-type]
    classes, least = np.array(of_more).T
    ax.plot(360 / classes, least, "D", color=ORANGE, label="3 to 8 classes, by search")
    ax.set_title("least m: no class wider than the margin")
    ax.set_xlabel("angle between neighbouring weights (degrees)")
    ax.set_ylabel("m_min")
    ax.set_xlim(0, 185)
    ax.xaxis.set_major_locator(MultipleLocator(45))
    ax.set_ylim(2.8, 4)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.12), borderaxespad=0, ncols=1)
