"""``caffe-margin geometry``: the decision boundaries of two classes, and the bound on m."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffe_margin.cli.common import (
    Commands,
    add_command,
    add_json,
    number,
    png,
    positive,
    positive_number,
    print_json,
    show_path,
)

if TYPE_CHECKING:
    from caffe_margin.maths.geometry import Claims, TwoClaims

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
            "on for two classes, from 3 on for more, no class is wider than the margin.\n"
            "With --lengths, show beside it what L-Softmax makes of weights of these lengths,\n"
            "and where the two disagree."
        ),
        example="caffe-margin geometry --lengths 1 2 --out geometry.png",
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
    command.add_argument(
        "--lengths",
        metavar="LENGTH",
        type=positive_number,
        nargs=2,
        help="of the two weights, for L-Softmax; A-Softmax has no regard to them",
    )
    command.add_argument(
        "-o", "--out", metavar="FILE.png", type=png, help="draw it, at most four m"
    )


def _angle(text: str) -> float:
    if not 0 < (value := number(text)) <= 180:
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
    beside = _of_lengths(options.m, centres[1], options.lengths) if options.lengths else []
    if options.out:
        _draw(options.out, centres, shown, of_two, of_more, [found for _, found in beside])
    if options.json:
        answer = _answer(centres[1], shown, of_two, of_more)
        if beside:
            answer["lengths"] = list(options.lengths)
            answer["claims_of_lengths"] = [_as_dict(*pair) for pair in beside]
        print_json(answer)
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
    if beside:
        print(
            "\nL-Softmax, |w1| = {:g} and |w2| = {:g}; from w1 toward w2\n".format(*options.lengths)
        )
        tables.console().print(tables.lengths_table(beside))
        print("\n|x| cancels: a feature's length moves no boundary of either")
    if options.out:
        print(f"\nthe picture is in\n{show_path(options.out)}")
    return 0


def _answer(
    theta_12: float,
    shown: Sequence[Claims],
    of_two: Sequence[tuple[float, float]],
    of_more: Sequence[tuple[int, float]],
) -> dict[str, Any]:
    from caffe_margin.maths.geometry import m_min_of_two

    return {
        "angle": theta_12,
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
            {"angle": a, "searched": found, "formula": m_min_of_two(a)} for a, found in of_two
        ],
        "m_min_of_more": [{"classes": n, "searched": found} for n, found in of_more],
    }


def _of_lengths(
    margins: Sequence[int], theta_12: float, lengths: Sequence[float]
) -> list[tuple[TwoClaims, TwoClaims]]:
    """Return what A-Softmax and L-Softmax give to the two classes, a pair an m."""
    from caffe_margin.maths.geometry import two_claims

    a, b = lengths
    return [(two_claims(m, theta_12, (1, 1)), two_claims(m, theta_12, (a, b))) for m in margins]


def _as_dict(a_softmax: TwoClaims, l_softmax: TwoClaims) -> dict[str, Any]:
    from caffe_margin.maths.geometry import boundaries, disagreements

    theta_12, (own, other) = l_softmax.centres[1], l_softmax.lengths
    return {
        "m": l_softmax.m,
        "a_softmax": a_softmax.sectors,
        "l_softmax": l_softmax.sectors,
        "l_softmax_formula_of_first": boundaries(l_softmax.m, theta_12, own, other),
        "a_softmax_margin": a_softmax.between,
        "l_softmax_margin": l_softmax.between,
        "disagreements": [
            {"from": begin, "to": end, "a_softmax": of_a, "l_softmax": of_l}
            for begin, end, of_a, of_l in disagreements(a_softmax, l_softmax)
        ],
    }


def _draw(
    path: str,
    centres: Sequence[float],
    shown: Sequence[Claims],
    of_two: Sequence[tuple[float, float]],
    of_more: Sequence[tuple[int, float]],
    of_lengths: Sequence[TwoClaims],
) -> None:
    import numpy as np

    from caffe_margin.maths import geometry
    from caffe_margin.report import figures
    from caffe_margin.report.geometry_figure import draw_geometry

    over_m = [geometry.claims(m, centres) for m in np.linspace(1, 8, 141).tolist()]
    formula = [(a, geometry.m_min_of_two(a)) for a in np.linspace(0.1, np.pi, 500).tolist()]
    with figures.style():
        figure = draw_geometry(shown, over_m, of_two, of_more, formula, of_lengths)
    figures.save(figure, path)
