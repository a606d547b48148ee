"""Nets in protobuf's wire format: whether bytes are a net at all, and what the schema lacks.

Field numbers of LayerParameter collide between forks of Caffe. Which parameter a number stands
for, the layer's type says: what belongs to the type is read under our schema's number, and what
does not is set aside under a number that the schema lacks, which protobuf keeps as it is, and
goes back to its own when the net is written.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files import wire
from caffe_margin.files.budget import Budget
from caffe_margin.files.text_format import MAX_NOTES, NEVER_PASSED_OVER, has_label
from caffe_margin.files.wire import WireField

StrPath = str | os.PathLike[str]

MAX_BINARY_BYTES = 2**31 - 1
"""kProtoReadBytesLimit of Caffe's io.cpp; protobuf itself goes no further."""
MAX_FIELDS = 5_000_000
"""A net of more is not looked through; ten thousand layers have three hundred thousand."""

_NET: Any = pb.NetParameter.DESCRIPTOR
_LAYER: Any = pb.LayerParameter.DESCRIPTOR
_V1_LAYER: Any = pb.V1LayerParameter.DESCRIPTOR
_SWISH = _LAYER.fields_by_name["swish_param"].number
_PERMUTE = _LAYER.fields_by_name["permute_param"].number
_OWNERS = {
    147: {"MarginInnerProduct": 147, "Swish": _SWISH},
    148: {"Clip": 148},
    201: {"BN": 201},
    202: {"LargeMarginInnerProduct": 202, "Permute": _PERMUTE},
    206: {"Normalize": 206},
}
"""Number in files -> layer type that it is of here -> its number in our schema."""
_IN_FILES = {
    (type_, ours): number
    for number, owners in _OWNERS.items()
    for type_, ours in owners.items()
    if ours != number
}
"""Layer type and number in our schema -> its number in files, where that is another."""
_ASIDE = 1500
"""What is added to the number of a field that is set aside."""

_F = FieldDescriptor
_KINDS = {
    **dict.fromkeys((_F.TYPE_MESSAGE, _F.TYPE_STRING, _F.TYPE_BYTES), wire.BYTES),
    _F.TYPE_FLOAT: wire.FIXED32,
    _F.TYPE_DOUBLE: wire.FIXED64,
}


def parse_binary(
    path: StrPath, data: bytes, net: pb.NetParameter, strict: bool
) -> tuple[list[str], dict[int, str]]:
    """Fill a net from bytes.

    Returns:
        A line of text for each field that was passed over, and the types that V1 lacks of the
        entries of ``layers``, by their place.

    Raises:
        ValueError: the bytes are no net or a part of one, it has far more layers than bytes, or,
            where ``strict``, the schema lacks something.
    """
    survey = _Survey(path, data)
    damaged = ValueError(
        f"{path}: no text (it holds control characters) and no whole binary net; it is cut "
        "short, damaged or of another kind"
    )
    try:
        survey.look()
    except DecodeError:
        raise damaged from None
    try:
        net.ParseFromString(wire.renumbered(data, survey.renumbered))
    except (DecodeError, ValueError):
        raise damaged from None
    # Almost any bytes parse as some message: a net has layers, and layers say something.
    if not survey.says_something and (survey.layers or survey.lacking):
        raise ValueError(
            f"{path}: a binary file, but no net; .solverstate and mean .binaryproto files "
            "are not read here"
        )
    notes = [f"{path}: passed over {line}" for line in survey.lines()]
    if strict and notes:
        raise ValueError(notes[0].replace("passed over", "unknown", 1))
    return notes, survey.v1_types


def serialize(net: pb.NetParameter) -> bytes:
    """Return a net in the wire format, with every field under the number it has in files.

    Raises:
        EncodeError: the net is too large.
    """
    data = net.SerializeToString()
    moved = []
    for entry in wire.fields(data, 0, len(data)):
        if entry.number != pb.NetParameter.LAYER_FIELD_NUMBER:
            continue
        type_ = _text_of(data, entry, pb.LayerParameter.TYPE_FIELD_NUMBER)
        for part in wire.fields(data, entry.start, entry.end):
            if (type_, part.number) in _IN_FILES:
                moved.append((part, _IN_FILES[type_, part.number]))
            elif part.number - _ASIDE in _OWNERS:
                moved.append((part, part.number - _ASIDE))
    return wire.renumbered(data, moved)


def _text_of(data: bytes, entry: WireField, number: int) -> str:
    """Return the value of a string of a message, the last where it is given twice."""
    text = b""
    for part in wire.fields(data, entry.start, entry.end):
        if part.number == number and part.kind == wire.BYTES:
            text = data[part.start : part.end]
    return text.decode("utf-8", "replace")


class _Field(NamedTuple):
    """What is asked of a field of the schema."""

    name: str
    kinds: tuple[int, ...]
    message: Descriptor | None
    values: frozenset[int]
    is_string: bool


@functools.cache
def _fields(descriptor: Descriptor) -> dict[int, _Field]:
    table = {}
    for f in descriptor.fields:
        kind = _KINDS.get(f.type, wire.VARINT)
        packable = kind != wire.BYTES and has_label(f, "repeated")
        table[f.number] = _Field(
            f.name,
            (kind, wire.BYTES) if packable else (kind,),
            f.message_type,
            frozenset() if f.enum_type is None else frozenset(f.enum_type.values_by_number),
            f.type == _F.TYPE_STRING,
        )
    return table


