"""``caffe-margin compare``: the paper's gradient against the exact one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_margin.cli import compare_heads
from caffe_margin.cli.batch import (
    DEFAULT_BATCH,
    DESCRIPTION,
    add_batch,
    read_batch,
    read_layer,
)
from caffe_margin.cli.common import (
    Commands,
    add_command,
    file_name,
    not_negative,
    one_line,
    positive_number,
    print_json,
    progress,
    show_path,
)
from caffe_margin.files.visible import visible

if TYPE_CHECKING:
    from caffe_margin.study.compare import Comparison
    from caffe_margin.study.head import Batch
    from caffe_margin.study.training import Training


DEFAULT_RATE = 0.1
"""The authors' base_lr."""


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "compare",
        run,
        summary="hold the paper's gradient against the exact one",
        description=(
            "Run the MarginInnerProduct layer and SoftmaxWithLoss on one batch, and hold the\n"
            "authors' gradient, the detached one, and each of the four departures alone, against\n"
            "the exact gradient. For a LargeMarginInnerProduct layer, whose own C++ is exact, the\n"
            f"table shows what the departures would be there.\n\n{DESCRIPTION}\n\n"
            "With --report the page index.html, its pictures and report.json, with every number,\n"
            "are written into a folder of their own. A former report there is replaced.\n\n"
            "With --solver whole nets are trained, on PyTorch: from one start, on the same\n"
            "batches and at the same rates, under each gradient and without a margin, a run a\n"
            "seed. The page shows the course of training and, with --verify, what the features\n"
            "are worth on classes never seen. The runs stay beside the page, in DIR.runs, and go\n"
            "on where they were stopped; the first is of --seed, or the solver's random_seed."
        ),
        example="caffe-margin compare models/sphereface_model.prototxt --features digits "
        "--report build/digits --train 300",
    )
    add_batch(command)
    command.add_argument(
        "--report", metavar="DIR", type=file_name, help="write a page about it, for a browser"
    )
    command.add_argument(
        "--train",
        metavar="ITERS",
        type=not_negative,
        default=0,
        help="on the page, train the head on the features for so long (default: 0, not at all)",
    )
    command.add_argument(
        "--lr",
        metavar="RATE",
        type=positive_number,
        help=f"learning rate there (default: {DEFAULT_RATE})",
    )
    compare_heads.add_whole_nets(command)


def run(options: argparse.Namespace) -> int:
    """Print the table, and write the page."""
    compare_heads.check(options)
    if options.solver is not None:
        return compare_heads.run(options)
    from caffe_margin.nets.margin import margin_param, type_name
    from caffe_margin.study.compare import RULES, compare

    _check_page(options)
    net, layer_param = read_layer(options)
    batch, sources = read_batch(options, net, layer_param)
    facts = {
        "net": net.name or options.net,
        "layer": layer_param.name,
        "type": type_name(margin_param(batch.layer_param)),
        **sources,
    }
    page = None
    with ExitStack() as stack:
        folder = None
        if options.report is not None:
            from caffe_margin.report.folder import staging_folder
            from caffe_margin.report.page import PAGE

            folder = stack.enter_context(staging_folder(options.report))
            page = str(Path(options.report, PAGE))
        with progress("rules", options.json) as track:
            comparison = compare(batch, track(RULES))
        if folder:
            _write_page(folder, options, comparison, batch, facts)

    if options.json:
        where = {} if page is None else {"report": page}
        print_json(
            {
                "net": net.name,
                "layer": facts["layer"],
                "features": facts["features"],
                "weight": facts["weight"],
                **where,
                **comparison.as_dict(),
            }
        )
        return 0
    _print(comparison, facts)
    if layer_param.type == "LargeMarginInnerProduct":
        print(
            "\nThe C++ of LargeMarginInnerProduct computes the exact rule; the others are what the"
        )
        print("departures of MarginInnerProduct's would make of it.")
    if page:
        print(f"\nthe page is in\n{show_path(page)}")
    return 0


def _check_page(options: argparse.Namespace) -> None:
    """Raise ValueError where an option lacks the page that it is of."""
    if options.lr is not None and not options.train:
        raise ValueError("--lr is of the training: give --train ITERS too")
    if options.train and options.report is None:
        raise ValueError("--train is a part of the page: give --report DIR too")


def _print(comparison: Comparison, facts: Mapping[str, str]) -> None:
    from caffe_margin.cli.tables import compare_table, console

    c, (M, N, K) = comparison, comparison.shape
    print(f"layer     {visible(facts['layer'])}: {facts['type']} (m = {c.m}), ", end="")
    print(f"M = {M}, N = {N}, K = {K}, {c.dtype}")
    print(f"lambda    {c.lambda_:.6g} at iteration {c.iteration}, {facts['iteration']}")
    print(f"features  {one_line(facts['features'])}")
    print(f"weight    {one_line(facts['weight'])}")
    print(f"loss      {c.loss:.6g}, under every rule\n")
    console().print(compare_table(c))


def _write_page(
    folder: Path,
    options: argparse.Namespace,
    comparison: Comparison,
    batch: Batch,
    facts: dict[str, str],
) -> None:
    import shlex
    import sys

    from caffe_margin.report.figures import figures
    from caffe_margin.report.page import write_page
    from caffe_margin.study.compare import RULES
    from caffe_margin.study.study import study

    training = _train(options, batch) if options.train else None
    with progress("measures", options.json) as track:
        measured = study(comparison, batch, training, options.seed, track(RULES))
    with progress("pictures", options.json) as track:
        command = shlex.join(["caffe-margin", *sys.argv[1:]])
        write_page(folder, measured, facts, command, track(figures(measured).items()))


def _train(options: argparse.Namespace, batch: Batch) -> Training:
    from caffe_margin import caffe_margin_pb2 as pb
    from caffe_margin.study.training import runs_of, train

    # The authors' own solver, but for its steps in the learning rate.
    solver_param = pb.SolverParameter(
        base_lr=options.lr or DEFAULT_RATE, lr_policy="fixed", momentum=0.9, weight_decay=0.0005
    )
    with progress("training", options.json) as track:
        names = track(runs_of(batch.layer_param))
        return train(batch, options.train, DEFAULT_BATCH, solver_param, options.seed, names)
