"""The picture of whose rule pulls how; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from caffe_margin.maths.arrays import FloatArray
from caffe_margin.report.figures import BLACK, BLUE, VERMILION, WIDTH
from caffe_margin.study.published import Parts

COLUMNS = (
    ("tangential_x", "on x, tangential"),
    ("radial_x", "on x, radial"),
    ("tangential_w", "on w, tangential"),
    ("radial_w", "on w, radial"),
)

LENGTH_LINES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-"},
    {"color": VERMILION, "linestyle": (0, (4, 1.5))},
)
"""How each length of x is drawn."""


RADIAL = (-8.0, 2.0)
"""The range of radial parts that is drawn: psi_4 falls to -7."""


def draw_rules(
    theta: FloatArray,
    found: Mapping[str, Mapping[float, Parts]],
    notes: Sequence[str],
) -> Figure:
    """Draw a row a head: the pull on x and on w, tangential and radial.

    Args:
        theta: the angles, in radians.
        found: by the head's name, and by the length of x, at most two.
        notes: lines to stand below.
    """
    figure = Figure(figsize=(WIDTH, 1.2 * len(found) + 1.4))
    figure.set_layout_engine("constrained", hspace=0.16)
    rows = figure.subplots(len(found), len(COLUMNS), sharex=True, sharey="col", squeeze=False)
    degrees = np.degrees(theta)
    for row, (name, of_head) in zip(rows, found.items(), strict=True):
        for ax, (part, _) in zip(row, COLUMNS, strict=True):
            for (x_norm, parts), line in zip(of_head.items(), LENGTH_LINES, strict=True):
                label = f"|x| = {x_norm:g}"
                ax.plot(degrees, getattr(parts, part), label=label, linewidth=1.8, **line)
            ax.axhline(0, color=BLACK, linewidth=0.8, zorder=1)
            ax.tick_params(labelsize=9, length=2)
        # A row's name may reach over its other panels, and no panel makes way for it.
        row[0].text(0, 1.05, name, transform=row[0].transAxes, weight="bold").set_in_layout(False)
    for ax, (part, title) in zip(rows[0], COLUMNS, strict=True):
        ax.set_title(title, pad=21)
        ax.yaxis.set_major_locator(MultipleLocator(2 if "tangential" in part else 4))
        if "radial" in part:
            ax.set_ylim(RADIAL)
    for ax in rows[-1]:
        ax.set_xlim(0, 180)
        ax.set_xticks([0, 90, 180])
        ax.set_xlabel("θ (degrees)", fontsize=9)
    handles = rows[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=2)
    figure.supxlabel("\n".join(notes), fontsize=9, x=0.01, ha="left")
    return figure
