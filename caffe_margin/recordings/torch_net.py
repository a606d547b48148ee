"""Recordings of whole nets and of single layers, replayed through PyTorch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.npz import MAX_BYTES, read_arrays
from caffe_margin.layers.checks import DTYPES
from caffe_margin.nets.rules.algebra import count
from caffe_margin.nets.select import filter_net
from caffe_margin.nets.shapes import infer_shapes
from caffe_margin.recordings.check import Check, compare_blob
from caffe_margin.recordings.in_place import wrong_in_caffe
from caffe_margin.recordings.recording import Recording
from caffe_margin.torch.layers.dropout import Dropout
from caffe_margin.torch.layers.layer import diff_of
from caffe_margin.torch.layers.table import FED, refuse_unknown

if TYPE_CHECKING:
    from caffe_margin.torch.weights import Weights

ENGINE = "torch"
RTOL_FLOAT64 = 1e-10
RTOL_FLOAT32 = 2e-6
STOCHASTIC = pb.PoolingParameter.STOCHASTIC
ROUNDING = 16
"""A diff is zero but for rounding up to so many last places of its layer's largest."""
GAPS = 4
"""A float32 blob may be as many times as far off as Caffe's own float is from its double."""


def replay_through_torch(
    recording: Recording,
    path: str | os.PathLike[str],
    rtol: float | None,
    weights: Weights | None,
) -> Iterator[Check]:
    """Yield every blob and parameter of a recorded net held against what PyTorch computes.

    The diffs of `wrong_in_caffe` are left out.

    Args:
        recording: of the kind ``net``.
        path: where it lies; its double twin, ``NAME_float64.npz``, is looked for beside it.
        rtol: a tolerance instead of `tolerance`'s.
        weights: the parameters, where the recording does not hold them.

    Raises:
        OSError: the weights cannot be opened.
        ValueError: the net cannot be built, or the recording is not of this net.
    """
    dtype, inputs = _dtype(recording), _inputs(recording)
    shapes = {name: array.shape for name, array in inputs.items()}
    _check_size(recording, shapes, dtype)
    net = cmt.Net(
        recording.net(), phase=recording.text("phase"), shapes=shapes, dtype=_torch_dtype(dtype)
    )
    _set_params(net, recording, weights)
    _set_masks(net, recording)
    blobs: dict[str, Tensor] = {}
    for _ in range(recording.forwards):
        blobs = net(keep="all", **{name: torch.from_numpy(array) for name, array in inputs.items()})
    if recording.backward:
        _backward(net, blobs, recording)
    rtol = tolerance(recording, path) if rtol is None else rtol
    wrong, scratch = wrong_in_caffe(recording), _scratch(net)
    for key, array in recording.arrays.items():
        computed = None if key in wrong else _computed(key, blobs, net.params, scratch)
        if computed is None:
            continue
        if key.startswith("blob_part/"):
            computed = computed[:, : array.shape[1]]
        elif key.startswith("norm/"):
            computed = computed.astype(array.dtype)
        yield compare_blob(key, ENGINE, computed, array, rtol, _scale(key, recording.arrays))


def why_not(recording: Recording) -> str:
    """Return why a net cannot be replayed through PyTorch, "" where it can.

    It has layers of types that are not in the table, or draws what the recording does not hold.
    """
    layers = _layers(recording)
    try:
        refuse_unknown(pb.NetParameter(layer=layers))
    except ValueError as error:
        return str(error)
    if recording.text("phase") == "TRAIN":
        drawing = [layer for layer in layers if layer.type == "Dropout"]
        if len(drawing) == 1 and "mask" in recording:
            drawing = []
        drawing += [layer for layer in layers if layer.pooling_param.pool == STOCHASTIC]
        if drawing:
            return f"layer {drawing[0].name!r} is random, and what it drew was not recorded"
    return ""


