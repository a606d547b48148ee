"""Caffe's files in, messages and arrays out, and back: nets, solvers, weights.

Old forms are brought to the current one on the way in, as Caffe does.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from google.protobuf import text_format as google_text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files import text_format
from caffe_margin.files.atomic import atomic_write
from caffe_margin.files.text_format import ParseError, UnknownFieldWarning
from caffe_margin.files.upgrade import upgrade_net, upgrade_solver

__all__ = [
    "ParseError",
    "UnknownFieldWarning",
    "array_to_blob",
    "blob_to_array",
    "filter_net",
    "find_layer",
    "parse_text",
    "read_net",
    "read_solver",
    "read_text",
    "read_weights",
    "write_net",
    "write_text",
    "write_weights",
]

M = TypeVar("M", bound=Message)
StrPath = str | os.PathLike[str]

MAX_TEXT_BYTES = 64 * 2**20
"""A longer text is refused; the longest nets in use are a thousand times shorter."""
MAX_BINARY_BYTES = 2**31 - 1
"""kProtoReadBytesLimit of Caffe's io.cpp; protobuf itself goes no further."""

_HEAD_BYTES = 4096
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r")) + b"\x7f"
_BINARY_SUFFIXES = (".caffemodel", ".binaryproto")
_SIGNATURES = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89HDF", "an HDF5 file; snapshot again with snapshot_format: BINARYPROTO"),
    (b"PK\x03\x04", "a zip archive (.npz and PyTorch files are zip archives)"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"\x93NUMPY", "a numpy array (.npy)"),
    (b"\x7fELF", "a program or library (ELF)"),
    (b"%PDF", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run git lfs pull"),
    (b"<!DOCTYPE", "a web page, not the file itself; download the raw file"),
    (b"<!doctype", "a web page, not the file itself; download the raw file"),
    (b"<html", "a web page, not the file itself; download the raw file"),
)

_NET_FIELDS = {field.name for field in pb.NetParameter.DESCRIPTOR.fields}
_SOLVER_FIELDS = {field.name for field in pb.SolverParameter.DESCRIPTOR.fields}
_IS_SOLVER = dict.fromkeys(
    _SOLVER_FIELDS - _NET_FIELDS, "belongs to a solver; read this file with read_solver"
)
_IS_NET = dict.fromkeys(
    _NET_FIELDS - _SOLVER_FIELDS, "belongs to a net; read this file with read_net"
)


def parse_text(text: str, message: M, *, filename: str = "<text>", strict: bool = False) -> M:
    """Fill a message from protobuf text and return it. Old forms are left as they are.

    Args:
        text: the text, such as the inside of a layer's braces.
        message: what to fill; its old content is replaced, and kept on an error.
        filename: the name that errors and warnings give.
        strict: refuse fields the schema lacks instead of skipping them.

    Raises:
        ParseError: the text is no message of this type.

    Warns:
        UnknownFieldWarning: a field was skipped.
    """
    _warn(text_format.parse(text, message, filename=filename, strict=strict))
    return message


def read_net(path: StrPath, *, strict: bool = False) -> pb.NetParameter:
    """Read a net, text (.prototxt) or binary (.caffemodel); the content decides, not the name.

    The net comes back in the current form: V0 and V1 layers, `input` with `input_dim` or
    `input_shape` and old BatchNorm layers are upgraded. Source: UpgradeNetAsNeeded.

    Args:
        path: the file.
        strict: refuse what is else skipped with a warning: fields the schema lacks, and old
            fields with no place in the current form.

    Raises:
        FileNotFoundError: there is no such file.
        ParseError: the text is no net.
        ValueError: the file is something else, too large, or cut short.

    Warns:
        UnknownFieldWarning: a field was skipped.
    """
    net, notes = _read_net(path, strict)
    _warn(notes)
    return net


def write_net(net: pb.NetParameter, path: StrPath, *, binary: bool | None = None) -> None:
    """Write a net; the file appears whole or not at all.

    Text reads back to the very same float32 values.

    Args:
        net: the net.
        path: the file, replaced where it exists.
        binary: write binary. None: where the suffix is .caffemodel or .binaryproto.

    Raises:
        ValueError: a required field is missing, or the net is too large for a binary file.
        OSError: the file cannot be written.
    """
    if binary is None:
        binary = Path(path).suffix in _BINARY_SUFFIXES
    if not net.IsInitialized():
        missing: list[str] = getattr(net, "FindInitializationErrors")()  # noqa: B009
        raise ValueError(f"the net lacks {', '.join(missing)}, which must be set")
    if not binary:
        text = google_text_format.MessageToString(net, as_utf8=True).encode("utf-8")
        if text.translate(None, _CONTROLS) != text:  # protobuf 4 leaves these unescaped
            text = google_text_format.MessageToString(net).encode("utf-8")
        _write(path, text)
        return
    try:
        data = net.SerializeToString()
    except EncodeError:
        data = b""
    if len(data) > MAX_BINARY_BYTES or (not data and net.ListFields()):
        raise ValueError("the net is too large; a binary file holds less than 2 GiB")
    _write(path, data)


