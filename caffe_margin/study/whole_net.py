"""Training a whole net under each head, from the same start and on the same batches.

A run is a head and a seed. It keeps a folder of its own, in which it goes on where it was stopped:

    run.json       what was trained; another net or solver is refused there
    log.jsonl      what there was to see of each iteration: a line each, as `COLUMNS`
    net_iter_*     the last snapshot, Caffe's own files
    features.npz   once it is trained: features and weight, where they can be drawn
    unseen.npz     the features of the classes never seen
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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
"""What a line of the log has; from ``accuracy`` on what `Observer.take` gave."""

REHEARSED = 4
"""Iterations that are timed, after the first."""
FEATURES, UNSEEN = "features.npz", "unseen.npz"
KEPT = 4000
"""Of how many samples the features are kept, where they can be drawn."""
DRAWN = 3
"""Features of so many dimensions at most can be."""
SNAPSHOTS = 10
"""How many a run writes where the solver says nothing of it."""


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
        p.snapshot = p.snapshot or max(1, p.max_iter // SNAPSHOTS)
        p.snapshot_prefix = str(plan.folder / self.name / "net")
        p.snapshot_format = pb.SolverParameter.HDF5
        p.snapshot_after_train = True
        return p


def is_trained(plan: Plan, run: Run) -> bool:
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
            f"{path.parent} has a run of another net, solver, gradient or device: remove "
            f"{plan.folder}, or name another folder"
        )
    return (path.parent / FEATURES).exists()


def is_done(plan: Plan, run: Run) -> bool:
    """Return whether it is trained, and the features of the classes never seen are there.

    Raises:
        ValueError: as `is_trained`.
    """
    if not is_trained(plan, run):
        return False
    path = plan.folder / run.name / UNSEEN
    if plan.unseen is None:
        return True
    if not path.exists():
        return False
    with np.load(path) as found:
        return str(found["source"]) == os.path.realpath(plan.unseen)


def iterations_left(plan: Plan, run: Run) -> int:
    """Return how many iterations it takes to the end."""
    if is_trained(plan, run):
        return 0
    return plan.solver.max_iter - max(_snapshots(plan.folder / run.name), default=0)


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
    ends = [time.monotonic()]
    with _diverging(solver):
        for _ in solver.run(min(1 + REHEARSED, param.max_iter)):
            ends.append(time.monotonic())
    if len(ends) < 3:
        return time.monotonic() - ends[0]
    return (ends[-1] - ends[1]) / (len(ends) - 2)  # the first is slower


def train_run(plan: Plan, run: Run, each: Callable[[], object] = lambda: None) -> None:
    """Train to the end, from where a former call was stopped; nothing where it is done.

    A run that diverges ends there, and is done.

    Args:
        plan: what all runs have in common.
        run: which.
        each: called after each iteration.

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
    observer = Observer(solver.net)
    observer.head.gradient = run.variant.rule
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        lines = _go_on(solver, folder)
        if not is_trained(plan, run):
            if not lines:
                about = {"plan": _digest(plan, run), "start": observer.parameters_digest()}
                _write(folder / "run.json", json.dumps(about))
            _write(folder / "log.jsonl", "".join(lines))
            _train(solver, observer, folder, each)
            _keep_features(observer, folder, solver.iteration == solver.param.max_iter)
        if plan.unseen is not None:
            _look_at_unseen(plan.unseen, solver, folder)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, "utf-8")


def _snapshots(folder: Path) -> dict[int, Path]:
    """Return the snapshots that the log reaches, by iteration."""
    path = folder / "log.jsonl"
    lines = len(_whole_lines(path)) if path.exists() else 0
    states = {_iteration_of(path): path for path in folder.glob("*.solverstate.h5")}
    return {iteration: state for iteration, state in states.items() if iteration <= lines}


def _iteration_of(snapshot: Path) -> int:
    """Return the number in ``net_iter_N.caffemodel.h5`` and its like."""
    return int(snapshot.name.split("_")[2].split(".")[0])


def _whole_lines(path: Path) -> list[str]:
    return [x for x in path.read_text("utf-8").splitlines(keepends=True) if x.endswith("]\n")]


def _go_on(solver: Solver, folder: Path) -> list[str]:
    """Restore the last snapshot that the log reaches, and return the log up to it."""
    states = _snapshots(folder)
    if not states:
        return []
    solver.restore(states[max(states)])
    return _whole_lines(folder / "log.jsonl")[: solver.iteration]


def _train(solver: Solver, observer: Observer, folder: Path, each: Callable[[], object]) -> None:
    """Train to the end, or until a head meets rows that are not finite, or zero."""
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log, _diverging(solver):
        for done in solver.run():
            log.write(json.dumps(_line(done, observer)) + "\n")
            log.flush()
            each()
            if done.snapshot:
                _remove_before(done.iteration, folder)
            if not math.isfinite(done.loss):
                break
    if solver.iteration == solver.param.max_iter:
        solver.finish()
        _remove_before(solver.iteration, folder)


@contextmanager
def _diverging(solver: Solver) -> Iterator[None]:
    """End the block where a head meets rows that are not finite, or zero, after the first."""
    from caffe_margin.torch.checks import NoDirectionError

    try:
        yield
    except ValueError as error:
        if not solver.iteration or not isinstance(error.__cause__, NoDirectionError):
            raise


def _remove_before(iteration: int, folder: Path) -> None:
    """Remove the snapshots before one."""
    for path in folder.glob("net_iter_*"):
        if _iteration_of(path) < iteration:
            path.unlink()


def _line(done: Iteration, observer: Observer) -> list[float | str]:
    lambda_ = next(iter(done.lambda_.values()))
    seen, fed = observer.take()
    return [done.iteration, done.loss, lambda_, done.rate, *vars(seen).values(), fed]


def _keep_features(observer: Observer, folder: Path, is_whole: bool) -> None:
    """Write features where they can be drawn, and so say that there is nothing left to train."""
    found = {}
    if is_whole and observer.head.in_features <= DRAWN:
        found["weight"] = observer.weight
        found["x"], found["label"] = observer.features(KEPT)
    _save(folder / FEATURES, found)


def _look_at_unseen(source: str, solver: Solver, folder: Path) -> None:
    """Write the features of classes never seen; none of a run that diverged."""
    from caffe_margin.torch.verification import Verifier

    found = {"source": np.array(os.path.realpath(source))}
    if solver.iteration == solver.param.max_iter:
        verifier = Verifier(solver.net, solver.param.net_param, source)
        found["x"], found["label"] = verifier.features()
    _save(folder / UNSEEN, found)


def _save(path: Path, arrays: dict[str, NDArray]) -> None:
    with atomic_write(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _digest(plan: Plan, run: Run) -> str:
    """Return a digest of what the run's numbers depend on, so far as it can be told."""
    p = run.solver(plan)
    p.ClearField("snapshot_prefix")
    p.ClearField("snapshot")
    facts = f"{run.variant.rule!r} {plan.device}".encode()
    return hashlib.sha256(p.SerializeToString(deterministic=True) + facts).hexdigest()
