"""What is written of a run of training: --log, --tensorboard and --plot."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caffe_margin.torch.solver import Iteration


class Log:
    """The lines of --log, TensorBoard's events, and what --plot draws."""

    def __init__(self, options: argparse.Namespace, start: int) -> None:
        self.plot, self.path = options.plot, options.log
        self.iterations: list[dict[str, Any]] = []
        self.verifications: list[dict[str, Any]] = []
        for entry in _read_log(self.path, start) if self.path and options.snapshot else ():
            kept = self.verifications if "verification" in entry else self.iterations
            kept.append(entry)
        self.file, self.events = None, None
        if options.tensorboard:
            from caffe_margin.torch.training import tensorboard

            self.events = tensorboard(options.tensorboard)
        self.seconds = time.monotonic()
        if self.path:
            from caffe_margin.files.atomic import atomic_write

            entries = sorted(self.iterations + self.verifications, key=lambda e: e["iteration"])
            with atomic_write(self.path) as unfinished:
                unfinished.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
            self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file:
            self.file.close()
        if self.events:
            self.events.close()
        self._draw()

    def iteration(self, done: Iteration) -> None:
        """Log an iteration; with a snapshot the picture is drawn anew."""
        from caffe_margin.files.plain_json import plain

        now = time.monotonic()
        entry = {
            "iteration": done.iteration,
            "loss": done.loss,
            "smoothed_loss": done.smoothed_loss,
            "rate": done.rate,
            "lambda": dict(done.lambda_),
            "images": done.images,
            "seconds": now - self.seconds,
        }
        if done.tests:
            entry["tests"] = [{k: v.tolist() for k, v in test.items()} for test in done.tests]
        if done.snapshot:
            entry["snapshot"] = done.snapshot
        self.seconds = now
        self._write(plain(entry), self.iterations)
        if self.events:
            for name in ("loss", "smoothed_loss", "rate"):
                self.events.add_scalar(name, entry[name], done.iteration)
            for name, value in done.lambda_.items():
                self.events.add_scalar(f"lambda/{name}", value, done.iteration)
        if done.snapshot:
            self._draw()

    def verification(self, iteration: int, found: dict[str, Any]) -> None:
        """Log a verification."""
        self._write({"iteration": iteration, "verification": found}, self.verifications)
        if self.events:
            self.events.add_scalar("verification/eer", found["eer"], iteration)
            self.events.add_scalar("verification/auc", found["auc"], iteration)

    def _write(self, entry: Any, kept: list[dict[str, Any]]) -> None:
        if self.plot or kept is self.verifications:
            kept.append(entry)
        if self.file:
            self.file.write(f"{json.dumps(entry)}\n")
            self.file.flush()

    def _draw(self) -> None:
        if self.plot and self.iterations:
            from caffe_margin.report import figures
            from caffe_margin.report.run_figure import draw_run

            with figures.style():
                figures.save(draw_run(self.iterations, self.verifications), self.plot)


def _read_log(path: str, last: int) -> Iterator[dict[str, Any]]:
    """Yield the entries up to an iteration; what a killed run left half written is passed over."""
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("iteration", last + 1) <= last:
                yield entry
