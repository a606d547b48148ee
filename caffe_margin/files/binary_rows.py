"""Messages with blobs in the wire format, of which no blob need be in memory whole.

A blob's values are one run of bytes in a file. So a message goes out in pieces, the lengths of
which are known beforehand; and some rows of a blob come in from a file that is memory-mapped, the
rest of which, without that blob, is read as any other.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files import wire
from caffe_margin.files.binary import MAX_BINARY_BYTES, serialize
from caffe_margin.files.blobs import array_to_blob, shape_of
from caffe_margin.files.load import StrPath
from caffe_margin.files.rows import Rows, Shares, Stored, blocks_of
from caffe_margin.files.wire import WireField

_LAYER = pb.NetParameter.LAYER_FIELD_NUMBER
_NAME = pb.LayerParameter.NAME_FIELD_NUMBER
_BLOBS = pb.LayerParameter.BLOBS_FIELD_NUMBER
_HISTORY = pb.SolverState.HISTORY_FIELD_NUMBER
_DATA = pb.BlobProto.DATA_FIELD_NUMBER
_DOUBLE_DATA = pb.BlobProto.DOUBLE_DATA_FIELD_NUMBER


# Out.


class Piece(NamedTuple):
    """Some of a message's bytes.

    Attributes:
        size: how many.
        chunks: they themselves, gone through once.
    """

    size: int
    chunks: Iterable[Any]


def net_pieces(net: pb.NetParameter, blobs: Iterable[list[Stored]]) -> Iterator[Piece]:
    """Yield a net with blobs, which has none itself.

    Args:
        net: the net.
        blobs: of each layer.
    """
    rest = pb.NetParameter()
    rest.CopyFrom(net)
    rest.ClearField("layer")
    yield _bytes(serialize(rest))
    for layer, its in zip(net.layer, blobs, strict=True):
        data = serialize(pb.NetParameter(layer=[layer]))
        (whole,) = wire.fields(data, 0, len(data))
        yield from _field(_LAYER, _with_blobs(data[whole.start :], _BLOBS, its))


def state_pieces(state: pb.SolverState, history: list[Stored]) -> Iterator[Piece]:
    """Yield a solver's state with its history, which it has not itself."""
    yield from _with_blobs(state.SerializeToString(), _HISTORY, history)


def write_pieces(file: Any, pieces: Iterable[Piece]) -> None:
    """Write to a binary file.

    Raises:
        ValueError: they take 2 GiB; no more than that is written.
    """
    size = 0
    for piece in pieces:
        size += piece.size
        if size > MAX_BINARY_BYTES:
            raise ValueError("a binary file holds less than 2 GiB; HDF5 has no such bound")
        for chunk in piece.chunks:
            file.write(chunk)


def _bytes(data: bytes) -> Piece:
    return Piece(len(data), [data])


def _field(number: int, pieces: list[Piece]) -> list[Piece]:
    size = sum(piece.size for piece in pieces)
    return [_bytes(wire.varint(number << 3 | wire.BYTES) + wire.varint(size)), *pieces]


def _with_blobs(data: bytes, number: int, blobs: Iterable[Stored]) -> list[Piece]:
    """Return a message with blobs under a number, where protobuf itself would put them."""
    later = (field.tag for field in wire.fields(data, 0, len(data)) if field.number > number)
    cut = next(later, len(data))
    fields = [piece for blob in blobs for piece in _field(number, _blob(blob))]
    return [_bytes(data[:cut]), *fields, _bytes(data[cut:])]


def _blob(blob: Stored) -> list[Piece]:
    """Source: Blob::ToProto."""
    if not isinstance(blob, Rows):
        return [_bytes(array_to_blob(blob).SerializeToString())]
    little = blob.dtype.newbyteorder("<")
    chunks = (np.ascontiguousarray(block, little).data.cast("B") for block in blocks_of(blob))
    shape = _bytes(pb.BlobProto(shape=pb.BlobShape(dim=blob.shape)).SerializeToString())
    if blob.dtype.itemsize == 8:
        return [shape, *_field(_DOUBLE_DATA, [Piece(blob.nbytes, chunks)])]
    return [*_field(_DATA, [Piece(blob.nbytes, chunks)]), shape]


