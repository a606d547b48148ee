"""Draw whose rule pulls how, docs/images/rules.png, which docs/gradients.md shows.

python tools/draw_rules.py
"""

from __future__ import annotations

import argparse

import numpy as np

from caffe_margin.report import figures
from caffe_margin.report.rules_figure import draw_rules
from caffe_margin.study import published
from generated import ROOT

LENGTHS = (10.0, 30.0)


def main() -> None:
    """Compute every head's pull, and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default=ROOT / "docs" / "images" / "rules.png")
    out = parser.parse_args().out
    # Half a step off 0, 180 and the angles where psi's pieces meet.
    theta = np.radians((np.arange(720) + 0.5) / 4)
    found = {
        head.name: {length: published.parts(head, theta, length) for length in LENGTHS}
        for head in published.HEADS
    }
    notes = (
        f"Per unit of top.diff; lambda 0, |w| = 1, m = {published.MARGIN} (SphereFace-R "
        f"{published.FRACTIONAL_MARGIN:g}, ArcFace {published.ADDITIVE_MARGIN:g} rad); "
        f"s = {published.SCALE:g} where features are normalised.",
        "On w: over |x|, or over s where features are normalised. Where psi is level, at 45, 90",
        "and 135 degrees, the radial part of the authors' C++ is -|x|, outside the picture.",
    )
    with figures.style():
        figure = draw_rules(theta, found, notes)
    figures.save(figure, out)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
