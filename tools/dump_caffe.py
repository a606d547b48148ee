"""Record what a Caffe computes, for ``caffe-margin verify``.

    python dump_caffe.py NET.prototxt --layer fc6 --out DIR [--seed 0] [--shape 24,512] [--gpu]
    python dump_caffe.py NET.prototxt --net --out DIR [--weights FILE.caffemodel]

Runs under the Python that has pycaffe and numpy, whatever the fork; needs nothing else, and no
newer Python than 3.6. --layer takes one layer out of the net, MarginInnerProduct,
LargeMarginInnerProduct or SoftmaxWithLoss, and runs it alone, on a batch drawn by a seed or read
from an .npz; no data files are needed. --net runs the whole net as it stands, once forward and once
backward, and records every named blob and parameter; inputs that a layer uses as indices (labels,
words) are drawn in range. The format is described in docs/recordings.md of caffe_margin.
"""
# ruff: noqa: B905, SIM905, UP006, UP035, UP045  (Python 3.6 has no dict[...] and no zip(strict))

import argparse
import contextlib
import os
import re
import sys
import tempfile
import uuid
import zipfile
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

import numpy as np

FORMAT_VERSION = 1
MARGIN, LARGE_MARGIN, LOSS = "MarginInnerProduct", "LargeMarginInnerProduct", "SoftmaxWithLoss"
MARGIN_PARAM = {
    MARGIN: "margin_inner_product_param",
    LARGE_MARGIN: "largemargin_inner_product_param",
}
PLUGIN = "caffe_margin.pycaffe"
ALIASES = {"x": "bottom0_data", "label": "bottom1_data", "weight": "blob0_data_before"}

# Layer types are compared in capitals, so that those of layers { type: HINGE_LOSS } need no table.
KEEP_VALUES = {"CONCAT", "FLATTEN", "RESHAPE", "SLICE", "SPLIT"}
# Those of Caffe's own that use no bottom as an index, besides those that keep values.
PLAIN = set(
    "ABSVAL ARGMAX BATCHNORM BIAS BN BNLL CLIP CONTRASTIVELOSS CONVOLUTION CROP DATA DECONVOLUTION "
    "DROPOUT DUMMYDATA ELTWISE ELU EUCLIDEANLOSS EXP FILTER HDF5DATA HDF5OUTPUT IM2COL IMAGEDATA "
    "INNERPRODUCT INPUT LOG LRN LSTM LSTMUNIT MEMORYDATA MVN PARAMETER POOLING POWER PRELU "
    "REDUCTION RELU RNN SCALE SIGMOID SIGMOIDCROSSENTROPYLOSS SILENCE SOFTMAX SPP SWISH TANH "
    "THRESHOLD TILE WINDOWDATA".split()
)
# Which bottom a layer uses as indices, and below what they must lie: by itself and bottom[0].
INDEXED = {
    "MARGININNERPRODUCT": (1, lambda layer, shape: margin_classes(layer)),
    "LARGEMARGININNERPRODUCT": (1, lambda layer, shape: margin_classes(layer)),
    "SOFTMAXWITHLOSS": (1, lambda layer, shape: shape[setting(layer, "softmax_param", "axis", 1)]),
    "ACCURACY": (1, lambda layer, shape: shape[setting(layer, "accuracy_param", "axis", 1)]),
    "INFOGAINLOSS": (
        1,
        lambda layer, shape: shape[setting(layer, "infogain_loss_param", "axis", 1)],
    ),
    "MULTINOMIALLOGISTICLOSS": (1, lambda layer, shape: int(np.prod(shape[1:]))),
    "HINGELOSS": (1, lambda layer, shape: int(np.prod(shape[1:]))),
    "EMBED": (0, lambda layer, shape: layer.embed_param.input_dim),
    "BATCHREINDEX": (1, lambda layer, shape: shape[0]),
}
IGNORES = {
    "SOFTMAXWITHLOSS": "loss_param",
    "INFOGAINLOSS": "loss_param",
    "ACCURACY": "accuracy_param",
}
SAME_SHAPE = set(
    "ABSVAL BATCHNORM BIAS BN BNLL CLIP DROPOUT ELU EXP LOG LRN MVN POWER PRELU RELU SCALE SIGMOID "
    "SPLIT SWISH TANH THRESHOLD".split()
)


