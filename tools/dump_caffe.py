"""Record what a Caffe computes, for ``caffe-margin verify``.

    python dump_caffe.py NET.prototxt --layer fc6 --out DIR [--seed 0] [--shape 24,512] [--gpu]
    python dump_caffe.py NET.prototxt --net --out DIR [--weights FILE.caffemodel]

Runs under the Python that has pycaffe and numpy, whatever the fork; needs nothing else, and no
newer Python than 3.6. --layer takes one layer out of the net, MarginInnerProduct or
SoftmaxWithLoss, and runs it alone, on a batch drawn by a seed or read from an .npz; no data files
are needed. --net runs the whole net as it stands, once forward and once backward, and records every
named blob and parameter. The format is described in docs/recordings.md of caffe_margin.
"""
# ruff: noqa: B905, UP006, UP035, UP045  (Python 3.6 has no dict[...] and no zip(strict))

import argparse
import os
import sys
import tempfile
import uuid
import zipfile
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

FORMAT_VERSION = 1
MARGIN, LOSS = "MarginInnerProduct", "SoftmaxWithLoss"
ALIASES = {"x": "bottom0_data", "label": "bottom1_data", "weight": "blob0_data_before"}


def main(arguments: Optional[List[str]] = None) -> int:
    """Record, and return the exit status."""
    options = parse(arguments)
    # Caffe's log would bury what is printed here. It is read when caffe is imported.
    os.environ.setdefault("GLOG_minloglevel", "1")
    try:
        import caffe
    except ImportError as error:
        print(f"dump_caffe: no pycaffe here: {error}", file=sys.stderr)
        return 2
    try:
        if options.weights and not os.path.isfile(options.weights):
            raise ValueError(f"there is no file {options.weights}")
        if options.gpu is None:
            caffe.set_mode_cpu()
        else:
            caffe.set_device(options.gpu)
            caffe.set_mode_gpu()
        if options.net:
            name, recording = record_net(caffe, options)
        else:
            name, recording = record_layer(caffe, options)
        recording["format_version"] = np.array(FORMAT_VERSION)
        version = getattr(caffe, "__version__", "of unknown version")
        mode = "CPU" if options.gpu is None else "GPU"
        recording["source"] = np.array(
            f"Caffe {version}, {mode}, by dump_caffe.py with seed {options.seed}"
        )
        name = name.replace(os.sep, "_") or "net"
        if options.net and options.phase == "TEST":
            name += "_TEST"
        file = f"{name}_seed{options.seed}.npz"
        path = os.path.join(options.out, file)
        write(path, recording)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        print("dump_caffe:", *str(error).split(), file=sys.stderr)
        return 2
    print(path)
    return 0


