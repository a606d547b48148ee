"""Whether an exported net computes what the net it was made of does, blob by blob."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.load import StrPath
from caffe_margin.files.prototxt import read_net
from caffe_margin.files.weights import read_weights
from caffe_margin.nets.in_place import name_apart
from caffe_margin.nets.margin import FIELDS
from caffe_margin.nets.select import needed_for
from caffe_margin.nets.shapes import DATA_TYPES
from caffe_margin.torch.net import Net
from caffe_margin.torch.onnx import Bytes, image_name, input_shapes, needed

Blobs: TypeAlias = dict[str, NDArray]

RTOL = 1e-5
"""Of a blob's largest magnitude: float32 through some sixty layers."""

NEAR_ONE = {"Sigmoid": 2.0**-23}
"""Types computed by way of numbers near 1, and what that costs however small the top is."""

IN_PARTS = {"Log", "Power"}
"""Types that are not finite, or not defined, everywhere."""


@dataclass(frozen=True)
class Agreement:
    """How far one blob is from that of the net it was made of.

    Attributes:
        layer, type: whose top it is.
        blob: its name, of `name_apart`.
        largest: its largest magnitude.
        differences: by engine, the largest difference over that; infinite where shapes or
            non-finite values differ, or where the layer makes such of finite ones.
        rtol: what is allowed.
    """

    layer: str
    type: str
    blob: str
    largest: float
    rtol: float
    differences: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every engine is within ``rtol``."""
        return all(difference <= self.rtol for difference in self.differences.values())


def draw_inputs(
    net: pb.NetParameter, batch: int, of_bytes: Bytes | None = None, seed: int = 0
) -> Blobs:
    """Return normal numbers for a deployed net's inputs, or the bytes of images that hold noise."""
    rng = np.random.default_rng(seed)
    shapes = input_shapes(net, batch)
    if of_bytes is None:
        return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    ((count, channels, height, width),) = shapes.values()
    return {image_name(net): rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)}


def reference_net(net: pb.NetParameter, deployed: pb.NetParameter) -> pb.NetParameter:
    """Return the layers of the net that was deployed, as they are in it, on the deployed Input.

    A head that was kept is the deployed one's: with its margin it would need labels.

    Args:
        net: of one phase.
        deployed: what `deploy` made of it.
    """
    kept = {layer.name: layer for layer in deployed.layer}
    part = pb.NetParameter(name=net.name)
    part.layer.append(deployed.layer[0])
    for layer in net.layer:
        if layer.type not in DATA_TYPES:
            is_head = layer.type in FIELDS and layer.name in kept
            part.layer.append(kept[layer.name] if is_head else layer)
    tops = {top for layer in name_apart(deployed).layer for top in layer.top}
    return needed_for(name_apart(part), tops)


def run_net(
    net: pb.NetParameter,
    weights: Mapping[str, Sequence[NDArray]],
    inputs: Mapping[str, NDArray],
    dtype: str,
) -> Blobs:
    """Return all blobs of a net by this package, under the names of `name_apart`.

    Raises:
        ValueError: a layer refuses what it is given.
    """
    kind: torch.dtype = getattr(torch, dtype)
    module = Net(name_apart(net), weights, seed=0, dtype=kind)
    with torch.no_grad():
        tensors = {name: torch.from_numpy(array).to(kind) for name, array in inputs.items()}
        return {name: blob.numpy() for name, blob in module(keep="all", **tensors).items()}


