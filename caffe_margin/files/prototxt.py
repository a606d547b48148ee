"""Nets and solvers: files in, messages out, and back.

Old forms are brought to the current one on the way in, as Caffe does.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format as google_text_format
from google.protobuf.message import EncodeError, Message

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files import text_format
from caffe_margin.files.atomic import atomic_write
from caffe_margin.files.binary import MAX_BINARY_BYTES, parse_binary, serialize
from caffe_margin.files.load import CONTROLS, StrPath, decode, load, naming
from caffe_margin.files.text_format import ParseError, UnknownFieldWarning
from caffe_margin.files.upgrade import upgrade_net, upgrade_solver

__all__ = [
    "ParseError",
    "UnknownFieldWarning",
    "load_net",
    "parse_text",
    "read_net",
    "read_solver",
    "read_text",
    "write_net",
    "write_text",
]

M = TypeVar("M", bound=Message)

_BINARY_SUFFIXES = (".caffemodel", ".binaryproto")
_NET_FIELDS = {field.name for field in pb.NetParameter.DESCRIPTOR.fields}
_SOLVER_FIELDS = {field.name for field in pb.SolverParameter.DESCRIPTOR.fields}
_IS_SOLVER = dict.fromkeys(
    _SOLVER_FIELDS - _NET_FIELDS, "belongs to a solver, and this must be a net"
)
_IS_NET = dict.fromkeys(_NET_FIELDS - _SOLVER_FIELDS, "belongs to a net, and this must be a solver")


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

        >>> net = read_net("models/sphereface_model.prototxt")
        >>> net.name, len(net.layer), net.layer[-2].margin_inner_product_param.num_output
        ('SpherefaceNet-20', 52, 10572)

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
    net, notes = load_net(path, strict)
    _warn(notes)
    return net


def write_net(net: pb.NetParameter, path: StrPath, *, binary: bool | None = None) -> None:
    """Write a net; the file appears whole or not at all.

        >>> net = read_net("models/sphereface_model.prototxt")
        >>> write_net(net, "copy.caffemodel")
        >>> read_net("copy.caffemodel") == net
        True

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
    check_initialized(net)
    if not binary:
        text = google_text_format.MessageToString(net, as_utf8=True).encode("utf-8")
        if text.translate(None, CONTROLS) != text:  # protobuf 4 leaves these unescaped
            text = google_text_format.MessageToString(net).encode("utf-8")
        _write(path, text)
        return
    try:
        data = serialize(net)
    except EncodeError:
        data = b""
    if len(data) > MAX_BINARY_BYTES or (not data and net.ListFields()):
        raise ValueError("the net is too large; a binary file holds less than 2 GiB")
    _write(path, data)


def check_initialized(net: pb.NetParameter) -> None:
    """Raise ValueError where a required field is missing."""
    if not net.IsInitialized():
        missing: list[str] = getattr(net, "FindInitializationErrors")()  # noqa: B009
        raise ValueError(f"the net lacks {', '.join(missing)}, which must be set")


def read_text(path: StrPath) -> str:
    """Return the text of a prototxt, to edit it; `write_text` writes every byte back.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is binary or too large.
    """
    data, is_text = load(path)
    if not is_text:
        raise ValueError(f"{path}: the file is binary; this needs the text of a prototxt")
    return decode(data)


def write_text(text: str, path: StrPath) -> None:
    """Write the text of a prototxt; the file appears whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    _write(path, text.encode("utf-8", "surrogateescape"))


def read_solver(path: StrPath, *, strict: bool = False) -> pb.SolverParameter:
    """Read a solver (.prototxt); the old enum `solver_type` becomes `type`.

        >>> solver = read_solver("models/sphereface_solver.prototxt")
        >>> solver.max_iter, solver.lr_policy, list(solver.stepvalue)
        (28000, 'multistep', [16000, 24000, 28000])

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
    data, is_text = load(path)
    if not is_text:
        raise ValueError(f"{path}: the file is binary; a solver is text")
    solver = pb.SolverParameter()
    notes = text_format.parse(
        decode(data),
        solver,
        filename=str(path),
        strict=strict,
        misplaced=_IS_NET,
        kind="a solver",
    )
    with naming(path):
        upgrade_solver(solver)
    _warn(notes)
    return solver


def place_of(path: StrPath, name: str | None) -> str:
    """Return ``path:line:column`` of the layer called ``name`` in a prototxt, for messages.

    Just the path where the file is binary or has no such layer.
    """
    data, is_text = load(path)
    if is_text:
        text, net = decode(data), pb.NetParameter()
        spans: list[text_format.Span] = []
        text_format.parse(text, net, spans=spans)
        layers = [span for span in spans if span.name == "layer"]
        for span, layer in zip(layers, net.layer, strict=True):
            if layer.name == name:
                before = text[: span.start]
                line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
                return f"{path}:{line}:{column}"
    return str(path)


def _warn(notes: Iterable[str]) -> None:
    for note in notes:
        warnings.warn(note, UnknownFieldWarning, stacklevel=3)


def load_net(
    path: StrPath, strict: bool = False, data: bytes | None = None
) -> tuple[pb.NetParameter, list[str]]:
    """Read a net as `read_net` does; return it and what is to be warned of, a line each.

    ``data`` is what to take for the bytes of a binary file; None reads them.
    """
    data, is_text = load(path) if data is None else (data, False)
    net = pb.NetParameter()
    v1_types: dict[int, str] = {}
    if is_text:
        notes = text_format.parse(
            decode(data),
            net,
            filename=str(path),
            strict=strict,
            misplaced=_IS_SOLVER,
            kind="a net",
            v1_types=v1_types,
        )
    else:
        notes, v1_types = parse_binary(path, data, net, strict)
    with naming(path):
        problems = upgrade_net(net, v1_types)
    if strict and problems:
        raise ValueError(f"{path}: {problems[0]}")
    return net, notes + [f"{path}: {problem}" for problem in problems]


def _write(path: StrPath, data: bytes) -> None:
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(data)
