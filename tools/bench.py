"""Measure the layers against the bare matrix products of their shapes, plain numpy and peers.

    python tools/bench.py --quick                            # the real size: under a minute
    python tools/bench.py --json grid.json --plot grid.png   # the whole grid: an hour or so
    python tools/bench.py --million                          # a million classes

Task "layer" is MarginInnerProduct's forward and backward; its bare products are X W^T, and g W and
g^T X. Task "loss" is that with the softmax loss above it, which gives a loss and both gradients;
its bare products are those three and X W^T once more, as margin_softmax_loss makes it twice where
M x N is too much to keep.

How it measures:
- The contestants of a cell are in one process, on the same arrays, and have run once before the
  clock starts. In each repetition each runs once, in an order drawn anew, so that what else the
  machine does falls on all of them. A contestant has 3 repetitions, and more up to 50 until it
  has had --seconds; the bare products run in all. Between numpy and torch there is a pause, for
  the threads of each spin for a while after their work and would take a core from the other.
- A time is the median over the repetitions. A ratio is the median of the repetitions' ratios, each
  to the bare products in the same repetition; it is not the ratio of the two medians.
- Layers are called as users call them, checks of the input included. The bare products go where
  ours go: into new arrays, but a layer's weight gradient into one that stands. The layers add to
  that, as Caffe does; the bare products overwrite it.
- "extra" is tracemalloc's peak over one more forward and backward, not timed, of a new contestant
  whose inputs and weight stand already, less the size of its outputs: the top (or the loss) and
  both gradients. In MB, and in units of M K + N K elements. What torch allocates is not seen.
- "differs" is the largest difference from our own outputs (those of the row after the bare
  products), each relative to its array's largest value: the contestants do compute the same, but
  for L-Softmax's layer, LargeMarginInnerProduct, which has another forward pass and no difference.
- A dash is not measured: a contestant with more than 4 GB in M x N arrays, or line_by_line, which
  walks through M N K numbers, where they are more than 4e9. Peers differentiate their forward
  pass, so they have the exact rule alone; they have no lambda, so lambda is 0 throughout.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import multiprocessing
import os
import platform
import random
import resource
import sys
import tracemalloc
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
from rich.table import Table

import caffe_margin as cm
from bench_contestants import (
    BARE,
    RULES,
    TASKS,
    TYPES,
    Cell,
    Contestant,
    FloatArray,
    Outputs,
    Torch,
    draw,
)
from caffe_margin.cli.common import progress
from caffe_margin.cli.tables import console

PASSES = ("forward", "backward", "both")
REAL_SIZE = (256, 10572, 512)  # M, N, K of SphereFace on CASIA-WebFace
MILLION = (256, 1_000_000, 512)
QUICK_SCAN = (1_000, 100_000)
OURS = {BARE, "fused", "L-Softmax, fused", "margin_softmax_loss", "two layers"}
LEAST_REPETITIONS, MOST_REPETITIONS = 3, 50
POOL_IDLE = 0.06  # seconds until idle threads sleep: 6 ms in OpenMP, 50 ms in OpenBLAS
MOST_BYTES = 4e9
MOST_STEPS = 4e9
LOOKS = (
    ("grey", "."),
    ("#0072B2", "o"),
    ("#56B4E9", "v"),
    ("#E69F00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
)
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass
class Row:
    """What was measured of a contestant in a cell; None where it was not."""

    cell: Cell
    contestant: str
    repetitions: int = 0
    seconds: dict[str, float] | None = None
    ratio: dict[str, float] | None = None
    extra_bytes: int | None = None
    differs: float | None = None


def fits(contestant: type[Contestant], cell: Cell) -> bool:
    """Return whether a contestant has the time and the memory for a cell."""
    size = contestant.arrays * cell.M * cell.N * np.dtype(cell.dtype).itemsize
    steps = cell.M * cell.N * cell.K if contestant.scalar else 0
    return size <= MOST_BYTES and steps <= MOST_STEPS


def measure(cell: Cell, seconds: float, names: Container[str] | None = None) -> list[Row]:
    """Return a row for each contestant, or those named, if installed and with the cell's rule."""
    entrants = {
        name: contestant
        for name, contestant in TASKS[cell.task].items()
        if (names is None or name in names)
        and cell.rule in contestant.rules
        and importlib.util.find_spec(contestant.needs)
    }
    rows = {name: Row(cell, name) for name in entrants}
    inputs = draw(cell.M, cell.N, cell.K, cell.dtype)
    running = {name: c(cell, inputs) for name, c in entrants.items() if fits(c, cell)}

    ours: Outputs | None = None
    for name, contestant in running.items():
        contestant.forward()
        outputs = contestant.backward()
        if name == BARE or not contestant.peer:
            continue
        if ours:
            rows[name].differs = difference(outputs, ours)
        else:
            ours = outputs
    ours = None

    times = race(running, seconds)
    for name in running:
        rows[name].repetitions = len(times[name])
        rows[name].seconds = by_pass(cell, np.median(times[name], axis=0))
        bare = times[BARE][: len(times[name])]
        rows[name].ratio = by_pass(cell, np.median(times[name] / bare, axis=0))

    for name in list(running):
        # Gone before the next is made, so that no more are in memory than were.
        del running[name]
        if not issubclass(entrants[name], Torch):
            rows[name].extra_bytes = extra_bytes(entrants[name](cell, inputs))
    return list(rows.values())


