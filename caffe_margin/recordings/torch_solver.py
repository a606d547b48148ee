"""Recordings of solvers, run again through PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files import prototxt
from caffe_margin.files.upgrade import upgrade_solver
from caffe_margin.recordings.check import Check, compare_blob
from caffe_margin.recordings.recording import Recording
from caffe_margin.recordings.torch_net import ENGINE, RTOL_FLOAT64

if TYPE_CHECKING:
    from caffe_margin.torch.solver import Feed

RTOL_FLOAT32 = 2e-3
"""After tens of iterations float32 determines no more; see `verify`'s ``rtol``."""


def solver_of(recording: Recording) -> cmt.Solver:
    """Return the recorded solver before its first iteration, fed by the recorded batches."""
    solver_param = prototxt.parse_text(
        recording.text("solver"), pb.SolverParameter(), filename="solver"
    )
    upgrade_solver(solver_param)
    for name in ("net", "train_net", "test_net", "test_iter", "test_interval"):
        solver_param.ClearField(name)
    solver_param.net_param.CopyFrom(recording.net())
    inputs = _arrays(recording, "input")
    dtype = next(iter(_arrays(recording, "weights/0").values())).dtype
    torch_dtype = torch.float64 if dtype == np.float64 else torch.float32
    solver = cmt.Solver(solver_param, feed=_feed(inputs, torch_dtype), dtype=torch_dtype)
    solver.net.load_weights(_by_layer(_arrays(recording, "weights/0")))
    return solver


def replay_solver(recording: Recording, rtol: float | None) -> Iterator[Check]:
    """Yield every recorded loss, lambda and weight held against what PyTorch computes."""
    solver = solver_of(recording)
    T = len(recording.array("loss", "f"))
    losses, lambdas = np.empty(T), np.empty(T)
    for done in solver.run(T):
        i = done.iteration
        losses[i - 1] = float(solver.net.loss(done.outputs))
        lambdas[i - 1] = next(iter(done.lambda_.values()), np.nan)
        for name, array in _arrays(recording, f"weights/{i}").items():
            layer, _, index = name.rpartition("/")
            blob = solver.net.params[layer][int(index)].detach().numpy()
            yield compare_blob(f"weights/{i}/{name}", ENGINE, blob, array, _rtol(array, rtol))
    for key, computed in (("loss", losses), ("lambda_", lambdas)):
        if key in recording:
            array = recording.arrays[key]
            yield compare_blob(key, ENGINE, computed.astype(array.dtype), array, _rtol(array, rtol))


def _rtol(array: NDArray, rtol: float | None) -> float:
    if rtol is not None:
        return rtol
    return RTOL_FLOAT64 if array.dtype == np.float64 else RTOL_FLOAT32


def _arrays(recording: Recording, prefix: str) -> dict[str, NDArray]:
    start = f"{prefix}/"
    return {key[len(start) :]: a for key, a in recording.arrays.items() if key.startswith(start)}


def _by_layer(arrays: Mapping[str, NDArray]) -> dict[str, list[NDArray]]:
    layers: dict[str, list[NDArray]] = {}
    for name, array in arrays.items():
        layers.setdefault(name.rpartition("/")[0], []).append(array)
    return layers


def _feed(inputs: Mapping[str, NDArray], dtype: torch.dtype) -> Feed:
    tensors = {name: torch.from_numpy(array).to(dtype) for name, array in inputs.items()}

    def feed(forwards: int) -> dict[str, Tensor]:
        return {name: tensor[forwards] for name, tensor in tensors.items()}

    return feed
