"""What is seen of a run of training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caffe_margin.torch.solver import Iteration

MEASURED = 3
"""Iterations that are timed before it is said how long the run will take; the first is slower."""


class Shown:
    """What is seen of a run: a bar on a terminal, lines every ``display`` iterations elsewhere."""

    def __init__(self, display: int, start: int, last: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self.display, self.start, self.last = display, start, last
        self.began, self.images, self.since = time.monotonic(), 0, time.monotonic()
        err = Console(stderr=True)
        text = TextColumn("{task.description}")
        columns = (MofNCompleteColumn(), BarColumn(), Remaining(), text)
        self.bar = Progress(*columns, console=err, transient=True) if err.is_terminal else None

    def __enter__(self) -> Shown:
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task("", total=self.last, completed=self.start)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, done: Iteration) -> None:
        """Show an iteration."""
        for i, test in enumerate(done.tests):
            print_test(i, test)
        now, passed = time.monotonic(), done.iteration - self.start
        if passed == 1:
            self.began, self.since = now, now
        self.images += done.images if passed > 1 else 0
        if passed == min(MEASURED, self.last - self.start):
            print(_ahead(self.last, (now - self.began) / max(passed - 1, 1), done), flush=True)
        if self.bar:
            speed = self.images / max(now - self.since, 1e-9)
            self.bar.update(self.task, completed=done.iteration, description=_line(done, speed))
        elif self.display and done.iteration % self.display == 0:
            line = _line(done, self.images / max(now - self.since, 1e-9))
            print(f"iteration {done.iteration}: {line}", flush=True)
            self.images, self.since = 0, now


def _line(done: Iteration, speed: float) -> str:
    margins = [
        f"lambda {value:.4g} ({1 / (1 + value):.1%} of the margin)"
        for value in done.lambda_.values()
    ]
    parts = [f"loss {done.smoothed_loss:.4f}", *margins, f"rate {done.rate:g}"]
    return ", ".join([*parts, *([f"{speed:.0f} images/s"] if speed else [])])


def _ahead(last: int, seconds: float, done: Iteration) -> str:
    """Say what the run takes: memory as measured, and time."""
    from caffe_margin.torch.training import memory_taken

    taken = " and ".join(f"{size / 2**30:.2f} GiB{where}" for where, size in memory_taken().items())
    minutes = (last - done.iteration) * seconds / 60
    return (
        f"measured: {taken}, {seconds:.3g} s an iteration of {done.images} images; to iteration "
        f"{last} about {minutes:.3g} minutes"
    )


def print_test(i: int, test: Mapping[str, Any]) -> None:
    means = ", ".join(f"{name} {float(value.mean()):.4g}" for name, value in test.items())
    print(f"test net {i}: {means}", flush=True)
