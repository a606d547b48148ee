"""Recordings of the layer: what some Caffe, or this layer, computed; written, replayed, compared.

A recording is an ``.npz`` file; nothing in it is pickled. `verify` replays it and holds every blob
against the recorded one. ``caffe-margin record`` writes one from our layer, ``tools/dump_caffe.py``
from anybody's Caffe. Every recording may hold

    format_version   () int    of this description; absent means 1. A higher one is refused
    source           () str    what recorded it
    rule             () str    "paper" or "exact", or (3,) bool, the switches of `GradientRule` in
                               their order; absent means what the layer's text says in its own
                               ``gradient`` field: PAPER, Caffe's, where it has none

and is of the first of these kinds whose keys it has. M is the batch, N the classes, K the features;
D is float32 or float64, the layer's Dtype, one for the whole file.

``layer``: MarginInnerProduct, Forward once or more on one input, then one Backward.

    layer                  () str         the layer as prototxt text, ``layer { ... }``
    forwards               () int         how many Forwards, 1 to `MAX_FORWARDS`
    propagate_down         (2,) bool      as Caffe's Net sets them
    param_propagate_down   (1,) bool
    bottom0_data           bottom, D      features
    bottom1_data           bottom         labels
    blob0_data_before      (N, K) D       the weight before the first Forward
    blob0_diff_before      (N, K) D       its diff, which Backward adds to
    top0_diff              top, D         what comes down from above
    top0_data              top, D         after the last Forward
    top1_data              (forwards,) D  lambda after each Forward; absent where the layer has
                                          one top
    blob0_data, blob0_diff (N, K) D       the weight and its diff afterwards
    bottom0_diff           bottom, D      absent where propagate_down[0] is false
    internal_NAME          D              optional: the C++ layer's private blob NAME_; held against
                                          the line-by-line engine, the only one that has them

``softmax_loss``: SoftmaxWithLoss, one Forward and one Backward from its ``loss_weight``.

    layer, bottom0_data, bottom1_data, bottom0_diff    as above
    top0_data                                          () D, the loss before ``loss_weight``

``head_sgd``: T iterations of Caffe's SGD on MarginInnerProduct below SoftmaxWithLoss.

    net, solver                        () str        prototxt text
    fc5, label                         (T, M, K) D, (T, M)   the batches
    weight_before                      (N, K) D
    loss, lambda_                      (T,) D        at each iteration
    weight_after_iterations            (n,) int      optional
    weight_after                       (n, N, K) D   the weight after that many iterations

``net``: a whole net, one Forward and one Backward. Its MarginInnerProduct layers, those among them
that are Python layers of `caffe_margin.pycaffe`, and its SoftmaxWithLoss layers are replayed, the
others are not.

    net, phase                         () str        prototxt text; TRAIN or TEST
    blob/NAME/data, blob/NAME/diff     D             each blob afterwards
    param/LAYER/I/data_before          D             each parameter before Forward; diffs are 0
    param/LAYER/I/data, .../diff       D             and afterwards
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from importlib import metadata

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files import prototxt
from caffe_margin.files.npz import MAX_BYTES, read_arrays
from caffe_margin.files.upgrade import upgrade_net, upgrade_solver
from caffe_margin.layers.layer import DTYPES, Blob, FloatArray, canonical_axis, describe
from caffe_margin.layers.margin_inner_product import ENGINES, MarginInnerProduct
from caffe_margin.layers.softmax_with_loss import SoftmaxWithLoss
from caffe_margin.maths.gradient import NAMED_RULES, GradientRule
from caffe_margin.nets import plugin_text
from caffe_margin.solver.sgd import SGD

FORMAT_VERSION = 1
MAX_FORWARDS = 10_000
MAX_TEXT = 4 << 20
"""Characters of prototxt text in a recording."""
MAX_LOGITS = MAX_BYTES // 16
"""Bytes of one M x N array at most; a replay holds about ten."""
RTOL: dict[np.dtype, float] = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 2e-6}
"""How far a blob may be from the recorded one, of the recorded one's largest magnitude."""


@dataclass(frozen=True)
class Check:
    """One blob of a replay, held against the recording.

    Attributes:
        blob: its key in the recording.
        engine: which engine computed it; empty where there is one only.
        dtype: name of the dtype.
        index: of the element that differs most.
        computed: that element, as replayed.
        recorded: that element, as recorded.
        absolute: by how much it differs; infinite where only one of the two is finite.
        relative: the same over the recorded blob's largest finite magnitude.
        ulps: the same in units of that magnitude's last place.
        rtol: what ``relative`` may be.
    """

    blob: str
    engine: str
    dtype: str
    index: tuple[int, ...]
    computed: float
    recorded: float
    absolute: float
    relative: float
    ulps: float
    rtol: float

    @property
    def ok(self) -> bool:
        """Whether the blob is within tolerance."""
        return self.relative <= self.rtol


