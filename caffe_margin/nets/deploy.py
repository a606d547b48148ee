"""The net to deploy, out of the net to train: from the data to the features, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from google.protobuf.message import Message

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.blobs import fits
from caffe_margin.files.hdf5 import BlobsByPlace
from caffe_margin.files.text_format import unknown_fields
from caffe_margin.nets.margin import FIELDS, margin_param
from caffe_margin.nets.select import filter_net, needed_for, unread_tops
from caffe_margin.nets.shapes import DATA_TYPES, LayerShapes, Shape, infer_shapes

ENDS = {"Accuracy", "Silence", "HDF5Output"}
FEATURES = {
    "Silence": 0, "ContrastiveLoss": 2, "EuclideanLoss": 2, "SigmoidCrossEntropyLoss": 2,
}  # fmt: skip
"""How many bottoms of an end may be features; of the others it is one, and then come labels."""
DEPTHWISE = {"DepthwiseConvolution", "ConvolutionDepthwise"}
INPUT = "input"
"""What Caffe calls the layer that it makes of an old net's ``input``."""


class UnknownInput(ValueError):
    """The shape of an input, ``top``, is not known."""

    def __init__(self, top: str) -> None:
        super().__init__(f"the file does not say the shape of input {top!r}: give it")
        self.top = top


class Deployed(NamedTuple):
    """A net to deploy.

    Attributes:
        net: the net.
        notes: what was left out that others may ask for, a line each.
    """

    net: pb.NetParameter
    notes: list[str]


def deploy(
    net: pb.NetParameter,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    *,
    stages: Sequence[str] = (),
    keep_head: bool = False,
) -> Deployed:
    """Return what is left of a net when its data is handed to it, and its features are wanted.

    Layers of data become one Input, losses, accuracies and layers with a margin go, and with them
    the labels and whatever else served them alone. What was to be trained how fast, and filled by
    what, stays.

    >>> import caffe_margin as cm
    >>> net = cm.read_net("models/sphereface4_model.prototxt")
    >>> deployed = deploy(net, {"data": (1, 3, 112, 96)}).net
    >>> [layer.name for layer in deployed.layer][:2], deployed.layer[-1].name
    (['input', 'conv1_1'], 'fc5')

    Args:
        net: in the current form, with the layers of all phases; left alone.
        shapes: of the data's tops, where the file does not say, or says otherwise.
        stages: of the net to deploy; its phase is TEST.
        keep_head: make of a layer with a margin an InnerProduct instead of leaving it out. The
            rows of a MarginInnerProduct's weight are then to be of unit length, as `deploy_weights`
            makes them.

    Raises:
        UnknownInput: the shape of an input is not known.
        ValueError: nothing is left, or a shape is given that is no input's.
    """
    tested = filter_net(net, "TEST", stages=stages)
    heads = {layer.name for layer in tested.layer if layer.type in FIELDS and keep_head}
    layers = [_as_product(layer) if layer.name in heads else _copy(layer) for layer in tested.layer]
    ends = [layer for layer in layers if _is_end(layer)]
    middle = [layer for layer in layers if not _is_end(layer) and layer.type not in DATA_TYPES]
    kept = _needed(middle, ends)
    if not kept:
        raise ValueError("nothing is left to deploy: no layer stands between the data and the loss")

    deployed = pb.NetParameter(name=net.name)
    made = {top for layer in kept for top in layer.top}
    wanted = dict.fromkeys(name for layer in kept for name in layer.bottom if name not in made)
    deployed.layer.append(_input(tested, list(wanted), shapes or {}))
    notes: list[str] = []
    for layer in kept:
        notes += _cleaned(layer)
        deployed.layer.append(layer)
    return Deployed(deployed, notes + _without_groups(deployed))


def deploy_weights(
    deployed: pb.NetParameter, net: pb.NetParameter, blobs: BlobsByPlace
) -> dict[str, list[np.ndarray]]:
    """Return the blobs of a net to deploy, out of those of the net to train.

    Rows of a MarginInnerProduct's weight are brought to unit length, which that layer does itself
    and the InnerProduct in its place does not.

    Args:
        deployed: what `deploy` made.
        net: what it was made of.
        blobs: by layer and place; those of other layers are left out, and what a layer shares
            with one before it may be missing.

    Raises:
        ValueError: a layer has no blobs, or not as many, or of other shapes; or a row that is to
            have unit length is zero.
    """
    heads = {layer.name for layer in net.layer if layer.type == "MarginInnerProduct"}
    shared: dict[str, np.ndarray] = {}
    weights: dict[str, list[np.ndarray]] = {}
    for layer in infer_shapes(deployed):
        if layer.problem:
            raise ValueError(f"layer {layer.name!r}: {layer.problem}")
        if not layer.params:
            continue
        arrays = weights[layer.name] = list(_fitting(layer, blobs.get(layer.name, {}), shared))
        if layer.name in heads:
            arrays[0] = _unit_rows(layer.name, arrays[0])
    return weights


