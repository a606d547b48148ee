"""``caffe-margin train``: train a net as its solver says."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from caffe_margin.cli import torchrun
from caffe_margin.cli.common import (
    Commands,
    add_command,
    complain,
    file_name,
    not_negative,
    png,
    positive,
    show_path,
)
from caffe_margin.cli.train_log import Log
from caffe_margin.cli.train_shown import Shown, print_test

if TYPE_CHECKING:
    from caffe_margin.torch.distributed_solver import DistributedSolver
    from caffe_margin.torch.processes import Processes
    from caffe_margin.torch.solver import Iteration, Solver
    from caffe_margin.torch.verification import Verifier

FARS = (0.01, 0.001)


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "train",
        run,
        summary="train a net as its solver says, from where Caffe stopped or from the start",
        description=(
            "Train a net as Caffe trains it, by PyTorch, from the solver's prototxt. Snapshots\n"
            "are Caffe's own files, and Caffe's are gone on from. What Caffe starts over after a\n"
            "restore goes on here: lambda, and the order of the data, which is a function of the\n"
            "seed and the iteration. --as-caffe starts them over.\n\n"
            "Ctrl-C and SIGTERM finish the iteration, write a snapshot and say how to go on; a\n"
            "killed run loses what came after the last snapshot. A loss that is not finite, or\n"
            "stands at ln N or at 87.3365 for long, stops the run, and exits 1.\n\n"
            "Over processes: torchrun --nproc-per-node 8 -m caffe_margin train SOLVER. Each takes\n"
            "its own batches of batch_size, and a large head is shared among them: docs/scale.md."
        ),
        example="caffe-margin train models/glyphs_solver.prototxt --verify glyphs/unseen",
    )
    command.add_argument("solver", metavar="SOLVER", type=file_name, help="a solver's .prototxt")
    start = command.add_mutually_exclusive_group()
    start.add_argument(
        "--weights",
        metavar="FILE",
        nargs="+",
        type=file_name,
        help=".caffemodel or .h5 to start at",
    )
    start.add_argument(
        "--snapshot", metavar="FILE", type=file_name, help="a .solverstate to go on from"
    )
    command.add_argument(
        "--as-caffe", action="store_true", help="start lambda and data over at --snapshot"
    )
    command.add_argument(
        "--gradient", choices=["paper", "exact", "detached"], help="the rule (default: the net's)"
    )
    command.add_argument("--device", default="cpu", help="PyTorch's device (default: cpu)")
    command.add_argument("--compile", action="store_true", help="by torch.compile")
    command.add_argument(
        "--shard-above",
        metavar="BYTES",
        type=_size,
        help="share a layer with a margin among torchrun's processes where its weight takes more, "
        "such as 0 or 512M (default: 64M)",
    )
    command.add_argument(
        "--iterations", metavar="N", type=positive, help="this many, instead of up to max_iter"
    )
    command.add_argument(
        "--seed", metavar="N", type=not_negative, help="instead of the solver's random_seed"
    )
    command.add_argument(
        "--skip-broken", action="store_true", help="leave images out that cannot be read"
    )
    command.add_argument(
        "--keep-going", action="store_true", help="warn of a hopeless loss, and go on"
    )
    _add_output(command)


def _size(text: str) -> int:
    """Parse a number of bytes, with a K, M or G behind it or not."""
    match = re.fullmatch(r"([0-9]+)([KMG]?)", text, re.IGNORECASE)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 0, 65536 or 512M")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()]


def _add_output(command: argparse.ArgumentParser) -> None:
    output = command.add_argument_group("output")
    output.add_argument(
        "--log",
        "--log-file",
        metavar="FILE.jsonl",
        type=file_name,
        help="write a line of JSON an iteration; torchrun, which takes --log for its own, leaves "
        "--log-file alone",
    )
    output.add_argument("--plot", metavar="FILE.png", type=png, help="draw loss, lambda and rate")
    output.add_argument(
        "--tensorboard", metavar="DIR", type=file_name, help="write TensorBoard's events too"
    )
    output.add_argument(
        "--verify",
        metavar="SOURCE",
        type=file_name,
        help="verify by pairs of these images, of classes that are not trained on: an LMDB, a .h5, "
        "or a list",
    )
    output.add_argument(
        "--verify-every",
        metavar="N",
        type=positive,
        help="iterations between (default: at the end alone)",
    )


def run(options: argparse.Namespace) -> int:
    """Train, and return 1 where the loss is hopeless."""
    from caffe_margin.cli.memory import keep_memory

    keep_memory()
    if torchrun.is_started():
        torchrun.run(_run, options)
    if options.shard_above is not None:
        raise ValueError(
            "--shard-above says what several processes share: torchrun --nproc-per-node N -m "
            "caffe_margin train"
        )
    return _run(options, None)


def _run(options: argparse.Namespace, processes: Processes | None) -> int:
    agreeing = processes.agreeing if processes else nullcontext
    with agreeing():
        _check(options)
    solver = _solver(options, processes)
    with agreeing():
        solver.check_snapshot()
        if processes and processes.rank:
            # The first verifies and writes, while the others wait.
            options.verify = options.log = options.plot = options.tensorboard = None
        verifier = _verifier(options, solver)
        log = Log(options, solver.iteration)
    with log, _stopping(processes) as stop:
        status = _train(options, solver, verifier, log, stop)
        for name, source in solver.net.sources.items():
            broken = processes.union(source.broken) if processes else source.broken
            if broken:
                complain(f"layer {name!r}: {len(broken)} images could not be read")
    return status


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, or need what is not installed."""
    if options.as_caffe and not options.snapshot:
        raise ValueError("--as-caffe says how to go on from a --snapshot, which is not given")
    if options.verify_every and not options.verify:
        raise ValueError("--verify-every needs --verify SOURCE")
    if options.plot:
        from caffe_margin.report import figures  # noqa: F401  (its message says what to install)

        if not os.path.isdir(folder := os.path.dirname(options.plot) or "."):
            raise ValueError(f"--plot {options.plot}: there is no folder {folder}")


