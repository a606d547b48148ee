"""Snapshots of a solver: .solverstate files."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.binary import MAX_BINARY_BYTES
from caffe_margin.files.load import StrPath
from caffe_margin.files.regular import check_regular


def read_solverstate(path: StrPath) -> int:
    """Return the iteration that a ``.solverstate`` was saved at: how often weights were updated.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is HDF5, cut short, too large, or no solver state.
    """
    check_regular(path)
    with open(path, "rb") as file:
        data = file.read(MAX_BINARY_BYTES + 1)
    if data.startswith(b"\x89HDF"):
        raise ValueError(
            f"{path}: an HDF5 file, which is not read here. Its iteration is the number in its "
            f"name, and what `h5dump -d iter` prints"
        )
    state = pb.SolverState()
    try:
        state.ParseFromString(data)
    except (DecodeError, ValueError):
        raise ValueError(
            f"{path}: no solver state; it is cut short, damaged or of another kind"
        ) from None
    if not state.HasField("iter"):
        raise ValueError(f"{path}: no solver state: it holds no iteration")
    if state.iter < 0:
        raise ValueError(f"{path}: no solver state: its iteration is {state.iter}")
    return state.iter
