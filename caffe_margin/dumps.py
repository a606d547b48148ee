"""Recordings of Caffe, and other arrays from strangers: reading ``.npz`` files without trust."""

from __future__ import annotations

import math
import os
import zipfile
from typing import IO

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 4 << 30
"""What `read_arrays` unpacks at most, in all: a million classes of 512 features twice over."""

_KINDS = "biufU"


def read_arrays(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> dict[str, NDArray]:
    """Read an ``.npz`` file of booleans, numbers and strings; nothing is unpickled.

    A member's size is judged by its declaration before a byte of it is unpacked, and no more than
    was declared is read, so a small file cannot fill the memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no ``.npz``, is damaged, unpacks to more than ``max_bytes``, or
            holds objects or other things that are neither numbers nor strings.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > max_bytes:
                raise ValueError(
                    f"{path} unpacks to {total} bytes; at most {max_bytes} are read from an .npz"
                )
            arrays = {}
            for member in members:
                with archive.open(member) as file:
                    try:
                        array = _read_array(file, member.file_size)
                    except ValueError as error:
                        raise ValueError(f"{path}: {member.filename}: {error}") from None
                arrays[member.filename.removesuffix(".npy")] = array
            return arrays
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path} is no .npz file, or is damaged: {error}") from None
    except (RuntimeError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise ValueError(f"{path} cannot be unpacked: {error}") from None


def _read_array(file: IO[bytes], size: int) -> NDArray:
    """Read one ``.npy`` of ``size`` bytes, header and all."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"version {version} of the .npy format is not known")
    if dtype.kind not in _KINDS:
        raise ValueError(f"holds {dtype}; only booleans, numbers and strings are read")
    declared = math.prod(shape) * dtype.itemsize
    if file.tell() + declared != size:
        raise ValueError(
            f"declares {shape} {dtype}, {declared} bytes, but {size - file.tell()} follow"
        )
    flat = np.frombuffer(bytearray(file.read(declared)), dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C")