def main(arguments: Optional[List[str]] = None) -> int:
    """Record, and return the exit status."""
    options = parse(arguments)
    # Caffe's log would bury what is printed here. It is read when caffe is imported.
    os.environ.setdefault("GLOG_minloglevel", "1")
    try:
        import caffe
    except Exception as error:  # an old pycaffe beside a new protobuf raises what it likes
        return fail(f"no pycaffe here: {error}")
    try:
        if options.weights and not os.path.isfile(options.weights):
            raise ValueError(f"there is no file {options.weights}")
        with as_value_error("Caffe cannot compute there"):
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
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return fail(str(error))
    print(path)
    return 0


def fail(message: str) -> int:
    """Print a line, whatever was in the names it mentions; return the exit status."""
    line = " ".join(message.split())
    print("dump_caffe:", "".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)
    return 2


@contextlib.contextmanager
def as_value_error(what: str) -> Iterator[None]:
    """Turn whatever pycaffe, and a Python layer in a net, raises into a ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {type(error).__name__}: {error}") from error


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
        help="--layer: the shape of bottom[0] (default: the file's, or 24 rows of what the "
        "net says, or 24,16)",
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
    net_param, _ = read_text(options.prototxt)
    layer = find_layer(net_param, options.layer)
    given = {ALIASES.get(name, name): a for name, a in read_inputs(options.inputs).items()}
    known = {"bottom0_data", "bottom1_data", "blob0_data_before", "blob0_diff_before", "top0_diff"}
    check_names(options.inputs, given, known, "x, label, weight, or a recording's keys")
    if "bottom0_data" in given:
        shape = given["bottom0_data"].shape
    else:
        shape = options.shape or (24,) + (shape_below(net_param, layer) or (16,))
    label_shape, classes = check_shape(layer, shape)
    is_margin = layer.type in MARGIN_PARAM
    if is_margin and len(layer.top) == 1:
        layer.top.append("lambda")
    check_margin([layer])
    net = make_lone_net(caffe, layer, (shape, label_shape), options.weights)

    bottom, label = (net.blobs[name] for name in layer.bottom)
    top = net.blobs[layer.top[0]]
    rng = np.random.RandomState(options.seed)
    drawn: Dict[str, Any] = {"bottom1_data": rng.randint(classes, size=label_shape)}
    drawn["bottom0_data"] = rng.randn(*shape)
    recording: Dict[str, Any] = {}
    put(label.data, "bottom1_data", given, drawn, recording)
    check_indices(recording["bottom1_data"], classes, ignored(layer), "a label")
    if is_margin:
        weight = net.params[layer.name][0]
        drawn["blob0_data_before"] = rng.randn(*weight.data.shape)
        drawn["blob0_diff_before"] = rng.randn(*weight.data.shape)
        drawn["top0_diff"] = rng.randn(*top.data.shape)
        if options.weights:
            drawn["blob0_data_before"] = weight.data.copy()
        rows = given.get("blob0_data_before", drawn["blob0_data_before"])
        if rows.shape == weight.data.shape:
            spread_about(rng, drawn["bottom0_data"], rows[recording["bottom1_data"].astype(int)])
        put(weight.data, "blob0_data_before", given, drawn, recording)
        put(weight.diff, "blob0_diff_before", given, drawn, recording)
    put(bottom.data, "bottom0_data", given, drawn, recording)
    recording["layer"] = np.array(as_text(layer))

    lambdas = []
    with as_value_error(f"Caffe's Forward of layer {layer.name!r}"):
        for _ in range(options.forwards if is_margin else 1):
            net.forward()
            if is_margin:
                lambdas.append(net.blobs[layer.top[1]].data.copy().reshape(()))
    recording["top0_data"] = top.data.copy()
    if is_margin:
        put(top.diff, "top0_diff", given, drawn, recording)
        recording["forwards"] = np.array(options.forwards)
        recording["top1_data"] = np.array(lambdas)
    run_backward(net, layer, recording)
    return layer.name, recording


def check_shape(layer: Any, shape: Tuple[int, ...]) -> Tuple[Tuple[int, ...], int]:
    """Return the shape of the labels, and the number of classes, for a shape of bottom[0]."""
    is_margin = layer.type in MARGIN_PARAM
    param = margin_param(layer) if is_margin else layer.softmax_param
    if not -len(shape) <= param.axis < len(shape):
        raise ValueError(f"axis {param.axis} is out of range for a bottom of {shape}")
    axis = param.axis % len(shape)
    if not is_margin:
        return shape[:axis] + shape[axis + 1 :], shape[axis]
    if axis == 0 and shape[0] != 1:
        raise ValueError(f"axis 0 makes one sample of {shape}, and Caffe wants {shape[0]} labels")
    return shape[:axis], param.num_output


def spread_about(rng: Any, x: Any, own: Any) -> None:
    """Move features to lie anywhere about their own classes; cosines of random ones lie about 0."""
    own = own.reshape(-1, own.shape[-1])
    rows = x.reshape(len(own), -1)
    spread = rng.uniform(-3, 3, size=(len(own), 1))
    lengths = [np.linalg.norm(vectors, axis=1)[:, None] for vectors in (rows, own)]
    rows += spread * lengths[0] * own / lengths[1]


def run_backward(net: Any, layer: Any, recording: Dict[str, Any]) -> None:
    """Run Backward, and record what it left."""
    bottom = net.blobs[layer.bottom[0]]
    untouched = np.float32(54321.125)
    bottom.diff[...] = untouched
    with as_value_error(f"Caffe's Backward of layer {layer.name!r}"):
        net.backward()
    propagate_down = bool((bottom.diff != untouched).any())
    if propagate_down:
        recording["bottom0_diff"] = bottom.diff.copy()
    if layer.type in MARGIN_PARAM:
        weight = net.params[layer.name][0]
        recording["blob0_data"] = weight.data.copy()
        recording["blob0_diff"] = weight.diff.copy()
        recording["propagate_down"] = np.array([propagate_down, False])
        recording["param_propagate_down"] = np.array(
            [bool((recording["blob0_diff"] != recording["blob0_diff_before"]).any())]
        )


def record_net(caffe: Any, options: argparse.Namespace) -> Tuple[str, Dict[str, Any]]:
    """Run a whole net; return its name and the recording."""
    net_param, text = read_text(options.prototxt)
    layers = layers_of_phase(net_param, options.phase)
    check_margin(layers)
    if hasattr(caffe, "set_random_seed"):
        caffe.set_random_seed(options.seed)
    with as_value_error("Caffe cannot make the net"):
        net = caffe.Net(options.prototxt, getattr(caffe, options.phase))
        if options.weights:
            net.copy_from(options.weights)

    given = read_inputs(options.inputs)
    inputs = ", ".join(net.inputs) or "none"
    check_names(options.inputs, given, set(net.inputs), f"the net's inputs, which are {inputs}")
    indices = Indices(net, layers)
    indices.check_drawn(set(net.inputs) - given.keys())
    drawn = indices.draw(np.random.RandomState(options.seed))
    for name in net.inputs:
        put(net.blobs[name].data, name, given, drawn, {})
    indices.check()

    recording = {"net": np.array(text), "phase": np.array(options.phase)}
    for name, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            recording[f"param/{name}/{i}/data_before"] = blob.data.copy()
            blob.diff[...] = 0
    with as_value_error("Caffe cannot run the net"):
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


class Use(NamedTuple):
    """A layer, which values it uses as indices, below what, and which of them it passes over."""

    layer: Any
    elements: Any
    limit: int
    ignored: Optional[int]


class Indices:
    """Which of the values in a net's inputs its layers use as indices.

    Every value of every input has a number; blobs that hold copies of them, because Slice and its
    like only move values about, are followed as arrays of these numbers, with -1 for what comes
    from a data layer.
    """

    def __init__(self, net: Any, layers: Iterable[Any]) -> None:
        self.net = net
        self.numbers: Dict[str, Any] = {}
        self.count = 0
        for name in net.inputs:
            shape = net.blobs[name].data.shape
            size = int(np.prod(shape))
            self.numbers[name] = np.arange(self.count, self.count + size).reshape(shape)
            self.count += size
        self.uses: List[Use] = []
        self.perhaps: List[Tuple[Any, Any]] = []  # a layer of an unknown type, and values
        self.computed: List[Tuple[Any, str, Set[str]]] = []  # a user, who changed what, from where
        held = dict(self.numbers)
        changed: Dict[str, Tuple[str, Set[str]]] = {}
        for layer in layers:
            self._find_use(layer, held, changed)
            if len(layer.bottom):
                self._follow(layer, held, changed)
        self.limits = np.full(self.count, np.inf)
        for use in self.uses:
            self.limits[use.elements] = np.minimum(self.limits[use.elements], use.limit)

    def _find_use(
        self, layer: Any, held: Dict[str, Any], changed: Dict[str, Tuple[str, Set[str]]]
    ) -> None:
        kind = kind_of(layer)
        if kind in PLAIN | KEEP_VALUES:
            return
        which, limit = INDEXED.get(kind, (None, None))
        for i, name in enumerate(layer.bottom):
            if which not in (None, i):
                continue
            if name in held:
                elements = held[name][held[name] >= 0]
                if limit:
                    below = limit(layer, self.net.blobs[layer.bottom[0]].data.shape)
                    self.uses.append(Use(layer, elements, below, ignored(layer)))
                else:
                    self.perhaps.append((layer, elements))
            elif limit and name in changed:
                self.computed.append((layer, *changed[name]))

    def _follow(
        self, layer: Any, held: Dict[str, Any], changed: Dict[str, Tuple[str, Set[str]]]
    ) -> None:
        """Say of the layer's tops what they hold, or what changed it."""
        blobs, kind = self.net.blobs, kind_of(layer)
        names: Set[str] = set()
        for name in layer.bottom:
            names |= changed[name][1] if name in changed else self._names(held.get(name))
        by = [changed[name][0] for name in layer.bottom if name in changed]
        pieces: List[Any] = []
        if kind in KEEP_VALUES and not by:
            source = [held.get(b, np.full(blobs[b].data.shape, -1)) for b in layer.bottom]
            if kind == "CONCAT":
                axis = axis_of(layer.concat_param, "concat_dim")
                pieces = [np.concatenate(source, axis)]
            elif kind == "SLICE":
                axis = axis_of(layer.slice_param, "slice_dim")
                ends = np.cumsum([blobs[top].data.shape[axis] for top in layer.top])
                pieces = np.split(source[0], ends[:-1], axis)
            else:
                pieces = [source[0].reshape(blobs[top].data.shape) for top in layer.top]
        for i, top in enumerate(layer.top):
            held.pop(top, None)
            changed.pop(top, None)
            if i < len(pieces):
                held[top] = pieces[i]
            elif names:
                changed[top] = (by[0] if by else layer.name, names)

    def _names(self, elements: Any) -> Set[str]:
        """Return the inputs that some values are of."""
        if elements is None:
            return set()
        return {
            name
            for name, numbers in self.numbers.items()
            if numbers.size and ((elements >= numbers.min()) & (elements <= numbers.max())).any()
        }

    def check_drawn(self, drawn: Set[str]) -> None:
        """Raise ValueError where an input to be drawn might become an index out of range."""
        for layer, by, names in self.computed:
            for name in sorted(names & drawn):
                raise ValueError(
                    f"what layer {layer.name!r} uses as indices, layer {by!r} computes from the "
                    f"input {name!r}: give that by --inputs"
                )
        for layer, elements in self.perhaps:
            for name in sorted(self._names(elements[np.isinf(self.limits[elements])]) & drawn):
                raise ValueError(
                    f"layer {layer.name!r} of type {type_of(layer)} may use the input {name!r} as "
                    "indices: give that by --inputs"
                )

    def draw(self, rng: Any) -> Dict[str, Any]:
        """Return a value for every input: integers in range where they are indices."""
        drawn = {}
        for name, numbers in self.numbers.items():
            limits = self.limits[numbers]
            below = np.where(np.isinf(limits), 1, limits)
            integers = np.minimum(np.floor(rng.uniform(size=numbers.shape) * below), below - 1)
            drawn[name] = np.where(np.isinf(limits), rng.standard_normal(numbers.shape), integers)
        return drawn

    def check(self) -> None:
        """Raise ValueError where what the inputs hold is an index out of range."""
        blobs = [self.net.blobs[name].data.reshape(-1) for name in self.numbers]
        values = np.concatenate([np.empty(0), *blobs])
        for use in self.uses:
            what = f"an index of layer {use.layer.name!r}"
            check_indices(values[use.elements], use.limit, use.ignored, what)


