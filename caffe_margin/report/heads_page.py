"""The page of ``compare --solver``: whole nets under several heads; computes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_margin.report.page import write
from caffe_margin.study.heads import Heads
from caffe_margin.study.outcome import MEASURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_heads_page(
    folder: Path,
    heads: Heads,
    facts: Mapping[str, str],
    command: str,
    figures: Iterable[tuple[str, Figure]],
) -> None:
    """Write ``index.html``, the pictures in it and ``report.json`` into an empty folder.

    Args:
        folder: where to.
        heads: what to show.
        facts: ``net``, ``solver``, ``unseen`` and ``device``, in words.
        command: the command line that made it.
        figures: of the heads, by name.

    Raises:
        OSError: a file cannot be written.
    """
    context = {
        "heads": heads,
        "spreads": heads.spreads(),
        "differences": heads.differences() if heads.verified else [],
        "best": heads.at_best_rate(),
        "MEASURES": MEASURES,
    }
    write("heads.html.jinja", folder, context, heads.as_dict(), facts, command, figures)
