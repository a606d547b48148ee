"""Recordings replayed through our layers, and held against what was recorded."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files import prototxt
from caffe_margin.files.npz import MAX_BYTES, read_arrays
from caffe_margin.files.upgrade import upgrade_solver
from caffe_margin.layers.checks import canonical_axis
from caffe_margin.layers.layer import Blob
from caffe_margin.layers.margin_inner_product import ENGINES, MarginInnerProduct
from caffe_margin.layers.softmax_with_loss import SoftmaxWithLoss
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.recordings.check import Check, Verification, compare_blob
from caffe_margin.recordings.recording import FORMAT_VERSION, Recording
from caffe_margin.solver.sgd import SGD

MAX_FORWARDS = 10_000
MAX_LOGITS = MAX_BYTES // 16
"""Bytes of one M x N array at most; a replay holds about ten."""


def verify(path: str | os.PathLike[str], rtol: float | None = None) -> Verification:
    """Replay a recording under every engine, and compare.

    Args:
        path: the ``.npz`` file.
        rtol: a tolerance instead of `RTOL`'s.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no recording, is damaged or of a later format, is too large to replay, or
            holds what the layer refuses.

    Warns:
        UnknownFieldWarning: a field of its prototxt was skipped.
    """
    recording = Recording(read_arrays(path))
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            verification = _replay(recording, rtol)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for warning in caught:
        warnings.warn(f"{path}: {warning.message}", warning.category, stacklevel=2)
    return verification


def _replay(recording: Recording, rtol: float | None) -> Verification:
    if not {"layer", "net"} & recording.arrays.keys():
        held = sorted(recording.arrays)
        some = ", ".join(ascii(key)[1:-1][:40] for key in held[:5]) + ", ..." * (len(held) > 5)
        raise ValueError(f"it is no recording, which holds layer or net; it holds {some or 0}")
    if "format_version" in recording:
        version = int(recording.array("format_version", "iu", ()))
        if version > FORMAT_VERSION:
            raise ValueError(
                f"the recording is of format version {version}; this caffe_margin reads up to "
                f"version {FORMAT_VERSION}"
            )
        if version < 1:
            raise ValueError(f"format_version is {version}; the first is 1")
    if "layer" not in recording:
        if "solver" in recording:
            checks = _replay_head_sgd(recording, rtol)
            return Verification("head_sgd", recording.source, tuple(checks))
        return _replay_net(recording, rtol)
    layers = recording.net().layer
    if len(layers) != 1:
        raise ValueError(f"layer holds {len(layers)} layers; it must hold one")
    if layers[0].type == MarginInnerProduct.type:
        checks = _replay_layer(recording, layers[0], rtol)
        return Verification("layer", recording.source, tuple(checks))
    if layers[0].type == SoftmaxWithLoss.type:
        checks = _replay_softmax_loss(recording, layers[0], rtol)
        return Verification("softmax_loss", recording.source, tuple(checks))
    raise ValueError(
        f"the layer is of type {layers[0].type!r}; {MarginInnerProduct.type} and "
        f"{SoftmaxWithLoss.type} can be replayed"
    )


def _replay_layer(
    recording: Recording, layer_param: pb.LayerParameter, rtol: float | None
) -> Iterator[Check]:
    x = recording.first_floats("bottom0_data")
    label = recording.array("bottom1_data", "fiu")
    forwards = int(recording.array("forwards", "iu", ()))
    if not 1 <= forwards <= MAX_FORWARDS:
        raise ValueError(f"forwards is {forwards}; it must lie in [1, {MAX_FORWARDS}]")
    weight = recording.floats("blob0_data_before", (None, None))
    weight_diff = recording.floats("blob0_diff_before", weight.shape)
    propagate_down = bool(recording.array("propagate_down", "b", (2,))[0])
    param_propagate_down = recording.array("param_propagate_down", "b", (1,)).tolist()
    if not propagate_down and "bottom0_diff" in recording:
        raise ValueError("there is a bottom0_diff, though propagate_down[0] is false")
    top_shape = _top_shape(layer_param, x.shape, x.dtype)
    for engine in ENGINES:
        layer = _make_layer(layer_param, recording, engine, weight)
        layer.blobs[0].diff[...] = weight_diff
        layer.param_propagate_down = param_propagate_down
        layer.check([Blob(x), Blob(label)])
        # Before anything of the top's size is made: a small file can ask for a large top.
        top_diff = recording.floats("top0_diff", top_shape)
        recording.floats("top0_data", top_shape)
        lambdas = []
        for _ in range(forwards):
            top = layer.forward(x, label)
            lambdas.append(layer.lambda_)
        bottom = Blob(x)
        layer.backward_cpu([Blob(top, top_diff)], [propagate_down, False], [bottom])
        computed = {
            "top0_data": top,
            "top1_data": np.array(lambdas),
            "blob0_data": layer.weight,
            "blob0_diff": layer.blobs[0].diff,
            "bottom0_diff": bottom.diff,
        }
        if "top1_data" not in recording:
            del computed["top1_data"]
        if not propagate_down:
            del computed["bottom0_diff"]
        for key, blob in computed.items():
            yield compare_blob(key, engine, blob, recording.floats(key), rtol)
        if engine == "line_by_line":
            private = layer.saved.private._asdict()  # type: ignore[union-attr]
            for key in sorted(recording.arrays):
                name = key.removeprefix("internal_")
                if name != key and name in private:
                    recorded = recording.floats(key)
                    if private[name].size == recorded.size:
                        private[name] = private[name].reshape(recorded.shape)
                    yield compare_blob(key, engine, private[name], recorded, rtol)


def _replay_softmax_loss(
    recording: Recording, layer_param: pb.LayerParameter, rtol: float | None
) -> Iterator[Check]:
    layer = SoftmaxWithLoss.from_param(layer_param)
    scores = recording.first_floats("bottom0_data")
    _check_logits(scores.shape, scores.dtype)
    loss = layer.forward(scores, recording.array("bottom1_data", "fiu"))
    yield compare_blob("top0_data", "", loss, recording.floats("top0_data"), rtol)
    if "bottom0_diff" in recording:
        yield compare_blob(
            "bottom0_diff", "", layer.backward(), recording.floats("bottom0_diff"), rtol
        )


def _replay_head_sgd(recording: Recording, rtol: float | None) -> Iterator[Check]:
    net = prototxt.filter_net(recording.net(), "TRAIN")
    layer_param = prototxt.find_layer(net, None, MarginInnerProduct.type)
    loss_param = prototxt.find_layer(net, None, SoftmaxWithLoss.type)
    solver_param = prototxt.parse_text(
        recording.text("solver"), pb.SolverParameter(), filename="solver"
    )
    upgrade_solver(solver_param)
    if solver_param.iter_size != 1:
        raise ValueError(f"the solver's iter_size is {solver_param.iter_size}; it must be 1")

    fc5 = recording.first_floats("fc5")
    label = recording.array("label", "fiu")
    weight_before = recording.floats("weight_before", (None, None))
    if fc5.ndim < 2 or label.shape[:1] != fc5.shape[:1] or not len(fc5):
        raise ValueError(
            f"fc5 is {fc5.shape} and label {label.shape}; both must hold T batches, 1 or more"
        )
    _top_shape(layer_param, fc5.shape[1:], fc5.dtype)
    T = len(fc5)
    recorded = {key: recording.floats(key, (T,)) for key in ("loss", "lambda_")}
    after: dict[int, FloatArray] = {}
    if "weight_after_iterations" in recording:
        iterations = recording.array("weight_after_iterations", "iu", (None,)).tolist()
        weights = recording.floats("weight_after", (len(iterations), *weight_before.shape))
        if not all(1 <= iteration <= T for iteration in iterations):
            raise ValueError(f"weight_after_iterations is {iterations}; all must lie in [1, {T}]")
        if len(set(iterations)) < len(iterations):
            raise ValueError(f"weight_after_iterations is {iterations}; one is there twice")
        after = dict(zip(iterations, weights, strict=True))

    for engine in ENGINES:
        layer = _make_layer(layer_param, recording, engine, weight_before)
        for x, y in zip(fc5, label, strict=True):
            layer.check([Blob(x), Blob(y)])
        loss_layer, sgd = SoftmaxWithLoss.from_param(loss_param), SGD(solver_param)
        computed = {key: np.full_like(array, np.nan) for key, array in recorded.items()}
        computed_after = {i: np.full_like(weight, np.nan) for i, weight in after.items()}
        for i in range(T):
            try:
                top = layer.forward(fc5[i], label[i])
                computed["loss"][i] = loss_layer.forward(top, label[i])
            except ValueError:
                if i == 0:
                    raise
                break  # the inputs were checked, so the replay has diverged: the rest stays NaN
            computed["lambda_"][i] = layer.lambda_
            layer.blobs[0].diff[...] = 0
            layer.backward(loss_layer.backward())
            sgd.step([layer.weight], [layer.blobs[0].diff], layer_param.param)
            if i + 1 in after:
                computed_after[i + 1][...] = layer.weight
        for key, blob in computed.items():
            yield compare_blob(key, engine, blob, recorded[key], rtol)
        for i, blob in computed_after.items():
            yield compare_blob(f"weight_after {i}", engine, blob, after[i], rtol)


def _replay_net(recording: Recording, rtol: float | None) -> Verification:
    """Replay each layer we have as a recording of its own, of the kinds above."""
    net = prototxt.filter_net(recording.net(), recording.text("phase"))
    # A loss may have no top; Caffe's Net then adds one of this name.
    tops = [top for layer in net.layer for top in layer.top or ["(automatic)"]]
    bottoms = [bottom for layer in net.layer for bottom in layer.bottom]
    params = [spec.name for layer in net.layer for spec in layer.param]
    checks: list[Check] = []
    not_replayed: list[str] = []
    for layer_param in net.layer:
        is_margin = layer_param.type == MarginInnerProduct.type
        if not is_margin and layer_param.type != SoftmaxWithLoss.type:
            not_replayed.append(layer_param.type)
            continue
        name = layer_param.name
        if len(layer_param.bottom) != 2:
            raise ValueError(f"layer {name!r} has {len(layer_param.bottom)} bottoms; it needs 2")
        x, label = layer_param.bottom
        top = (*layer_param.top, "(automatic)")[0]
        if (
            tops.count(top) > 1  # a layer above has overwritten the top in place
            or (not layer_param.top and f"blob/{top}/data" not in recording)
            or (not is_margin and len(layer_param.loss_weight) > 1)
        ):
            not_replayed.append(layer_param.type)
            continue
        keys = {
            "bottom0_data": f"blob/{x}/data",
            "bottom1_data": f"blob/{label}/data",
            "top0_data": f"blob/{top}/data",
        }
        # Where several layers read a blob, or write to it, its diff is not this layer's alone. And
        # Caffe leaves a diff at zero where nothing below has parameters to learn.
        bottom_diff = f"blob/{x}/diff"
        has_diff = bottoms.count(x) == tops.count(x) == 1
        if has_diff and recording.array(bottom_diff, "f").any():
            keys["bottom0_diff"] = bottom_diff
        if is_margin:
            keys["top0_diff"] = f"blob/{top}/diff"
            keys["blob0_data_before"] = f"param/{name}/0/data_before"
            keys["blob0_data"] = f"param/{name}/0/data"
            keys["blob0_diff"] = f"param/{name}/0/diff"
        arrays = {key: recording.array(theirs, "fiu") for key, theirs in keys.items()}
        if is_margin:
            arrays["forwards"] = np.array(1)
            arrays["propagate_down"] = np.array(["bottom0_diff" in keys, False])
            arrays["param_propagate_down"] = np.array([arrays["blob0_diff"].any()])
            arrays["blob0_diff_before"] = np.zeros_like(arrays["blob0_data_before"])
            if len(layer_param.top) > 1:
                arrays["top1_data"] = recording.array(f"blob/{layer_param.top[1]}/data", "f", (1,))
        if "rule" in recording:
            arrays["rule"] = recording.arrays["rule"]
        replay = _replay_layer if is_margin else _replay_softmax_loss
        # Layers that share a weight by its name add to one diff, and each may normalise it.
        weight_name = layer_param.param[0].name if layer_param.param else ""
        shared = bool(weight_name) and params.count(weight_name) > 1
        for check in replay(Recording(arrays), layer_param, rtol):
            if not (shared and check.blob in ("blob0_data", "blob0_diff")):
                checks.append(replace(check, blob=f"{ascii(name)[1:-1]}/{check.blob}"))
    if not checks:
        raise ValueError(
            f"the net has no {MarginInnerProduct.type} or {SoftmaxWithLoss.type} that can be "
            f"replayed"
        )
    return Verification("net", recording.source, tuple(checks), tuple(not_replayed))


def _top_shape(
    layer_param: pb.LayerParameter, shape: tuple[int, ...], dtype: np.dtype
) -> tuple[int, ...]:
    """Return the top's shape for a bottom's.

    Raises:
        ValueError: the layer's axis is out of range, or a replay would take too much memory.
    """
    param = layer_param.margin_inner_product_param
    axis = canonical_axis(param.axis, shape, layer_param.name)
    top_shape = (*shape[:axis], param.num_output)
    _check_logits(top_shape, dtype)
    return top_shape


def _check_logits(shape: tuple[int, ...], dtype: np.dtype) -> None:
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_LOGITS:
        raise ValueError(
            f"its logits, {shape} {dtype}, take {size} bytes; up to {MAX_LOGITS} are replayed"
        )


def _make_layer(
    layer_param: pb.LayerParameter, recording: Recording, engine: str, weight: FloatArray
) -> MarginInnerProduct:
    layer = MarginInnerProduct.from_param(layer_param, gradient=recording.rule, engine=engine)
    layer.weight = weight
    return layer