def parse(arguments: Optional[List[str]]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prototxt", metavar="NET", help="the net's .prototxt")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--layer", metavar="NAME", help="record one layer, by itself")
    what.add_argument("--net", action="store_true", help="record the whole net")
    parser.add_argument("--out", metavar="DIR", required=True, help="made if it is not there")
    parser.add_argument("--seed", type=int, default=0, help="for what is drawn (default: 0)")
    parser.add_argument(
        "--inputs",
        metavar="FILE.npz",
        help="--layer: x, label, weight, or a recording; --net: arrays by the inputs' names. What "
        "it lacks is drawn",
    )
    parser.add_argument(
        "--shape",
        metavar="D,D,...",
        type=dimensions,
        help="--layer: the shape of bottom[0] (default: the file's, or 24,16)",
    )
    parser.add_argument(
        "--forwards", type=int, default=1, help="--layer: Forwards before the one Backward"
    )
    parser.add_argument("--weights", metavar="FILE.caffemodel", help="instead of drawn ones")
    parser.add_argument(
        "--phase", choices=["TRAIN", "TEST"], default="TRAIN", help="--net: (default: TRAIN)"
    )
    parser.add_argument(
        "--gpu", metavar="ID", type=int, nargs="?", const=0, help="on this GPU (default: 0)"
    )
    options = parser.parse_args(arguments)
    if options.seed < 0 or options.forwards < 1:
        parser.error("--seed must not be negative, and --forwards must be positive")
    return options


def dimensions(text: str) -> Tuple[int, ...]:
    """Parse a shape."""
    dims = text.split(",")
    if not all(dim.strip().isdecimal() and int(dim) for dim in dims):
        raise argparse.ArgumentTypeError(f"{text!r} is not positive numbers with commas between")
    return tuple(int(dim) for dim in dims)


def record_layer(caffe: Any, options: argparse.Namespace) -> Tuple[str, Dict[str, Any]]:
    """Run one layer by itself; return its name and the recording."""
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    net_param, _ = read_text(options.prototxt)
    layer = find_layer(net_param, options.layer)
    given = {ALIASES.get(name, name): a for name, a in read_inputs(options.inputs).items()}
    rng = np.random.RandomState(options.seed)
    is_margin = layer.type == MARGIN
    shape = given["bottom0_data"].shape if "bottom0_data" in given else options.shape or (24, 16)
    param = layer.margin_inner_product_param if is_margin else layer.softmax_param
    if not -len(shape) <= param.axis < len(shape):
        raise ValueError(f"axis {param.axis} is out of range for a bottom of {shape}")
    axis = param.axis % len(shape)
    if is_margin and axis == 0 and shape[0] != 1:
        raise ValueError(f"axis 0 makes one sample of {shape}, and Caffe wants {shape[0]} labels")
    label_shape = shape[:axis] if is_margin else shape[:axis] + shape[axis + 1 :]
    classes = param.num_output if is_margin else shape[axis]
    if is_margin and len(layer.top) == 1:
        layer.top.append("lambda")
    check_margin([layer])

    # The oldest way to give a net inputs is the one that every Caffe reads.
    net_param = caffe_pb2.NetParameter(name=layer.name, force_backward=True)
    for name, dims in zip(layer.bottom, (shape, label_shape)):
        net_param.input.append(name)
        net_param.input_shape.add().dim.extend(dims)
    net_param.layer.add().CopyFrom(layer)
    net = make_net(caffe, text_format.MessageToString(net_param), caffe.TRAIN)
    if options.weights:
        net.copy_from(options.weights)
    bottom, label = (net.blobs[name] for name in layer.bottom)
    top = net.blobs[layer.top[0]]

    drawn: Dict[str, Any] = {"bottom1_data": rng.randint(classes, size=label_shape)}
    drawn["bottom0_data"] = rng.randn(*shape)
    recording: Dict[str, Any] = {}
    put(label.data, "bottom1_data", given, drawn, recording)
    check_labels(recording["bottom1_data"], classes)
    if is_margin:
        weight = net.params[layer.name][0]
        drawn["blob0_data_before"] = rng.randn(*weight.data.shape)
        drawn["blob0_diff_before"] = rng.randn(*weight.data.shape)
        drawn["top0_diff"] = rng.randn(*top.data.shape)
        # Cosines of random vectors lie about 0; these are to lie anywhere about the own class.
        own_class = recording["bottom1_data"].reshape(-1).astype(int)
        x = drawn["bottom0_data"].reshape(own_class.size, -1)
        if options.weights:
            drawn["blob0_data_before"] = weight.data.copy()
        rows = given.get("blob0_data_before", drawn["blob0_data_before"])
        if rows.shape == weight.data.shape:
            own = rows[own_class]
            spread = rng.uniform(-3, 3, size=(len(x), 1))
            x += (
                spread
                * np.linalg.norm(x, axis=1)[:, None]
                * own
                / np.linalg.norm(own, axis=1)[:, None]
            )
        put(weight.data, "blob0_data_before", given, drawn, recording)
        put(weight.diff, "blob0_diff_before", given, drawn, recording)
    put(bottom.data, "bottom0_data", given, drawn, recording)

    lambdas = []
    for _ in range(options.forwards if is_margin else 1):
        net.forward()
        if is_margin:
            lambdas.append(net.blobs[layer.top[1]].data.copy().reshape(()))
    if is_margin:
        put(top.diff, "top0_diff", given, drawn, recording)
    untouched = np.float32(54321.125)
    bottom.diff[...] = untouched
    net.backward()
    propagate_down = bool((bottom.diff != untouched).any())

    message = caffe_pb2.NetParameter()
    message.layer.add().CopyFrom(layer)
    recording["layer"] = np.array(text_format.MessageToString(message))
    recording["top0_data"] = top.data.copy()
    if propagate_down:
        recording["bottom0_diff"] = bottom.diff.copy()
    if is_margin:
        recording["forwards"] = np.array(options.forwards)
        recording["top1_data"] = np.array(lambdas)
        recording["blob0_data"] = weight.data.copy()
        recording["blob0_diff"] = weight.diff.copy()
        recording["propagate_down"] = np.array([propagate_down, False])
        recording["param_propagate_down"] = np.array(
            [bool((recording["blob0_diff"] != recording["blob0_diff_before"]).any())]
        )
    return layer.name, recording


def record_net(caffe: Any, options: argparse.Namespace) -> Tuple[str, Dict[str, Any]]:
    """Run a whole net; return its name and the recording."""
    net_param, text = read_text(options.prototxt)
    check_margin(net_param.layer)
    if hasattr(caffe, "set_random_seed"):
        caffe.set_random_seed(options.seed)
    net = caffe.Net(options.prototxt, getattr(caffe, options.phase))
    if options.weights:
        net.copy_from(options.weights)

    given = read_inputs(options.inputs)
    rng = np.random.RandomState(options.seed)
    classes: Dict[str, int] = {}
    for layer in net_param.layer:
        if layer.type in (MARGIN, LOSS, "Accuracy") and len(layer.bottom) > 1:
            scores, label = layer.bottom[:2]
            if layer.type == MARGIN:
                classes[label] = layer.margin_inner_product_param.num_output
            elif scores in net.blobs and net.blobs[scores].data.ndim > 1:
                classes.setdefault(label, net.blobs[scores].data.shape[1])
    used: Dict[str, Any] = {}
    for name in net.inputs:
        data = net.blobs[name].data
        if name in classes:
            drawn = rng.randint(classes[name], size=data.shape)
        else:
            drawn = rng.randn(*data.shape)
        put(data, name, given, {name: drawn}, used)
        if name in classes:
            check_labels(used[name], classes[name])

    recording = {"net": np.array(text), "phase": np.array(options.phase)}
    for name, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            recording[f"param/{name}/{i}/data_before"] = blob.data.copy()
            blob.diff[...] = 0
    net.forward()
    net.backward()
    for name, blob in net.blobs.items():
        recording[f"blob/{name}/data"] = blob.data.copy()
        recording[f"blob/{name}/diff"] = blob.diff.copy()
    for name, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            recording[f"param/{name}/{i}/data"] = blob.data.copy()
            recording[f"param/{name}/{i}/diff"] = blob.diff.copy()
    return net_param.name, recording


def read_text(path: str) -> Tuple[Any, str]:
    """Read a prototxt as Caffe's own NetParameter, and as it stands."""
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    try:
        return text_format.Merge(text, caffe_pb2.NetParameter()), text
    except text_format.ParseError as error:
        raise ValueError(f"{path}: {error}") from None


def find_layer(net_param: Any, name: str) -> Any:
    """Return the layer, by itself: without phases, and with the two bottoms it needs."""
    if len(net_param.layers):
        raise ValueError("the net is of the old form; bring it up with upgrade_net_proto_text")
    found = [layer for layer in net_param.layer if layer.name == name]
    if not found:
        names = ", ".join(layer.name for layer in net_param.layer if layer.type in (MARGIN, LOSS))
        raise ValueError(f"there is no layer {name!r}; to record are: {names or 'none'}")
    layer = found[0]
    if layer.type not in (MARGIN, LOSS):
        raise ValueError(
            f"layer {name!r} is of type {layer.type}; {MARGIN} and {LOSS} are recorded, others "
            "with --net"
        )
    if len(layer.bottom) != 2 or not len(layer.top):
        raise ValueError(f"layer {name!r} needs two bottoms and a top")
    layer.ClearField("include")
    layer.ClearField("exclude")
    return layer


def make_net(caffe: Any, text: str, phase: Any) -> Any:
    """Make a net from text; pycaffe wants a file."""
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt", delete=False) as file:
        file.write(text)
    try:
        return caffe.Net(file.name, phase)
    finally:
        os.unlink(file.name)


def read_inputs(path: Optional[str]) -> Dict[str, Any]:
    """Read what is given instead of drawn."""
    if path is None:
        return {}
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def put(
    data: Any, name: str, given: Dict[str, Any], drawn: Dict[str, Any], recording: Dict[str, Any]
) -> None:
    """Put what is given, or else drawn, into a blob; record it as the blob holds it."""
    array = given.get(name, drawn[name])
    if array.shape != data.shape:
        raise ValueError(f"{name} is {array.shape}, but the net's is {data.shape}")
    data[...] = array
    recording[name] = data.copy()


def check_margin(layers: Any) -> None:
    """Raise ValueError where Caffe would abort, or write to a second top that is not there."""
    for layer in layers:
        if layer.type == MARGIN and not layer.margin_inner_product_param.num_output:
            raise ValueError(f"layer {layer.name!r} has no num_output, or one of 0")
        if layer.type == MARGIN and len(layer.top) < 2:
            raise ValueError(f"layer {layer.name!r} needs two tops: Caffe writes lambda to the 2nd")


def check_labels(label: Any, classes: int) -> None:
    """Raise ValueError where Caffe would write out of bounds."""
    if not ((label >= 0) & (label < classes)).all():
        raise ValueError(f"a label is outside [0, {classes})")


def write(path: str, recording: Dict[str, Any]) -> None:
    """Write the file, whole or not at all."""
    if not os.path.isdir(os.path.dirname(path)):
        os.makedirs(os.path.dirname(path))
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **recording)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


if __name__ == "__main__":
    sys.exit(main())
