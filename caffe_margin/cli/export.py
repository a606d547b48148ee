"""``caffe-margin export``: the net to deploy, as a prototxt or in ONNX."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_margin.cli.common import (
    Commands,
    add_command,
    add_json,
    add_net,
    add_shapes,
    add_stage,
    add_weights,
    complain,
    file_name,
    mean,
    number,
    positive,
    print_json,
    read_net,
    refuse_to_replace,
    show_path,
)
from caffe_margin.files.visible import visible

if TYPE_CHECKING:
    import numpy as np

    from caffe_margin import caffe_margin_pb2 as pb
    from caffe_margin.nets.deploy import Deployed
    from caffe_margin.torch.agreement import Agreement, Blobs
    from caffe_margin.torch.onnx import Bytes

    Weights = dict[str, list[np.ndarray]]

CHECK_BATCH = 3
"""Another than the exporter was shown."""


class Differs(Exception):
    """The export is not what it was made of."""


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "export",
        run,
        summary="write the net to deploy, as a .prototxt or in ONNX",
        description=(
            "Write what is left of a net when its data is handed to it and its features are\n"
            "wanted: one phase, TEST, in today's format; data layers become an Input, and losses,\n"
            "labels, accuracies and the layer with the margin go, as does what only a fork knows,\n"
            "with a word. The ending of OUT says as what: a .prototxt, with the weights in a\n"
            ".caffemodel beside it, or an .onnx, by PyTorch's exporter.\n\n"
            "With --check every blob is held against the net it was made of, in double: those\n"
            "of an .onnx by onnxruntime, those of a .prototxt by this package and by OpenCV 4,\n"
            "where it is installed. Exits 1 where one is off, and then OUT is not written."
        ),
        example=(
            "caffe-margin export models/sphereface_model.prototxt --weights W.caffemodel \\\n"
            "    --shape data=1,3,112,96 -o sphereface.onnx"
        ),
    )
    add_net(command)
    add_weights(command)
    command.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        required=True,
        type=_out,
        help="the file to write, a .prototxt or an .onnx",
    )
    add_shapes(command)
    add_stage(command)
    command.add_argument(
        "--keep-head",
        action="store_true",
        help="make of the layer with the margin an InnerProduct, its weight's rows of unit length",
    )
    _add_onnx(command)
    _add_check(command)
    add_json(command)


def _add_onnx(command: argparse.ArgumentParser) -> None:
    onnx = command.add_argument_group("an .onnx")
    onnx.add_argument(
        "--batch", metavar="N", type=positive, help="the inputs' first dimension (default: any)"
    )
    onnx.add_argument(
        "--mean",
        metavar="M|M,M,M|FILE",
        type=mean,
        help="take an image's bytes, height x width x channels, in the order of the net's "
        "channels, and subtract a number, one a channel, or a mean .binaryproto",
    )
    onnx.add_argument("--scale", metavar="S", type=number, help="then multiply by this")


def _add_check(command: argparse.ArgumentParser) -> None:
    check = command.add_argument_group("the check")
    check.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        help="hold every blob against the net's (default: where what it takes is installed)",
    )
    check.add_argument(
        "--inputs",
        metavar="FILE.npz",
        type=file_name,
        help="arrays for the export's inputs, by name (default: noise)",
    )


def _out(text: str) -> str:
    if not file_name(text).endswith((".prototxt", ".onnx")):
        raise argparse.ArgumentTypeError(f"{text} ends in neither .prototxt nor .onnx")
    return text


def run(options: argparse.Namespace) -> int:
    """Write the files, and print how far each blob is off."""
    from caffe_margin.files.weights import take_blobs
    from caffe_margin.nets.select import filter_net

    is_onnx = options.out.endswith(".onnx")
    if not is_onnx and (options.batch or options.mean or options.scale is not None):
        raise ValueError("--batch, --mean and --scale are for an .onnx; see --shape")
    refuse_to_replace(_files(options), options.out)
    check = _is_checked(options, is_onnx)
    whole = read_net(options)
    net, blobs = take_blobs(filter_net(whole, "TEST", stages=options.stage))
    deployed = _deploy(options, whole, net)
    for note in deployed.notes:
        complain(f"warning: {note}")
    weights, said = _weights(options, net, deployed.net, blobs, draw=is_onnx or check)
    checked: list[Agreement] = []
    written = [options.out]
    try:
        if is_onnx:
            _write_onnx(options, net, deployed.net, weights, checked, check, said)
        else:
            written += _write_prototxt(options, net, deployed.net, weights, checked, check, said)
    except Differs:
        written = []
    _say(options, deployed, written, checked, said)
    return 0 if written else 1


def _files(options: argparse.Namespace) -> tuple[str | None, ...]:
    """Return the files that are read."""
    return options.net, options.weights, options.inputs, options.mean


def _deploy(options: argparse.Namespace, whole: pb.NetParameter, net: pb.NetParameter) -> Deployed:
    """Return the net to deploy; where a shape is wanting, say by which option it is given."""
    from caffe_margin.nets.deploy import UnknownInput, deploy

    shapes = dict(options.shape)
    for top in shapes:
        _refuse_left_out(top, whole, net)
    try:
        return deploy(net, shapes, stages=options.stage, keep_head=options.keep_head)
    except UnknownInput as error:
        _refuse_left_out(error.top, whole, net)
        raise ValueError(f"{error}, by --shape {error.top}=N,C,H,W") from None


def _refuse_left_out(top: str, whole: pb.NetParameter, net: pb.NetParameter) -> None:
    """Raise ValueError where only layers that are not in phase TEST have a top."""
    if any(top in layer.top for layer in net.layer):
        return
    for layer in whole.layer:
        if top in layer.top:
            raise ValueError(
                f"input {top!r} is the top of layer {layer.name!r}, whose rules leave it out of "
                f"phase TEST; to deploy the net, give it a layer there with the top {top!r}"
            )


def _is_checked(options: argparse.Namespace, is_onnx: bool) -> bool:
    needs = ("onnxruntime" if is_onnx else "torch",)
    if options.check is None:
        return all(map(find_spec, needs))
    return bool(options.check)


def _weights(
    options: argparse.Namespace,
    net: pb.NetParameter,
    deployed: pb.NetParameter,
    blobs: dict[str, dict[int, np.ndarray]],
    draw: bool,
) -> tuple[Weights, str]:
    """Return the weights of the net to deploy, and where they are from; "" if from nowhere."""
    from caffe_margin.files.weights import read_blobs
    from caffe_margin.nets.deploy import deploy_weights

    if options.weights:
        blobs = blobs | read_blobs(options.weights)
    if blobs:
        return deploy_weights(deployed, net, blobs), options.weights or options.net
    if not draw:
        return {}, ""
    from caffe_margin.torch.net import Net

    params = Net(deployed, seed=0).params
    return {name: [blob.detach().numpy() for blob in params[name]] for name in params}, ""


def _write_onnx(
    options: argparse.Namespace,
    net: pb.NetParameter,
    deployed: pb.NetParameter,
    weights: Weights,
    checked: list[Agreement],
    check: bool,
    said: str,
) -> None:
    """Write the model, or raise Differs with what was checked in the list."""
    from caffe_margin.files.atomic import atomic_write
    from caffe_margin.torch.agreement import check_onnx
    from caffe_margin.torch.onnx import export_onnx

    of_bytes = _of_bytes(options, deployed)
    metadata = _metadata(options, said, of_bytes)
    with atomic_write(options.out) as path:
        export_onnx(
            deployed, weights, path, batch=options.batch, of_bytes=of_bytes, metadata=metadata
        )
        if check:
            inputs = _inputs(options, deployed, options.batch or CHECK_BATCH, of_bytes)
            checked += check_onnx(path, net, deployed, weights, inputs, of_bytes)
            _raise_if_off(checked)


def _write_prototxt(
    options: argparse.Namespace,
    net: pb.NetParameter,
    deployed: pb.NetParameter,
    weights: Weights,
    checked: list[Agreement],
    check: bool,
    said: str,
) -> list[str]:
    """Write the net, and its weights where there are any; return what is beside the net."""
    from caffe_margin.files.atomic import atomic_write
    from caffe_margin.files.prototxt import write_net
    from caffe_margin.files.weights import write_weights

    beside = [str(Path(options.out).with_suffix(".caffemodel"))] if said and weights else []
    for name in beside:
        refuse_to_replace(_files(options), name)
    with ExitStack() as stack:
        path = stack.enter_context(atomic_write(options.out))
        caffemodel = path.with_suffix(".caffemodel")
        for name in beside:
            caffemodel = stack.enter_context(atomic_write(name))
        write_net(deployed, path, binary=False)
        if weights:
            write_weights(weights, caffemodel)
        if check:
            from caffe_margin.torch.agreement import check_prototxt

            ((batch, *_), *_) = (shape.dim for shape in deployed.layer[0].input_param.shape)
            inputs = _inputs(options, deployed, batch)
            rows, why = check_prototxt(path, caffemodel, net, deployed, inputs)
            checked += rows
            if why:
                complain(f"warning: {why}")
            _raise_if_off(checked)
    return beside


def _raise_if_off(checked: Sequence[Agreement]) -> None:
    if not all(row.ok for row in checked):
        raise Differs


def _inputs(
    options: argparse.Namespace,
    deployed: pb.NetParameter,
    batch: int,
    of_bytes: Bytes | None = None,
) -> Blobs:
    """Return what the export is checked with."""
    from caffe_margin.files.npz import read_arrays
    from caffe_margin.torch.agreement import draw_inputs

    drawn = draw_inputs(deployed, batch, of_bytes)
    if not options.inputs:
        return drawn
    given = read_arrays(options.inputs)
    if missing := drawn.keys() - given.keys():
        raise ValueError(f"{options.inputs}: it lacks {', '.join(sorted(missing))}")
    return {name: given[name].astype(drawn[name].dtype) for name in drawn}


def _of_bytes(options: argparse.Namespace, deployed: pb.NetParameter) -> Bytes | None:
    """Return what --mean and --scale make of an image; None where neither is given."""
    import numpy as np

    from caffe_margin.files.binaryproto import read_binaryproto
    from caffe_margin.torch.onnx import Bytes

    if options.mean is None and options.scale is None:
        return None
    (_, *image), *_ = (tuple(shape.dim) for shape in deployed.layer[0].input_param.shape)
    try:
        means = np.array([float(part) for part in (options.mean or "0").split(",")])
    except ValueError:
        means = read_binaryproto(options.mean)
        means = means.reshape(means.shape[-3:])
        if not np.isfinite(means).all():
            raise ValueError(f"{options.mean}: the mean is not finite") from None
    if len(image) != 3 or (means.shape != tuple(image) and means.shape not in ((1,), (image[0],))):
        raise ValueError(
            f"a mean of {means.shape} and images of {tuple(image)}; it takes one number, one a "
            "channel, or one a pixel"
        )
    return Bytes(means, 1.0 if options.scale is None else options.scale)


def _metadata(options: argparse.Namespace, weights: str, of_bytes: Bytes | None) -> dict[str, str]:
    """Return where the model came from; names without folders."""
    found = {"net": os.path.basename(options.net), "net_sha256": _sha256(options.net)}
    found["weights"] = os.path.basename(weights) if weights else "drawn by the fillers, seed 0"
    if weights:
        found["weights_sha256"] = _sha256(weights)
    found["phase"] = "TEST"
    if options.stage:
        found["stages"] = " ".join(options.stage)
    if of_bytes:
        found["image"] = "uint8, height x width x channels, in the order of the net's channels"
        found["mean"], found["scale"] = options.mean or "0", repr(of_bytes.scale)
    return {f"caffe_margin.{key}": value for key, value in found.items()}


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _say(
    options: argparse.Namespace,
    deployed: Deployed,
    written: Sequence[str],
    checked: Sequence[Agreement],
    said: str,
) -> None:
    """Print what was written, and how far each blob is off."""
    from caffe_margin.cli import tables

    if options.json:
        rows = [{**asdict(row), "differences": _finite(row), "ok": row.ok} for row in checked]
        print_json({"written": list(written), "notes": deployed.notes, "check": rows})
    else:
        none = "drawn by the fillers" if options.out.endswith(".onnx") else "none"
        print(f"net       {visible(deployed.net.name)}: {len(deployed.net.layer)} layers")
        print(f"weights   {show_path(said) if said else none}")
        if checked:
            print(f"check     of {len(checked)} blobs, off by, over the blob's largest magnitude\n")
            tables.console().print(tables.agreement_table(checked))
            print()
        for path in written:
            print(f"written   {show_path(path)}")
    sys.stdout.flush()
    if not written:
        first = next(row for row in checked if not row.ok)
        complain(
            f"layer {first.layer!r} is the first that is off, in blob {first.blob!r}; "
            f"{options.out} is not written"
        )


def _finite(row: Agreement) -> dict[str, float | None]:
    """Return the differences as JSON has them."""
    return {
        engine: None if difference == float("inf") else difference
        for engine, difference in row.differences.items()
    }
