"""``caffe-margin schedule``: lambda over a run, and where a resumed run stands."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffe_margin.cli.batch import read_layer
from caffe_margin.cli.common import (
    Commands,
    add_command,
    add_json,
    add_net,
    add_state,
    file_name,
    not_negative,
    png,
    positive,
    print_json,
    show_path,
)
from caffe_margin.files.visible import visible

if TYPE_CHECKING:
    from caffe_margin import caffe_margin_pb2 as pb
    from caffe_margin.solver.schedule import Curve, Start, Step

MAX_ITERATION = 2**31 - 1
"""`iteration` is an int32."""

DEFAULT_LENGTH = 100_000
"""Forwards of a run, where neither the solver nor lambda_min says when to stop."""

MAX_DROPS = 10
"""So many drops of the learning rate are marked."""


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "schedule",
        run,
        summary="show lambda over a run, or where a resumed run must start",
        description=(
            "Show lambda and the share of the margin that is in force, 1 / (1 + lambda), over a\n"
            "run. Large lambda means no margin: look at this before training.\n\n"
            "An iteration here is a Forward of the layer. The layer counts its own, from\n"
            "`iteration` in the prototxt, and Caffe keeps the count in no snapshot: a resumed run\n"
            "starts lambda over unless the prototxt says where. With --solverstate the command\n"
            "prints the line that says so.\n\n"
            "The solver counts apart: from 0 in a new run, also one with -weights, and from the\n"
            "snapshot in a resumed one. Where NET has an `iteration`, --started-at says which."
        ),
        example=(
            "caffe-margin schedule models/sphereface_model.prototxt "
            "--solver models/sphereface_solver.prototxt\n"
            "  caffe-margin schedule sphereface_model.prototxt "
            "--solverstate sphereface_iter_16000.solverstate"
        ),
    )
    add_net(command)
    add_state(command)
    add_json(command)
    command.add_argument("--layer", metavar="NAME", help="which layer, where a net has several")
    command.add_argument(
        "--solver",
        metavar="SOLVER",
        type=file_name,
        help="take the length of the run and iter_size from here",
    )
    command.add_argument(
        "--last", metavar="I", type=positive, help="the last Forward (default: the solver's)"
    )
    command.add_argument(
        "--started-at",
        metavar="S",
        type=not_negative,
        help="the solver's iteration when the run began with NET as it is: 0 for a new run, the "
        "snapshot's for a resumed one (default: 0, and the other where it may be)",
    )
    command.add_argument("--plot", metavar="FILE.png", type=png, help="draw it")
    command.add_argument(
        "--solverstate",
        metavar="FILE",
        type=file_name,
        help="print the `iteration` to resume this snapshot with",
    )


def run(options: argparse.Namespace) -> int:
    """Print the table, or the line."""
    if options.solverstate and (options.plot or options.last):
        raise ValueError("--solverstate asks for one line; --plot and --last are for the table")
    if options.started_at is not None and not (options.solverstate or options.solver):
        raise ValueError("--started-at is of a solver: give --solver or --solverstate too")
    net, layer = read_layer(options)
    solver = _read_solver(options)
    if options.solverstate:
        return _resume(options, layer, solver)
    return _table(options, net, layer, solver)


def _read_solver(options: argparse.Namespace) -> pb.SolverParameter | None:
    from caffe_margin.files import prototxt

    if options.solver is None:
        return None
    solver = prototxt.read_solver(options.solver, strict=options.strict)
    if solver.iter_size < 1:
        raise ValueError(f"{options.solver}: iter_size is {solver.iter_size}; it must be positive")
    return solver


def _starts(options: argparse.Namespace, iteration: int, iter_size: int, end: int) -> list[Start]:
    """Return where the run to the solver's iteration ``end`` began: as told, or as it may have."""
    from caffe_margin.solver.schedule import Start, possible_starts

    if options.started_at is not None:
        return [Start(iteration, options.started_at, iter_size)]
    return possible_starts(iteration, iter_size, end)


