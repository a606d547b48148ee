"""Snapshots of a solver: .solverstate files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from google.protobuf.message import DecodeError, EncodeError

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.atomic import atomic_write
from caffe_margin.files.binary import MAX_BINARY_BYTES
from caffe_margin.files.blobs import array_to_blob, blob_to_array
from caffe_margin.files.load import StrPath, naming
from caffe_margin.files.regular import check_regular


@dataclass(frozen=True)
class SolverState:
    """What a solver goes on from.

    Attributes:
        iteration: how often the weights were updated.
        learned_net: the file of the weights, as the state names it; empty if it names none.
        current_step: how many steps the rate has taken.
        history: of each parameter, of its shape; where a solver has two, the second ones follow.
        layer_iteration: how far each layer with a margin had counted, by name; empty in what Caffe
            wrote.
        seed: of the run; None in what Caffe wrote.
    """

    iteration: int
    learned_net: str = ""
    current_step: int = 0
    history: Sequence[np.ndarray] = field(default=(), repr=False)
    layer_iteration: Mapping[str, int] = field(default_factory=dict)
    seed: int | None = None


def read_solverstate(path: StrPath) -> SolverState:
    """Read a ``.solverstate``. Source: SGDSolver::RestoreSolverStateFromBinaryProto.

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
    with naming(f"{path}: history"):
        history = [blob_to_array(blob) for blob in state.history]
    return SolverState(
        iteration=state.iter,
        learned_net=state.learned_net,
        current_step=state.current_step,
        history=history,
        layer_iteration={count.layer: count.iteration for count in state.layer_iteration},
        seed=state.seed if state.HasField("seed") else None,
    )


def write_solverstate(state: SolverState, path: StrPath) -> None:
    """Write a ``.solverstate`` that Caffe restores, whole or not at all.

    Source: SGDSolver::SnapshotSolverStateToBinaryProto.

    Raises:
        ValueError: the history takes 2 GiB.
        OSError: the file cannot be written.
    """
    message = pb.SolverState(
        iter=state.iteration, learned_net=state.learned_net, current_step=state.current_step
    )
    message.history.extend(array_to_blob(array) for array in state.history)
    for name, iteration in state.layer_iteration.items():
        message.layer_iteration.add(layer=name, iteration=iteration)
    if state.seed is not None:
        message.seed = state.seed
    try:
        data = message.SerializeToString()
    except (EncodeError, ValueError):
        raise ValueError(f"{path}: the history takes 2 GiB; HDF5 has no such bound") from None
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(data)