def tolerance(recording: Recording, path: str | os.PathLike[str]) -> float:
    """Return how far a blob may be off, of its largest magnitude.

    1e-10 in float64. In float32 four times the largest gap between this recording and the same
    net in double, where that lies beside it, and 2e-6 at least: what float32 determines.
    """
    if _dtype(recording) == np.float64:
        return RTOL_FLOAT64
    gaps = [0.0]
    for key, double in double_twin(path).items():
        single = recording.arrays.get(key)
        if not _is_result(key) or single is None or single.shape != double.shape:
            continue
        finite = np.isfinite(double) & np.isfinite(single)
        if finite.any() and (largest := np.abs(double[finite]).max()) > 0:
            largest = max(largest, _scale(key, recording.arrays))
            gaps.append(float(np.abs(single[finite] - double[finite]).max() / largest))
    return max(RTOL_FLOAT32, GAPS * max(gaps))


def double_twin(path: str | os.PathLike[str]) -> dict[str, NDArray]:
    """Return the recording in double beside one in float, ``NAME_float64.npz``, if it is there."""
    twin = Path(path).with_name(f"{Path(path).stem}_float64.npz")
    return read_arrays(twin) if twin.exists() else {}


def _scale(key: str, arrays: Mapping[str, NDArray]) -> float:
    """Return the largest diff of a layer, for those of its diffs that are zero but for rounding.

    As that of a bias is which BatchNorm takes out again: all of what is recorded is rounding.
    """
    kind, _, rest = key.partition("/")
    layer, _, part = rest.rpartition("/")
    if (kind, part) != ("param", "diff"):
        return 0.0
    start = f"param/{layer.rpartition('/')[0]}/"
    largest = {
        other: float(np.abs(array).max(initial=0))
        for other, array in arrays.items()
        if other.startswith(start) and other.endswith("/diff")
    }
    most = max(largest.values())
    rounding = ROUNDING * np.finfo(arrays[key].dtype).eps * most
    return most if largest[key] <= rounding else 0.0


def _is_result(key: str) -> bool:
    kind, _, rest = key.partition("/")
    part = rest.rpartition("/")[2]
    return kind in ("blob", "blob_part", "param") and part in ("data", "diff")


def _dtype(recording: Recording) -> np.dtype[Any]:
    for key, array in recording.arrays.items():
        if key.startswith(("input/", "blob/", "blob_part/")) and array.dtype in DTYPES:
            return array.dtype
    raise ValueError("the recording holds no blob of float32 or float64")


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.float64 if dtype == np.float64 else torch.float32


def _check_size(
    recording: Recording, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]
) -> None:
    """Raise ValueError where the net's blobs and parameters would take too much memory."""
    net = pb.NetParameter(layer=_layers(recording))
    size = sum(
        (count(shape) or 0) * dtype.itemsize
        for layer in infer_shapes(net, shapes)
        for shape in (*layer.tops.values(), *layer.params)
        if shape is not None
    )
    if size > MAX_BYTES:
        raise ValueError(f"its blobs take {size} bytes; up to {MAX_BYTES} are replayed")


def _set_params(net: cmt.Net, recording: Recording, weights: Weights | None) -> None:
    """Give the net the parameters that were there before the first Forward."""
    if any(key.startswith("param/") for key in recording.arrays):
        unfilled, _ = net.load_weights(
            {
                name: [
                    recording.floats(f"param/{name}/{i}/data_before", tuple(blob.shape))
                    for i, blob in enumerate(blobs)
                ]
                for name, blobs in net.params.items()
            }
        )
    elif weights is not None:
        unfilled, _ = net.load_weights(weights)
    elif "recipe_seed" in recording:
        unfilled, _ = net.load_weights(_drawn(recording))
    elif net.params:
        raise ValueError("the recording holds no parameters; give the weights they are in")
    else:
        return
    if unfilled:
        raise ValueError(f"there are no weights for {', '.join(map(repr, unfilled))}")


def _set_masks(net: cmt.Net, recording: Recording) -> None:
    """Have Dropout keep what it kept in Caffe, which draws in training."""
    drawing = [module for module in net.modules() if isinstance(module, Dropout) and net.training]
    if not drawing:
        return
    if len(drawing) > 1 or "mask" not in recording:
        raise ValueError(
            f"the net has {len(drawing)} Dropout in TRAIN, and the recording "
            f"{'one' if 'mask' in recording else 'no'} mask of what it kept"
        )
    mask = torch.from_numpy(recording.array("mask", "b"))
    vars(drawing[0])["draw"] = mask.to