def type_of(layer: Any) -> str:
    """Return a layer's type, by its name also where it is of the enum of layers { ... }."""
    if isinstance(layer.type, str):
        return layer.type
    values = layer.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number
    return str(values[layer.type].name)


def kind_of(layer: Any) -> str:
    """Return a layer's type in capitals, which is the same in both forms."""
    name = type_of(layer).upper().replace("_", "")
    if name == "PYTHON" and layer.python_param.module == PLUGIN:
        return MARGIN.upper()
    return LOSS.upper() if name == "SOFTMAXLOSS" else name


def margin_param(layer: Any) -> Any:
    """Return the parameters of a layer of one of the types of `MARGIN_PARAM`."""
    name = MARGIN_PARAM[layer.type]
    if not hasattr(layer, name):
        raise ValueError(f"layer {layer.name!r} is a {layer.type}; this Caffe has no {name}")
    return getattr(layer, name)


def margin_classes(layer: Any) -> int:
    """Return N of a layer with a margin, the plugin's too."""
    if layer.type in MARGIN_PARAM:
        return margin_param(layer).num_output
    found = re.search(r"\bnum_output\s*:\s*(\d+)", layer.python_param.param_str)
    return int(found.group(1)) if found else 0


def setting(layer: Any, param: str, name: str, default: Any) -> Any:
    """Return a field of a layer's parameters, which an old Caffe may lack."""
    return getattr(getattr(layer, param, None), name, default)


