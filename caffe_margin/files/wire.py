"""Protobuf's wire format, without a schema: the fields of a message, and where they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.message import DecodeError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_WIDTHS = {FIXED64: 8, FIXED32: 4}


class WireField(NamedTuple):
    """One field: where its tag starts, and its value, ``data[start:end]``.

    Values of fixed width that follow each other under the same tag are one field.
    """

    number: int
    kind: int
    tag: int
    start: int
    end: int


def fields(data: bytes, start: int, end: int) -> Iterator[WireField]:
    """Yield the fields of the message at ``data[start:end]``.

    Raises:
        DecodeError: it is no message, or has a group, which Caffe's files have not.
    """
    at = start
    while at < end:
        tag = at
        key, at = read_varint(data, at)
        number, kind = key >> 3, key & 7
        value = at
        if kind == BYTES:
            size, value = read_varint(data, at)
            at = value + size
        elif kind == VARINT:
            _, at = read_varint(data, at)
        elif kind in _WIDTHS:
            at += _WIDTHS[kind]
            same, step = data[tag:value], at - tag
            while data[at : at + len(same)] == same and at + step <= end:
                at += step
        else:
            raise DecodeError(f"no field is of kind {kind}")
        if at > end or number == 0:
            raise DecodeError("cut short")
        yield WireField(number, kind, tag, value, at)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that starts at ``data[at]``, and where it ends.

    Raises:
        DecodeError: the data end before it, or it is longer than 64 bits.
    """
    try:
        value = data[at]
        if value < 128:
            return value, at + 1
        value &= 127
        for shift in range(7, 70, 7):
            at += 1
            byte = data[at]
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at + 1
    except IndexError:
        pass
    raise DecodeError("cut short")


def varint(value: int) -> bytes:
    """Return a number as the wire format has it, seven bits a byte."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def renumbered(data: bytes, fields: list[tuple[WireField, int]]) -> bytes:
    """Return the data with other numbers for some of the fields.

    The numbers, old and new, are from 16 to 2047, which take two bytes of the tag.
    """
    if not fields:
        return data
    edited = bytearray(data)
    for field, number in fields:
        low, high = varint(number << 3 | field.kind)
        edited[field.tag] = low
        edited[field.tag + 1] = high | edited[field.tag + 1] & 128  # a tag may be longer than need
    return bytes(edited)
