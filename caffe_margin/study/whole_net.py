"""Training a whole net under each head, from the same start and on the same batches.

A run is a head and a seed. It keeps a folder of its own, in which it goes on where it was stopped:

    run.json       what was trained; another net or solver is refused there
    log.jsonl      what there was to see of each iteration: a line each, as `COLUMNS`
    net_iter_*     snapshots, Caffe's own files, as often as the solver says, and at the end
    features.npz   once it is done: the features of the classes never seen, and the last of training
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.atomic import atomic_write, held
from caffe_margin.study.variants import Variant, with_head

if TYPE_CHECKING:
    from caffe_margin.torch.observation import Observer
    from caffe_margin.torch.solver import Iteration, Solver

COLUMNS = (
    "iteration",
    "loss",
    "lambda",
    "rate",
    "accuracy",
    "length",
    "own_angle",
    "other_angle",
    "clamped",
    "batch",
)
"""What a line of the log has; from ``accuracy`` on it is an `Observation`, and what was fed."""

REHEARSED = 4
"""Iterations that are timed, after the first."""
FEATURES = "features.npz"
KEPT = 4000
"""Of how many samples that were trained on the features are kept, where they can be drawn."""
DRAWN = 3
"""Features of so many dimensions at most can be."""


@dataclass(frozen=True)
class Plan:
    """What all runs have in common.

    Attributes:
        net: the net, the layers of both phases.
        solver: its solver; which net it names, what it tests and where its snapshots go is passed
            over.
        unseen: images of classes that are not trained on: what `Verifier` takes.
        folder: where the runs have theirs.
        device: PyTorch's.
        threads: of each run, on a CPU.
    """

    net: pb.NetParameter
    solver: pb.SolverParameter
    unseen: str | None
    folder: Path
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True)
class Run:
    """A head, a seed, and by what the solver's learning rate is multiplied."""

    variant: Variant
    seed: int
    rate: float = 1.0

    @property
    def name(self) -> str:
        """The name of its folder."""
        words = "".join(c if c.isalnum() or c == "-" else " " for c in self.variant.name).split()
        rate = "" if self.rate == 1 else f"-rate{self.rate:g}"
        return f"{'-'.join(words)}-seed{self.seed}{rate}"

    def solver(self, plan: Plan) -> pb.SolverParameter:
        """Return what trains it."""
        p = pb.SolverParameter()
        p.CopyFrom(plan.solver)
        for field in ("net", "train_net", "train_net_param", "display", "debug_info"):
            p.ClearField(field)
        for field in ("test_iter", "test_interval", "test_net", "test_net_param", "test_state"):
            p.ClearField(field)
        p.net_param.CopyFrom(with_head(plan.net, self.variant))
        p.base_lr *= self.rate
        p.random_seed = self.seed
        p.snapshot_prefix = str(plan.folder / self.name / "net")
        p.snapshot_format = pb.SolverParameter.HDF5
        p.snapshot_after_train = True
        return p


def is_done(plan: Plan, run: Run) -> bool:
    """Return whether there is nothing left to train.

    Raises:
        ValueError: its folder has another run's.
    """
    path = plan.folder / run.name / "run.json"
    if not path.exists():
        return False
    try:
        found = json.loads(path.read_text("utf-8"))["plan"]
    except (ValueError, KeyError, TypeError):
        found = None
    if found != _digest(plan, run):
        raise ValueError(
            f"{path.parent} has a run of another net, solver or gradient: remove {plan.folder}, or "
            f"name another folder"
        )
    return (path.parent / FEATURES).exists()


def rehearse(plan: Plan, run: Run) -> float:
    """Return how many seconds an iteration takes; nothing of it is kept.

    Raises:
        FileNotFoundError: the net's source is not there, or that of the classes never seen.
        ValueError: the net or the solver is none that can be run.
    """
    from caffe_margin.torch.solver import Solver
    from caffe_margin.torch.training import use_threads
    from caffe_margin.torch.verification import Verifier

    use_threads(plan.threads)
    param = run.solver(plan)
    param.ClearField("snapshot")
    solver = Solver(param, device=plan.device)
    if plan.unseen is not None:
        Verifier(solver.net, param.net_param, plan.unseen)
    solver.step()
    start = time.monotonic()
    solver.step(REHEARSED)
    return (time.monotonic() - start) / REHEARSED