def _solver(options: argparse.Namespace, processes: Processes | None) -> Solver:
    """Make the solver, restore it, and say where it stands."""
    from caffe_margin.torch.checks import check_device
    from caffe_margin.torch.distributed_solver import SHARD_ABOVE, DistributedSolver
    from caffe_margin.torch.solver import Solver

    check_device(options.device)
    arguments = {
        "seed": options.seed,
        "device": options.device,
        "gradient": options.gradient,
        "compiled": options.compile,
    }
    solver: Solver
    if processes is None:
        solver = Solver(options.solver, options.weights, **arguments)
    else:
        above = SHARD_ABOVE if options.shard_above is None else options.shard_above
        several = DistributedSolver(
            options.solver,
            options.weights,
            group=processes.group,
            shard_above=above,
            **arguments,
        )
        _print_processes(several)
        solver = several
    for net in (solver.net, *solver.test_nets):
        for source in net.sources.values():
            source.skip_broken = options.skip_broken
    if options.snapshot:
        solver.restore(options.snapshot, as_caffe=options.as_caffe)
        start = "starts over at" if options.as_caffe else "goes on at"
        counts = [f"{name!r} {start} {count}" for name, count in solver.layer_iterations.items()]
        layers = "".join(f"; layer {count}" for count in counts)
        print(f"restored {show_path(options.snapshot)}: iteration {solver.iteration}{layers}")
    return solver


def _print_processes(solver: DistributedSolver) -> None:
    """Say what the processes share."""
    heads = [
        f"; layer {name!r} shared, {len(head.rows)} of {head.out_features} rows on the first"
        for name, head in solver.net.heads.items()
    ]
    print(f"{solver.processes.size} processes{''.join(heads)}", flush=True)


def _verifier(options: argparse.Namespace, solver: Solver) -> Verifier | None:
    if not options.verify:
        return None
    from pathlib import Path

    from caffe_margin.solver.nets import net_to_train
    from caffe_margin.torch.verification import Verifier

    param = net_to_train(solver.param, Path(options.solver).parent)
    return Verifier(solver.net, param, options.verify)