def _table(
    options: argparse.Namespace,
    net: pb.NetParameter,
    layer: pb.LayerParameter,
    solver: pb.SolverParameter | None,
) -> int:
    """Print lambda over the run, and draw it."""
    from caffe_margin.maths.annealing import Annealing
    from caffe_margin.nets.margin import margin_param
    from caffe_margin.solver import schedule

    param = margin_param(layer)
    annealing = Annealing.of(param)
    reached = schedule.iteration_of_lambda_min(annealing)
    starts = [schedule.Start(param.iteration)]
    if solver is not None:
        # A run that was resumed at max_iter has no Forward left.
        starts = _starts(options, param.iteration, solver.iter_size, solver.max_iter - 1)
    lasts, (why, *_) = zip(*(_last(options, solver, at, reached) for at in starts), strict=True)
    last = lasts[0]
    if solver is not None and 0 < solver.max_iter < (options.started_at or 0):
        raise ValueError(
            f"--started-at {options.started_at} is past max_iter {solver.max_iter} of "
            f"{options.solver}"
        )
    if last <= param.iteration:
        raise ValueError(
            f"layer {layer.name!r} starts at iteration {param.iteration}, after the last, {last}"
        )
    steps = schedule.steps(annealing, last, _learning_rates(solver, starts[0]))
    if options.plot:
        _plot(options, net.name, layer.name, schedule.curve(annealing, last), reached)
    readings = [
        {"started_at": start.solver_iteration, "last": end}
        for start, end in zip(starts, lasts, strict=True)
    ]
    if options.json:
        print_json(
            {
                "net": net.name,
                "layer": layer.name,
                "last": last,
                "lambda_min_reached": reached,
                "readings": readings,
                "steps": [_as_dict(step) for step in steps],
            }
        )
        return 0
    _print_table(layer, last, why, steps, reached)
    for other in readings[1:] if not options.last else ():
        print(
            "\nif iteration: {0} was written to resume at the solver's iteration {started_at}, the "
            "last is {last}: add --started-at {started_at}".format(param.iteration, **other)
        )
    return 0


def _as_dict(step: Step) -> dict[str, Any]:
    return {
        "iteration": step.iteration,
        "lambda": step.lambda_,
        "share_of_margin": step.share,
        "note": step.note,
    }


def _plot(
    options: argparse.Namespace, net: str, layer: str, curve: Curve, reached: int | None
) -> None:
    from caffe_margin.report import figures

    within = reached if reached is not None and reached <= curve.iteration[-1] else None
    figure = figures.annealing_of_run(curve, within, net or options.net, layer)
    figures.save(figure, options.plot)


def _print_table(
    layer: pb.LayerParameter, last: int, why: str, steps: Sequence[Step], reached: int | None
) -> None:
    from caffe_margin.cli import tables
    from caffe_margin.nets.margin import margin_param, type_name

    param = margin_param(layer)
    print(f"layer   {visible(layer.name)}: {type_name(param)} (m = {param.type + 1})")
    print(
        f"lambda  max({param.base:g} (1 + {param.gamma:g} iteration)^{-param.power:g}, "
        f"{param.lambda_min:g}), iterations {param.iteration + 1} to {last}: {why}\n"
    )
    tables.console().print(tables.schedule_table(steps))
    if param.type == param.SINGLE:
        print("\nSINGLE has no margin: lambda changes nothing")
    elif reached is None:
        print("\nlambda never comes down to lambda_min")
    elif reached > last:
        print(f"\nlambda_min is not reached; it would be at iteration {reached}")


def _last(
    options: argparse.Namespace,
    solver: pb.SolverParameter | None,
    start: Start,
    reached: int | None,
) -> tuple[int, str]:
    """Return the last Forward of a run, and who says so."""
    if options.last:
        return options.last, "as asked"
    if solver is not None and solver.max_iter:
        why = f"max_iter {solver.max_iter} of {show_path(options.solver)}"
        if start.iter_size > 1:
            why += f", {start.iter_size} Forwards each"
        if start.iteration or start.solver_iteration:
            why += f", from the solver's iteration {start.solver_iteration} on"
        return start.count_at(solver.max_iter), why
    if reached is not None:
        return 10 * reached, "ten times as far as lambda falls; --solver says where a run ends"
    return max(start.iteration, 0) + DEFAULT_LENGTH, "--solver says where a run ends"