def axis_of(param: Any, old: str) -> int:
    """Return the axis, by its old name where that is given."""
    return getattr(param, old) if param.HasField(old) else param.axis


def ignored(layer: Any) -> Optional[int]:
    """Return the label that a layer passes over."""
    param = getattr(layer, IGNORES.get(kind_of(layer), ""), None)
    fields = {} if param is None else {field.name: value for field, value in param.ListFields()}
    return fields.get("ignore_label")


def layers_of_phase(net_param: Any, phase: str) -> List[Any]:
    """Return the layers that Caffe keeps for a phase. Source: Net::FilterNet."""
    state = net_param.state
    level, stages = state.level, set(state.stage)

    def met(rule: Any) -> bool:
        return (
            (not rule.HasField("phase") or rule.phase == {"TRAIN": 0, "TEST": 1}[phase])
            and (not rule.HasField("min_level") or level >= rule.min_level)
            and (not rule.HasField("max_level") or level <= rule.max_level)
            and stages >= set(rule.stage)
            and not stages & set(rule.not_stage)
        )

    layers = net_param.layers or net_param.layer
    if any(layer.HasField("layer") for layer in net_param.layers):
        raise ValueError("the net is of the form of 2013: bring it up with upgrade_net_proto_text")
    return [
        layer
        for layer in layers
        if (any(map(met, layer.include)) if layer.include else not any(map(met, layer.exclude)))
    ]


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
    recorded = {*MARGIN_PARAM, LOSS}
    found = [layer for layer in net_param.layer if layer.name == name]
    if not found:
        names = ", ".join(layer.name for layer in net_param.layer if layer.type in recorded)
        raise ValueError(f"there is no layer {name!r}; to record are: {names or 'none'}")
    layer = found[0]
    if layer.type not in recorded:
        raise ValueError(
            f"layer {name!r} is of type {layer.type}; {MARGIN}, {LARGE_MARGIN} and {LOSS} are "
            "recorded, others with --net"
        )
    if len(layer.bottom) != 2 or not len(layer.top):
        raise ValueError(f"layer {name!r} needs two bottoms and a top")
    layer.ClearField("include")
    layer.ClearField("exclude")
    return layer


