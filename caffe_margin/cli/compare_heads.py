"""``caffe-margin compare --solver``: whole nets trained under several heads."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_margin.cli.common import (
    file_name,
    positive,
    positive_number,
    print_json,
    read_net,
    show_path,
)
from caffe_margin.files.visible import visible

if TYPE_CHECKING:
    from caffe_margin.maths.gradient import GradientRule
    from caffe_margin.study.heads import Heads
    from caffe_margin.study.whole_net import Plan, Run

DEFAULT_SEEDS = 3
DEFAULT_RULES = ("paper", "exact", "detached")
OF_ONE_BATCH: dict[str, object] = {
    "shape": [],
    "layer": None,
    "batch": None,
    "iteration": None,
    "dtype": None,
    "features": None,
    "weights": None,
    "train": 0,
    "lr": None,
    "phase": "TRAIN",
    "level": 0,
    "stage": [],
}
"""Options that go with one batch alone, and what they are where they are not given."""

OF_WHOLE_NETS = ("gradient", "type", "seeds", "verify", "iterations", "rates", "device", "jobs")


def add_whole_nets(command: argparse.ArgumentParser) -> None:
    """Add the options of whole nets."""
    group = command.add_argument_group("whole nets")
    group.add_argument(
        "--solver",
        metavar="SOLVER",
        type=file_name,
        help="train the whole net NET as this says, whatever net it names, under each gradient; "
        "needs --report DIR",
    )
    group.add_argument(
        "--gradient",
        metavar="RULE",
        nargs="+",
        type=_rule,
        help=f"the rules (default: {' '.join(DEFAULT_RULES)}); or one departure from the exact "
        "one: normalized-coefficients, detached-in-bottom, detached-in-weight, no-projection",
    )
    group.add_argument(
        "--type",
        metavar="TYPE",
        nargs="+",
        type=_type,
        help="margins, instead of the net's: DOUBLE TRIPLE QUADRUPLE, and L-DOUBLE and so on for "
        "L-Softmax's; each under its own C++'s gradient unless --gradient is given",
    )
    group.add_argument(
        "--seeds", metavar="N", type=positive, help=f"how many (default: {DEFAULT_SEEDS})"
    )
    group.add_argument(
        "--verify",
        metavar="SOURCE",
        type=file_name,
        help="images of classes that are not trained on: an LMDB, a .h5, or a list",
    )
    group.add_argument(
        "--iterations", metavar="N", type=positive, help="instead of the solver's max_iter"
    )
    group.add_argument(
        "--rates",
        metavar="FACTOR",
        nargs="+",
        type=positive_number,
        help="look among these, times base_lr, for the one that suits each head best",
    )
    group.add_argument("--device", help="PyTorch's device (default: cpu)")
    group.add_argument(
        "--jobs",
        metavar="N",
        type=positive,
        help="runs at a time (default: one a core; one on another device)",
    )


def _rule(text: str) -> str:
    if text not in (names := _rules()):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}")
    return text


def _rules() -> dict[str, GradientRule]:
    from caffe_margin.study.compare import RULES

    return {rule.name.replace(" ", "-"): rule for rule in RULES}


def _type(text: str) -> str:
    from caffe_margin.study.variants import WITH_MARGIN

    if text not in WITH_MARGIN:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(WITH_MARGIN)}")
    return text


def check(options: argparse.Namespace) -> None:
    """Raise ValueError where an option goes with the other of the two comparisons.

    Raises:
        ValueError: it does, or there is no --report.
    """
    if options.solver is None:
        given = next((name for name in OF_WHOLE_NETS if getattr(options, name) is not None), None)
        if given:
            raise ValueError(f"--{given} is of training whole nets: give --solver SOLVER too")
        return
    given = next((n for n, default in OF_ONE_BATCH.items() if getattr(options, n) != default), None)
    if given:
        raise ValueError(f"--{given} is of one batch, and --solver of training whole nets")
    if options.report is None:
        raise ValueError("--solver trains for a while, and shows it on a page: give --report DIR")
    for name in ("gradient", "type", "rates"):
        values = getattr(options, name) or ()
        if len(set(values)) < len(values):
            raise ValueError(f"--{name} has one of its values twice")
    if options.rates and not options.verify:
        raise ValueError("--rates are chosen by classes never seen: give --verify SOURCE too")


def run(options: argparse.Namespace) -> int:
    """Train, print the table, and write the page."""
    from caffe_margin.report import heads_figures  # noqa: F401  (its message says what to install)
    from caffe_margin.report.folder import check_folder, staging_folder
    from caffe_margin.report.page import PAGE

    plan, runs = _plan(options)
    page = str(Path(options.report, PAGE))
    check_folder(options.report)
    with _terminated():
        heads = _train(options, plan, runs)
    with staging_folder(options.report) as folder:
        _write_page(folder, options, plan, heads)
    if options.json:
        print_json({"report": page, **heads.as_dict()})
        return 0
    _print(heads)
    print(f"\nthe page is in\n{show_path(page)}")
    print(f"its runs, with their weights, stay in {show_path(str(plan.folder))}")
    return 0


def _plan(options: argparse.Namespace) -> tuple[Plan, list[Run]]:
    """Return what is to be trained."""
    from caffe_margin.files.prototxt import read_solver
    from caffe_margin.study.variants import variants
    from caffe_margin.study.whole_net import Plan, Run
    from caffe_margin.torch.checks import check_device

    device = options.device or "cpu"
    check_device(device)
    solver = read_solver(options.solver)
    if options.iterations:
        solver.max_iter = options.iterations
    if solver.max_iter < 1:
        raise ValueError(f"{options.solver}: max_iter is {solver.max_iter}: give --iterations")
    net = read_net(options)
    net.state.MergeFrom(solver.train_state)
    jobs = _jobs(options)
    plan = Plan(
        net,
        solver,
        options.verify,
        Path(f"{options.report.rstrip(os.sep)}.runs"),
        device,
        max(1, (os.cpu_count() or 1) // jobs),
    )
    names = options.gradient or ([] if options.type else DEFAULT_RULES)
    chosen = variants(net, [_rules()[name] for name in names], options.type or ())
    first = options.seed or max(solver.random_seed, 1)
    seeds = range(first, first + (options.seeds or DEFAULT_SEEDS))
    return plan, [Run(variant, seed) for seed in seeds for variant in chosen]


def _jobs(options: argparse.Namespace) -> int:
    on_cpu = options.device in (None, "cpu")
    return options.jobs or ((os.cpu_count() or 1) if on_cpu else 1)


def _train(options: argparse.Namespace, plan: Plan, runs: Sequence[Run]) -> Heads:
    """Train what is not done, and return what came of it."""
    from dataclasses import replace

    from caffe_margin.study.heads import Heads, choose
    from caffe_margin.study.outcome import Outcome

    others = [rate for rate in options.rates or () if rate != 1]
    first = [run for run in runs if run.seed == runs[0].seed]
    tried = [replace(run, rate=rate) for rate in others for run in first]
    _train_all(options, plan, [*runs, *tried])
    outcomes = tuple(Outcome.of(plan, run) for run in runs)
    if not others:
        return Heads(outcomes)
    looked = (*outcomes[: len(first)], *(Outcome.of(plan, run) for run in tried))
    best = choose(looked)
    tuned = [replace(run, rate=best[run.variant.name]) for run in runs]
    _train_all(options, plan, tuned)
    return Heads(outcomes, tuple(Outcome.of(plan, run) for run in tuned), looked)


def _train_all(options: argparse.Namespace, plan: Plan, runs: Sequence[Run]) -> None:
    from caffe_margin.cli.memory import keep_memory
    from caffe_margin.study.jobs import train_all
    from caffe_margin.study.whole_net import is_done, iterations_left, rehearse

    left = [run for run in runs if not is_done(plan, run)]
    if not left:
        return
    jobs = min(_jobs(options), len(left))
    total = sum(iterations_left(plan, run) for run in left)
    minutes = total * rehearse(plan, left[0]) / jobs / 60
    if not options.json:
        about = f"about {minutes:.0f} minutes" if minutes >= 1 else "less than a minute"
        print(
            f"{len(left)} runs with {total} iterations to go, {jobs} at a time: {about}. Stopped, "
            f"they go on with the same command.",
            flush=True,
        )
    with _bar(total, options.json) as seen:
        train_all(plan, left, jobs, keep_memory, seen)


@contextmanager
def _terminated() -> Iterator[None]:
    """Have SIGTERM raise, so that what was begun is ended and cleared away."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    kept = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