def race(running: Mapping[str, Contestant], seconds: float) -> dict[str, FloatArray]:
    """Return each contestant's seconds in forward, backward and both, (repetitions, 3)."""
    times: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    spent = dict.fromkeys(running, 0.0)
    order, of_torch = random.Random(0), False

    def stays(name: str) -> bool:
        done = len(times[name])
        enough = spent[name] >= seconds or done >= MOST_REPETITIONS
        return name != BARE and (done < LEAST_REPETITIONS or not enough)

    while staying := list(filter(stays, running)):
        for name in order.sample([BARE, *staying], len(staying) + 1):
            contestant = running[name]
            if isinstance(contestant, Torch) != of_torch:
                of_torch = not of_torch
                sleep(POOL_IDLE)
            start = perf_counter()
            contestant.forward()
            between = perf_counter()
            contestant.backward()
            end = perf_counter()
            times[name].append((between - start, end - between, end - start))
            spent[name] += end - start
    return {name: np.array(its_times) for name, its_times in times.items()}


def by_pass(cell: Cell, values: FloatArray) -> dict[str, float]:
    """Name the passes; a loss has one number, as margin_softmax_loss has no passes."""
    named = dict(zip(PASSES, values.tolist(), strict=True))
    return named if cell.task == "layer" else {"both": named["both"]}


def difference(got: Outputs, expected: Outputs) -> float:
    """Return the largest difference, each array's relative to its largest value."""
    return max(
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, expected, strict=True)
    )


def extra_bytes(contestant: Contestant) -> int:
    """Return what a first forward and backward take at their peak, less their outputs."""
    tracemalloc.start()
    try:
        contestant.forward()
        outputs = contestant.backward()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - sum(output.nbytes for output in outputs)


def million(M: int, N: int, K: int, rule: str) -> dict[str, Any]:
    """Call margin_softmax_loss once, cold; return its seconds and the process's peak memory."""
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape, np.float32) for shape in ((M, K), (N, K)))
    label = rng.integers(N, size=M)
    start = perf_counter()
    cm.margin_softmax_loss(x, label, weight, gradient=rule)
    seconds = perf_counter() - start
    peak = _peak_rss()
    return {"M": M, "N": N, "K": K, "rule": rule, "seconds": seconds, "peak_rss_bytes": peak}


