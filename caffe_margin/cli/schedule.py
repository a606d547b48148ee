"""``caffe-margin schedule``: lambda over a run, and where a resumed run stands."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffe_margin.cli.batch import read_layer
from caffe_margin.cli.common import (
    Commands,
    add_command,
    add_json,
    add_net,
    add_state,
    file_name,
    png,
    positive,
    print_json,
)

if TYPE_CHECKING:
    from caffe_margin import caffe_margin_pb2 as pb

DEFAULT_LAST = 100_000
"""The last iteration, where neither the solver nor lambda_min says when to stop."""

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
            "prints the line that says so."
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
        "--last", metavar="I", type=positive, help="the last iteration (default: the solver's)"
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
    from caffe_margin.cli import tables
    from caffe_margin.files import prototxt
    from caffe_margin.maths.annealing import Annealing
    from caffe_margin.solver import schedule

    if options.solverstate and (options.plot or options.last):
        raise ValueError("--solverstate asks for one line; --plot and --last are for the table")
    net, layer = read_layer(options)
    param = layer.margin_inner_product_param
    solver = prototxt.read_solver(options.solver, strict=options.strict) if options.solver else None
    if solver is not None and solver.iter_size < 1:
        raise ValueError(f"{options.solver}: iter_size is {solver.iter_size}; it must be positive")
    if options.solverstate:
        return _resume(options, layer, solver)

    annealing = Annealing.of(param)
    reached = schedule.iteration_of_lambda_min(annealing)
    last, why = _last(options, solver, reached)
    if last <= param.iteration:
        raise ValueError(
            f"layer {layer.name!r} starts at iteration {param.iteration}, after the last, {last}"
        )
    steps = schedule.steps(annealing, last, _learning_rates(solver))
    if options.plot:
        from caffe_margin.report import figures

        within = reached if reached is not None and reached <= last else None
        names = net.name or options.net, layer.name
        curve = schedule.curve(annealing, last)
        figure = figures.annealing_of_run(curve, within, *names)
        figures.save(figure, options.plot)
    if options.json:
        print_json(
            {
                "net": net.name,
                "layer": layer.name,
                "last": last,
                "lambda_min_reached": reached,
                "steps": [
                    {
                        "iteration": step.iteration,
                        "lambda": step.lambda_,
                        "share_of_margin": step.share,
                        "note": step.note,
                    }
                    for step in steps
                ],
            }
        )
        return 0
    margin = type(param).MarginType.Name(param.type)
    print(f"layer   {layer.name}: {margin} (m = {param.type + 1})")
    print(
        f"lambda  max({param.base:g} (1 + {param.gamma:g} iteration)^-{param.power:g}, "
        f"{param.lambda_min:g}), iterations {param.iteration + 1} to {last}: {why}\n"
    )
    tables.console().print(tables.schedule_table(steps))
    if param.type == param.SINGLE:
        print("\nSINGLE has no margin: lambda changes nothing")
    elif reached is None:
        print("\nlambda never comes down to lambda_min")
    elif reached > last:
        print(f"\nlambda_min is not reached; it would be at iteration {reached}")
    return 0


def _last(
    options: argparse.Namespace, solver: pb.SolverParameter | None, reached: int | None
) -> tuple[int, str]:
    """Return the last Forward of the run, and who says so."""
    if options.last:
        return options.last, "as asked"
    if solver is not None and solver.max_iter:
        forwards = f", {solver.iter_size} Forwards each" if solver.iter_size > 1 else ""
        return (
            solver.max_iter * solver.iter_size,
            f"max_iter {solver.max_iter} of {options.solver}{forwards}",
        )
    if reached is not None:
        return 10 * reached, "ten times as far as lambda falls; --solver says where a run ends"
    return DEFAULT_LAST, "--solver says where a run ends"


def _learning_rates(solver: pb.SolverParameter | None) -> dict[int, str]:
    """Return the first Forward after each drop of the learning rate.

    Source: SGDSolver::GetLearningRate; its other policies have no drops.
    """
    drops: Sequence[int] = ()
    if solver is not None and solver.lr_policy == "multistep":
        drops = [step for step in solver.stepvalue if step < solver.max_iter]
    elif solver is not None and solver.lr_policy == "step" and solver.stepsize > 0:
        drops = range(solver.stepsize, solver.max_iter, solver.stepsize)
    if solver is None or not drops:
        return {}
    what = f"learning rate x {solver.gamma:g}"
    notes = {drop * solver.iter_size + 1: what for drop in drops[:MAX_DROPS]}
    if len(drops) > MAX_DROPS:
        notes[drops[MAX_DROPS - 1] * solver.iter_size + 1] = f"{what}, and so on"
    return notes


def _resume(
    options: argparse.Namespace, layer: pb.LayerParameter, solver: pb.SolverParameter | None
) -> int:
    """Print the line for the prototxt."""
    from caffe_margin.files.solverstate import read_solverstate
    from caffe_margin.maths.annealing import Annealing

    iter_ = read_solverstate(options.solverstate)
    iter_size = 1 if solver is None else solver.iter_size
    iteration = iter_ * iter_size
    if iteration >= 2**31:
        raise ValueError(
            f"{options.solverstate}: {iter_} iterations of {iter_size} Forwards each are "
            f"{iteration}; `iteration` goes to {2**31 - 1}"
        )
    param = layer.margin_inner_product_param
    firsts = [param.iteration + 1, iteration + 1]
    now, resumed = Annealing.of(param).lambda_at(firsts).tolist()
    if options.json:
        print_json(
            {
                "layer": layer.name,
                "iter": iter_,
                "iter_size": iter_size,
                "iteration": iteration,
                "lambda": resumed,
                "lambda_now": now,
            }
        )
        return 0
    print(f"iteration: {iteration}")
    state = os.path.basename(options.solverstate)
    print(f"# in the parameters of layer {layer.name} of {options.net}, to resume {state}")
    if iter_size > 1:
        print(f"# {iter_} iterations of {iter_size} Forwards each, which is the solver's iter_size")
    elif solver is None:
        print("# one Forward an iteration; where the solver has an iter_size, add --solver SOLVER")
    print(f"# lambda of the next Forward: {resumed:g}; from iteration: {param.iteration}, {now:g}")
    return 0
