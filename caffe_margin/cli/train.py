"""``caffe-margin train``: train a net as its solver says."""

from __future__ import annotations

import argparse
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
            "stands at ln N or at 87.3365 for long, stops the run, and exits 1."
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


def _add_output(command: argparse.ArgumentParser) -> None:
    output = command.add_argument_group("output")
    output.add_argument(
        "--log", metavar="FILE.jsonl", type=file_name, help="write a line of JSON an iteration"
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
    if options.as_caffe and not options.snapshot:
        raise ValueError("--as-caffe says how to go on from a --snapshot, which is not given")
    if options.verify_every and not options.verify:
        raise ValueError("--verify-every needs --verify SOURCE")
    if options.plot:
        from caffe_margin.report import figures  # noqa: F401  (its message says what to install)
    solver = _solver(options)
    verifier = _verifier(options, solver)
    with Log(options, solver.iteration) as log, _stopping() as stop:
        status = _train(options, solver, verifier, log, stop)
        for name, source in solver.net.sources.items():
            if source.broken:
                complain(f"layer {name!r}: {len(source.broken)} images could not be read")
    return status


def _solver(options: argparse.Namespace) -> Solver:
    """Make the solver, restore it, and say where it stands."""
    from caffe_margin.torch.checks import check_device
    from caffe_margin.torch.solver import Solver

    check_device(options.device)
    solver = Solver(
        options.solver,
        options.weights,
        seed=options.seed,
        device=options.device,
        gradient=options.gradient,
        compiled=options.compile,
    )
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
    stop: list[int],
) -> int:
    """Train, and return the exit status."""
    from caffe_margin.torch.training import LossWatch

    p = solver.param
    last = p.max_iter if options.iterations is None else solver.iteration + options.iterations
    watch = LossWatch(solver.classes)
    done, saved, told = None, "", False
    with Shown(p.display, solver.iteration, last) as shown:
        for done in _run(solver, last - solver.iteration):
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
            if stop:
                break
    if solver.iteration >= p.max_iter:
        for i, test in enumerate(solver.finish()):
            print_test(i, test)
    elif done is not None:
        path = saved or solver.snapshot()
        print(f"stopped after iteration {solver.iteration}; to go on: {_again(options, path)}")
    if verifier and not stop:
        _verify(verifier, solver.iteration, log)
    return 128 + stop[0] if stop else 0


def _run(solver: Solver, iterations: int) -> Iterator[Iteration | None]:
    """Yield what `Solver.run` does, and None once a layer meets numbers that are none."""
    try:
        yield from solver.run(iterations)
    except ValueError as error:
        if not solver.iteration or "not finite" not in str(error):
            raise
        complain(
            f"iteration {solver.iteration + 1}: {error}: the rate is too high. Try a tenth of "
            "base_lr, or clip_gradients, from the last snapshot that is sound"
        )
        yield None


def _again(options: argparse.Namespace, snapshot: str) -> str:
    """Return the command that goes on from a snapshot."""
    words = ["caffe-margin", "train", options.solver, "--snapshot", snapshot]
    for name in ("gradient", "log", "plot", "tensorboard", "verify", "verify_every"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--device", options.device] if options.device != "cpu" else []
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


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """Yield a list that is empty until Ctrl-C or SIGTERM; a second one ends the run at once."""
    stop: list[int] = []

    def note(number: int, frame: object) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.append(number)

    kept = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
