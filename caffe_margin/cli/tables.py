"""What people look at: tables. Computes nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from caffe_margin.cli.common import show_path
from caffe_margin.files.visible import LIMIT, visible
from caffe_margin.maths.geometry import Claims, Sectors, TwoClaims, disagreements
from caffe_margin.nets.shapes import LayerShapes, Shape
from caffe_margin.recordings.check import Check, Verification
from caffe_margin.solver.schedule import Step
from caffe_margin.study.compare import Comparison, Difference

if TYPE_CHECKING:
    from caffe_margin.study.heads import Heads, Spread
    from caffe_margin.study.pairs import Curve, Evaluation
    from caffe_margin.torch.agreement import Agreement

PIPE_WIDTH = 1000
"""Columns where the output is no terminal: nothing is folded there."""


def console() -> Console:
    """Return a console on standard output; in a pipe the lines are not folded."""
    out = Console(highlight=False, emoji=False)
    if not out.is_terminal:
        out.width = PIPE_WIDTH
    return out


def inspect_table(layers: Sequence[LayerShapes]) -> Table:
    """Return a row a layer: name, type, the shape of each top, parameters."""
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "type", "top"):
        table.add_column(title, overflow="fold")
    table.add_column("params", justify="right")
    for layer in layers:
        tops = "  ".join(f"{plain(top)} {show_shape(shape)}" for top, shape in layer.tops.items())
        if layer.problem:
            tops = f"{tops}\n[red]{plain(layer.problem, 4 * LIMIT)}[/red]"
        table.add_row(plain(layer.name), plain(layer.type), tops, show_count(layer.param_count))
    return table


def plain(text: str, limit: int = LIMIT) -> str:
    """Return a stranger's text as `visible` shows it, and without markup."""
    return escape(visible(text, limit))


def show_shape(shape: Shape | None) -> str:
    """Return a shape as ``256x512x7x6``, with ``?`` for what only the run knows."""
    if shape is None:
        return "?"
    return "x".join("?" if dim is None else str(dim) for dim in shape) or "scalar"


def show_count(count: int | None) -> str:
    """Return a number with thousands separated, ``?`` where it is unknown."""
    return "?" if count is None else f"{count:,}"


def agreement_table(checked: Sequence[Agreement]) -> Table:
    """Return a row a blob: by how much each engine is off, over the blob's largest magnitude."""
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "type", "blob"):
        table.add_column(title, overflow="fold")
    table.add_column("largest", justify="right")
    engines = list(dict.fromkeys(engine for row in checked for engine in row.differences))
    for engine in engines:
        table.add_column(engine, justify="right")
    table.add_column("")
    is_first = True
    for row in checked:
        mark = "" if row.ok else "[red]OFF, the first[/red]" if is_first else "[red]OFF[/red]"
        is_first = is_first and row.ok
        differences = [
            f"{row.differences[engine]:.1e}" if engine in row.differences else ""
            for engine in engines
        ]
        names = (plain(name) for name in (row.layer, row.type, row.blob))
        table.add_row(*names, f"{row.largest:.4g}", *differences, mark)
    return table


def pairs_table(evaluations: Sequence[Evaluation], curves: Mapping[str, Curve]) -> Table:
    """Return a row a protocol: accuracy, and what its scores give without folds."""
    from caffe_margin.study.pairs import FARS

    table = Table(box=None, pad_edge=False)
    table.add_column("protocol")
    titles = [f"{'TAR at FAR' if far == FARS[0] else ''}\n{far:g}" for far in FARS]
    for title in ("accuracy", "spread", "AUC", "EER", *titles):
        table.add_column(title, justify="right")
    for made in evaluations:
        curve = curves[made.protocol]
        shares = (made.mean_accuracy, made.std_accuracy)
        table.add_row(
            made.protocol,
            *(f"{100 * share:.3f} %" for share in shares),
            f"{curve.auc:.6f}",
            f"{100 * curve.eer:.3f} %",
            *(f"{100 * curve.tar_at(far):.3f} %" for far in FARS),
        )
    return table