def read_text(path: StrPath) -> str:
    """Return the text of a prototxt, to edit it; `write_text` writes every byte back.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is binary or too large.
    """
    data, is_text = _load(path)
    if not is_text:
        raise ValueError(f"{path}: the file is binary; this needs the text of a prototxt")
    return _decode(data)


def write_text(text: str, path: StrPath) -> None:
    """Write the text of a prototxt; the file appears whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    _write(path, text.encode("utf-8", "surrogateescape"))


def read_solver(path: StrPath, *, strict: bool = False) -> pb.SolverParameter:
    """Read a solver (.prototxt); the old enum `solver_type` becomes `type`.

    A net inside the solver is left as it is. Source: UpgradeSolverAsNeeded.

    Args:
        path: the file.
        strict: refuse fields the schema lacks instead of skipping them.

    Raises:
        FileNotFoundError: there is no such file.
        ParseError: the text is no solver.
        ValueError: the file is something else or too large, or has both forms of type.

    Warns:
        UnknownFieldWarning: a field was skipped.
    """
    data, is_text = _load(path)
    if not is_text:
        raise ValueError(f"{path}: the file is binary; a solver is text")
    solver = pb.SolverParameter()
    notes = text_format.parse(
        _decode(data), solver, filename=os.fspath(path), strict=strict, misplaced=_IS_NET
    )
    with _naming(path):
        upgrade_solver(solver)
    _warn(notes)
    return solver


def filter_net(
    net: pb.NetParameter, phase: str = "TRAIN", level: int = 0, stages: Iterable[str] = ()
) -> pb.NetParameter:
    """Return the net as Caffe builds it for one phase: the layers whose rules the state meets.

    The kept layers are unchanged; the state is noted in the new net's `state`. Stages add to
    those the net's own `state` lists, phase and level replace. Source: Net::Net,
    Net::FilterNet, Net::StateMeetsRule.

    Args:
        net: a net in the current form, left alone.
        phase: "TRAIN" or "TEST".
        level: what min_level and max_level are held against.
        stages: what stage and not_stage are held against.

    Raises:
        ValueError: the phase is another, or a layer has both include and exclude rules.
    """
    if phase not in ("TRAIN", "TEST"):
        raise ValueError(f"no phase {phase!r}; the phases are TRAIN and TEST")
    filtered = pb.NetParameter()
    filtered.CopyFrom(net)
    state = filtered.state
    state.phase = pb.TRAIN if phase == "TRAIN" else pb.TEST
    state.level = level
    state.stage.extend(stages)
    filtered.ClearField("layer")
    for layer in net.layer:
        if layer.include and layer.exclude:
            raise ValueError(
                f"layer {layer.name!r} has both include and exclude rules; it may have one kind"
            )
        if layer.include:
            kept = any(_meets(state, rule) for rule in layer.include)
        else:
            kept = not any(_meets(state, rule) for rule in layer.exclude)
        if kept:
            filtered.layer.append(layer)
    return filtered


def find_layer(
    net: pb.NetParameter, name: str | None = None, type: str | None = None
) -> pb.LayerParameter:
    """Return one layer of a net: by name, or the only one of a type, or both.

    Raises:
        ValueError: no layer or more than one answers, or the named layer has another type.
    """
    layers = list(net.layer)
    if name is not None:
        layers = [layer for layer in net.layer if layer.name == name]
        if not layers:
            names = [layer.name for layer in net.layer]
            raise ValueError(f"the net has no layer {name!r}{_suggest(name, names)}")
    found = [layer for layer in layers if type is None or layer.type == type]
    if len(found) == 1:
        return found[0]
    if name is not None and not found:
        raise ValueError(f"layer {name!r} is of type {layers[0].type!r}, not {type!r}")
    if not found:
        types = sorted({layer.type for layer in net.layer})
        raise ValueError(f"the net has no layer of type {type!r}{_suggest(str(type), types)}")
    if name is not None:
        raise ValueError(f"{len(found)} layers are named {name!r}; filter_net keeps one phase's")
    what = "layers" if type is None else f"layers of type {type!r}"
    names = [repr(layer.name) for layer in found]
    raise ValueError(f"the net has {len(names)} {what}; name one: {_some(names)}")


def place_of(path: StrPath, name: str | None) -> str:
    """Return ``path:line:column`` of the layer called ``name`` in a prototxt, for messages.

    Just the path where the file is binary or has no such layer.
    """
    data, is_text = _load(path)
    if is_text:
        text, net = _decode(data), pb.NetParameter()
        spans: list[text_format.Span] = []
        text_format.parse(text, net, spans=spans)
        layers = [span for span in spans if span.name == "layer"]
        for span, layer in zip(layers, net.layer, strict=True):
            if layer.name == name:
                before = text[: span.start]
                line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
                return f"{path}:{line}:{column}"
    return str(path)


def read_weights(path: StrPath) -> dict[str, list[np.ndarray]]:
    """Read the parameter blobs of a .caffemodel, V0 and V1 files too.

    Fields the schema lacks are passed over: weights from a fork read like any other. Where
    two layers have the same name the later one counts, as in Net::CopyTrainedLayersFrom.

    Returns:
        layer name -> its blobs, float32 or float64, writable and independent of each other;
        layers without blobs are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no net or has no weights, or a blob's values do not fill its
            shape (the message names layer and blob).
    """
    net, _ = _read_net(path, strict=False)
    weights = {}
    for layer in net.layer:
        arrays = []
        for i, blob in enumerate(layer.blobs):
            with _naming(f"{path}: layer {layer.name!r}, blob {i}"):
                arrays.append(blob_to_array(blob))
        if arrays:
            weights[layer.name] = arrays
    if not weights:
        raise ValueError(
            f"{path}: no layer has weights; they are in a .caffemodel, not a .prototxt"
        )
    return weights


def write_weights(weights: Mapping[str, Sequence[np.ndarray]], path: StrPath) -> None:
    """Write blobs to a binary file that Net::CopyTrainedLayersFrom reads, whole or not at all.

    Args:
        weights: layer name -> its blobs, float32 or float64.
        path: the file, replaced where it exists.

    Raises:
        ValueError: there are no weights, a blob is of another dtype, or they take 2 GiB.
        OSError: the file cannot be written.
    """
    net = pb.NetParameter()
    for name, arrays in weights.items():
        layer = net.layer.add(name=name)
        for i, array in enumerate(arrays):
            with _naming(f"layer {name!r}, blob {i}"):
                layer.blobs.append(array_to_blob(array))
    if not any(layer.blobs for layer in net.layer):
        raise ValueError("there are no weights to write")
    write_net(net, path, binary=True)


def blob_to_array(blob: pb.BlobProto) -> np.ndarray:
    """Return a blob's data in its shape: float64 where it holds double_data, else float32.

    The shape is (num, channels, height, width) where one of these is set, else `shape`,
    which is () when absent. Source: Blob::FromProto.

    Raises:
        ValueError: the values do not fill the shape.
    """
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        shape: tuple[int, ...] = (blob.num, blob.channels, blob.height, blob.width)
    else:
        shape = tuple(blob.shape.dim)
    # Packed values end the message that holds nothing else, so they need no decoding.
    values = pb.BlobProto()
    dtype: np.dtype[Any]
    if blob.double_data:
        values.double_data.MergeFrom(blob.double_data)
        count, dtype = len(blob.double_data), np.dtype("<f8")
    else:
        values.data.MergeFrom(blob.data)
        count, dtype = len(blob.data), np.dtype("<f4")
    if min(shape, default=0) < 0:
        raise ValueError(f"the shape {shape} has a negative dimension")
    if count != math.prod(shape):
        raise ValueError(f"{count} values for the shape {shape}, which takes {math.prod(shape)}")
    packed = values.SerializeToString()
    flat = np.frombuffer(packed, dtype, count, offset=len(packed) - count * dtype.itemsize)
    return flat.astype(dtype.newbyteorder("=")).reshape(shape)


def array_to_blob(array: np.ndarray) -> pb.BlobProto:
    """Return a blob with the array's shape; float32 goes to data, float64 to double_data.

    Source: Blob::ToProto. An empty float64 array reads back as float32: a blob notes no
    dtype but in its values.

    Raises:
        ValueError: the dtype is another, or the values take 2 GiB.
    """
    array = np.asarray(array)
    native = array.dtype.newbyteorder("=")
    if native not in (np.float32, np.float64):
        raise ValueError(f"a blob holds float32 or float64, not {array.dtype}")
    if array.nbytes > MAX_BINARY_BYTES:
        raise ValueError(f"{array.nbytes} bytes; a blob takes less than 2 GiB")
    blob = pb.BlobProto()
    if array.size:
        # The packed field as it stands in a file: its tag, its length, the values.
        number = 8 if native == np.float64 else 5
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        blob.MergeFromString(
            bytes([number << 3 | 2]) + _varint(array.nbytes) + little.tobytes(order="C")
        )
    blob.shape.dim.extend(array.shape)
    return blob


def _warn(notes: Iterable[str]) -> None:
    for note in notes:
        warnings.warn(note, UnknownFieldWarning, stacklevel=3)


@contextlib.contextmanager
def _naming(what: object) -> Iterator[None]:
    """Put what is being read before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def _read_net(path: StrPath, strict: bool) -> tuple[pb.NetParameter, list[str]]:
    data, is_text = _load(path)
    net = pb.NetParameter()
    if is_text:
        notes = text_format.parse(
            _decode(data), net, filename=os.fspath(path), strict=strict, misplaced=_IS_SOLVER
        )
    else:
        notes = _parse_binary(path, data, net, strict)
    with _naming(path):
        problems = upgrade_net(net)
    if strict and problems:
        raise ValueError(f"{path}: {problems[0]}")
    return net, notes + [f"{path}: {problem}" for problem in problems]


