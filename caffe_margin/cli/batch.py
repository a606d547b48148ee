"""The batch that a command runs a layer on: read from files, or drawn."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from caffe_margin.cli.common import (
    add_json,
    add_net,
    add_shapes,
    add_state,
    file_name,
    not_negative,
    positive,
    read_state,
)

if TYPE_CHECKING:
    import numpy as np

    from caffe_margin import caffe_margin_pb2 as pb
    from caffe_margin.maths.arrays import FloatArray
    from caffe_margin.nets.rules.algebra import Shape
    from caffe_margin.study.head import Batch

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
    add_state(command)
    add_shapes(command)
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
        "--features",
        metavar="FILE.npz|digits",
        type=file_name,
        help="x, label, and optionally weight",
    )
    command.add_argument(
        "--weights", metavar="FILE.caffemodel", type=file_name, help="take the weight from here"
    )


def read_layer(options: argparse.Namespace) -> tuple[pb.NetParameter, pb.LayerParameter]:
    """Return the net in its state, and its layer with a margin."""
    from caffe_margin.files import prototxt
    from caffe_margin.layers.margin_layers import MARGIN_LAYERS, margin_layer
    from caffe_margin.nets.select import find_layer

    net = read_state(options)
    try:
        layer_param = find_layer(net, options.layer, MARGIN_LAYERS)
        margin_layer(layer_param)
    except ValueError as error:
        place = prototxt.place_of(options.net, options.layer)
        raise ValueError(f"{place}: {error}") from None
    return net, layer_param


def read_batch(
    options: argparse.Namespace, net: pb.NetParameter, layer_param: pb.LayerParameter
) -> tuple[Batch, dict[str, str]]:
    """Return the batch, and where its features, weight and iteration come from, in words.

    Where the weight is drawn for given features, the batch's layer may have as many classes as
    they have, and not the net's ``num_output``.
    """
    import numpy as np

    from caffe_margin.study.features import draw_features
    from caffe_margin.study.head import Batch

    given, features = _read_features(options.features)
    if given:
        shape: Shape = given["x"].shape
    else:
        shape = _bottom_in_net(net, layer_param, dict(options.shape))
    dtype = np.dtype(options.dtype or (given["x"].dtype if given else np.float32))
    rng = np.random.default_rng(options.seed)
    lead, K = _split_at_axis(layer_param, shape)
    known = _lead_shape(options, layer_param, given, lead)
    M = math.prod(known)
    layer_param, weight, source = _choose_weight(options, layer_param, given, M, K, rng, dtype)
    if given:
        x = given["x"].astype(dtype)[: options.batch]
        label = given["label"][: options.batch]
    else:
        x, label = draw_features(weight, M, rng)
        rest = shape[len(lead) :]
        x = x.reshape(*known, *(weight.shape[1:] if None in rest else rest))
        label = label.reshape(known)
        features = f"drawn, angles to the own class cover 0 to pi, seed {options.seed}"
    iteration, reason = _choose_iteration(options, layer_param)
    batch = Batch(layer_param, iteration, x, label, weight)
    return batch, {"features": features, "weight": source, "iteration": reason}


def _choose_iteration(
    options: argparse.Namespace, layer_param: pb.LayerParameter
) -> tuple[int, str]:
    """Return which Forward it is, and why, in words."""
    from caffe_margin.maths.annealing import Annealing
    from caffe_margin.nets.margin import margin_param
    from caffe_margin.solver.schedule import iteration_of_lambda_min

    if options.iteration is not None:
        return options.iteration, "as asked"
    annealing = Annealing.of(margin_param(layer_param))
    reached = iteration_of_lambda_min(annealing)
    if reached is not None:
        return reached, "where lambda reaches lambda_min"
    return annealing.iteration + 1, "the first Forward"


def _read_features(path: str | None) -> tuple[dict[str, np.ndarray], str]:
    """Return the arrays of --features, and what they are in words; none where it is not given."""
    from caffe_margin.files.npz import read_arrays
    from caffe_margin.study.features import DIGITS as DESCRIPTION_OF_DIGITS
    from caffe_margin.study.features import read_digits

    if path is None:
        return {}, ""
    if path == DIGITS:
        return read_digits(), DESCRIPTION_OF_DIGITS
    given = read_arrays(path)
    _check_features(given, path)
    return given, f"from {path}"


def _bottom_in_net(
    net: pb.NetParameter, layer_param: pb.LayerParameter, inputs: Mapping[str, Shape]
) -> Shape:
    """Return the shape that the layer's features have in the net."""
    from caffe_margin.nets.shapes import shapes_of

    bottoms = shapes_of(net, layer_param, inputs).bottoms
    shape = bottoms.get(layer_param.bottom[0]) if layer_param.bottom else None
    return shape or (None, None)


def _split_at_axis(layer_param: pb.LayerParameter, shape: Shape) -> tuple[Shape, int | None]:
    """Return the dimensions before the layer's axis, and K; None where the net does not say."""
    from caffe_margin.layers.checks import canonical_axis
    from caffe_margin.nets.margin import margin_param

    axis = canonical_axis(
        margin_param(layer_param).axis,
        shape,  # type: ignore[arg-type]
        layer_param.name,
    )
    rest = [dim for dim in shape[axis:] if dim is not None]
    return shape[:axis], math.prod(rest) if len(rest) == len(shape) - axis else None


