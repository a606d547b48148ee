"""A net in ONNX, by PyTorch's exporter, with Caffe's names for its values."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata as packages
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.load import StrPath
from caffe_margin.nets.in_place import name_apart
from caffe_margin.torch.net import Net

NEEDS = ("onnx", "onnxscript")

NO_MEANING = {
    "Filter": "how many samples it keeps depends on their values",
    "HDF5Output": "it writes a file",
}
"""Layers that ONNX has no word for, and why."""

EXAMPLE_BATCH = 2
"""Not 1, which the exporter would take for a constant."""


@dataclass(frozen=True)
class Bytes:
    """What makes the net's data of an image's bytes, inside the model: less mean, times scale.

    Attributes:
        mean: one number, one a channel, (C,), or one a pixel, (C, H, W).
        scale: what the difference is multiplied by.
    """

    mean: np.ndarray
    scale: float

    @property
    def means(self) -> NDArray[np.float32]:
        """The mean in a shape that goes with (C, H, W)."""
        mean = self.mean.astype(np.float32)
        return mean.reshape((-1, 1, 1)) if mean.ndim < 3 else mean

    def data(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what the net is given of images. Source: DataTransformer::Transform."""
        pixels = image.transpose(0, 3, 1, 2).astype(np.float32)
        data: NDArray[np.float32] = (pixels - self.means) * np.float32(self.scale)
        return data


