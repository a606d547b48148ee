"""The picture of ``caffe-margin geometry``; computes nothing but the curves it is asked to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Wedge
from matplotlib.ticker import MultipleLocator

from caffe_margin.maths.geometry import Claims
from caffe_margin.report.figures import BLACK, BLUE, GREEN, ORANGE, VERMILION, WIDTH


def draw_geometry(
    drawn: Sequence[Claims],
    over_m: Sequence[Claims],
    of_two: Sequence[tuple[float, float]],
    of_more: Sequence[tuple[int, float]],
    formula: Sequence[tuple[float, float]],
) -> Figure:
    """Draw the claims of two classes at each m, how they change with m, and the bounds on m.

    Args:
        drawn: two classes' claims, a circle each, at most four.
        over_m: the same over a range of real m, rising.
        of_two: angle between two weights, and m_min by search.
        of_more: number of classes spread evenly, and m_min by search.
        formula: angle between two weights, and m_min by the formula.
    """
    figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.25])  # type: ignore[misc]
    circles = above.subplots(1, len(drawn), squeeze=False, sharey=True)[0]
    for ax, found in zip(circles, drawn, strict=True):
        _circle(ax, found)
    circles[0].set_ylabel("second coordinate of x/|x|", fontsize=9)
    above.legend(*circles[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    left, right = below.subplots(1, 2)
    _over_m(left, drawn, over_m)
    _bounds(right, of_two, of_more, formula)
    return figure


def _circle(ax: Axes, found: Claims) -> None:
    ax.set_aspect("equal")
    ax.grid(visible=False)
    turn = np.linspace(0, 2 * np.pi, 361)
    ax.plot(np.cos(turn), np.sin(turn), color=BLACK, linewidth=0.8)
    for i, (centre, (back, ahead), colour, hatch) in enumerate(
        zip(found.centres, found.reach, (BLUE, ORANGE), ("", "///"), strict=True)
    ):
        ends = math.degrees(centre - back), math.degrees(centre + ahead)
        wedge = Wedge(
            (0, 0), 1, *ends, facecolor=colour, alpha=0.55, hatch=hatch, edgecolor="white"
        )
        wedge.set_label(f"claimed by class {i + 1}")
        ax.add_patch(wedge)
        ax.annotate(
            "",
            (math.cos(centre), math.sin(centre)),
            (0, 0),
            arrowprops={"arrowstyle": "-|>", "color": BLACK, "linewidth": 1.6},
        )
        ax.text(
            1.22 * math.cos(centre), 1.22 * math.sin(centre), f"w{i + 1}", ha="center", va="center"
        )
    ax.set_title(f"m = {found.m:g}\nmargin {math.degrees(found.between):.1f}°")
    ax.set_xlim(-1.4, 1.4)
    ax.set_ylim(-1.4, 1.4)
    ax.set_xticks([-1, 0, 1])
    ax.set_yticks([-1, 0, 1])
    ax.set_xlabel("first coordinate", fontsize=9)


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
