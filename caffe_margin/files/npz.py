"""``.npz`` files: written whole or not at all, and read from strangers without trust.

A file that a stranger made may be cut short, may be no zip archive, may unpack to a thousand times
its size, may hold Python objects. Reading it costs bounded memory, runs nothing in it, and ends in
arrays of booleans, numbers and strings, or in a ValueError of one line.
"""

from __future__ import annotations

import io
import math
import os
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from caffe_margin.files.atomic import atomic_write
from caffe_margin.files.regular import check_regular

MAX_BYTES = 4 << 30
"""What is unpacked at most, in all: a million classes of 512 features twice over."""
MAX_RATIO = 32
"""Nor does a file unpack to more than this many times its size..."""
FREE_BYTES = 16 << 20
"""...unless that is less than this."""

# No single read of a file is longer: a directory of members that is, is refused. Members are read
# a chunk at a time.
_CHUNK = 1 << 20
_MAX_HEADER = 4096
_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
    OSError,
)


class _File(io.FileIO):
    """A file that refuses to be read in one gulp."""

    def read(self, size: int | None = -1, /) -> bytes:
        within = size is not None and 0 <= size <= _CHUNK
        data = super().read(size if within else _CHUNK + 1) or b""
        if len(data) > _CHUNK:
            raise zipfile.BadZipFile("its directory of members is too large")
        return data


def read_arrays(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> dict[str, NDArray]:
    """Read an ``.npz`` file of booleans, numbers and strings; nothing is unpickled.

    Members are judged by what they declare before a byte of them is unpacked, and no more than was
    declared is read: a small file cannot fill the memory. Arrays come back in the machine's byte
    order, writable and C-contiguous.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is no ``.npz``, is damaged, unpacks to more than ``max_bytes`` or to
            more than `MAX_RATIO` times its size, or holds what is no array of booleans, numbers
            or strings.
    """
    check_regular(path)
    with _File(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                total = sum(member.file_size for member in members)
                if total > min(max_bytes, max(FREE_BYTES, MAX_RATIO * size)):
                    raise ValueError(
                        f"it unpacks to {total} bytes from {size}; at most {MAX_RATIO} times its "
                        f"size and {max_bytes} bytes are read"
                    )
                arrays: dict[str, NDArray] = {}
                for member in members:
                    name = member.filename.removesuffix(".npy")
                    if name == member.filename:
                        raise ValueError(f"member {_short(name)} is no array (.npy)")
                    if name in arrays:
                        raise ValueError(f"member {_short(name)} is there twice")
                    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise ValueError(f"member {_short(name)} is packed in a way numpy is not")
                    with archive.open(member) as stream:
                        try:
                            arrays[name] = _read_array(stream, member.file_size)
                        except (ValueError, OverflowError) as error:
                            raise ValueError(f"array {_short(name)}: {error}") from None
                return arrays
        except _DAMAGE as error:
            reason = str(error) or "it ends early"
            raise ValueError(f"{path} is no .npz file, or is damaged: {reason}") from None


def _read_array(file: IO[bytes], size: int) -> NDArray:
    """Read one ``.npy`` of ``size`` bytes, header and all."""
    chunk = file.read(_MAX_HEADER)
    start = io.BytesIO(chunk)
    shape, fortran_order, dtype = _read_header(start)
    declared = math.prod(shape) * dtype.itemsize
    if start.tell() + declared != size:
        raise ValueError(f"it declares {shape} {dtype}, but its {size} bytes are another number")
    data, at = np.empty(declared, np.uint8), 0
    chunk = start.read()
    while chunk:  # to the member's end, where the checksum is compared
        if at + len(chunk) > declared:
            raise ValueError("it goes on after its end")
        data[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        at += len(chunk)
        chunk = file.read(_CHUNK)
    if at < declared:
        raise ValueError("it is cut short")
    if dtype.kind == "U" and (data.view(dtype.byteorder + "u4") > sys.maxunicode).any():
        raise ValueError("it holds what is no character")  # numpy dies of it later
    array = data.view(dtype).reshape(shape, order="F" if fortran_order else "C")
    return np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(shape)


def _read_header(start: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of an ``.npy`` whose start is given: its shape, fortran_order and dtype."""
    try:
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[
            npy.read_magic(start)
        ]
    except (ValueError, KeyError):
        raise ValueError("it does not start as an .npy of version 1 or 2 does") from None
    try:
        with warnings.catch_warnings():  # that the header is of Python 2
            warnings.simplefilter("ignore")
            shape, fortran_order, dtype = read(start)
    except Exception as error:  # TokenError, IndexError and others of what numpy parses it with
        raise ValueError(
            f"its header is not one of an .npy, or is more than {_MAX_HEADER} bytes: "
            f"{_short(str(error))}"
        ) from None
    if not all(type(dim) is int and dim >= 0 for dim in shape):
        raise ValueError(f"its shape is {_short(shape)}, not a tuple of whole numbers")
    if dtype.kind not in "biufU":
        raise ValueError(
            f"its dtype is {_short(dtype.str)}; only booleans, numbers and strings are read"
        )
    if dtype.itemsize == 0:
        raise ValueError(f"its dtype is {dtype.str!r}, which takes no room")
    return shape, fortran_order, dtype


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, NDArray]) -> None:
    """Write an ``.npz`` file, uncompressed; it appears whole or not at all.

    Raises:
        OSError: the file cannot be written.
        ValueError: an array holds objects.
    """
    with atomic_write(path) as unfinished, zipfile.ZipFile(unfinished, "x") as archive:
        # Not np.savez: before numpy 2 it takes allow_pickle for the name of an array.
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, np.asarray(array), allow_pickle=False)
