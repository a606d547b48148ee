"""Blob shapes and parameter counts of a net, layer by layer, without running it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.blobs import shape_of
from caffe_margin.files.names import near
from caffe_margin.files.text_format import unknown_fields
from caffe_margin.nets.forks import FORKS
from caffe_margin.nets.rules.algebra import Shape, agree, alike, count, show, total
from caffe_margin.nets.shape_rules import LAYER_TYPES, check_counts

__all__ = [
    "DATA_TYPES",
    "LayerShapes",
    "Shape",
    "count_params",
    "infer_shapes",
    "shapes_of",
    "unknown_inputs",
]

DATA_TYPES = frozenset(
    {"Input", "DummyData", "Data", "ImageData", "HDF5Data", "MemoryData", "WindowData"}
)
"""Types of layers that data comes from."""
_LABELLED_IMAGES = {"Data", "ImageData", "MemoryData", "WindowData"}
_MAX_AXES = 32
_MAX_SEARCHES = 10
_MAX_COUNT = 2**31 - 1


@dataclass(frozen=True)
class LayerShapes:
    """The shapes around one layer.

    A dimension is None where it is known only at run time. A whole shape is None where even the
    number of axes is unknown, because of a problem in this layer or below it.

    Attributes:
        name: The layer's name.
        type: The layer's type, as the file spells it.
        bottoms: The shape of each bottom, by blob name.
        tops: The shape of each top, by blob name; an in-place layer has the name in both.
        params: The shapes of the parameter blobs, in the order of Caffe's `blobs`: what the layer
            makes them, or, where that is unknown, the shapes of the blobs that the file holds.
        param_names: For each of them the name under which layers share it, or "".
        param_count: The number of parameters, shared ones included; None where it is unknown.
        problem: Why Caffe would refuse the layer, or why its shapes are unknown; None if neither.
    """

    name: str
    type: str
    bottoms: dict[str, Shape | None]
    tops: dict[str, Shape | None]
    params: tuple[Shape, ...]
    param_names: tuple[str, ...]
    param_count: int | None
    problem: str | None


def infer_shapes(
    net: pb.NetParameter, inputs: Mapping[str, Sequence[int | None]] | None = None
) -> list[LayerShapes]:
    """The shapes of the blobs and parameters of a net, one entry for each layer.

    Shapes follow the layers' LayerSetUp and Reshape, the wiring Net::Init. A layer with a problem
    does not end the listing: what depends on it is unknown, the rest goes on.

    Args:
        net: A net in the current format, filtered for one phase.
        inputs: Shapes for tops of data layers by blob name, in place of what the file says, e.g.
            `{"data": (256, 3, 112, 96)}`. None in a shape is a dimension known only at run time.
            Tops of layers whose rule is not known can be given too: of other types than Caffe's,
            Python layers, layers with a field that only a fork has.

    Raises:
        ValueError: The net is in an old format, or a name in `inputs` is not the top of such a
            layer, or its shape is not a shape.
    """
    if net.layers or net.input:
        raise ValueError("the net is in an old format (layers, input): upgrade it first")
    walk = _Walk(net, _check_inputs(net, inputs or {}))
    return [walk.visit(place, layer) for place, layer in enumerate(net.layer)]


def shapes_of(
    net: pb.NetParameter,
    layer: pb.LayerParameter,
    inputs: Mapping[str, Sequence[int | None]] | None = None,
) -> LayerShapes:
    """The shapes around one of a net's layers; see `infer_shapes`."""
    place = list(net.layer).index(layer)
    return infer_shapes(net, inputs)[place]


def count_params(layers: Iterable[LayerShapes]) -> int | None:
    """The number of parameters of a net, shared ones counted once; None where it is unknown."""
    total = 0
    seen: set[str] = set()
    for layer in layers:
        if layer.param_count is None:
            return None
        total += layer.param_count
        for name, shape in zip(layer.param_names, layer.params, strict=True):
            if name in seen:
                total -= count(shape) or 0
            elif name:
                seen.add(name)
    return total


def _check_inputs(
    net: pb.NetParameter, inputs: Mapping[str, Sequence[int | None]]
) -> dict[str, Shape]:
    makers: dict[str, pb.LayerParameter] = {}
    for layer in net.layer:
        for name in layer.top:
            makers.setdefault(name, layer)
    given: dict[str, Shape] = {}
    for name, dims in inputs.items():
        if name not in makers:
            raise ValueError(f"input '{name}' is nobody's top{_meant(name, makers)}")
        maker = makers[name]
        if not _takes_inputs(maker):
            raise ValueError(
                f"input '{name}' is the top of '{maker.name}', of type {maker.type}:"
                " only tops of data layers, and of layers whose shapes are not known here, such as"
                " Python, can be given"
            )
        try:
            given[name] = tuple(None if dim is None else operator.index(dim) for dim in dims)
        except TypeError:
            raise ValueError(f"input '{name}': {dims!r} is not a sequence of int or None") from None
        _check_blob(f"input '{name}'", given[name])
    for layer in net.layer:
        # Labels are as many as images are given.
        image, *label = layer.top if layer.type in _LABELLED_IMAGES else [""]
        if given.get(image) and label and label[0] not in given:
            given[label[0]] = given[image][:1]
    return given


