"""Recordings of solvers' runs, replayed through PyTorch."""

from __future__ import annotations

import os
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
from caffe_margin.nets.select import filter_net
from caffe_margin.recordings.check import Check, compare_blob
from caffe_margin.recordings.recording import Recording
from caffe_margin.recordings.torch_net import ENGINE, RTOL_FLOAT32, RTOL_FLOAT64, double_twin
from caffe_margin.torch.layers.table import FED

if TYPE_CHECKING:
    from caffe_margin.torch.solver import Feed

GAPS = 10
"""In float32 a run may be as many times as far off as Caffe's own float is from its double: what
one rounding makes of a run grows from iteration to iteration."""
RTOL_ALONE = 1e-2
"""The same where the recording in double does not lie beside it."""

LOSSES = ("loss", "softmax_loss")


def solver_of(recording: Recording) -> cmt.Solver:
    """Return the recorded solver before its first iteration, fed by the recorded batches.

    Raises:
        ValueError: the solver or its net cannot be built, or the recording lacks inputs or weights.
    """
    solver_param = prototxt.parse_text(
        recording.text("solver"), pb.SolverParameter(), filename="solver"
    )
    upgrade_solver(solver_param)
    for name in (
        "net", "train_net", "test_net", "train_net_param", "test_net_param", "test_state",
        "weights", "snapshot", "snapshot_prefix", "average_loss", "debug_info",
    ):  # fmt: skip
        solver_param.ClearField(name)
    if "test_input" not in {key.partition("/")[0] for key in recording.arrays}:
        solver_param.ClearField("test_iter")
        solver_param.ClearField("test_interval")
    net = recording.net()
    solver_param.net_param.CopyFrom(net)
    weights = _arrays(recording, "weights/0")
    if not weights:
        raise ValueError("the recording lacks weights/0")
    double = next(iter(weights.values())).dtype == np.float64
    dtype = torch.float64 if double else torch.float32
    inputs, test_inputs = _arrays(recording, "input"), _arrays(recording, "test_input")
    _check_inputs(net, "TRAIN", inputs)
    if solver_param.test_iter:
        _check_inputs(net, "TEST", test_inputs)
    solver = cmt.Solver(
        solver_param,
        feed=_feed(inputs, dtype),
        test_feed=[_feed(_batches(test_inputs, inputs), dtype)] * len(solver_param.test_iter),
        shapes={name: array.shape[1:] for name, array in inputs.items()},
        seed=0,
        dtype=dtype,
    )
    unfilled, _ = solver.net.load_weights(_by_layer(weights))
    if unfilled:
        raise ValueError(f"there are no weights for {', '.join(map(repr, unfilled))}")
    return solver


def replay_solver(
    recording: Recording, path: str | os.PathLike[str], rtol: float | None
) -> Iterator[Check]:
    """Yield every recorded weight, loss and lambda of a run held against what PyTorch computes.

    Args:
        recording: of the kind ``solver``.
        path: where it lies; its double twin, ``NAME_float64.npz``, is looked for beside it.
        rtol: a tolerance instead of what the dtype determines.

    Raises:
        ValueError: as `solver_of`.
    """
    solver = solver_of(recording)
    loss_key = next((key for key in LOSSES if key in recording), LOSSES[0])
    T = len(recording.array(loss_key, "f", (None,)))
    iter_size = solver.param.iter_size
    if any(len(array) < T * iter_size for array in _arrays(recording, "input").values()):
        raise ValueError(f"there are fewer inputs than {T} iterations of iter_size {iter_size}")
    tolerances = _Tolerances(recording, path, rtol)
    losses, lambdas = np.empty(T), np.empty(T)
    for done in solver.run(T):
        i = done.iteration
        with torch.no_grad():
            losses[i - 1] = float(solver.net.loss(done.outputs))
        lambdas[i - 1] = next(iter(done.lambda_.values()), np.nan)
        for name, array in _arrays(recording, f"weights/{i}").items():
            key = f"weights/{i}/{name}"
            yield compare_blob(key, ENGINE, _param(solver.net, name), array, tolerances(key))
    for key, computed in ((loss_key, losses), ("lambda_", lambdas)):
        if key in recording:
            array = recording.floats(key)
            blob = computed.astype(array.dtype)
            yield compare_blob(key, ENGINE, blob, array, tolerances(key), _scale(key))
    yield from _replay_test(solver, recording, tolerances)