def export_onnx(
    net: pb.NetParameter,
    weights: Mapping[str, Sequence[np.ndarray]],
    path: StrPath,
    *,
    batch: int | None = None,
    of_bytes: Bytes | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a net to deploy as an ONNX model.

        >>> from caffe_margin.files.prototxt import read_net
        >>> net = read_net("models/glyphs_deploy.prototxt")
        >>> weights = {name: [blob.detach().numpy() for blob in blobs]
        ...            for name, blobs in Net(net).params.items()}
        >>> export_onnx(net, weights, "glyphs.onnx")

    Every value that a blob takes is there under its name, or, in place, that of `name_apart`.

    Args:
        net: what `deploy` made.
        weights: blobs by layer, for all layers that have any.
        path: where to write.
        batch: the first dimension of the inputs; any, if None.
        of_bytes: take an image's bytes, uint8 (batch, height, width, channels), channels in the
            net's order, which is Caffe's B, G, R in most.
        metadata: to be kept in the model.

    Raises:
        ValueError: an exporter is not installed, a layer has no meaning in ONNX, or the net does
            not take any batch.
        OSError: the file cannot be written.
    """
    needed(*NEEDS)
    for layer in net.layer:
        if why := NO_MEANING.get(layer.type):
            raise ValueError(f"layer {layer.name!r}: {layer.type} has no meaning in ONNX: {why}")
    apart = name_apart(net)
    module = _Exported(apart, weights, of_bytes)
    program = _program(module, _examples(apart, batch, of_bytes), dynamic=batch is None)
    _rename(program.model, module)
    model = program.model_proto
    _describe(model, net.name, metadata or {})
    data = model.SerializeToString() if model.ByteSize() < 2**31 else b""
    if not data:
        raise ValueError("the net is too large; an ONNX file holds less than 2 GiB")
    with open(path, "wb") as file:
        file.write(data)


def needed(*names: str) -> None:
    """Raise ValueError unless the packages of these names are there."""
    from importlib.util import find_spec

    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"this needs {' and '.join(missing)}, which is not installed: "
            "pip install 'caffe_margin[onnx]'"
        )


class _Exported(nn.Module):
    """The net from a row of inputs to all of its blobs.

    Attributes:
        inputs: the names of what it takes.
        blobs: the names of what it returns.
        outputs: those of them that are the net's outputs.
    """

    mean: Tensor

    def __init__(
        self,
        net: pb.NetParameter,
        weights: Mapping[str, Sequence[np.ndarray]],
        of_bytes: Bytes | None,
    ) -> None:
        super().__init__()
        self.net = Net(net, weights, seed=0).eval().requires_grad_(False)
        self.data, self.of_bytes = self.net.inputs, of_bytes
        self.inputs, self.blobs = list(self.data), []
        tops = dict.fromkeys(top for layer in net.layer for top in layer.top)
        if of_bytes is not None:
            if len(self.data) != 1:
                raise ValueError(
                    f"the net takes {' and '.join(map(repr, self.data))}, and an image's bytes are "
                    "one input: export it without a mean and a scale"
                )
            self.inputs, self.blobs = [image_name(net)], list(self.data)
            self.register_buffer("mean", torch.from_numpy(of_bytes.means))
        self.blobs += [top for top in tops if top not in self.data]
        read = {bottom for layer in net.layer for bottom in layer.bottom}
        self.outputs = [name for name in self.blobs if name not in read]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the blobs."""
        if self.of_bytes is not None:
            # Source: DataTransformer::Transform.
            image = inputs[0].permute(0, 3, 1, 2).to(torch.float32)
            inputs = ((image - self.mean) * self.of_bytes.scale,)
        given = dict(zip(self.data, inputs, strict=True))
        blobs = given | self.net(keep="all", **given)
        return tuple(blobs[name] for name in self.blobs)


def image_name(net: pb.NetParameter) -> str:
    """Return the name of the input that takes an image's bytes."""
    return _other_name("image", {top for layer in net.layer for top in layer.top})


def input_shapes(net: pb.NetParameter, batch: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a deployed net's inputs with another first dimension."""
    return {
        top: (batch, *shape.dim[1:])
        for layer in net.layer
        if layer.type == "Input"
        for top, shape in zip(layer.top, layer.input_param.shape, strict=True)
    }


def _examples(net: pb.NetParameter, batch: int | None, of_bytes: Bytes | None) -> list[Tensor]:
    """Return inputs to trace the net with."""
    shapes = input_shapes(net, batch or EXAMPLE_BATCH)
    if of_bytes is None:
        return [torch.zeros(shape) for shape in shapes.values()]
    ((count, channels, height, width),) = shapes.values()
    return [torch.zeros(count, height, width, channels, dtype=torch.uint8)]


def _program(module: _Exported, examples: list[Tensor], dynamic: bool) -> Any:
    """Return the exporter's program, its outputs the module's blobs."""
    dims = ({0: torch.export.Dim("batch")},) * len(examples)
    with _quiet():
        try:
            # Left to itself the exporter, where this fails, makes the batch a constant unsaid.
            program = torch.export.export(
                module, tuple(examples), dynamic_shapes=(dims,) if dynamic else None, strict=False
            )
            return torch.onnx.export(program, input_names=module.inputs, verbose=False)
        except (torch.onnx.OnnxExporterError, ValueError, RuntimeError) as error:
            message = _reason(error)
    hint = "; if the net is for one batch alone, say which (--batch)" if dynamic else ""
    raise ValueError(f"PyTorch does not export it: {message}{hint}")


def _reason(error: BaseException) -> str:
    """Return what an error stems from: a layer's complaint, or the first of the causes."""
    cause: BaseException | None = error
    causes = []
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    ours = [e for e in causes if isinstance(e, ValueError) and str(e).startswith("layer ")]
    lines = str((ours or causes)[-1]).splitlines()
    return lines[0].partition("! For more information")[0] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from talking of its own insides."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _rename(model: Any, module: _Exported) -> None:
    """Give the values Caffe's names, and leave the net's outputs as the model's.

    The exporter's own names for what lies between give way to them.
    """
    graph = model.graph
    blobs = dict(zip(module.blobs, graph.outputs, strict=True))
    taken = {*module.inputs, *module.blobs}
    for name, value in list(graph.initializers.items()):
        graph.initializers[name].name = _other_name(name.removeprefix("net."), taken)
        taken.add(value.name)
    for node in graph:
        for value in node.outputs:
            if value not in blobs.values():
                value.name = _other_name(value.name, taken)
                taken.add(value.name)
        node.name = _other_name(_layer_of(node), taken)
        taken.add(node.name)
    for name, value in blobs.items():
        value.name = name
    graph.outputs[:] = [blobs[name] for name in module.outputs]


def _other_name(name: str, taken: Any) -> str:
    while name in taken:
        name += "_"
    return name


def _layer_of(node: Any) -> str:
    """Return the layer's module and the operator, as ``conv1_1/Conv``."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    parts = [part for part in scopes.strip("[]").replace("'", "").split(", ") if "net." in part]
    layer = parts[0].removeprefix("net.").split(".")[0] if parts else "net"
    return f"{layer}/{node.op_type}"


def _describe(model: Any, name: str, metadata: Mapping[str, str]) -> None:
    """Say where the model came from, and nothing of the machine it was made on."""
    model.producer_name, model.producer_version = "caffe_margin", packages.version("caffe_margin")
    model.graph.name = name or "net"
    for message in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del message.metadata_props[:]
        message.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