def _lead_shape(
    options: argparse.Namespace,
    layer_param: pb.LayerParameter,
    given: Mapping[str, np.ndarray],
    lead: Shape,
) -> tuple[int, ...]:
    """Return the dimensions before the layer's axis that the batch will have."""
    if lead and given:
        lead = (len(given["x"][: options.batch]), *lead[1:])
    elif lead:
        lead = (options.batch or lead[0] or DEFAULT_BATCH, *lead[1:])
    known = tuple(dim for dim in lead if dim is not None)
    if len(known) < len(lead):
        raise ValueError(
            f"the net does not say the shape of the bottom of layer {layer_param.name!r}"
        )
    return known


def _choose_weight(
    options: argparse.Namespace,
    layer_param: pb.LayerParameter,
    given: Mapping[str, np.ndarray],
    M: int,
    K: int | None,
    rng: np.random.Generator,
    dtype: np.dtype,
) -> tuple[pb.LayerParameter, FloatArray, str]:
    """Return the layer that the weight is for, the weight, and where it comes from, in words."""
    from caffe_margin import caffe_margin_pb2 as pb
    from caffe_margin.nets import fillers
    from caffe_margin.nets.margin import margin_param

    name, param = layer_param.name, margin_param(layer_param)
    weight: FloatArray | None = None
    if options.weights is not None:
        weight, source = _weight_of(options.weights, name), f"from {options.weights}"
    elif "weight" in given:
        weight, source = given["weight"], f"from {options.features}"
    elif K is not None:
        filler = param.weight_filler
        if all_zero := filler.type == "constant" and not filler.value:
            filler = pb.FillerParameter(type="xavier")
        source = f"drawn by the filler {filler.type!r}, seed {options.seed}"
        if all_zero:
            source += ", for the net's own fills with zeros"
        in_net = param.num_output
        if given and (classes := _classes_of(given["label"], in_net)):
            source += f", for the {classes} classes of the labels: the net has {in_net}"
            layer_param = type(layer_param).FromString(layer_param.SerializeToString())
            param = margin_param(layer_param)
            param.num_output = classes
    else:
        raise ValueError(
            f"the net does not say how many features layer {name!r} gets: give --shape, "
            f"--features or --weights"
        )
    N = param.num_output
    if weight is not None:
        if weight.shape != (N, weight.shape[-1] if K is None else K):
            raise ValueError(
                f"the weight, {source}, is {weight.shape}; layer {name!r} needs "
                f"({N}, {'K' if K is None else K})"
            )
        K = weight.shape[1]
    assert K is not None
    check_memory(options, M, N, K, dtype)
    if weight is None:
        weight = fillers.fill(filler, (N, K), rng, dtype.type)
    return layer_param, weight.astype(dtype), source


def check_memory(options: argparse.Namespace, M: int, N: int, K: int, dtype: np.dtype) -> None:
    """Raise ValueError where the machine lacks the memory that the command will take."""
    report = bool(vars(options).get("report"))
    needed, free = bytes_of(M, N, K, dtype.itemsize, report), free_memory()
    if free is None or needed <= free:
        return
    fits = bytes_of(1, N, K, dtype.itemsize, report) <= free
    raise ValueError(
        f"a batch of M = {M}, N = {N}, K = {K} in {dtype} takes some {_show_bytes(needed)} of "
        f"memory{' with --report' * report}, and {_show_bytes(free)} are free: "
        + ("give a smaller --batch" if fits else "no --batch is small enough")
    )


def bytes_of(M: int, N: int, K: int, itemsize: int, report: bool) -> int:
    """Return about how much memory a command takes at its peak, in bytes.

    Forward and Backward hold three (M, N) arrays in the layer's dtype: the scores, their
    probabilities, and the diff. Of each (M, K) and (N, K) there are five, and more in float64 that
    draw or measure it. What the page shows is all computed in float64.
    """
    layer = 3 * itemsize * M * N + (5 * itemsize + 18) * (M + N) * K
    study = 8 * (4 * M * N + 11 * (M + N) * K)
    return max(layer, study) if report else layer


def free_memory() -> int | None:
    """Return how much memory is to be had without swapping, in bytes; None where none knows."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _show_bytes(size: float) -> str:
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:,.1f} {units[0]}"


def _check_features(given: Mapping[str, np.ndarray], path: str) -> None:
    """Raise ValueError unless the arrays are what --features must hold; names the file."""
    from caffe_margin.layers.checks import check_dtype

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
    from caffe_margin.files.weights import read_weights
    from caffe_margin.layers.checks import as_matrix

    weights = read_weights(path)
    if not weights.get(name):
        raise ValueError(
            f"{path} has no weight for layer {name!r}; it has {', '.join(weights) or 'none'}"
        )
    return as_matrix(weights[name][0], f"{path}: the weight of layer {name!r}")