@dataclass(frozen=True)
class Verification:
    """A recording's replay.

    Attributes:
        kind: ``layer``, ``softmax_loss``, ``head_sgd`` or ``net``.
        source: what recorded it.
        checks: every blob under every engine.
        not_replayed: the types of a net's layers that were not, one a layer.
    """

    kind: str
    source: str
    checks: tuple[Check, ...]
    not_replayed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every blob is within tolerance."""
        return all(check.ok for check in self.checks)

    @property
    def worst(self) -> Check:
        """The check that is farthest from its recording, for its tolerance."""
        return max(self.checks, key=lambda check: (not check.ok, check.relative / check.rtol))


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
    recording = _Recording(read_arrays(path))
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            verification = _replay(recording, rtol)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for warning in caught:
        warnings.warn(f"{path}: {warning.message}", warning.category, stacklevel=2)
    return verification


class _Recording:
    """The arrays of a recording; what is asked for is there and as it should be."""

    def __init__(self, arrays: Mapping[str, NDArray]) -> None:
        self.arrays = arrays
        self.dtype = DTYPES[0]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def array(self, key: str, kinds: str, shape: tuple[int | None, ...] | None = None) -> NDArray:
        """Return an array of a dtype kind and of a shape, where None is any dimension."""
        if key not in self.arrays:
            raise ValueError(f"the recording lacks {key}")
        array = self.arrays[key]
        fits = shape is None or (
            array.ndim == len(shape)
            and all(want in (None, dim) for dim, want in zip(array.shape, shape, strict=True))
        )
        if array.dtype.kind not in kinds or not fits:
            what = {"b": "bool", "iu": "int", "U": "str", "f": "float"}.get(kinds, "float or int")
            wanted = "" if shape is None else f"{shape} ".replace("None", "any")
            raise ValueError(f"{key} is {describe(array)}; it must be {wanted}{what}")
        return array

    def floats(self, key: str, shape: tuple[int | None, ...] | None = None) -> FloatArray:
        """Return an array of the recording's dtype."""
        array = self.array(key, "f", shape)
        if array.dtype != self.dtype:
            raise ValueError(f"{key} is {describe(array)}; the recording is {self.dtype}")
        return array

    def first_floats(self, key: str, shape: tuple[int | None, ...] | None = None) -> FloatArray:
        """Return the array whose dtype is the recording's."""
        array = self.array(key, "f", shape)
        if array.dtype not in DTYPES:
            raise ValueError(f"{key} is {describe(array)}; it must be float32 or float64")
        self.dtype = array.dtype
        return array

    def text(self, key: str) -> str:
        array = self.array(key, "U", ())
        if array.itemsize > 4 * MAX_TEXT:
            raise ValueError(f"{key} is longer than {MAX_TEXT} characters")
        return str(array)

    def net(self) -> pb.NetParameter:
        """Return what ``net`` or ``layer`` says, in the current form."""
        key = "layer" if "layer" in self else "net"
        net = prototxt.parse_text(self.text(key), pb.NetParameter(), filename=key)
        upgrade_net(net)
        plugin_text.restore(net)
        return net

    @property
    def source(self) -> str:
        return self.text("source") if "source" in self else ""

    @property
    def rule(self) -> GradientRule | None:
        """The rule; None where the recording does not say."""
        if "rule" not in self:
            return None
        if self.arrays["rule"].dtype.kind == "b":
            switches: list[bool] = self.array("rule", "b", (3,)).tolist()
            return GradientRule(*switches)
        return GradientRule.of(self.text("rule"))


def _replay(recording: _Recording, rtol: float | None) -> Verification:
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
    recording: _Recording, layer_param: pb.LayerParameter, rtol: float | None
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
            yield _compare(key, engine, blob, recording.floats(key), rtol)
        if engine == "line_by_line":
            private = layer.engine.private._asdict()  # type: ignore[union-attr]
            for key in sorted(recording.arrays):
                name = key.removeprefix("internal_")
                if name != key and name in private:
                    recorded = recording.floats(key)
                    if private[name].size == recorded.size:
                        private[name] = private[name].reshape(recorded.shape)
                    yield _compare(key, engine, private[name], recorded, rtol)


def _replay_softmax_loss(
    recording: _Recording, layer_param: pb.LayerParameter, rtol: float | None
) -> Iterator[Check]:
    layer = SoftmaxWithLoss(layer_param)
    scores = recording.first_floats("bottom0_data")
    _check_logits(scores.shape, scores.dtype)
    loss = layer.forward(scores, recording.array("bottom1_data", "fiu"))
    yield _compare("top0_data", "", loss, recording.floats("top0_data"), rtol)
    if "bottom0_diff" in recording:
        yield _compare("bottom0_diff", "", layer.backward(), recording.floats("bottom0_diff"), rtol)


def _replay_head_sgd(recording: _Recording, rtol: float | None) -> Iterator[Check]:
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
        loss_layer, sgd = SoftmaxWithLoss(loss_param), SGD(solver_param)
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
            yield _compare(key, engine, blob, recorded[key], rtol)
        for i, blob in computed_after.items():
            yield _compare(f"weight_after {i}", engine, blob, after[i], rtol)