def _replay_test(
    solver: cmt.Solver, recording: Recording, tolerances: _Tolerances
) -> Iterator[Check]:
    """Yield the outputs of the test net, after the last iteration, held against the recorded."""
    tops = _arrays(recording, "test")
    if not tops or not solver.test_nets:
        return
    runs = list(solver.test_runs(0, keep=tops.keys()))
    one_by_one = all(
        array.ndim == len(recording.arrays[f"input/{name}"].shape)
        for name, array in _arrays(recording, "test_input").items()
    )
    for name, array in tops.items():
        blobs = [run[name].detach().numpy() for run in runs]
        computed = np.stack(blobs) if one_by_one else blobs[-1]
        key = f"test/{name}"
        yield compare_blob(key, ENGINE, computed, array, tolerances(key), _scale(key))


class _Tolerances:
    """How far a blob of a run may be off, of its largest magnitude."""

    def __init__(
        self, recording: Recording, path: str | os.PathLike[str], rtol: float | None
    ) -> None:
        self.rtol = rtol
        self.gaps: dict[str, float] = {}
        self.double = _arrays(recording, "weights/0").popitem()[1].dtype == np.float64
        if rtol is not None or self.double:
            return
        for key, double in double_twin(path).items():
            single = recording.arrays.get(key)
            kind = _kind(key)
            if not kind or single is None or single.shape != double.shape or not double.size:
                continue
            largest = max(float(np.abs(double).max()), _scale(key))
            if largest > 0:
                gap = float(np.abs(single - double).max()) / largest
                self.gaps[kind] = max(self.gaps.get(kind, 0.0), gap)

    def __call__(self, key: str) -> float:
        """Return the tolerance for a key of the recording."""
        if self.rtol is not None:
            return self.rtol
        if self.double:
            return RTOL_FLOAT64
        if not self.gaps:
            return RTOL_ALONE
        return max(RTOL_FLOAT32, GAPS * self.gaps.get(_kind(key), 0.0))


def _kind(key: str) -> str:
    """Return what the keys have in common that one gap holds for; "" for what is no result."""
    first, _, rest = key.partition("/")
    if first == "weights":
        return f"weights/{rest.partition('/')[0]}"
    return first if first in (*LOSSES, "lambda_", "test") else ""


def _scale(key: str) -> float:
    """Return what a difference is relative to at least: losses come down to next to nothing."""
    return 1.0 if key in LOSSES or key.startswith("test/") else 0.0


def _param(net: cmt.Net, name: str) -> NDArray:
    layer, _, index = name.rpartition("/")
    blobs = net.params.get(layer, ())
    if not index.isdecimal() or int(index) >= len(blobs):
        raise ValueError(f"the recording has a parameter {name!r}, and the net none")
    return blobs[int(index)].detach().numpy()


def _arrays(recording: Recording, prefix: str) -> dict[str, NDArray]:
    start = f"{prefix}/"
    return {key[len(start) :]: a for key, a in recording.arrays.items() if key.startswith(start)}


def _by_layer(arrays: Mapping[str, NDArray]) -> dict[str, list[NDArray]]:
    layers: dict[str, list[NDArray]] = {}
    for name, array in arrays.items():
        layers.setdefault(name.rpartition("/")[0], []).append(array)
    return layers


def _check_inputs(net: pb.NetParameter, phase: str, inputs: Mapping[str, NDArray]) -> None:
    """Check that every data layer is fed, so that nothing a recording names is opened."""
    for layer in filter_net(net, phase).layer:
        for top in layer.top if layer.type in FED else ():
            if top not in inputs or inputs[top].dtype.kind not in "fiu" or not inputs[top].ndim:
                raise ValueError(f"the recording lacks what was in {top!r} in {phase}")


def _batches(test: Mapping[str, NDArray], inputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Return the test's inputs with an axis of batches in front; one batch may stand for all."""
    return {
        name: array if name in inputs and array.ndim == inputs[name].ndim else array[None]
        for name, array in test.items()
    }


def _feed(inputs: Mapping[str, NDArray], dtype: torch.dtype) -> Feed:
    tensors = {name: torch.from_numpy(array).to(dtype) for name, array in inputs.items()}

    def feed(forwards: int) -> dict[str, Tensor]:
        return {name: tensor[forwards % len(tensor)] for name, tensor in tensors.items()}

    return feed