def shape_below(net_param: Any, layer: Any) -> Optional[Tuple[int, ...]]:
    """Return bottom[0]'s dimensions after the batch, where the net says them plainly."""
    name = layer.bottom[0]
    layers = list(net_param.layer)
    for below in reversed(layers[: layers.index(layer)]):
        if name not in below.top:
            continue
        kind = kind_of(below)
        if kind in SAME_SHAPE and len(below.bottom):
            name = below.bottom[0]
        elif kind == "INNERPRODUCT" and setting(below, "inner_product_param", "axis", 1) == 1:
            return (below.inner_product_param.num_output,)
        elif below.type in MARGIN_PARAM and margin_param(below).axis == 1:
            return (margin_param(below).num_output,)
        elif kind == "INPUT" and below.input_param.shape:
            shapes = below.input_param.shape
            return tuple(shapes[list(below.top).index(name) % len(shapes)].dim[1:])
        else:
            return None
    if name in net_param.input:
        i = list(net_param.input).index(name)
        if i < len(net_param.input_shape):
            return tuple(net_param.input_shape[i].dim[1:])
        return tuple(net_param.input_dim[4 * i + 1 : 4 * i + 4])
    return None


def make_lone_net(caffe: Any, layer: Any, shapes: Any, weights: Optional[str]) -> Any:
    """Make a net of the layer alone."""
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    # The oldest way to give a net inputs is the one that every Caffe reads.
    net_param = caffe_pb2.NetParameter(name=layer.name, force_backward=True)
    for name, dims in zip(layer.bottom, shapes):
        net_param.input.append(name)
        net_param.input_shape.add().dim.extend(dims)
    net_param.layer.add().CopyFrom(layer)
    with as_value_error(f"Caffe cannot make layer {layer.name!r}"):
        net = make_net(caffe, text_format.MessageToString(net_param), caffe.TRAIN)
        if weights:
            net.copy_from(weights)
    return net