def _replay_net(recording: _Recording, rtol: float | None) -> Verification:
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
        for check in replay(_Recording(arrays), layer_param, rtol):
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
    layer_param: pb.LayerParameter, recording: _Recording, engine: str, weight: FloatArray
) -> MarginInnerProduct:
    layer = MarginInnerProduct(layer_param, gradient=recording.rule, engine=engine)
    layer.weight = weight
    return layer


def _compare(
    blob: str, engine: str, computed: FloatArray, recorded: FloatArray, rtol: float | None
) -> Check:
    """Hold a replayed blob against the recorded one.

    Raises:
        ValueError: the recorded one has another shape or dtype.
    """
    if recorded.shape != computed.shape or recorded.dtype != computed.dtype:
        raise ValueError(f"{blob} is {describe(recorded)}; the layer's is {describe(computed)}")
    rtol = RTOL[recorded.dtype] if rtol is None else rtol
    dtype = str(recorded.dtype)
    if not recorded.size:
        return Check(blob, engine, dtype, (), 0.0, 0.0, 0.0, 0.0, 0.0, rtol)
    a, b = computed.astype(np.float64), recorded.astype(np.float64)
    difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
    difference[np.isnan(difference)] = np.inf
    at = np.unravel_index(np.argmax(difference), difference.shape)
    absolute = float(difference[at])
    largest = np.abs(recorded, where=np.isfinite(recorded), out=np.zeros_like(recorded)).max()
    if absolute == 0:
        relative = ulps = 0.0
    elif largest == 0:
        relative = ulps = np.inf
    else:
        relative, ulps = absolute / float(largest), absolute / float(np.spacing(largest))
    return Check(
        blob=blob,
        engine=engine,
        dtype=dtype,
        index=tuple(int(i) for i in at),
        computed=float(a[at]),
        recorded=float(b[at]),
        absolute=absolute,
        relative=relative,
        ulps=ulps,
        rtol=rtol,
    )


def record(
    layer_param: pb.LayerParameter,
    x: FloatArray,
    label: NDArray,
    weight: FloatArray,
    top_diff: FloatArray,
    weight_diff: FloatArray,
    *,
    gradient: str | GradientRule = "paper",
    engine: str = "fused",
    iteration: int | None = None,
) -> dict[str, NDArray]:
    """Run Forward and Backward, and return the recording, of kind ``layer``.

    Args:
        layer_param: the MarginInnerProduct layer.
        x: features, of the layer's bottom shape, float32 or float64.
        label: their labels.
        weight: (N, K), in the dtype of x.
        top_diff: what comes down from above, of the top's shape.
        weight_diff: (N, K), what the weight's diff holds before Backward adds to it.
        gradient: ``"paper"``, ``"exact"`` or a `GradientRule`.
        engine: ``"fused"`` or ``"line_by_line"``.
        iteration: which Forward it is, for lambda; None for the first after the message's
            ``iteration``.

    Raises:
        ValueError: as `MarginInnerProduct`.
    """
    # What Caffe can read, so that the text may be given to Caffe too.
    caffes = pb.LayerParameter()
    caffes.CopyFrom(layer_param)
    for field in ("blobs", "include", "exclude"):
        caffes.ClearField(field)
    caffes.margin_inner_product_param.ClearField("gradient")
    if iteration is not None:
        caffes.margin_inner_product_param.iteration = iteration - 1
    if len(caffes.top) == 1:
        caffes.top.append("lambda")

    rule = GradientRule.of(gradient)
    layer = MarginInnerProduct(caffes, gradient=rule, engine=engine)
    layer.param_propagate_down = [True]
    layer.weight = weight
    if weight_diff.shape != weight.shape or weight_diff.dtype != weight.dtype:
        raise ValueError(
            f"the weight's diff is {describe(weight_diff)}, but the weight is {describe(weight)}"
        )
    layer.blobs[0].diff[...] = weight_diff
    top = layer.forward(x, label)
    bottom_diff = layer.backward(top_diff)
    return {
        "format_version": np.array(FORMAT_VERSION),
        "source": np.array(f"caffe_margin {metadata.version('caffe_margin')}"),
        "rule": np.array(rule.name if rule.name in NAMED_RULES else list(astuple(rule))),
        "layer": np.array(text_format.MessageToString(pb.NetParameter(layer=[caffes]))),
        "forwards": np.array(1),
        "propagate_down": np.array([True, False]),
        "param_propagate_down": np.array([True]),
        "bottom0_data": x,
        "bottom1_data": np.asarray(label),
        "blob0_data_before": weight,
        "blob0_diff_before": weight_diff,
        "top0_diff": top_diff,
        "top0_data": top,
        "top1_data": np.array([layer.lambda_]),
        "blob0_data": layer.weight,
        "blob0_diff": layer.blobs[0].diff,
        "bottom0_diff": bottom_diff,
    }