def _peak_rss() -> int:
    """Return the largest size of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's ru_maxrss starts at the size of the process that started this one; VmHWM does not.
        lines = status.read_text().splitlines()
        if peaks := [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]:
            return peaks[0] * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_new_process(size: tuple[int, int, int], rule: str) -> dict[str, Any]:
    """Run `million` in a process of its own, so that the peak is its own too."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(million, *size, rule).result()


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    cpu, cpuinfo = platform.processor(), Path("/proc/cpuinfo")
    if cpuinfo.exists():
        pairs = (line.partition(":")[::2] for line in cpuinfo.read_text().splitlines())
        cpu = next((value.strip() for key, value in pairs if key.strip() == "model name"), cpu)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = (os.environ.get(name, "") for name in THREAD_VARIABLES)
    config: Any = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"]
    return {
        "cpu": cpu,
        "cores": cores,
        "threads": next((int(n) for n in asked if n.isdigit()), cores),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
    }


def title(cell: Cell) -> str:
    """Return a cell in words."""
    size = f"M {cell.M:,}, N {cell.N:,}, K {cell.K:,}"
    return f"{cell.task}, {cell.rule} rule, {cell.type}, {cell.dtype}, {size}"


def table(cell: Cell, rows: Sequence[Row]) -> Table:
    """Return a cell's table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", min_width=23)
    passes = PASSES if cell.task == "layer" else PASSES[-1:]
    heads = [head for name in passes for head in (f"{name}\nms", "\nratio")]
    for head in (*heads, "extra\nMB", "per\nMK+NK", "\ndiffers", "\nruns"):
        table.add_column(head, justify="right", no_wrap=True)
    unit = (cell.M + cell.N) * cell.K * np.dtype(cell.dtype).itemsize

    def show(value: float | None, scale: float = 1) -> str:
        return "-" if value is None else f"{value / scale:.{2 if value < 100 * scale else 0}f}"

    for row in rows:
        seconds, ratio = row.seconds or {}, row.ratio or {}
        cells = []
        for name in passes:
            cells += [show(seconds.get(name), 1e-3), show(ratio.get(name))]
        cells += [show(row.extra_bytes, 1e6), show(row.extra_bytes, unit)]
        differs = "-" if row.differs is None else f"{row.differs:.0e}"
        table.add_row(row.contestant, *cells, differs, str(row.repetitions or "-"))
    return table


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw forward + backward against N: ratios by task and rule, and time per N of our own."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    ratios = [row.ratio["both"] for row in rows if row.ratio]
    limits = (0.9 * min(ratios), 1.1 * max(ratios))
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained", sharex=True)
    for (task, contestants), panels in zip(TASKS.items(), axes, strict=True):
        for column, panel in zip((*RULES, "growth"), panels, strict=True):
            growth = column == "growth"
            for (name, look), rule in itertools.product(
                zip(contestants, LOOKS, strict=False), RULES if growth else (column,)
            ):
                points: defaultdict[int, list[float]] = defaultdict(list)
                for row in rows:
                    cell = row.cell
                    if (cell.task, row.contestant, cell.rule) != (task, name, rule):
                        continue
                    if growth and name in OURS and row.seconds:
                        points[cell.N].append(row.seconds["both"] / (cell.M * cell.N * cell.K))
                    elif not growth and row.ratio:
                        points[cell.N].append(row.ratio["both"])
                if points:
                    colour, marker = look
                    dots = [(N, y) for N in points for y in points[N]]
                    panel.plot(*zip(*dots, strict=True), marker, ms=4, color=colour, alpha=0.4)
                    medians = [(N, np.median(points[N])) for N in sorted(points)]
                    dash = "--" if growth and rule == RULES[1] else "-"
                    label = f"{name}, {rule}" if growth else name
                    line = {"color": colour, "linestyle": dash, "marker": marker, "label": label}
                    panel.plot(*zip(*medians, strict=True), **line)
            panel.set(xscale="log", xlabel="classes, N")
            if growth:
                panel.set(title=f"{task}, growth", ylabel="seconds / (M N K)", ylim=0)
            else:
                panel.set(title=f"{task}, {column} rule", ylabel="time / bare products")
                panel.set(yscale="log", ylim=limits)
                panel.set_yticks(ticks := [1, 2, 5, 10, 20, 50], map(str, ticks))
                panel.yaxis.set_minor_formatter(NullFormatter())
                panel.set_ylim(limits)
            panel.grid(alpha=0.3)
            if panel.lines:
                place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}
                panel.legend(fontsize="small", ncols=3, frameon=False, **place)
    figure.suptitle("forward + backward: a point is a cell, a line their median at each N")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def number(text: str) -> int:
    """Parse a whole number above 0; 1e5 will do."""
    value = float(text)
    if not (value.is_integer() and value >= 1):
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return int(value)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line described at the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="the real size, and a scan over N")
    which.add_argument(
        "--million", action="store_true", help="margin_softmax_loss at a million classes"
    )
    for name, default in {
        "M": [64, 256, 1024],
        "N": [1000, 10000, 100000],
        "K": [128, 512],
    }.items():
        parser.add_argument(f"--{name}", type=number, nargs="+", default=default, metavar=name)
    for name, choices in {
        "dtype": ("float32", "float64"),
        "type": TYPES,
        "rule": RULES,
        "task": tuple(TASKS),
    }.items():
        parser.add_argument(f"--{name}", nargs="+", choices=choices, default=choices)
    parser.add_argument(
        "--seconds", type=float, default=0.4, help="for a contestant in a cell (%(default)s)"
    )
    parser.add_argument("--threads", type=number, help="of BLAS; starts Python again")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them, as PNG say")
    options = parser.parse_args(arguments)
    for path in filter(None, (options.json, options.plot)):
        if not path.parent.is_dir():
            parser.error(f"there is no folder {path.parent} to write {path.name} in")
    return options


def grid(options: argparse.Namespace) -> list[Cell]:
    """Return the cells to measure; those that share their inputs are neighbours."""
    if options.quick:
        M, real, K = REAL_SIZE
        return [
            Cell(task, M, N, K, "float32", "QUADRUPLE", rule)
            for N, rules in ((real, RULES), *((N, RULES[:1]) for N in QUICK_SCAN))
            for task in TASKS
            for rule in rules
        ]
    axes = ("dtype", "M", "N", "K", "task", "type", "rule")
    points = itertools.product(*(getattr(options, axis) for axis in axes))
    return [Cell(**dict(zip(axes, point, strict=True))) for point in points]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    options = parse(arguments)
    if options.threads and os.environ.get(THREAD_VARIABLES[0]) != str(options.threads):
        # BLAS reads these when it is loaded, which numpy has done.
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(options.threads)))
        os.execv(sys.executable, sys.orig_argv)

    out, facts = console(), machine()
    out.print(", ".join(f"{name} {value}" for name, value in facts.items()))
    rows: list[Row] = []
    millions = []
    with progress("measuring", quiet=False) as track:
        if options.million:
            millions = [in_new_process(MILLION, rule) for rule in track(options.rule)]
        else:
            # Interrupted, it shows what it has.
            with suppress(KeyboardInterrupt):
                for cell in track(grid(options)):
                    scan = options.quick and cell.N in QUICK_SCAN
                    rows += measure(cell, options.seconds, OURS if scan else None)
    for result in millions:
        out.print(
            f"margin_softmax_loss, {result['rule']} rule, M x N x K = {result['M']} x "
            f"{result['N']:,} x {result['K']}, float32: {result['seconds']:.1f} s, "
            f"peak RSS {result['peak_rss_bytes'] / 1e9:.2f} GB"
        )
    for cell, its_rows in itertools.groupby(rows, key=lambda row: row.cell):
        out.print(f"\n[bold]{title(cell)}[/bold]")
        out.print(table(cell, list(its_rows)))
    if options.json:
        report = {"machine": facts, "rows": [asdict(row) for row in rows], "million": millions}
        options.json.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    if options.plot and rows:
        plot(rows, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
