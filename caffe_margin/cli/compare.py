"""``caffe-margin compare``: the paper's gradient against the exact one."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from caffe_margin.cli.common import (
    Commands,
    add_command,
    add_json,
    add_net,
    not_negative,
    positive,
    print_json,
    progress,
)

if TYPE_CHECKING:
    import numpy as np

    from caffe_margin import caffe_margin_pb2 as pb
    from caffe_margin.layers.layer import FloatArray

DEFAULT_BATCH = 256
"""Samples where neither the net nor --batch says."""


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "compare",
        run,
        summary="hold the paper's gradient against the exact one",
        description=(
            "Run the MarginInnerProduct layer and SoftmaxWithLoss on one batch, and hold the\n"
            "authors' gradient, and each of its three departures alone, against the exact\n"
            "gradient.\n\n"
            "Without --features the batch is drawn so that the angles between samples and their\n"
            "own classes cover 0 to pi. FILE.npz holds x, (M, K) float32 or float64, and label,\n"
            "(M,), and may hold weight, (N, K): numpy.savez('FILE.npz', x=x, label=label)."
        ),
        example="caffe-margin compare models/sphereface_model.prototxt --iteration 28000",
    )
    add_net(command)
    add_json(command)
    command.add_argument("--layer", metavar="NAME", help="which layer, where a net has several")
    command.add_argument(
        "--batch", metavar="M", type=positive, help="samples to draw (default: the net's batch)"
    )
    command.add_argument(
        "--iteration",
        metavar="I",
        type=not_negative,
        help="which Forward, for lambda (default: where lambda reaches lambda_min)",
    )
    command.add_argument(
        "--seed", type=not_negative, default=0, help="for whatever is drawn (default: 0)"
    )
    command.add_argument(
        "--dtype", choices=["float32", "float64"], help="(default: the features', or float32)"
    )
    command.add_argument("--features", metavar="FILE.npz", help="x, label, and optionally weight")
    command.add_argument("--weights", metavar="FILE.caffemodel", help="take the weight from here")


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    from caffe_margin import prototxt, report
    from caffe_margin.compare import compare, iteration_of_lambda_min

    net = prototxt.filter_net(prototxt.read_net(options.net, strict=options.strict), "TRAIN")
    layer_param = prototxt.find_layer(net, options.layer, "MarginInnerProduct")
    x, label, weight, sources = _batch(options, net, layer_param)
    param = layer_param.margin_inner_product_param
    iteration, reason = options.iteration, "as asked"
    if iteration is None:
        iteration, reason = iteration_of_lambda_min(param), "where lambda reaches lambda_min"
    if iteration is None:
        iteration, reason = param.iteration + 1, "the first Forward"
    with progress("rules", options.json) as track:
        comparison = compare(layer_param, x, label, weight, iteration, track)
    if options.json:
        print_json({"net": net.name, "layer": layer_param.name, **sources, **comparison.as_dict()})
        return 0
    M, N, K = comparison.shape
    type_ = type(param).MarginType.Name(param.type)
    print(f"layer     {layer_param.name}: {type_} (m = {comparison.m}), ", end="")
    print(f"M = {M}, N = {N}, K = {K}, {comparison.dtype}")
    print(f"lambda    {comparison.lambda_:.6g} at iteration {iteration}, {reason}")
    print(f"features  {sources['features']}")
    print(f"weight    {sources['weight']}")
    print(f"loss      {comparison.loss:.6g}, under every rule\n")
    report.console().print(report.compare_table(comparison))
    return 0


def _batch(
    options: argparse.Namespace, net: pb.NetParameter, layer_param: pb.LayerParameter
) -> tuple[FloatArray, np.ndarray, FloatArray, dict[str, str]]:
    """Return features, labels and weight, and where they come from, in words."""
    import numpy as np

    from caffe_margin import dumps, fillers
    from caffe_margin.compare import draw_features
    from caffe_margin.layers.layer import canonical_axis
    from caffe_margin.shapes import infer_shapes

    name, param = layer_param.name, layer_param.margin_inner_product_param
    given = dumps.read_arrays(options.features) if options.features else {}
    if options.features and not {"x", "label"} <= given.keys():
        raise ValueError(
            f"{options.features} holds {', '.join(given) or 'nothing'}; it must hold x and label"
        )
    bottom: Any
    if "x" in given:
        bottom = given["x"].shape
        dtype = np.dtype(options.dtype or given["x"].dtype)
    else:
        (shapes,) = (s for s in infer_shapes(net) if s.name == name)
        bottom = shapes.bottoms.get(layer_param.bottom[0]) if layer_param.bottom else None
        bottom = bottom or (None, None)
        dtype = np.dtype(options.dtype or np.float32)
    axis = canonical_axis(param.axis, bottom, name)
    lead, rest = bottom[:axis], bottom[axis:]

    rng = np.random.default_rng(options.seed)
    if options.weights:
        weight, source = _weight_of(options.weights, name), f"from {options.weights}"
    elif "weight" in given:
        weight, source = given["weight"], f"from {options.features}"
    elif None not in rest:
        filler = param.weight_filler
        weight = fillers.fill(filler, (param.num_output, math.prod(rest)), rng, dtype.type)
        source = f"drawn by the filler {filler.type!r}, seed {options.seed}"
    else:
        raise ValueError(
            f"the net does not say how many features layer {name!r} gets: give --features or "
            f"--weights"
        )
    weight = weight.astype(dtype)

    if "x" in given:
        x, label = given["x"].astype(dtype)[: options.batch], given["label"][: options.batch]
        return x, label, weight, {"features": f"from {options.features}", "weight": source}
    lead = (options.batch or lead[0] or DEFAULT_BATCH, *lead[1:])
    if None in lead:
        raise ValueError(f"the net does not say the shape of the bottom of layer {name!r}")
    x, label = draw_features(weight, math.prod(lead), rng)
    return (
        x.reshape(*lead, *(rest if None not in rest else weight.shape[1:])),
        label.reshape(lead),
        weight,
        {
            "features": f"drawn, angles to the own class cover 0 to pi, seed {options.seed}",
            "weight": source,
        },
    )


def _weight_of(path: str, name: str) -> FloatArray:
    """Return the weight of a layer in a .caffemodel, (N, K)."""
    from caffe_margin import prototxt

    weights = prototxt.read_weights(path)
    if not weights.get(name):
        raise ValueError(
            f"{path} has no weight for layer {name!r}; it has {', '.join(weights) or 'none'}"
        )
    weight = weights[name][0]
    return weight.reshape(weight.shape[-2:])