def _learning_rates(solver: pb.SolverParameter | None, start: Start) -> dict[int, str]:
    """Return the first Forward after each drop of the learning rate.

    Source: SGDSolver::GetLearningRate; its other policies have no drops.
    """
    from caffe_margin.solver.learning_rate import multistep_drops

    drops: Sequence[int] = ()
    if solver is not None and solver.lr_policy == "multistep":
        within = range(start.solver_iteration, solver.max_iter)
        drops = [drop for drop in multistep_drops(solver.stepvalue) if drop in within]
    elif solver is not None and solver.lr_policy == "step" and solver.stepsize > 0:
        first = max(-(-start.solver_iteration // solver.stepsize), 1) * solver.stepsize
        drops = range(first, solver.max_iter, solver.stepsize)
    if solver is None or not drops:
        return {}
    what = f"learning rate x {solver.gamma:g}"
    notes = {start.count_at(drop) + 1: what for drop in drops[:MAX_DROPS]}
    if len(drops) > MAX_DROPS:
        notes[start.count_at(drops[MAX_DROPS - 1]) + 1] = f"{what}, and so on"
    return notes


def _resume(
    options: argparse.Namespace, layer: pb.LayerParameter, solver: pb.SolverParameter | None
) -> int:
    """Print the line for the prototxt; or two, where the prototxt can be read in two ways."""
    from caffe_margin.files.solverstate import read_solverstate
    from caffe_margin.maths.annealing import Annealing
    from caffe_margin.nets.margin import margin_param

    path = options.solverstate
    iter_ = read_solverstate(path).iteration
    if options.started_at is not None and options.started_at > iter_:
        raise ValueError(
            f"{path} is of iteration {iter_}, before --started-at {options.started_at}"
        )
    param = margin_param(layer)
    iter_size = 1 if solver is None else solver.iter_size
    starts = _starts(options, param.iteration, iter_size, iter_)
    counts = [start.count_at(iter_) for start in starts]
    if max(counts) > MAX_ITERATION:
        done = iter_ - starts[0].solver_iteration
        raise ValueError(
            f"{path}: {done} iterations of {iter_size} Forwards each, from iteration: "
            f"{param.iteration} on, come to {counts[0]}; `iteration` goes to {MAX_ITERATION}"
        )
    firsts = [count + 1 for count in (param.iteration, *counts)]
    now, *lambdas = Annealing.of(param).lambda_at(firsts).tolist()
    readings = [
        {"started_at": start.solver_iteration, "iteration": count, "lambda": lambda_}
        for start, count, lambda_ in zip(starts, counts, lambdas, strict=True)
    ]
    if options.json:
        only = readings[0] if len(readings) == 1 else {}
        print_json(
            {
                "layer": layer.name,
                "iter": iter_,
                "iter_size": iter_size,
                "iteration": only.get("iteration"),
                "lambda": only.get("lambda"),
                "lambda_now": now,
                "readings": readings,
            }
        )
        return 0
    _print_resume(options, layer, iter_, solver, now, readings)
    return 0


def _print_resume(
    options: argparse.Namespace,
    layer: pb.LayerParameter,
    iter_: int,
    solver: pb.SolverParameter | None,
    now: float,
    readings: Sequence[dict[str, Any]],
) -> None:
    from caffe_margin.nets.margin import margin_param

    path, param = options.solverstate, margin_param(layer)
    for reading in readings:
        print(f"iteration: {reading['iteration']}")
        if param.iteration and options.started_at is None:
            print(
                f"# if the run with iteration: {param.iteration} began at the solver's iteration "
                f"{reading['started_at']}"
            )
    if param.iteration and options.started_at is None:
        print(
            f"# if it began at another of the solver's iterations, at which iteration: "
            f"{param.iteration} was written to resume it: add --started-at"
        )
    place = f"in the parameters of layer {visible(layer.name)} of {show_path(options.net)}"
    print(f"# {place}, to resume {show_path(os.path.basename(path))}")
    if solver is not None and solver.iter_size > 1:
        print(
            f"# {iter_} iterations of {solver.iter_size} Forwards each, which is the solver's "
            f"iter_size"
        )
    elif solver is None:
        print("# one Forward an iteration; where the solver has an iter_size, add --solver SOLVER")
    then = " or ".join(f"{reading['lambda']:g}" for reading in readings)
    print(f"# lambda of the next Forward: {then}; from iteration: {param.iteration}, {now:g}")
