"""Snapshots of a solver: .solverstate files, and .solverstate.h5."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.atomic import atomic_write
from caffe_margin.files.binary import MAX_BINARY_BYTES
from caffe_margin.files.binary_rows import state_pieces, take_history_rows, write_pieces
from caffe_margin.files.blobs import blob_to_array
from caffe_margin.files.hdf5 import (
    DAMAGE,
    MAGIC,
    check_declared,
    check_numbers,
    held,
    import_h5py,
    read_blob,
    reason,
    write_blob,
)
from caffe_margin.files.load import StrPath, naming
from caffe_margin.files.regular import check_regular
from caffe_margin.files.rows import MisfitError, Shares
from caffe_margin.files.weights import is_hdf5_name


@dataclass(frozen=True)
class SolverState:
    """What a solver goes on from.

    Attributes:
        iteration: how often the weights were updated.
        learned_net: the file of the weights, as the state names it; empty if it names none.
        current_step: how many steps the rate has taken.
        history: of each parameter, of its shape; where a solver has two, the second ones follow.
            Arrays, or, to write, `Rows`.
        layer_iteration: how far each layer with a margin had counted, by name; empty in what Caffe
            wrote.
        seed: of the run; None in what Caffe wrote.
    """

    iteration: int
    learned_net: str = ""
    current_step: int = 0
    history: Sequence[Any] = field(default=(), repr=False)
    layer_iteration: Mapping[str, int] = field(default_factory=dict)
    seed: int | None = None


def read_solverstate(path: StrPath, shares: Shares = MappingProxyType({})) -> SolverState:
    """Read a ``.solverstate``, binary or HDF5.

    Source: SGDSolver::RestoreSolverStateFromBinaryProto, SGDSolver::RestoreSolverStateFromHDF5.

    Args:
        path: the file.
        shares: of some blobs of the history, by their places, the rows that are read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short, too large, or no solver state, or h5py, which an HDF5
            file needs, is not installed; or a blob of which rows are wanted has another shape.
    """
    check_regular(path)
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            return _read_hdf5(path, shares)
    state = pb.SolverState()
    rows: dict[int, np.ndarray] = {}
    try:
        data, rows = _read_binary(path, shares)
        state.ParseFromString(data)
    except DecodeError:
        raise ValueError(
            f"{path}: no solver state; it is cut short, damaged or of another kind"
        ) from None
    if not state.HasField("iter"):
        raise ValueError(f"{path}: no solver state: it holds no iteration")
    if state.iter < 0:
        raise ValueError(f"{path}: no solver state: its iteration is {state.iter}")
    with naming(f"{path}: history"):
        history = [blob_to_array(blob) for blob in state.history]
    for place, share in sorted(shares.items()):
        if place in rows:
            history.insert(place, rows[place])
        elif place < len(history):
            history[place] = share.of(history[place], f"{path}: blob {place} of the history")
    return SolverState(
        iteration=state.iter,
        learned_net=state.learned_net,
        current_step=state.current_step,
        history=history,
        layer_iteration={count.layer: count.iteration for count in state.layer_iteration},
        seed=state.seed if state.HasField("seed") else None,
    )


def _read_binary(path: StrPath, shares: Shares) -> tuple[bytes, dict[int, np.ndarray]]:
    """Return a file's bytes, and the rows of the blobs that were left out of them."""
    if shares and os.path.getsize(path):
        return take_history_rows(path, shares)
    with open(path, "rb") as file:
        data = file.read(MAX_BINARY_BYTES + 1)
    if len(data) > MAX_BINARY_BYTES:
        raise DecodeError("too large")
    return data, {}


def write_solverstate(state: SolverState, path: StrPath) -> None:
    """Write a ``.solverstate`` that Caffe restores, whole or not at all.

    Source: SGDSolver::SnapshotSolverStateToBinaryProto, SGDSolver::SnapshotSolverStateToHDF5.

    Args:
        state: what is written.
        path: the file, in HDF5 where its name ends in ``.h5``.

    Raises:
        ValueError: the history takes 2 GiB, or h5py, which HDF5 needs, is not installed.
        OSError: the file cannot be written.
    """
    if is_hdf5_name(path):
        return _write_hdf5(state, path)
    message = pb.SolverState(
        iter=state.iteration, learned_net=state.learned_net, current_step=state.current_step
    )
    for name, iteration in state.layer_iteration.items():
        message.layer_iteration.add(layer=name, iteration=iteration)
    if state.seed is not None:
        message.seed = state.seed
    with atomic_write(path) as unfinished, open(unfinished, "wb") as file, naming(path):
        write_pieces(file, state_pieces(message, list(state.history)))


# HDF5. What is ours stands in attributes of the root, which Caffe does not look at.


def _read_hdf5(path: StrPath, shares: Shares) -> SolverState:
    h5py = import_h5py(path)
    try:
        with h5py.File(path, "r") as file:
            history = _history(h5py, path, file, shares)
            counts = json.loads(file.attrs.get("layer_iteration", "{}"))
            seed = file.attrs.get("seed")
            state = SolverState(
                iteration=_number(h5py, file, "iter"),
                learned_net=_text(h5py, file, "learned_net") if "learned_net" in file else "",
                current_step=_number(h5py, file, "current_step"),
                history=history,
                layer_iteration={str(name): int(count) for name, count in counts.items()},
                seed=None if seed is None else int(seed),
            )
    except MisfitError as error:
        raise ValueError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise ValueError(f"{path}: no solver state, or damaged: {reason(error)}") from None
    if state.iteration < 0:
        raise ValueError(f"{path}: no solver state: its iteration is {state.iteration}")
    return state


def _history(h5py: ModuleType, path: StrPath, file: Any, shares: Shares) -> list[np.ndarray]:
    group = held(h5py, file, "history", h5py.Group)
    datasets = [held(h5py, group, str(i), h5py.Dataset) for i in range(len(group))]
    for dataset in datasets:
        check_numbers(dataset)
    check_declared(path, datasets)
    return [read_blob(dataset, shares.get(i)) for i, dataset in enumerate(datasets)]


def _number(h5py: ModuleType, file: Any, name: str) -> int:
    dataset = held(h5py, file, name, h5py.Dataset)
    check_numbers(dataset)
    if dataset.size != 1:
        raise ValueError(f"/{name} holds {dataset.size} numbers; it is one")
    return int(dataset[()].item())


def _text(h5py: ModuleType, file: Any, name: str) -> str:
    dataset = held(h5py, file, name, h5py.Dataset)
    if dataset.shape != () or dataset.dtype.kind != "S":
        raise ValueError(f"/{name} is no string of a fixed length")
    return os.fsdecode(bytes(dataset[()]).partition(b"\0")[0])


def _write_hdf5(state: SolverState, path: StrPath) -> None:
    h5py = import_h5py(path)
    with atomic_write(path) as unfinished, h5py.File(unfinished, "w") as file:
        file["iter"] = np.array([state.iteration], "<i4")
        _write_text(h5py, file, "learned_net", os.fsencode(state.learned_net))
        file["current_step"] = np.array([state.current_step], "<i4")
        group = file.create_group("history")
        for i, array in enumerate(state.history):
            write_blob(group, i, array)
        if state.layer_iteration:
            file.attrs["layer_iteration"] = json.dumps(dict(state.layer_iteration))
        if state.seed is not None:
            file.attrs["seed"] = np.int64(state.seed)


def _write_text(h5py: ModuleType, file: Any, name: str, text: bytes) -> None:
    """Write a string as C ends it. Source: H5LTmake_dataset_string."""
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(text) + 1)
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(text, f"S{len(text) + 1}"), mtype=kind)