def folds_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return a row a fold: each protocol's threshold, and the accuracy at it."""
    table = Table(box=None, pad_edge=False)
    table.add_column("fold", justify="right")
    for made in evaluations:
        table.add_column(made.protocol, justify="right")
        table.add_column("", justify="right")
    for i in range(max(len(made.threshold) for made in evaluations)):
        cells = []
        for made in evaluations:
            there = i < len(made.threshold)
            cells += [
                f"{made.threshold[i]:.4f}" if there else "",
                f"{100 * made.accuracy[i]:.3f} %" if there else "",
            ]
        table.add_row(str(i + 1), *cells)
    return table


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
        alone = len(measure.rule.departures) == 1
        name = f"  only {name}" if alone else f"[bold]{name}[/bold]"
        table.add_row(name, *cells(measure.bottom_diff), *cells(measure.weight_diff))
    return table


def heads_table(heads: Heads) -> Table:
    """Return a row a head: how its training ended, and what classes never seen say of it."""
    table = Table(box=None, pad_edge=False)
    table.add_column("head")
    titles = ["loss", "accuracy", "|x|", "own angle"]
    titles += ["EER", "TAR at FAR 0.001"] if heads.verified else []
    for title in titles:
        table.add_column(title, justify="right")

    def cell(spread: Spread, shown: str, scale: float = 1, unit: str = "") -> str:
        if not spread.runs:
            return "-"
        values = [spread.mean, spread.sd] if spread.sd else [spread.mean]
        some = "" if spread.runs == len(heads.seeds) else f" ({spread.runs})"
        return " ± ".join(format(scale * value, shown) for value in values) + unit + some

    for name, found in heads.spreads().items():
        cells = [
            cell(found["loss"], ".3f"),
            cell(found["accuracy"], ".3f"),
            cell(found["length"], ".2f"),
            cell(found["own_angle"], ".1f", 180 / math.pi, "°"),
        ]
        if heads.verified:
            cells += [cell(found["eer"], ".2f", 100, " %"), cell(found["tar_0.001"], ".3f")]
        table.add_row(plain(name), *cells)
    return table


