"""``caffe-margin record``: a recording of our layer, to hold a port against."""

from __future__ import annotations

import argparse

from caffe_margin.cli.batch import (
    DESCRIPTION,
    add_batch,
    choose_iteration,
    read_batch,
    read_layer,
)
from caffe_margin.cli.common import Commands, add_command, one_line, print_json, show_path


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "record",
        run,
        summary="record the layer, to hold a port against",
        description=(
            "Run Forward and Backward of the MarginInnerProduct layer on one batch, and write\n"
            "what went in and what came out, in the format of the recordings of Caffe. What\n"
            "comes down from above, and what the weight's diff held before, is drawn.\n\n"
            f"{DESCRIPTION}"
        ),
        example="caffe-margin record models/sphereface_model.prototxt --rule exact --batch 16 "
        "--out fc6.npz",
    )
    add_batch(command)
    command.add_argument(
        "--rule",
        choices=["paper", "exact"],
        default="paper",
        help="whose gradient: the authors', or the exact one (default: paper)",
    )
    command.add_argument("--out", metavar="FILE.npz", required=True, help="where to write it")


def run(options: argparse.Namespace) -> int:
    """Write the file."""
    import numpy as np

    from caffe_margin.files.npz import write_arrays
    from caffe_margin.files.visible import visible
    from caffe_margin.recordings.record import record

    net, layer_param = read_layer(options)
    x, label, weight, sources = read_batch(options, net, layer_param)
    iteration, reason = choose_iteration(options, layer_param)
    # A stream of its own, so that what is read in place of a draw does not shift the others.
    rng = np.random.default_rng([options.seed, 1])
    top_shape = (*label.shape, layer_param.margin_inner_product_param.num_output)
    recording = record(
        layer_param,
        x,
        label.astype(x.dtype),
        weight,
        rng.standard_normal(top_shape).astype(x.dtype),
        rng.standard_normal(weight.shape).astype(x.dtype),
        gradient=options.rule,
        iteration=iteration,
    )
    write_arrays(options.out, recording)
    M, (N, K) = label.size, weight.shape
    lambda_ = float(recording["top1_data"][0])
    if options.json:
        print_json(
            {
                "path": options.out,
                "layer": layer_param.name,
                "rule": options.rule,
                **sources,
                "M": M,
                "N": N,
                "K": K,
                "dtype": str(x.dtype),
                "iteration": iteration,
                "lambda": lambda_,
            }
        )
        return 0
    layer = visible(layer_param.name)
    print(f"layer     {layer}, {options.rule} rule: M = {M}, N = {N}, K = {K}, {x.dtype}")
    print(f"lambda    {lambda_:.6g} at iteration {iteration}, {reason}")
    print(f"features  {one_line(sources['features'])}")
    print(f"weight    {one_line(sources['weight'])}")
    print(f"written   {show_path(options.out)}")
    return 0
