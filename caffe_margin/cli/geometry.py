"""``caffe-margin geometry``: the decision boundaries of two classes, and the bound on m."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffe_margin.cli.common import (
    Commands,
    add_command,
    add_json,
    png,
    positive,
    print_json,
    show_path,
)

if TYPE_CHECKING:
    from caffe_margin.maths.geometry import Claims

MAX_M = 64


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "geometry",
        run,
        summary="show how the margin grows with m, and how large m must be",
        description=(
            "Show the directions that each of two classes claims at each m, and the margin\n"
            "between them; and hold the paper's bounds on m against a search: from 2 + sqrt(3)\n"
            "on for two classes, from 3 on for more, no class is wider than the margin."
        ),
        example="caffe-margin geometry --m 1 2 3 4 --out geometry.png",
    )
    add_json(command)
    command.add_argument(
        "--m", metavar="M", type=positive, nargs="+", default=[1, 2, 3, 4], help="(default: 1 to 4)"
    )
    command.add_argument(
        "--angle",
        metavar="DEGREES",
        type=_angle,
        default=90.0,
        help="between the two classes' weights (default: 90)",
    )
    command.add_argument("--out", metavar="FILE.png", type=png, help="draw it, at most four m")


def _angle(text: str) -> float:
    if not 0 < (value := float(text)) <= 180:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and up to 180")
    return value


def run(options: argparse.Namespace) -> int:
    """Print the table, and draw the picture."""
    import numpy as np

    from caffe_margin.cli import tables
    from caffe_margin.maths import geometry

    if max(options.m) > MAX_M:
        raise ValueError(f"m is {max(options.m)}; at most {MAX_M} is shown")
    if options.out and len(options.m) > 4:
        raise ValueError(f"a picture has room for four m, not {len(options.m)}")
    centres = [0.0, math.radians(options.angle)]
    shown = [geometry.claims(m, centres) for m in options.m]
    angles = np.radians(np.arange(10.0, 181.0, 10.0))
    of_two = [(a, geometry.m_min([0.0, a])) for a in angles.tolist()]
    of_more = [(n, geometry.m_min(geometry.evenly(n))) for n in range(3, 9)]
    if options.out:
        _draw(options.out, centres, shown, of_two, of_more)
    if options.json:
        print_json(
            {
                "angle": centres[1],
                "claims": [
                    {
                        "m": c.m,
                        "inner_boundary": c.reach[0][1],
                        "outer_boundary": c.reach[0][0],
                        "width": c.within,
                        "margin": c.between,
                        "is_enough": c.is_enough,
                    }
                    for c in shown
                ],
                "m_min_of_two": [
                    {"angle": a, "searched": found, "formula": geometry.m_min_of_two(a)}
                    for a, found in of_two
                ],
                "m_min_of_more": [{"classes": n, "searched": found} for n, found in of_more],
            }
        )
        return 0
    print(f"two classes, their weights {options.angle:g} degrees apart; angles in degrees\n")
    tables.console().print(tables.geometry_table(shown))
    worst_two = max(found for _, found in of_two)
    worst_more = max(found for _, found in of_more)
    print(
        f"\nno class is wider than the margin from this m on, by search and by proof:\n"
        f"two classes, 10 to 180 degrees apart  {worst_two:.9f}  {geometry.TWO_CLASSES:.9f}"
        f" = 2 + sqrt(3)\n"
        f"3 to 8 classes, spread evenly         {worst_more:.9f}  {geometry.MORE_CLASSES:.9f}"
    )
    if options.out:
        print(f"\nthe picture is in\n{show_path(options.out)}")
    return 0


def _draw(
    path: str,
    centres: Sequence[float],
    shown: Sequence[Claims],
    of_two: Sequence[tuple[float, float]],
    of_more: Sequence[tuple[int, float]],
) -> None:
    import numpy as np

    from caffe_margin.maths import geometry
    from caffe_margin.report import figures
    from caffe_margin.report.geometry_figure import draw_geometry

    over_m = [geometry.claims(m, centres) for m in np.linspace(1, 8, 141).tolist()]
    formula = [(a, geometry.m_min_of_two(a)) for a in np.linspace(0.1, np.pi, 500).tolist()]
    with figures.style():
        figure = draw_geometry(shown, over_m, of_two, of_more, formula)
    figures.save(figure, path)