def _drawn(recording: Recording) -> dict[str, list[NDArray]]:
    """Return parameters that are not in the file: how they were drawn is, an entry a blob."""
    rng = np.random.RandomState(recording.number("recipe_seed"))
    dtype = _dtype(recording)
    arrays: dict[str, list[NDArray]] = {}
    for layer, shape, offset, scale in zip(
        recording.array("recipe_layer", "U").tolist(),
        recording.array("recipe_shape", "U").tolist(),
        recording.array("recipe_offset", "f").tolist(),
        recording.array("recipe_scale", "f").tolist(),
        strict=True,
    ):
        dims = tuple(map(int, shape.split(",")))
        if math.prod(dims) > 2**28:
            raise ValueError(f"recipe_shape has a blob of {dims}; up to 2^28 values are drawn")
        arrays.setdefault(layer, []).append((offset + scale * rng.randn(*dims)).astype(dtype))
    return arrays


def _inputs(recording: Recording) -> dict[str, NDArray]:
    """Return what was in the data layers' tops: as put there, or else as found afterwards."""
    return {
        top: recording.array(key, "fiu")
        for layer in _layers(recording)
        if layer.type in FED or _draws(layer)
        for top in layer.top
        for key in (f"blob/{top}/data", f"input/{top}")
        if key in recording
    }


def _draws(layer: pb.LayerParameter) -> bool:
    """Whether a layer's tops are drawn anew at each Forward."""
    fillers = layer.dummy_data_param.data_filler
    return layer.type == "DummyData" and any(filler.type != "constant" for filler in fillers)


def _layers(recording: Recording) -> list[pb.LayerParameter]:
    """Return the layers of the recorded phase."""
    return list(filter_net(recording.net(), recording.text("phase")).layer)


def _backward(net: cmt.Net, blobs: Mapping[str, Tensor], recording: Recording) -> None:
    """Run Backward from the losses' weights and the recorded diffs of the other outputs."""
    diffs = {name: torch.full_like(blobs[name], w) for name, w in net.loss_weights.items()}
    for name, blob in blobs.items():
        if f"top_diff/{name}" in recording:
            diff = recording.floats(f"top_diff/{name}", tuple(blob.shape))
            diffs[name] = torch.from_numpy(diff)
    roots = [name for name in diffs if blobs[name].requires_grad]
    for name in diffs.keys() - set(roots):
        # Nothing is below it, such as a mask; it keeps what was put there.
        blobs[name].grad = diffs[name]
    torch.autograd.backward([blobs[name] for name in roots], [diffs[name] for name in roots])


def _scratch(net: cmt.Net) -> dict[str, str]:
    """Return the blobs whose diff a Scale above uses for what it computes, and that Scale's top.

    Caffe leaves the bottom times the top's diff there. Source: ScaleLayer::Backward_cpu.
    """
    return {
        layer.bottom[0]: layer.top[0]
        for layer in net.param.layer
        if layer.type == "Scale" and layer.bottom[0] != layer.top[0]
    }


def _computed(
    key: str,
    blobs: Mapping[str, Tensor],
    params: Mapping[str, list[Tensor]],
    scratch: Mapping[str, str],
) -> NDArray | None:
    """Return what a key of the recording stands for; None where it is no result."""
    kind, _, rest = key.partition("/")
    if kind == "norm":
        blob = _blob(rest, blobs).detach().double()
        return np.array([blob.abs().max(), blob.norm()])
    if not _is_result(key):
        return None
    name, _, part = rest.rpartition("/")
    if kind == "param":
        layer, _, i = name.rpartition("/")
        if layer not in params or int(i) >= len(params[layer]):
            raise ValueError(f"the recording has {key}, and the net no such parameter")
        blob = params[layer][int(i)]
        diff = diff_of(blob)
    else:
        blob = _blob(name, blobs)
        diff = blob.grad
    if part == "data":
        return blob.detach().numpy()
    if diff is None and kind == "blob" and name in scratch:
        top = blobs[scratch[name]]
        if top.grad is not None:
            return (blob * top.grad).detach().numpy()
    # Zero says in Caffe that nobody asked for it.
    return (torch.zeros_like(blob) if diff is None else diff).detach().numpy()


def _blob(name: str, blobs: Mapping[str, Tensor]) -> Tensor:
    if name not in blobs:
        raise ValueError(f"the recording has a blob {name!r}, and the net none")
    return blobs[name]