def verify_lines(verifications: Mapping[str, Verification], verbose: bool) -> Iterator[str]:
    """Yield a line a recording, and with ``verbose`` a line a blob; then what is out of tolerance.

    With ``verbose`` the types of a net's layers that were not replayed are named too, and what is
    wrong in Caffe.

    These are lines and no table: a path is never folded, so that a program may read them.
    """

    def cells(check: Check) -> tuple[str, ...]:
        return (
            check.dtype,
            f"{check.absolute:.2e}",
            f"{check.relative:.2e}",
            f"{check.ulps:.1f}" if check.ulps < 1e5 else f"{check.ulps:.0e}",
            "ok" if check.ok else "DIFFERS",
        )

    rows: list[tuple[str, ...]] = [
        ("recording", "kind", "farthest off", "dtype", "absolute", "relative", "ulps", "verdict")
    ]
    for path, verification in verifications.items():
        worst = verification.worst
        rows.append((show_path(path), verification.kind, visible(worst.blob), *cells(worst)))
        if verbose:
            for check in verification.checks:
                blob = f"  {visible(check.blob)}"
                rows.append((blob, check.engine, str(check.index), *cells(check)))
    if len(rows) > 1:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            aligned = [
                cell.rjust(width) if 4 <= i <= 6 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            yield "  ".join(aligned).rstrip()
    for path, verification in verifications.items():
        if verbose and verification.not_replayed:
            counts = Counter(map(visible, verification.not_replayed)).items()
            types = ", ".join(f"{n} {type_}" for type_, n in counts)
            yield f"{show_path(path)}: not replayed: {types}"
        if verbose and verification.wrong_in_caffe:
            blobs = ", ".join(map(visible, verification.wrong_in_caffe))
            yield f"{show_path(path)}: wrong in Caffe, and not held against it: {blobs}"
        if not verification.ok:
            yield _difference(path, verification)
    failed = sum(not verification.ok for verification in verifications.values())
    wrong = sum(bool(verification.wrong_in_caffe) for verification in verifications.values())
    yield f"{len(verifications)} replayed, {failed} out of tolerance" + (
        f"; {wrong} with diffs that are wrong in Caffe (-v names them)" if wrong else ""
    )


def _difference(path: str, verification: Verification) -> str:
    """Return a line on the blob that is farthest from its recording."""
    worst = verification.worst
    others = sum(not check.ok for check in verification.checks) - 1
    engine = f" ({worst.engine})" if worst.engine else ""
    digits = ".17g" if worst.dtype == "float64" else ".9g"  # those that tell two values apart
    return (
        f"{show_path(path)}: {visible(worst.blob)}{engine} differs at {worst.index}: "
        f"{worst.computed:{digits}}, recorded {worst.recorded:{digits}}; off by "
        f"{worst.relative:.2e} of the blob's largest, tolerance {worst.rtol:g}"
        + (f"; {others} more" if others else "")
    )


def schedule_table(steps: Sequence[Step]) -> Table:
    """Return a row a Forward: lambda, and the share of the margin that is in force."""
    table = Table(box=None, pad_edge=False)
    for title in ("iteration", "lambda", "margin in force"):
        table.add_column(title, justify="right")
    table.add_column("")
    for step in steps:
        share = f"{100 * step.share:.3g} %"
        table.add_row(str(step.iteration), f"{step.lambda_:.6g}", share, step.note)
    return table


def geometry_table(shown: Sequence[Claims]) -> Table:
    """Return a row an m: where the decision boundaries lie, and the margin between them."""
    table = Table(box=None, pad_edge=False)
    for title in (
        "m",
        "boundary,\ninner side",
        "\nouter side",
        "width of\na class",
        "margin\nbetween",
        "no class wider\nthan the margin",
    ):
        table.add_column(title, justify="right")
    for found in shown:
        outer, inner = (math.degrees(reach) for reach in found.reach[0])
        width, margin = math.degrees(found.within), math.degrees(found.between)
        table.add_row(
            f"{found.m:g}",
            *(f"{angle:.3f}" for angle in (inner, outer, width, margin)),
            "yes" if found.is_enough else "no",
        )
    return table


def lengths_table(beside: Sequence[tuple[TwoClaims, TwoClaims]]) -> Table:
    """Return two rows an m: what A-Softmax and L-Softmax give to each class, and the margins."""
    table = Table(box=None, pad_edge=False)
    for title in (
        "m",
        "class",
        "A-Softmax:\nclaimed",
        "\nmargin",
        "L-Softmax:\nclaimed",
        "\nmargin",
    ):
        table.add_column(title, justify="right")
    table.add_column("they disagree\non, of 360", justify="right")
    for a_softmax, l_softmax in beside:
        apart = sum(end - begin for begin, end, _, _ in disagreements(a_softmax, l_softmax))
        margins = [
            "none" if c.between is None else f"{math.degrees(c.between):.3f}"
            for c in (a_softmax, l_softmax)
        ]
        first = [_sectors(c.sectors[0]) for c in (a_softmax, l_softmax)]
        second = [_sectors(c.sectors[1]) for c in (a_softmax, l_softmax)]
        table.add_row(
            f"{a_softmax.m}",
            *("1", first[0], margins[0], first[1], margins[1]),
            f"{math.degrees(apart):.3f}",
        )
        table.add_row("", "2", second[0], "", second[1], "", "")
    return table


def _sectors(of_class: Sectors) -> str:
    """Return sectors in degrees; ``nothing`` for none."""
    shown = (f"{math.degrees(a):.3f} to {math.degrees(b):.3f}" for a, b in of_class)
    return "\n".join(shown) or "nothing"