def _load(path: StrPath) -> tuple[bytes, bool]:
    """Return a file's bytes and whether they are text; refuse before reading what is neither."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise ValueError(f"{path}: a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: a device or pipe, not a file")
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
        is_text = _is_text(path, head)
        limit = MAX_TEXT_BYTES if is_text else MAX_BINARY_BYTES
        if status.st_size > limit:
            kind = "text" if is_text else "binary file"
            raise ValueError(
                f"{path}: a {kind} of {status.st_size} bytes; a net of more than {limit} "
                "is not read"
            )
        return head + file.read(limit - len(head)), is_text


def _is_text(path: StrPath, head: bytes) -> bool:
    if not head:
        raise ValueError(f"{path}: the file is empty")
    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            raise ValueError(f"{path}: neither a prototxt nor a caffemodel but {what}")
    few, many = sorted((head[::2].count(0), head[1::2].count(0)))
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or (many > 0.4 * len(head) and not few):
        raise ValueError(f"{path}: the text is UTF-16; save it as UTF-8")
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if not controls:
        return True
    if head[0] in _FIRST_BYTES:
        return False
    if controls < 0.02 * len(head) and head.isascii():
        return True  # a stray control character; the parser's error says where
    raise ValueError(
        f"{path}: neither a prototxt nor a caffemodel; it starts with {head[:8].hex(' ')}"
    )


def _decode(data: bytes) -> str:
    # Comments may be in any encoding. The parser refuses a string that is not UTF-8.
    return data.decode("utf-8", "surrogateescape")


def _parse_binary(path: StrPath, data: bytes, net: pb.NetParameter, strict: bool) -> list[str]:
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


def _write(path: StrPath, data: bytes) -> None:
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(data)


def _meets(state: pb.NetState, rule: pb.NetStateRule) -> bool:
    """Source: Net::StateMeetsRule."""
    return (
        not (rule.HasField("phase") and rule.phase != state.phase)
        and not (rule.HasField("min_level") and state.level < rule.min_level)
        and not (rule.HasField("max_level") and state.level > rule.max_level)
        and all(stage in state.stage for stage in rule.stage)
        and not any(stage in state.stage for stage in rule.not_stage)
    )


def _suggest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; it has {_some([repr(other) for other in names])}" if names else "; it has no layers"


def _some(items: Sequence[str]) -> str:
    return (
        ", ".join(items)
        if len(items) <= 20
        else f"{', '.join(items[:20])} and {len(items) - 20} more"
    )


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _first_bytes() -> set[int]:
    """Return the bytes that a binary net may start with: those of its fields' tags."""
    scalars = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_BOOL)
    return {
        _varint(field.number << 3 | wire_type)[0]
        for field in pb.NetParameter.DESCRIPTOR.fields
        for wire_type in ((0, 2) if field.type in scalars else (2,))
    }


_FIRST_BYTES = _first_bytes()