def run_onnx(path: StrPath, inputs: Mapping[str, NDArray], blobs: Sequence[str] = ()) -> Blobs:
    """Return blobs of an ONNX model by onnxruntime; the model's outputs where none are named.

    Raises:
        ValueError: onnxruntime is not installed, or does not take the model.
    """
    needed("onnx", "onnxruntime")
    import onnx
    import onnxruntime

    model = onnx.load(path)
    outputs = {value.name for value in model.graph.output}
    for name in blobs:
        if name not in outputs:
            model.graph.output.add(name=name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = list(blobs) or [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception as error:  # its own kinds, which have no base but this
        raise ValueError(f"onnxruntime does not run it: {_first_line(error)}") from None


def run_opencv(prototxt: StrPath, caffemodel: StrPath, inputs: Mapping[str, NDArray]) -> Blobs:
    """Return the blobs of a net by OpenCV 4's reader of Caffe's files, as names of `name_apart`.

    Raises:
        ValueError: OpenCV is not installed, has no such reader, or does not take the net.
    """
    needed("cv2")
    import cv2

    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise ValueError(f"OpenCV {cv2.__version__} does not read Caffe's nets; OpenCV 4 does")
    layers = [layer for layer in name_apart(read_net(prototxt)).layer if layer.type != "Input"]
    names = [layer.name for layer in layers]
    try:
        net = cv2.dnn.readNetFromCaffe(str(prototxt), str(caffemodel))
        net.enableFusion(False)
        net.enableWinograd(False)
        for name, array in inputs.items():
            net.setInput(array, name)
        found = net.forwardAndRetrieve(names)
    except cv2.error as error:
        raise ValueError(f"OpenCV does not run it: {_first_line(error)}") from None
    return {
        top: array
        for layer, arrays in zip(layers, found, strict=True)
        # Of a Split it has one of the copies.
        for top, array in zip(layer.top, arrays, strict=False)
    }


def agreements(
    net: pb.NetParameter,
    reference: Mapping[str, NDArray],
    engines: Mapping[str, Mapping[str, NDArray]],
    rtol: float = RTOL,
) -> Iterator[Agreement]:
    """Yield a line on every blob that a layer makes, in the net's order.

    Args:
        net: what `deploy` made.
        reference: the blobs of the net it was made of, in double.
        engines: for each engine its blobs; those it does not show are passed over.
        rtol: what is allowed, of a blob's largest magnitude.
    """
    for layer in name_apart(net).layer:
        if layer.type == "Input":
            continue
        for blob in layer.top:
            expected = reference[blob].astype(np.float64)
            finite = np.abs(expected[np.isfinite(expected)])
            largest = float(finite.max(initial=0))
            allowed = rtol + (NEAR_ONE.get(layer.type, 0) / largest if largest else 0)
            # Weights that are NaN make NaN of everything, here and there, and that shows nothing.
            broken = (
                len(finite) < expected.size
                and layer.type not in IN_PARTS
                and all(np.isfinite(reference.get(name, np.nan)).all() for name in layer.bottom)
            )
            differences = {
                engine: float("inf") if broken else _difference(blobs[blob], expected, largest)
                for engine, blobs in engines.items()
                if blob in blobs
            }
            yield Agreement(layer.name, layer.type, blob, largest, allowed, differences)


def _difference(computed: NDArray, expected: NDArray, largest: float) -> float:
    """Return the largest difference over the largest magnitude."""
    if computed.size != expected.size or computed.shape[:1] != expected.shape[:1]:
        return float("inf")
    values = computed.reshape(expected.shape).astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(values[~finite], expected[~finite], equal_nan=True):
        return float("inf")
    gap = float(np.abs(values[finite] - expected[finite]).max(initial=0))
    if not gap:
        return 0.0
    return gap / largest if largest and np.isfinite(gap) else float("inf")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def check_onnx(
    path: StrPath,
    net: pb.NetParameter,
    deployed: pb.NetParameter,
    weights: Mapping[str, Sequence[NDArray]],
    inputs: Mapping[str, NDArray],
    of_bytes: Bytes | None = None,
) -> list[Agreement]:
    """Hold an ONNX model against the net that was deployed, by onnxruntime.

    Once every blob is asked for, and once the outputs alone, which lets onnxruntime fuse layers.

    Args:
        path: the model.
        net: of one phase, that was deployed.
        deployed: what `deploy` made of it.
        weights: blobs by layer.
        inputs: what the model takes.
        of_bytes: what it was exported with.

    Raises:
        ValueError: the model does not run, or a layer refuses what it is given.
    """
    apart = name_apart(deployed)
    blobs = [top for layer in apart.layer if layer.type != "Input" for top in layer.top]
    given = dict(inputs)
    if of_bytes is not None:
        ((name, _),) = input_shapes(deployed, 1).items()
        given = {name: of_bytes.data(inputs[image_name(deployed)])}
    reference = run_net(reference_net(net, deployed), weights, given, "float64")
    engines = {"onnxruntime": run_onnx(path, inputs, blobs), "fused": run_onnx(path, inputs)}
    return list(agreements(deployed, reference, engines))


def check_prototxt(
    prototxt: StrPath,
    caffemodel: StrPath,
    net: pb.NetParameter,
    deployed: pb.NetParameter,
    inputs: Mapping[str, NDArray],
) -> tuple[list[Agreement], str]:
    """Hold written files against the net that was deployed, by this package and by OpenCV 4.

    Args:
        prototxt: the net that was written.
        caffemodel: its weights.
        net: of one phase, that was deployed.
        deployed: what `deploy` made of it.
        inputs: what the net takes.

    Returns:
        A line a blob, and why OpenCV did not take part, if it did not.

    Raises:
        ValueError: a file does not read back, or a layer refuses what it is given.
    """
    weights = read_weights(caffemodel)
    reference = run_net(reference_net(net, deployed), weights, inputs, "float64")
    engines = {"caffe_margin": run_net(read_net(prototxt), weights, inputs, "float32")}
    why = ""
    try:
        engines["OpenCV"] = run_opencv(prototxt, caffemodel, inputs)
    except ValueError as error:
        why = str(error)
    return list(agreements(deployed, reference, engines)), why
