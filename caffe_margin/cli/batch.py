"""The batch that a command runs a layer on: read from files, or drawn."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from caffe_margin.cli.common import add_json, add_net, not_negative, positive, read_net

if TYPE_CHECKING:
    import numpy as np

    from caffe_margin import caffe_margin_pb2 as pb
    from caffe_margin.layers.layer import FloatArray

DEFAULT_BATCH = 256
"""Samples where neither the net nor --batch says."""

DIGITS = "digits"
"""The value of --features that stands for scikit-learn's digits; ./digits is a file."""

DESCRIPTION = (
    "Without --features the batch is drawn so that the angles between samples and their\n"
    "own classes cover 0 to pi. FILE.npz holds x, (M, K) float32 or float64, and label,\n"
    "(M,), from 0, and may hold weight, (N, K): numpy.savez('FILE.npz', x=x, label=label).\n"
    "The word digits stands for scikit-learn's 1797 handwritten digits. Where no weight is\n"
    "given and the labels are 0 to n - 1, n > 1, with none left out, the layer gets n classes."
)


def add_batch(command: argparse.ArgumentParser) -> None:
    """Add NET, --json, and the arguments that say which layer, at what, on which batch."""
    add_net(command)
    add_json(command)
    command.add_argument("--layer", metavar="NAME", help="which layer, where a net has several")
    command.add_argument(
        "--batch",
        metavar="M",
        type=positive,
        help="samples to draw, or to take of --features (default: the net's batch, or all)",
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
    command.add_argument(
        "--features", metavar="FILE.npz|digits", help="x, label, and optionally weight"
    )
    command.add_argument("--weights", metavar="FILE.caffemodel", help="take the weight from here")


def read_layer(options: argparse.Namespace) -> tuple[pb.NetParameter, pb.LayerParameter]:
    """Return the net as it trains, and its MarginInnerProduct layer."""
    from caffe_margin.files import prototxt
    from caffe_margin.layers.margin_inner_product import MarginInnerProduct

    net = prototxt.filter_net(read_net(options), "TRAIN")
    try:
        layer_param = prototxt.find_layer(net, options.layer, MarginInnerProduct.type)
        MarginInnerProduct(layer_param)
    except ValueError as error:
        place = prototxt.place_of(options.net, options.layer)
        raise ValueError(f"{place}: {error}") from None
    return net, layer_param


def choose_iteration(
    options: argparse.Namespace, layer_param: pb.LayerParameter
) -> tuple[int, str]:
    """Return which Forward it is, and why, in words."""
    from caffe_margin.solver.schedule import iteration_of_lambda_min

    if options.iteration is not None:
        return options.iteration, "as asked"
    param = layer_param.margin_inner_product_param
    reached = iteration_of_lambda_min(param)
    if reached is not None:
        return reached, "where lambda reaches lambda_min"
    return param.iteration + 1, "the first Forward"


def read_batch(
    options: argparse.Namespace, net: pb.NetParameter, layer_param: pb.LayerParameter
) -> tuple[FloatArray, np.ndarray, FloatArray, dict[str, str]]:
    """Return features, labels and weight, and where they come from, in words.

    Where the weight is drawn for given features, the layer's ``num_output`` may become the number
    of their classes.
    """
    import numpy as np

    from caffe_margin.files.npz import read_arrays
    from caffe_margin.layers.layer import canonical_axis
    from caffe_margin.nets import fillers
    from caffe_margin.nets.shapes import shapes_of
    from caffe_margin.study.features import DIGITS as DIGITS_SOURCE
    from caffe_margin.study.features import draw_features, read_digits

    name, param = layer_param.name, layer_param.margin_inner_product_param
    if options.features == DIGITS:
        given, features = read_digits(), DIGITS_SOURCE
    else:
        given = read_arrays(options.features) if options.features else {}
        features = f"from {options.features}"
    if options.features:
        _check_features(given, options.features)
    bottom: Any
    if "x" in given:
        bottom = given["x"].shape
        dtype = np.dtype(options.dtype or given["x"].dtype)
    else:
        bottoms = shapes_of(net, layer_param).bottoms
        bottom = bottoms.get(layer_param.bottom[0]) if layer_param.bottom else None
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
        filler, in_net = param.weight_filler, param.num_output
        classes = _classes_of(given["label"], in_net) if "label" in given else None
        param.num_output = classes or in_net
        weight = fillers.fill(filler, (param.num_output, math.prod(rest)), rng, dtype.type)
        source = f"drawn by the filler {filler.type!r}, seed {options.seed}"
        if classes:
            source += f", for the {classes} classes of the labels: the net has {in_net}"
    else:
        raise ValueError(
            f"the net does not say how many features layer {name!r} gets: give --features or "
            f"--weights"
        )
    weight = weight.astype(dtype)
    needed = param.num_output, "K" if None in rest else math.prod(rest)
    if weight.shape != (needed[0], weight.shape[-1] if None in rest else needed[1]):
        raise ValueError(
            f"the weight, {source}, is {weight.shape}; layer {name!r} needs "
            f"({needed[0]}, {needed[1]})"
        )

    if "x" in given:
        x, label = given["x"].astype(dtype)[: options.batch], given["label"][: options.batch]
        return x, label, weight, {"features": features, "weight": source}
    if lead:
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


def _check_features(given: Mapping[str, np.ndarray], path: str) -> None:
    """Raise ValueError unless the arrays are what --features must hold; names the file."""
    from caffe_margin.layers.layer import check_dtype

    if not {"x", "label"} <= given.keys():
        raise ValueError(f"{path} holds {', '.join(given) or 'nothing'}; it must hold x and label")
    for name in given.keys() & {"x", "weight"}:
        check_dtype(given[name], f"{path}: {name}")
    x, label = given["x"], given["label"]
    if not (x.ndim and label.ndim and len(x)):
        raise ValueError(
            f"{path}: x is {x.shape} and label {label.shape}; they must be (M, K) and (M,), M > 0"
        )


def _classes_of(label: np.ndarray, in_net: int) -> int | None:
    """Return n if the labels are 0 to n - 1 with none left out, and 1 < n < the net's N."""
    import numpy as np

    found = np.unique(label)
    dense = np.array_equal(found, np.arange(len(found)))
    return len(found) if dense and 1 < len(found) < in_net else None


def _weight_of(path: str, name: str) -> FloatArray:
    """Return the weight of a layer in a .caffemodel, (N, K)."""
    from caffe_margin.files import prototxt
    from caffe_margin.layers.margin_inner_product import as_matrix

    weights = prototxt.read_weights(path)
    if not weights.get(name):
        raise ValueError(
            f"{path} has no weight for layer {name!r}; it has {', '.join(weights) or 'none'}"
        )
    return as_matrix(weights[name][0], f"{path}: the weight of layer {name!r}")