def unknown_inputs(net: pb.NetParameter, layers: Sequence[LayerShapes]) -> dict[str, Shape | None]:
    """The tops that `infer_shapes` takes input shapes for and whose shape is not all known."""
    return {
        name: shape
        for layer, shapes in zip(net.layer, layers, strict=True)
        if _takes_inputs(layer)
        for name, shape in shapes.tops.items()
        if shape is None or None in shape
    }


class _Walk:
    """What is known on the way through a net, from its first layer to its last.

    Attributes:
        layers: The net's layers.
        makers: For each top in the net the places of the layers that have it.
        given: The input shapes whose layers are still to come.
        blobs: The shape of each blob made so far; None where it is unknown.
        stopped_at: For each of them the layer that had the problem, where it is unknown.
        owners: For each name of a shared parameter the layer that had it first, and its shape.
        searches: How often a name near to a wrong one was looked for.
    """

    def __init__(self, net: pb.NetParameter, given: dict[str, Shape]) -> None:
        self.layers = net.layer
        self.makers: dict[str, list[int]] = {}
        for place, layer in enumerate(net.layer):
            for name in layer.top:
                self.makers.setdefault(name, []).append(place)
        self.given = given
        self.blobs: dict[str, Shape | None] = {}
        self.stopped_at: dict[str, str] = {}
        self.owners: dict[str, tuple[str, Shape]] = {}
        self.searches = 0

    def visit(self, place: int, layer: pb.LayerParameter) -> LayerShapes:
        """Return the shapes around the next layer, and keep what the layers above it ask for."""
        bottoms = {name: self.blobs.get(name) for name in layer.bottom}
        # An in-place layer changes the blob it stands on; a second maker of a blob is an error.
        made = [name for name in layer.top if name not in self.blobs or name in bottoms]
        given = {name: self.given.pop(name) for name in layer.top if name in self.given}
        shapes: list[Shape] = []
        params: list[Shape] | None = None  # unknown
        stored: list[Shape] = []
        problem, stopped_at = None, layer.name
        try:
            stored = _stored(layer)
            self._check_wiring(place, layer)
            below = {name: _least_known(layer, shape) for name, shape in bottoms.items()}
            unknown = [name for name, shape in below.items() if shape is None]
            if given and given.keys() == set(layer.top):
                params = [] if layer.type in DATA_TYPES else None
            elif unknown and layer.type in LAYER_TYPES:
                stopped_at = self.stopped_at[unknown[0]]
                raise ValueError(f"needs the shape of '{unknown[0]}' (stopped at '{stopped_at}')")
            else:
                shapes, params = _apply_rule(layer, [below[name] or () for name in layer.bottom])
                params = _fill(layer, params, stored)
                self._share(layer, params)
        except ValueError as error:
            problem = str(error)
        if params is None and stored:
            params = stored
        tops = {**dict.fromkeys(layer.top), **dict(zip(layer.top, shapes, strict=False)), **given}
        for name in made:
            self.blobs[name], self.stopped_at[name] = tops[name], stopped_at
        names = [spec.name for spec in layer.param] + [""] * len(params or [])
        return LayerShapes(
            name=layer.name,
            type=layer.type,
            bottoms=bottoms,
            tops=tops,
            params=tuple(params or []),
            param_names=tuple(names[: len(params or [])]),
            param_count=None if params is None else total(map(count, params)),
            problem=problem,
        )

    def _check_wiring(self, place: int, layer: pb.LayerParameter) -> None:
        """Net::AppendBottom and Net::AppendTop: bottoms exist, tops do not, unless in place."""
        for name in layer.bottom:
            if name not in self.blobs:
                for other in self.makers.get(name, []):
                    if other > place:
                        maker = self.layers[other].name
                        raise ValueError(f"bottom '{name}' is the top of '{maker}', further down")
                # In a large net the search takes long; one wrong name is told from the first few.
                self.searches += 1
                meant = _meant(name, self.blobs) if self.searches <= _MAX_SEARCHES else ""
                raise ValueError(f"bottom '{name}' is nobody's top{meant}")
        seen: set[str] = set()
        for name, bottom in zip_longest(layer.top, layer.bottom[: len(layer.top)]):
            if name != bottom and (name in self.blobs or name in seen):
                raise ValueError(
                    f"top '{name}' has a maker already; is the net filtered for a phase?"
                )
            seen.add(name)

    def _share(self, layer: pb.LayerParameter, params: list[Shape]) -> None:
        """Net::AppendParam: whoever uses a name first owns the blob, and others must match it."""
        if len(layer.param) > len(params):
            raise ValueError(
                f"{layer.type}: {len(layer.param)} param for {len(params)} parameter blobs"
            )
        for spec, shape in zip(layer.param, params, strict=False):
            if not spec.name:
                continue
            owner, owned = self.owners.setdefault(spec.name, (layer.name, shape))
            if spec.share_mode == pb.ParamSpec.PERMISSIVE:
                same = agree(count(shape), count(owned))
            else:
                same = alike(shape, owned)
            if not same:
                raise ValueError(
                    f"{layer.type}: shares param '{spec.name}' with '{owner}',"
                    f" which has it as {show(owned)} and not as {show(shape)}"
                )