def _train(
    options: argparse.Namespace,
    solver: Solver,
    verifier: Verifier | None,
    log: Log,
    stop: _Stop,
) -> int:
    """Train, and return the exit status."""
    from caffe_margin.torch.training import LossWatch

    p = solver.param
    last = p.max_iter if options.iterations is None else solver.iteration + options.iterations
    watch = LossWatch(solver.classes)
    done, saved, told = None, "", False
    with Shown(p.display, solver.iteration, last) as shown:
        for done in _iterations(solver, last - solver.iteration):
            if done is None:
                return 1
            saved = done.snapshot
            shown(done)
            log.iteration(done)
            if trouble := watch(done.loss):
                if not options.keep_going:
                    complain(f"iteration {done.iteration}: {trouble}; or --keep-going")
                    return 1
                if not told:
                    complain(f"warning: iteration {done.iteration}: {trouble}")
                told = True
            due = options.verify_every and done.iteration % options.verify_every == 0
            if verifier and due and done.iteration < last:
                _verify(verifier, done.iteration, log)
            if stop():
                break
    if solver.iteration >= p.max_iter:
        for i, test in enumerate(solver.finish()):
            print_test(i, test)
    elif done is not None:
        path = saved or solver.snapshot()
        print(f"stopped after iteration {solver.iteration}; to go on: {_again(options, path)}")
    if not stop() and verifier:
        _verify(verifier, solver.iteration, log)
    return 128 + stop.signal if stop() else 0


def _iterations(solver: Solver, iterations: int) -> Iterator[Iteration | None]:
    """Yield what `Solver.run` does, and None once a layer meets numbers that are none."""
    try:
        yield from solver.run(iterations)
    except ValueError as error:
        from caffe_margin.torch.distributed_solver import DistributedSolver
        from caffe_margin.torch.processes import AgreedError

        # What one process alone meets, the others do not know of.
        is_everybodys = not isinstance(solver, DistributedSolver) or isinstance(error, AgreedError)
        if not (is_everybodys and solver.iteration and "not finite" in str(error)):
            raise
        complain(
            f"iteration {solver.iteration + 1}: {error}: the rate is too high. Try a tenth of "
            "base_lr, or clip_gradients, from the last snapshot that is sound"
        )
        yield None


def _again(options: argparse.Namespace, snapshot: str) -> str:
    """Return the command that goes on from a snapshot."""
    over_several = torchrun.is_started()
    start = torchrun.command() if over_several else ["caffe-margin"]
    words = [*start, "train", options.solver, "--snapshot", snapshot]
    names = ("gradient", "shard_above", "log", "plot", "tensorboard", "verify", "verify_every")
    for name in names:
        if (value := getattr(options, name)) is not None:
            flag = "log-file" if name == "log" and over_several else name.replace("_", "-")
            words += [f"--{flag}", str(value)]
    device = options.device.partition(":")[0] if over_several else options.device
    words += ["--device", device] if device != "cpu" else []
    flags = {"--compile": options.compile, "--skip-broken": options.skip_broken}
    words += [name for name, given in flags.items() if given]
    return shlex.join(words)


def _verify(verifier: Verifier, iteration: int, log: Log) -> None:
    """Print and log how well images of classes that are not trained on are told apart."""
    from caffe_margin.study.pairs import cosine, draw_pairs, roc

    features, label = verifier.features()
    left, right, same = draw_pairs(label)
    curve = roc(cosine(features[left], features[right]), same)
    tar = {str(far): curve.tar_at(far) for far in FARS}
    rates = ", ".join(f"{rate:.3f} at FAR {far}" for far, rate in tar.items())
    print(
        f"iteration {iteration}: verification: EER {curve.eer:.2%}, AUC {curve.auc:.4f}, "
        f"TAR {rates} ({same.sum()} pairs of one class, {(~same).sum()} of two)",
        flush=True,
    )
    log.verification(iteration, {"eer": curve.eer, "auc": curve.auc, "tar_at_far": tar})


class _Stop:
    """Whether Ctrl-C or SIGTERM has come, on any of the processes.

    Attributes:
        signal: its number; 0 before.
    """

    def __init__(self, processes: Processes | None) -> None:
        self.processes = processes
        self.signal = self.noted = 0

    def note(self, number: int, frame: object) -> None:
        """Take a signal; a second one ends the run at once."""
        if self.noted:
            raise KeyboardInterrupt
        self.noted = number

    def __call__(self) -> int:
        """Return the signal, the same on all processes."""
        self.signal = self.processes.highest(self.noted) if self.processes else self.noted
        return self.signal


@contextmanager
def _stopping(processes: Processes | None) -> Iterator[_Stop]:
    """Yield what knows of Ctrl-C and SIGTERM, which end nothing meanwhile."""
    stop = _Stop(processes)
    kept = {number: signal.signal(number, stop.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