@contextmanager
def _bar(total: int, quiet: bool) -> Iterator[Callable[[int], object]]:
    """Yield what shows how far it is, on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn
    from rich.progress import TimeRemainingColumn as Remaining

    err = Console(stderr=True)
    if quiet or not err.is_terminal:
        yield lambda done: None
        return
    with Progress("training", BarColumn(), TaskProgressColumn(), Remaining(), console=err) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def _write_page(folder: Path, options: argparse.Namespace, plan: Plan, heads: Heads) -> None:
    import shlex
    import sys

    from caffe_margin.report.heads_figures import heads_figures
    from caffe_margin.report.heads_page import write_heads_page

    facts = {
        "net": plan.net.name or options.net,
        "solver": options.solver,
        "unseen": options.verify or "none given",
        "device": plan.device,
    }
    command = shlex.join(["caffe-margin", *sys.argv[1:]])
    write_heads_page(folder, heads, facts, command, heads_figures(heads).items())


def _print(heads: Heads) -> None:
    from caffe_margin.cli.tables import console, heads_table
    from caffe_margin.study.outcome import MEASURES

    several = "; ± is the standard deviation of one" if len(heads.seeds) > 1 else ""
    print(f"seeds     {', '.join(map(str, heads.seeds))}{several}\n")
    console().print(heads_table(heads))
    for outcome in heads.outcomes:
        where = f"{visible(outcome.run.variant.name)}, seed {outcome.run.seed}"
        if outcome.diverged:
            print(f"{where}: diverged after iteration {outcome.log['iteration'][-1]:.0f}")
        elif outcome.problem:
            print(f"{where}: not verified: {outcome.problem}")
        elif outcome.collapsed:
            print(f"{where}: at ln N, loss {outcome['loss']:.4f}, |x| {outcome['length']:.3g}")
    for name, best in heads.at_best_rate().items():
        if best.after:
            rates = f"{best.after['eer'].mean:.2%}, {best.before['eer'].mean:.2%} at the solver's"
            print(f"{visible(name)}: best at {best.rate:g} times the rate: EER {rates}")
    if not heads.verified or len(heads.seeds) < 2:
        return
    certain = [d for d in heads.differences() if d.stands]
    for d in certain:
        print(
            f"{d.first} less {d.second}, {MEASURES[d.measure]}: {d.mean:+.4f}, from {d.low:+.4f} "
            f"to {d.high:+.4f} at 95 %"
        )
    if not certain:
        print("no difference is larger than the spread over the seeds explains")