def _takes_inputs(layer: pb.LayerParameter) -> bool:
    """Whether the shapes of a layer's tops may be given: it is of data, or has no rule we know."""
    no_rule = layer.type not in LAYER_TYPES or _foreign_field(layer) is not None
    return no_rule or layer.type in DATA_TYPES


def _foreign_field(layer: pb.LayerParameter) -> str | None:
    """A field that the schema lacks among those that make the layer's shapes."""
    param = LAYER_TYPES[layer.type].param
    if param and (names := unknown_fields(getattr(layer, param))):
        return f"the field {names[0]!r} of {param}"
    return None


def _least_known(layer: pb.LayerParameter, shape: Shape | None) -> Shape | None:
    """A bottom's shape as a layer sees it: from `axis` on, an InnerProduct takes all for one."""
    axis = layer.inner_product_param.axis
    if shape is None and layer.type == "InnerProduct" and 0 <= axis < _MAX_AXES:
        return (None,) * (axis + 1)
    return shape


def _stored(layer: pb.LayerParameter) -> list[Shape]:
    """The shapes of the blobs that the file holds."""
    shapes = [shape_of(blob) for blob in layer.blobs]
    for i, shape in enumerate(shapes):
        _check_blob(f"the file's blob {i}", shape)
    return list(shapes)


def _fill(layer: pb.LayerParameter, params: list[Shape], stored: list[Shape]) -> list[Shape]:
    """The parameters' shapes with what the file's blobs say of them, where it holds any.

    Net::CopyTrainedLayersFrom: as many blobs, of the same shapes. An old blob has ones in front.
    """
    if not stored:
        return params
    if len(stored) != len(params):
        raise ValueError(
            f"{layer.type}: the file holds {len(stored)} blobs, and the layer has {len(params)}"
        )
    for i, (shape, blob) in enumerate(zip(params, stored, strict=True)):
        if not alike((1,) * (len(blob) - len(shape)) + shape, blob):
            raise ValueError(
                f"{layer.type}: blob {i} is {show(blob)} in the file, and not {show(shape)}"
            )
    pairs = zip(params, stored, strict=True)
    return [blob[len(blob) - len(shape) :] for shape, blob in pairs]


def _apply_rule(layer: pb.LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """The type's rule, within the limits of Blob::Reshape."""
    if layer.type == "Python":
        raise ValueError("a Python layer's shapes are its own code's")
    if layer.type in FORKS:
        raise ValueError(
            f"layer type '{layer.type}' is of {FORKS[layer.type]}, not of BVLC's Caffe"
        )
    if layer.type not in LAYER_TYPES:
        raise ValueError(f"unknown layer type '{layer.type}'{_meant_type(layer.type)}")
    if field := _foreign_field(layer):
        raise ValueError(f"{layer.type}: no shape is certain with {field}, which only a fork knows")
    try:
        check_counts(layer.type, len(bottoms), len(layer.top))
        tops, params = LAYER_TYPES[layer.type].rule(layer, bottoms)
        for i, shape in enumerate(tops[: len(layer.top)]):
            _check_blob(f"top '{layer.top[i]}'", shape)
        for i, shape in enumerate(params):
            _check_blob(f"parameter {i}", shape)
    except ValueError as error:
        raise ValueError(f"{layer.type}: {error}") from None
    return tops, params


def _check_blob(what: str, shape: Shape) -> None:
    """Blob::Reshape."""
    if len(shape) > _MAX_AXES:
        raise ValueError(f"{what} has {len(shape)} axes, more than Caffe's {_MAX_AXES}")
    if any(dim is not None and dim < 0 for dim in shape):
        raise ValueError(f"{what} is {show(shape)}: a dimension cannot be negative")
    if (count(shape) or 0) > _MAX_COUNT:
        raise ValueError(f"{what} is {show(shape)}: more than Caffe's 2^31 - 1 elements")


def _meant(name: str, names: Iterable[str]) -> str:
    other = near(name, names)
    return f", did you mean '{other}'?" if other else ""


@functools.lru_cache
def _meant_type(type: str) -> str:
    return _meant(type, LAYER_TYPES)
