"""``caffe-margin record``: a recording of our layer, to hold a port against."""

from __future__ import annotations

import argparse

from caffe_margin.cli.batch import DESCRIPTION, add_batch, read_batch, read_layer
from caffe_margin.cli.common import (
    Commands,
    Renamed,
    add_command,
    file_name,
    one_line,
    print_json,
    show_path,
)
from caffe_margin.maths.gradient import NAMED_RULES


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "record",
        run,
        summary="record the layer, to hold a port against",
        description=(
            "Run Forward and Backward of the net's MarginInnerProduct or LargeMarginInnerProduct\n"
            "on one batch, and write what went in and what came out, in the format of the\n"
            "recordings of Caffe. What comes down from above, and what the weight's diff held\n"
            "before, is drawn.\n\n"
            f"{DESCRIPTION}"
        ),
        example="caffe-margin record models/sphereface_model.prototxt --gradient exact --batch 16 "
        "--out fc6.npz",
    )
    add_batch(command)
    command.add_argument(
        "--gradient",
        choices=sorted(NAMED_RULES),
        help="the rule of Backward (default: that of the layer's C++: paper, exact in L-Softmax)",
    )
    command.add_argument("--rule", action=Renamed, new="--gradient")
    command.add_argument(
        "-o", "--out", metavar="FILE.npz", type=file_name, required=True, help="where to write it"
    )


def run(options: argparse.Namespace) -> int:
    """Write the file."""
    import numpy as np

    from caffe_margin.files.npz import write_arrays
    from caffe_margin.files.visible import visible
    from caffe_margin.nets.margin import margin_param
    from caffe_margin.recordings.record import record

    net, layer_param = read_layer(options)
    batch, sources = read_batch(options, net, layer_param)
    layer_param, dtype = batch.layer_param, batch.x.dtype
    # A stream of its own, so that what is read in place of a draw does not shift the others.
    rng = np.random.default_rng([options.seed, 1])
    top_shape = (*batch.label.shape, margin_param(layer_param).num_output)
    recording = record(
        layer_param,
        batch.x,
        batch.label.astype(dtype),
        batch.weight,
        rng.standard_normal(top_shape).astype(dtype),
        rng.standard_normal(batch.weight.shape).astype(dtype),
        gradient=options.gradient,
        iteration=batch.iteration,
    )
    write_arrays(options.out, recording)
    M, (N, K) = batch.label.size, batch.weight.shape
    lambda_, gradient = float(recording["top1_data"][0]), str(recording["rule"])
    if options.json:
        print_json(
            {
                "path": options.out,
                "layer": layer_param.name,
                "gradient": gradient,
                "features": sources["features"],
                "weight": sources["weight"],
                "M": M,
                "N": N,
                "K": K,
                "dtype": str(dtype),
                "iteration": batch.iteration,
                "lambda": lambda_,
            }
        )
        return 0
    print(f"layer     {visible(layer_param.name)}: M = {M}, N = {N}, K = {K}, {dtype}")
    print(f"gradient  {gradient}")
    print(f"lambda    {lambda_:.6g} at iteration {batch.iteration}, {sources['iteration']}")
    print(f"features  {one_line(sources['features'])}")
    print(f"weight    {one_line(sources['weight'])}")
    print(f"written   {show_path(options.out)}")
    return 0
