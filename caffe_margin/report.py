"""What people look at: tables. Computes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from caffe_margin.compare import Comparison, Difference
from caffe_margin.shapes import LayerShapes, Shape

PIPE_WIDTH = 100
"""Columns where the output is no terminal."""


def console() -> Console:
    """Return a console on standard output; in a pipe the lines are not folded to 80 columns."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def inspect_table(layers: Sequence[LayerShapes]) -> Table:
    """Return a row a layer: name, type, the shape of each top, parameters."""
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "type", "top"):
        table.add_column(title, overflow="fold")
    table.add_column("params", justify="right")
    for layer in layers:
        tops = "  ".join(f"{escape(top)} {show_shape(shape)}" for top, shape in layer.tops.items())
        if layer.problem:
            tops = f"{tops}\n[red]{escape(layer.problem)}[/red]"
        table.add_row(escape(layer.name), escape(layer.type), tops, show_count(layer.param_count))
    return table


def show_shape(shape: Shape | None) -> str:
    """Return a shape as ``256x512x7x6``, with ``?`` for what only the run knows."""
    if shape is None:
        return "?"
    return "x".join("?" if dim is None else str(dim) for dim in shape) or "scalar"


def show_count(count: int | None) -> str:
    """Return a number with thousands separated, ``?`` where it is unknown."""
    return "?" if count is None else f"{count:,}"


def compare_table(comparison: Comparison) -> Table:
    """Return a row a rule: both gradients against the exact one."""
    table = Table(box=None, pad_edge=False)
    table.add_column("gradient rule")
    for blob in ("bottom.diff", "weight.diff"):
        for title in (f"{blob}\nnorm", "\n/ exact", "\ncosine"):
            table.add_column(title, justify="right")

    def cells(difference: Difference) -> list[str]:
        return [
            f"{difference.norm:.4g}",
            f"{difference.ratio:.4f}",
            f"{difference.cosine:.6f}",
        ]

    for measure in comparison.measures:
        name = measure.rule.name
        alone = sum(measure.rule.departures.values()) == 1
        name = f"  only {name}" if alone else f"[bold]{name}[/bold]"
        table.add_row(name, *cells(measure.bottom_diff), *cells(measure.weight_diff))
    return table