def _fitting(
    layer: LayerShapes, blobs: Mapping[int, np.ndarray], shared: dict[str, np.ndarray]
) -> Iterator[np.ndarray]:
    """Yield a layer's blobs in its shapes; note, and take from there, what has a name."""
    if max(blobs, default=0) >= len(layer.params):
        raise ValueError(
            f"layer {layer.name!r} has {len(blobs)} blobs in the weights and {len(layer.params)} "
            "in the net"
        )
    for i, (shape, name) in enumerate(zip(layer.params, layer.param_names, strict=True)):
        array = blobs.get(i, shared.get(name))
        if array is None:
            raise ValueError(f"there are no weights for layer {layer.name!r}, blob {i}")
        if i in blobs and not fits(array.shape, shape):
            raise ValueError(
                f"layer {layer.name!r}, blob {i}: {array.shape} in the weights and {shape} in the "
                "net"
            )
        if name:
            shared.setdefault(name, array)
        yield array.reshape(shape)


def _unit_rows(layer: str, weight: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(weight.astype(np.float64), axis=1, keepdims=True)
    if not norms.all():
        row = int(np.flatnonzero(norms == 0)[0])
        raise ValueError(f"layer {layer!r}: row {row} of the weight is zero, and has no direction")
    unit: np.ndarray = (weight / norms).astype(weight.dtype)
    return unit


def _copy(layer: pb.LayerParameter) -> pb.LayerParameter:
    copy = pb.LayerParameter()
    copy.CopyFrom(layer)
    for field in ("include", "exclude", "phase", "loss_weight", "propagate_down", "blobs"):
        copy.ClearField(field)
    return copy


def _as_product(layer: pb.LayerParameter) -> pb.LayerParameter:
    """Return an InnerProduct in place of a layer with a margin."""
    product = pb.LayerParameter(name=layer.name, type="InnerProduct", bottom=layer.bottom[:1])
    product.top.append(layer.top[0])
    product.param.extend(layer.param)
    param = margin_param(layer)
    product.inner_product_param.num_output = param.num_output
    product.inner_product_param.bias_term = False
    if param.HasField("axis"):
        product.inner_product_param.axis = param.axis
    return product


def _is_end(layer: pb.LayerParameter) -> bool:
    return layer.type in FIELDS or layer.type in ENDS or layer.type.endswith("Loss")


def _needed(
    layers: Sequence[pb.LayerParameter], ends: Sequence[pb.LayerParameter]
) -> list[pb.LayerParameter]:
    """Return the layers that lead to a feature.

    Features are what the ends read, and the tops that no layer reads.
    """
    made = {top for layer in layers for top in layer.top}
    loose = unread_tops((layer.bottom, layer.top) for layer in [*layers, *ends])
    needed = loose.union(*(layer.bottom[: FEATURES.get(layer.type, 1)] for layer in ends)) & made
    return list(needed_for(pb.NetParameter(layer=layers), needed).layer)


def _input(
    net: pb.NetParameter, names: Sequence[str], shapes: Mapping[str, Sequence[int | None]]
) -> pb.LayerParameter:
    """Return the Input in place of the layers of data."""
    known: dict[str, Shape | None] = {}
    for layer, inferred in zip(net.layer, infer_shapes(net, shapes), strict=True):
        if layer.type in DATA_TYPES:
            known |= inferred.tops
    names_taken = {layer.name for layer in net.layer if layer.type not in DATA_TYPES}
    name = INPUT
    while name in names_taken:
        name += "_"
    made = pb.LayerParameter(name=name, type="Input")
    for top in names:
        shape = known.get(top)
        if shape is None or None in shape:
            raise UnknownInput(top)
        made.top.append(top)
        made.input_param.shape.add().dim.extend(dim or 0 for dim in shape)
    return made


def _cleaned(layer: pb.LayerParameter) -> Iterator[str]:
    """Take out what the schema lacks, and yield a line on each."""
    messages: list[Message] = [layer]
    while messages:
        message = messages.pop()
        for field in unknown_fields(message):
            where = "" if message is layer else f" of {message.DESCRIPTOR.name}"
            yield f"layer {layer.name!r}: without {field!r}{where}, which only a fork knows"
        for descriptor, value in message.ListFields():
            if descriptor.message_type is not None:
                messages += [value] if isinstance(value, Message) else list(value)
    layer.DiscardUnknownFields()


def _without_groups(net: pb.NetParameter) -> list[str]:
    """Make of forks' depthwise convolutions Caffe's own, with a group a channel."""
    notes = []
    for layer, shapes in zip(net.layer, infer_shapes(net), strict=True):
        if layer.type in DEPTHWISE:
            channels = shapes.bottoms[layer.bottom[0]]
            if channels is None or channels[1] is None:
                raise ValueError(f"layer {layer.name!r}: {shapes.problem or 'unknown channels'}")
            notes.append(f"layer {layer.name!r}: {layer.type} is a Convolution in groups now")
            layer.type = "Convolution"
            layer.convolution_param.group = channels[1]
    return notes
