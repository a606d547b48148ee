"""Nets in protobuf's wire format: whether bytes are a net at all, and what the schema lacks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from caffe_margin import caffe_margin_pb2 as pb

StrPath = str | os.PathLike[str]

MAX_BINARY_BYTES = 2**31 - 1
"""kProtoReadBytesLimit of Caffe's io.cpp; protobuf itself goes no further."""


def parse_binary(path: StrPath, data: bytes, net: pb.NetParameter, strict: bool) -> list[str]:
    """Fill a net from bytes and return a line of text for each field that was passed over.

    Raises:
        ValueError: the bytes are no net or a part of one, or, where ``strict``, the schema lacks
            a field.
    """
    try:
        net.ParseFromString(data)
    except (DecodeError, ValueError):
        raise ValueError(
            f"{path}: no text (it holds control characters) and no whole binary net; it is cut "
            "short, damaged or of another kind"
        ) from None
    # Almost any bytes parse as some message: a net has layers, and layers say something.
    layers = [*net.layer, *net.layers]
    if layers:
        foreign = not any(layer.ListFields() for layer in layers)
    else:
        foreign = bool(_unknown_numbers(net))
    if foreign:
        raise ValueError(
            f"{path}: a binary file, but no net; .solverstate and mean .binaryproto files "
            "are not read here"
        )
    found: dict[tuple[str, int], list[str]] = {}
    for message, layer in [(net, None), *_messages(layers)]:
        _check_strings(path, message)
        for number in _unknown_numbers(message):
            name = layer.name if layer is not None else ""
            found.setdefault((message.DESCRIPTOR.name, number), []).append(name)
    notes = []
    for (owner, number), names in found.items():
        where = f" in layer {names[0]!r}" if names[0] else ""
        more = f"; {len(names)} such fields, this is the first" if len(names) > 1 else ""
        notes.append(
            f"{path}: passed over field {number} of {owner}{where}, which the schema lacks{more}"
        )
    if strict and notes:
        raise ValueError(notes[0].replace("passed over field", "unknown field"))
    return notes


def _messages(layers: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield every message in the layers, each with its layer."""
    for layer in layers:
        stack = [layer]
        while stack:
            message = stack.pop()
            yield message, layer
            for field, value in message.ListFields():
                if field.message_type is not None:
                    stack.extend([value] if isinstance(value, Message) else value)


def _check_strings(path: StrPath, message: Message) -> None:
    """Refuse a string that is not UTF-8, which protobuf hands out as bytes."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            for text in [value] if isinstance(value, str | bytes) else value:
                if isinstance(text, bytes):
                    raise ValueError(
                        f"{path}: {message.DESCRIPTOR.name}.{field.name} is {text!r}, which is "
                        "not UTF-8; Caffe reads it, but no name of a layer or blob may be so here"
                    )


def _unknown_numbers(message: Message) -> list[int]:
    fields: Any = UnknownFieldSet(message)
    return [field.field_number for field in fields]


def varint(value: int) -> bytes:
    """Return a number as the wire format has it, seven bits a byte."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _first_bytes() -> set[int]:
    """Return the bytes that a binary net may start with: those of its fields' tags."""
    scalars = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_BOOL)
    return {
        varint(field.number << 3 | wire_type)[0]
        for field in pb.NetParameter.DESCRIPTOR.fields
        for wire_type in ((0, 2) if field.type in scalars else (2,))
    }


FIRST_BYTES = _first_bytes()
"""What a binary net may start with."""