def as_text(layer: Any) -> str:
    """Return a layer as the text of a net that has no other."""
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    message = caffe_pb2.NetParameter()
    message.layer.add().CopyFrom(layer)
    return text_format.MessageToString(message)


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
    loaded = np.load(path, allow_pickle=False)
    if not hasattr(loaded, "files"):
        raise ValueError(f"{path} is one array; an .npz is needed, in which arrays have names")
    with loaded as archive:
        return {name: archive[name] for name in archive.files}


def check_names(path: Optional[str], given: Dict[str, Any], known: Set[str], what: str) -> None:
    """Raise ValueError where none of the arrays is of use."""
    if path is not None and not known & given.keys():
        names = ", ".join(sorted(given)[:5]) + ", ..." * (len(given) > 5)
        raise ValueError(f"{path} holds {names or 'nothing'}; what is looked for is {what}")


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
        if layer.type in MARGIN_PARAM and not margin_param(layer).num_output:
            raise ValueError(f"layer {layer.name!r} has no num_output, or one of 0")
        if layer.type in MARGIN_PARAM and len(layer.top) < 2:
            raise ValueError(f"layer {layer.name!r} needs two tops: Caffe writes lambda to the 2nd")


def check_indices(values: Any, limit: int, ignored: Optional[int], what: str) -> None:
    """Raise ValueError where Caffe would write out of bounds."""
    good = (values >= 0) & (values < limit)
    if ignored is not None:
        good |= np.trunc(values) == ignored
    if not good.all():
        raise ValueError(f"{what} is outside [0, {limit})")


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
