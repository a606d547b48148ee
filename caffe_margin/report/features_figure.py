"""The picture of features that one can see, of 2 or 3 numbers each; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from caffe_margin.maths.arrays import FloatArray
from caffe_margin.report.figures import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH,
)

Panel: TypeAlias = tuple[FloatArray, NDArray[np.intp], FloatArray]
"""Features (n, D), their labels (n,), the classes' weights (N, D)."""

COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, BLACK, "#F0E442", "#6600CC", "#663300")
"""Of the classes, in turn: all eight of Okabe and Ito's, and two more that are told apart from them
with each kind of colour blindness. Each class has its number beside it too."""

MOST_COLUMNS = 4
"""More panels than this stand in more rows of panels."""

BINS = 180
"""Of the angle, over the whole turn."""
BASE, TALLEST = 1.06, 0.42
"""Where the bins stand, and how high the highest is, the circle's radius being 1."""

ELEVATION, AZIMUTH = 20.0, -60.0
"""Whence the upper sphere is seen, in degrees; the lower one is seen from the other side."""


def draw_features(panels: Mapping[str, Panel]) -> Figure:
    """Draw a column a panel: how the classes lie in the plane, or in space, and by angle alone.

    Of two numbers, the plane stands above: the features as points, a ray along each class's weight.
    Below it are the same features on the unit circle, how many at which angle around it, and the
    weights' directions. Of three, the unit features are on a sphere, seen from one side above and
    from the other below.

    Args:
        panels: features (n, D), labels (n,) and weights (N, D) by name; D is 2, or 3, in all.

    Raises:
        ValueError: there is no panel, or a D is another one.
    """
    sizes = {name: x.shape[1] for name, (x, _, _) in panels.items()}
    if set(sizes.values()) not in ({2}, {3}):
        found = ", ".join(f"{size} in {name!r}" for name, size in sizes.items()) or "no panel"
        raise ValueError(f"features of 2 numbers can be drawn, or of 3, in all panels: {found}")
    names = list(panels)
    rows_needed = -(-len(names) // MOST_COLUMNS)
    per_row = -(-len(names) // rows_needed)
    rows = [names[i : i + per_row] for i in range(0, len(names), per_row)]
    across = WIDTH / max(per_row, 2)
    figure = Figure(figsize=(WIDTH, len(rows) * (1.9 * across + 0.3)), layout="constrained")
    draw = _in_plane if set(sizes.values()) == {2} else _in_space
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=True):
        draw(part, {name: panels[name] for name in row}, per_row)
    return figure


def _in_plane(figure: SubFigure, panels: Mapping[str, Panel], columns: int) -> None:
    """Draw planes above circles; a column for which there is no panel stays empty."""
    above, below = figure.subplots(2, columns, squeeze=False)
    for ax in (*below, *above[len(panels) :]):
        ax.set_axis_off()
    for ax, circle, (name, (x, label, weight)) in zip(above, below, panels.items(), strict=False):
        ax.set_title(name)
        _plane(ax, x, label, weight)
        _circle(circle, x, label, weight)


def _plane(ax: Axes, x: FloatArray, label: NDArray[np.intp], weight: FloatArray) -> None:
    """Draw features, and along each weight a ray as long as they are, with its class's number."""
    longest = np.linalg.norm(x, axis=1).max()
    ends = np.empty_like(weight)
    for i, along in enumerate(_unit(weight)):
        own = x[label == i]
        reach = np.linalg.norm(own, axis=1).max(initial=0.3 * longest) + 0.03 * longest
        ax.plot(*own.T, ".", color=_colour(i), markersize=2, label=str(i))
        ax.plot(*np.outer(along, (0, reach)), color=BLACK, linewidth=0.6, zorder=3)
        ends[i] = (reach + 0.11 * longest) * along
        _number(ax, i, ends[i])
    corners = np.concatenate([x, ends])
    low, high = corners.min(axis=0), corners.max(axis=0)
    half = 0.55 * (high - low).max()
    (left, bottom), (right, top) = (low + high) / 2 - half, (low + high) / 2 + half
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.locator_params(nbins=4)
    ax.grid(visible=False)
    ax.tick_params(labelsize=8, length=2)


def _circle(ax: Axes, x: FloatArray, label: NDArray[np.intp], weight: FloatArray) -> None:
    """Draw unit features, a histogram of their angle outside of them, and the weights inside."""
    edges = np.linspace(-np.pi, np.pi, BINS + 1)
    angle = np.arctan2(x[:, 1], x[:, 0])
    counts = [np.histogram(angle[label == i], edges)[0] for i in range(len(weight))]
    highest = max(count.max() for count in counts)
    ax.plot(np.cos(edges), np.sin(edges), color=BLACK, linewidth=0.6)
    turn = np.repeat(edges, 2)[1:-1]
    turn = np.concatenate([turn, turn[::-1]])
    for i, (along, count) in enumerate(zip(_unit(weight), counts, strict=True)):
        top = BASE + TALLEST * np.repeat(count, 2) / highest
        radius = np.concatenate([top, np.full_like(top, BASE)])
        ax.fill(radius * np.cos(turn), radius * np.sin(turn), color=_colour(i), linewidth=0)
        ax.plot(*_unit(x[label == i]).T, ".", color=_colour(i), markersize=2.5, label=str(i))
        ax.plot(*np.outer(along, (0, 0.93)), color=_colour(i), linewidth=1.4)
        _number(ax, i, 0.72 * along)
    farthest = BASE + TALLEST
    ax.set(xlim=(-farthest, farthest), ylim=(-farthest, farthest), aspect="equal")


def _in_space(figure: SubFigure, panels: Mapping[str, Panel], columns: int) -> None:
    """Draw each sphere from one side, and below it from the other."""
    for column, (name, (x, label, weight)) in enumerate(panels.items(), start=1):
        for row, (elevation, azimuth) in enumerate(
            ((ELEVATION, AZIMUTH), (-ELEVATION, AZIMUTH + 180))
        ):
            ax = figure.add_subplot(2, columns, row * columns + column, projection="3d")
            ax.view_init(elevation, azimuth)
            ax.set_title("" if row else name)
            _sphere(ax, x, label, weight)


def _sphere(ax: Any, x: FloatArray, label: NDArray[np.intp], weight: FloatArray) -> None:
    """Draw the half of the unit features that is in sight, and the weights that are."""
    up, round_ = np.radians(ax.elev), np.radians(ax.azim)
    sight = np.array([np.cos(up) * np.cos(round_), np.cos(up) * np.sin(round_), np.sin(up)])
    polar, turn = np.mgrid[0 : np.pi : 13j, 0 : 2 * np.pi : 25j]
    globe = np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar)
    ax.plot_wireframe(*globe, color="#dcdcdc", linewidth=0.5)
    for i, along in enumerate(_unit(weight)):
        unit = _unit(x[label == i])
        style: Any = {"color": _colour(i), "label": str(i)}
        ax.plot(*unit[unit @ sight >= 0].T, ".", markersize=2.5, **style)
        if along @ sight >= 0:
            ax.plot(*np.outer(along, (1, 1.15)), color=BLACK, linewidth=1.0)
            _number(ax, i, 1.27 * along)
    ax.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    ax.set_proj_type("ortho")
    ax.set_box_aspect((1, 1, 1), zoom=1.2)
    ax.set_axis_off()


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _number(ax: Axes, i: int, at: FloatArray) -> None:
    text: Any = ax.text  # of a plane two coordinates, of space three
    box = {"facecolor": "white", "linewidth": 0, "pad": 0.8, "alpha": 0.8}
    text(*at, str(i), fontsize=9, ha="center", va="center", bbox=box, clip_on=True)


def _unit(rows: FloatArray) -> FloatArray:
    """Return rows of length 1; one of length 0 has no direction, and is not drawn."""
    with np.errstate(invalid="ignore"):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