def train_run(plan: Plan, run: Run, each: Callable[[], object] = lambda: None) -> None:
    """Train to the end, from where a former call was stopped; nothing where it is done.

    A run that diverges ends there, and is done.

    Args:
        plan: what all runs have in common.
        run: which.
        each: called after each iteration, those of former calls included.

    Raises:
        FileNotFoundError: the net's source is not there.
        ValueError: the net or the solver is none that can be run.
        OSError: another process trains it.
    """
    from caffe_margin.torch.observation import Observer
    from caffe_margin.torch.solver import Solver
    from caffe_margin.torch.training import use_threads

    if is_done(plan, run):
        return
    use_threads(plan.threads)
    folder = plan.folder / run.name
    solver = Solver(run.solver(plan), device=plan.device)
    observer = Observer(solver.net, KEPT)
    observer.head.gradient = run.variant.rule
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        _train_in(folder, plan, run, solver, observer, each)


def _train_in(
    folder: Path,
    plan: Plan,
    run: Run,
    solver: Solver,
    observer: Observer,
    each: Callable[[], object],
) -> None:
    lines = _go_on(solver, folder)
    if not lines:
        about = {"plan": _digest(plan, run), "start": observer.parameters_digest()}
        with atomic_write(folder / "run.json") as unfinished:
            unfinished.write_text(json.dumps(about), "utf-8")
    with atomic_write(folder / "log.jsonl") as unfinished:
        unfinished.write_text("".join(lines), "utf-8")
    for _ in lines:
        each()
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        for done in _until_diverged(solver):
            log.write(json.dumps(_line(done, observer)) + "\n")
            log.flush()
            each()
            if not math.isfinite(done.loss):
                break
    _finish(plan, solver, observer, folder)


def _go_on(solver: Solver, folder: Path) -> list[str]:
    """Restore the last snapshot that the log reaches, and return the log up to it."""
    path = folder / "log.jsonl"
    whole = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    lines = [line for line in whole if line.endswith("]\n")]
    states = {int(p.name.split("_")[2].split(".")[0]): p for p in folder.glob("*.solverstate.h5")}
    reached = [iteration for iteration in states if iteration <= len(lines)]
    if not reached:
        return []
    solver.restore(states[max(reached)])
    return lines[: solver.iteration]


def _until_diverged(solver: Solver) -> Iterator[Iteration]:
    """Yield the iterations, until a head meets rows that are not finite, or zero."""
    try:
        yield from solver.run(solver.param.max_iter - solver.iteration)
    except ValueError as error:
        if not solver.iteration or "has no direction" not in str(error):
            raise


def _line(done: Iteration, observer: Observer) -> list[float | str]:
    lambda_ = next(iter(done.lambda_.values()))
    seen = vars(observer.last).values()
    return [done.iteration, done.loss, lambda_, done.rate, *seen, observer.batch]


def _finish(plan: Plan, solver: Solver, observer: Observer, folder: Path) -> None:
    """Write what the run came to; a run that was stopped before this is not done."""
    from caffe_margin.torch.verification import Verifier

    found = {}
    if solver.iteration == solver.param.max_iter:
        solver.finish()
        if plan.unseen is not None:
            verifier = Verifier(solver.net, solver.param.net_param, plan.unseen)
            found["unseen_x"], found["unseen_label"] = verifier.features()
        if observer.head.in_features <= DRAWN:
            found["x"], found["label"] = observer.features
            found["weight"] = observer.weight
    with atomic_write(folder / FEATURES) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **found)  # type: ignore[arg-type]


def _digest(plan: Plan, run: Run) -> str:
    """Return a digest of what the run's numbers depend on, so far as it can be told."""
    p = run.solver(plan)
    p.ClearField("snapshot_prefix")
    p.ClearField("snapshot")
    parts: Sequence[str] = (str(p), repr(run.variant.rule), repr(plan.unseen))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