# In.


def take_net_rows(path: StrPath, shares: Shares) -> tuple[bytes, dict[str, np.ndarray]]:
    """Return a binary net's bytes without some layers, and the rows wanted of their blobs.

    A layer that does not have one blob in the form that is written today stays as it is.

    Raises:
        DecodeError: it is no message.
        ValueError: a blob is of another shape.
    """
    data = _mapped(path)
    cuts, rows = [], {}
    for layer in _top(data, _LAYER):
        inside = list(wire.fields(data, layer.start, layer.end))
        names = [data[field.start : field.end] for field in inside if field.number == _NAME]
        name = names[-1].decode("utf-8", "replace") if names else ""
        blobs = [field for field in inside if field.number == _BLOBS]
        if name in shares and len(blobs) == 1 and (at := _values(data, blobs[0])):
            rows[name] = shares[name].of(_array(data, *at), f"{path}: layer {name!r}, blob 0")
            cuts.append(layer)
    return _without(data, cuts), rows


def take_history_rows(path: StrPath, shares: Shares) -> tuple[bytes, dict[int, np.ndarray]]:
    """Return a solver state's bytes without some blobs of its history, and the rows of these.

    Raises:
        DecodeError: it is no message.
        ValueError: a blob is of another shape.
    """
    data = _mapped(path)
    cuts, rows = [], {}
    for place, blob in enumerate(_top(data, _HISTORY)):
        if place in shares and (at := _values(data, blob)):
            name = f"{path}: blob {place} of the history"
            rows[place] = shares[place].of(_array(data, *at), name)
            cuts.append(blob)
    return _without(data, cuts), rows


def _mapped(path: StrPath) -> Any:
    """Return a file's bytes, which are read where they are looked at.

    Raises:
        ValueError: they are more than a binary file has.
    """
    size = os.path.getsize(path)
    if size > MAX_BINARY_BYTES:
        raise ValueError(
            f"{path}: a binary file of {size} bytes; no more than {MAX_BINARY_BYTES} are read"
        )
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _top(data: Any, number: int) -> Iterator[WireField]:
    for field in wire.fields(data, 0, len(data)):
        if field.number == number and field.kind == wire.BYTES:
            yield field


def _values(data: Any, blob: WireField) -> tuple[WireField, tuple[int, ...]] | None:
    """Return where a blob's values are, and its shape; None where they are not in one run."""
    inside = list(wire.fields(data, blob.start, blob.end))
    runs = [field for field in inside if field.number in (_DATA, _DOUBLE_DATA)]
    if len(runs) != 1 or runs[0].kind != wire.BYTES:
        return None
    rest = data[blob.start : runs[0].tag] + data[runs[0].end : blob.end]
    shape = shape_of(pb.BlobProto.FromString(rest))
    width = 8 if runs[0].number == _DOUBLE_DATA else 4
    fits = runs[0].end - runs[0].start == math.prod(shape) * width and min(shape, default=0) >= 0
    return (runs[0], shape) if fits else None


def _array(data: Any, run: WireField, shape: tuple[int, ...]) -> np.ndarray:
    dtype = "<f8" if run.number == _DOUBLE_DATA else "<f4"
    return np.frombuffer(data, dtype, math.prod(shape), run.start).reshape(shape)


def _without(data: Any, cuts: list[WireField]) -> bytes:
    starts = [0, *(cut.end for cut in cuts)]
    ends = [*(cut.tag for cut in cuts), len(data)]
    return b"".join(data[start:end] for start, end in zip(starts, ends, strict=True))
