"""Measure the sharded head against its formulas for memory and traffic.

    python tools/bench_sharded.py                                     # N = 100,000: two minutes
    python tools/bench_sharded.py --classes 1000000 --processes 2

Each row is a run of `caffe_margin.torch.ShardedMarginInnerProduct`, forward, backward and a step of
SGD with momentum, in W processes of one thread each over gloo, which share the machine. N classes,
K features, M samples of all processes together, in float32.

- "memory" is the highest resident size of each process (VmHWM) less what was resident before its
  head was made, when all of PyTorch had run once. "by formula" is `memory`, below, and "ratio" that
  of the largest to it. glibc is told to give back what is freed; else it keeps some of it.
- "traffic" is what the loopback carried in the steps, a step and a process: bytes sent. It counts
  what else uses the loopback too: run under ``unshare --net`` (with ``ip link set lo up``) to have
  these processes alone. "by formula" is `traffic`, below.
- "ms" is the median time of a step on the slowest process, and thus the time of all.

It needs Linux's /proc.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch.multiprocessing.spawn import spawn

import caffe_margin.torch as cmt
from caffe_margin.maths.gradient import GradientRule

FLOAT, INT64 = 4, 8


@dataclass(frozen=True)
class Run:
    """A run: W processes, N classes, K features, M samples of all together, and the rest."""

    W: int
    N: int
    K: int
    M: int
    block: int
    gradient: str
    steps: int


def memory(run: Run) -> float:
    """Return the bytes of a process at its peak, in Backward, by formula.

    The weight, its gradient and its history; two arrays of scores; of the rows of a block, their
    gradient, and where that is projected two more of its size; and arrays of features.
    """
    rows, batch = math.ceil(run.N / run.W), run.W * math.ceil(run.M / run.W)
    block = min(run.block, rows)
    projected = not GradientRule.of(run.gradient).no_projection
    blocks = block * (2 * batch + (3 if projected else 1) * run.K)
    return FLOAT * (3 * rows * run.K + blocks + 3 * batch * run.K)


def traffic(run: Run) -> float:
    """Return the bytes that a process sends in a step, by formula; gloo's, in rings.

    Its reduce-scatter is an all-reduce, and so sends twice what NCCL's does.
    """
    batch = run.W * math.ceil(run.M / run.W)
    features = 3 * FLOAT * batch * run.K
    vectors = INT64 * batch + 3 * 2 * FLOAT * batch
    return (run.W - 1) / run.W * (features + vectors)


def process(rank: int, run: Run, folder: str) -> None:
    """Be one of the processes, and leave what it measured in a file."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=run.W)
    torch.manual_seed(rank)
    count = len(torch.arange(run.M).tensor_split(run.W)[rank])
    steps(Run(run.W, 10 * run.W, 8, run.M, run.block, run.gradient, 2), count)
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    before = resident("VmRSS")
    times, sent = steps(run, count)
    torch.save((resident("VmHWM") - before, times, sent), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def steps(run: Run, count: int) -> tuple[list[float], float]:
    """Train a head; return the seconds of each step but the first, and the bytes of a step."""
    head = cmt.ShardedMarginInnerProduct(
        run.K, run.N, gradient=run.gradient, block=run.block, iteration=100_000
    )
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(count, run.K, requires_grad=True)
    label = torch.randint(run.N, (count,))
    times, carried = [], 0
    for step in range(run.steps + 1):
        dist.barrier()
        start, before = perf_counter(), loopback()
        optimizer.zero_grad()
        x.grad = None
        head(x, label).backward()
        optimizer.step()
        if step:
            times.append(perf_counter() - start)
            dist.barrier()
            carried += loopback() - before
    return times, carried / run.steps / run.W


def resident(what: str) -> int:
    """Return VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


def loopback() -> int:
    """Return how many bytes the loopback has carried."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


def measure(run: Run) -> tuple[list[int], float, float]:
    """Return the peak of each process, bytes sent a step, and seconds a step."""
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "0"}
    with tempfile.TemporaryDirectory() as folder:
        spawn(process, (run, folder), run.W)
        found = [torch.load(f"{folder}/{rank}.pt") for rank in range(run.W)]
    peaks, times, sent = zip(*found, strict=True)
    return list(peaks), sent[0], statistics.median(map(max, zip(*times, strict=True)))


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], metavar="W")
    parser.add_argument("--classes", type=int, nargs="+", default=[100_000], metavar="N")
    parser.add_argument("--features", type=int, default=512, metavar="K")
    parser.add_argument("--batch", type=int, default=256, metavar="M", help="of all together")
    parser.add_argument("--block", type=int, default=8192, help="(default: 8192)")
    parser.add_argument("--gradient", default="paper", help="(default: paper)")
    parser.add_argument("--steps", type=int, default=3, help="that are timed (default: 3)")
    options = parser.parse_args(arguments)
    table = Table(
        *("N", "W", "memory, MB", "by formula", "ratio", "traffic, MB", "by formula", "ms"),
        title=f"K = {options.features}, M = {options.batch}, {options.gradient}",
    )
    for N in options.classes:
        for W in options.processes:
            run = Run(
                W,
                N,
                options.features,
                options.batch,
                options.block,
                options.gradient,
                options.steps,
            )
            peaks, sent, seconds = measure(run)
            largest = max(peaks) / memory(run)
            memories = " ".join(f"{peak / 1e6:,.0f}" for peak in peaks)
            table.add_row(
                *(f"{N:,}", f"{W}", memories, f"{memory(run) / 1e6:,.0f}"),
                *(f"{largest:.3f}", f"{sent / 1e6:.3f}", f"{traffic(run) / 1e6:.3f}"),
                f"{1000 * seconds:,.0f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