class _Survey:
    """A look through a net's bytes, before anything is made of them.

    Attributes:
        layers: how many there are.
        says_something: whether one of them has a field that the schema has.
        lacking: what the schema lacks -> the first layer that has it, and how often it is there.
        renumbered: the fields that are to be read under another number.
        v1_types: the types that V1 lacks of the entries of ``layers``, by their place.
    """

    def __init__(self, path: StrPath, data: bytes) -> None:
        self.path, self.data = path, data
        self.layers = 0
        self.says_something = False
        self.lacking: dict[str, tuple[str, int]] = {}
        self.unlisted = 0
        self.renumbered: list[tuple[WireField, int]] = []
        self.v1_types: dict[int, str] = {}
        self._v1_layers = 0
        self._budget = Budget(len(data))
        self._fields_left = MAX_FIELDS
        self._name = self._type = ""  # of the layer that is looked at

    def look(self) -> None:
        """Look at everything.

        Raises:
            DecodeError: it is no message.
            ValueError: it is no net to be read.
        """
        net = WireField(0, wire.BYTES, 0, 0, len(self.data))
        for entry, descriptor in self._messages(net, _NET):
            self._name = self._type = ""
            if descriptor in (_LAYER, _V1_LAYER):
                number = descriptor.fields_by_name["name"].number
                self._name = _text_of(self.data, entry, number)
                self.layers += 1
            if descriptor == _LAYER:
                self._type = _text_of(self.data, entry, pb.LayerParameter.TYPE_FIELD_NUMBER)
            self._within(entry, descriptor)
            self._v1_layers += descriptor == _V1_LAYER

    def _within(self, message: WireField, descriptor: Descriptor) -> None:
        for inner, its_descriptor in self._messages(message, descriptor):
            self._within(inner, its_descriptor)

    def _messages(
        self, message: WireField, descriptor: Descriptor
    ) -> Iterator[tuple[WireField, Descriptor]]:
        """Yield the messages in a message, and note what else it holds."""
        table = _fields(descriptor)
        is_layer = descriptor in (_LAYER, _V1_LAYER)
        for part in wire.fields(self.data, message.start, message.end):
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ValueError(f"{self.path}: a net of more than {MAX_FIELDS} fields is not read")
            number = part.number
            if descriptor == _LAYER and number in _OWNERS:
                number = _OWNERS[number].get(self._type, number + _ASIDE)
                if number != part.number:
                    self.renumbered.append((part, number))
            field = table.get(number)
            if field is None or part.kind not in field.kinds:
                of = f" of type {self._type!r}" if number != part.number else ""
                self._note(f"field {part.number} of {descriptor.name}{of}")
                continue
            self.says_something |= is_layer
            if field.message is not None:
                if not self._budget.charge(field.message):
                    raise ValueError(
                        f"{self.path}: a binary file of {len(self.data)} bytes with more layers "
                        "and parameters than a net of that size has; it is not read"
                    )
                yield part, field.message
            elif field.values and part.kind == wire.VARINT:
                self._check_value(part, descriptor, field)
            elif field.is_string:
                self._check_string(part, descriptor, field)

    def _note(self, what: str) -> None:
        if what not in self.lacking and len(self.lacking) == MAX_NOTES:
            self.unlisted += 1
            return
        name, count = self.lacking.get(what, (self._name, 0))
        self.lacking[what] = name, count + 1

    def _check_value(self, part: WireField, descriptor: Descriptor, field: _Field) -> None:
        value, _ = wire.read_varint(self.data, part.start)
        if value in field.values:
            return
        if descriptor.name in NEVER_PASSED_OVER:
            raise ValueError(
                f"{self.path}: layer {self._name!r}: {field.name!r} has no value {value}"
            )
        self._note(f"value {value} of {descriptor.name}.{field.name}")
        if descriptor == _V1_LAYER and field.name == "type":
            self.v1_types[self._v1_layers] = str(value)

    def _check_string(self, part: WireField, descriptor: Descriptor, field: _Field) -> None:
        """Refuse a string that is not UTF-8, which protobuf hands out as bytes."""
        value = self.data[part.start : part.end]
        try:
            value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(
                f"{self.path}: {descriptor.name}.{field.name} is {value[:60]!r}, which is not "
                "UTF-8; Caffe reads it, but no name of a layer or blob may be so here"
            ) from None

    def lines(self) -> list[str]:
        """Return a line for each thing that the schema lacks."""
        lines = []
        for what, (name, count) in self.lacking.items():
            where = f" in layer {name!r}" if name else ""
            more = f"; {count} such fields, this is the first" if count > 1 else ""
            lines.append(f"{what}{where}, which the schema lacks{more}")
        if self.unlisted:
            lines.append(f"{self.unlisted} more fields that the schema lacks")
        return lines


def _first_bytes() -> set[int]:
    """Return the bytes that a binary net may start with: those of its fields' tags."""
    scalars = (_F.TYPE_INT32, _F.TYPE_BOOL)
    return {
        wire.varint(field.number << 3 | kind)[0]
        for field in pb.NetParameter.DESCRIPTOR.fields
        for kind in ((wire.VARINT, wire.BYTES) if field.type in scalars else (wire.BYTES,))
    }


FIRST_BYTES = _first_bytes()
"""What a binary net may start with."""
