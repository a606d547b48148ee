"""Recordings replayed through our layers, and held against what was recorded."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files import prototxt
from caffe_margin.files.npz import MAX_BYTES, read_arrays
from caffe_margin.files.upgrade import upgrade_solver
from caffe_margin.layers.layer import Blob
from caffe_margin.layers.margin_layer import ENGINES
from caffe_margin.layers.margin_layers import MARGIN_LAYERS
from caffe_margin.layers.softmax_with_loss import SoftmaxWithLoss
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import GradientRule
from caffe_margin.nets.select import filter_net, find_layer
from caffe_margin.nets.splits import AUTOMATIC
from caffe_margin.recordings.check import RTOL, Check, Verification, compare_blob
from caffe_margin.recordings.in_place import wrong_in_caffe
from caffe_margin.recordings.record import LayerRun, make_layer, top_shape
from caffe_margin.recordings.recording import Recording
from caffe_margin.recordings.signs import SIGNS, settle_signs
from caffe_margin.solver.sgd import SGD

if TYPE_CHECKING:
    from caffe_margin.torch.weights import Weights

TORCH = "torch"
"""The engine that replays a whole net at once."""

MAX_LOGITS = MAX_BYTES // 16
"""Bytes of one M x N array at most; a replay holds about ten."""


def verify(
    path: str | os.PathLike[str],
    rtol: float | None = None,
    *,
    engines: Collection[str] | None = None,
    weights: Weights | None = None,
) -> Verification:
    """Replay a recording, and compare.

    Args:
        path: the ``.npz`` file.
        rtol: a tolerance instead of `RTOL`'s, or of `torch_net.tolerance`'s.
        engines: those of `ENGINES` that replay layers one by one, and `TORCH`, which replays
            whole nets; None for all that there are for the recording.
        weights: the parameters of a net, where the recording does not hold them.

    Raises:
        OSError: a file cannot be opened.
        ValueError: it is no recording, is damaged or of a later format, is too large to replay,
            holds what the layer refuses, or none of the engines can replay it.

    Warns:
        UnknownFieldWarning: a field of its prototxt was skipped.
    """
    for engine in engines or ():
        if engine not in (*ENGINES, TORCH):
            raise ValueError(f"no engine {engine!r}; they are {', '.join((*ENGINES, TORCH))}")
    recording = Recording(read_arrays(path))
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            verification = _verify(recording, path, rtol, engines, weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for warning in caught:
        warnings.warn(f"{path}: {warning.message}", warning.category, stacklevel=2)
    return verification


def _verify(
    recording: Recording,
    path: str | os.PathLike[str],
    rtol: float | None,
    engines: Collection[str] | None,
    weights: Weights | None,
) -> Verification:
    if is_solver_run(recording):
        return _solver_verification(recording, path, rtol, engines)
    replay = replay_of(recording)
    one_by_one = [name for name in ENGINES if engines is None or name in engines]
    checks = list(replay.checks(rtol, one_by_one)) if one_by_one else []
    not_replayed = replay.not_replayed
    wrong: tuple[str, ...] = ()
    if isinstance(replay, NetReplay) and (engines is None or TORCH in engines):
        must = not checks or engines is not None
        if whole := _through_torch(recording, path, rtol, weights, must):
            checks, not_replayed, wrong = checks + whole, (), wrong_in_caffe(recording)
    if not checks:
        of_net = isinstance(replay, NetReplay)
        raise ValueError(
            f"{' and '.join(engines or ENGINES)} cannot replay any layer of this net; torch can"
            if of_net
            else f"torch cannot replay this recording; {' and '.join(ENGINES)} can"
        )
    return Verification(replay.kind, recording.source, tuple(checks), not_replayed, wrong)


def is_solver_run(recording: Recording) -> bool:
    """Whether this is a run of a solver on a whole net."""
    weights = any(key.startswith("weights/0/") for key in recording.arrays)
    return "solver" in recording and "net" in recording and weights


def _solver_verification(
    recording: Recording,
    path: str | os.PathLike[str],
    rtol: float | None,
    engines: Collection[str] | None,
) -> Verification:
    """Replay a solver's run, which PyTorch alone does."""
    recording.check_format()
    if engines is not None and TORCH not in engines:
        raise ValueError(f"{' and '.join(engines)} cannot replay a solver's run; torch can")
    try:
        import caffe_margin.torch  # noqa: F401  (its message says what to install)
        from caffe_margin.recordings.torch_solver import replay_solver
    except ModuleNotFoundError as error:
        raise ValueError(f"to replay a solver's run, {error}") from None
    checks = tuple(replay_solver(recording, path, rtol))
    return Verification("solver", recording.source, checks)


def _through_torch(
    recording: Recording,
    path: str | os.PathLike[str],
    rtol: float | None,
    weights: Weights | None,
    must: bool,
) -> list[Check]:
    """Return the checks of a whole net on PyTorch.

    None of them, unless ``must``, where PyTorch is not installed or cannot replay the net.
    """
    try:
        import caffe_margin.torch  # noqa: F401  (its message says what to install)
        from caffe_margin.recordings import torch_net
    except ModuleNotFoundError as error:
        if must:
            raise ValueError(f"to replay the whole net, {error}") from None
        return []
    if not must and torch_net.why_not(recording):
        return []
    return list(torch_net.replay_through_torch(recording, path, rtol, weights))


def replay_of(recording: Recording) -> Replay:
    """Return the replay of a recording's kind, which its keys say.

    Raises:
        ValueError: as `verify`.
    """
    recording.check_format()
    if "layer" not in recording:
        kind = HeadSgdReplay if "solver" in recording else NetReplay
        return kind.of(recording)
    layers = recording.net().layer
    if len(layers) != 1:
        raise ValueError(f"layer holds {len(layers)} layers; it must hold one")
    if layers[0].type not in LAYER_REPLAYS:
        raise ValueError(
            f"the layer is of type {layers[0].type!r}; {' and '.join(LAYER_REPLAYS)} can be "
            f"replayed"
        )
    return LAYER_REPLAYS[layers[0].type].of_layer(recording, layers[0])


class Replay:
    """A recording's inputs and outputs, read and checked.

    Attributes:
        kind: as in `Verification`.
        not_replayed: as in `Verification`.
    """

    kind: ClassVar[str]
    not_replayed: tuple[str, ...] = ()

    def checks(self, rtol: float | None, engines: Collection[str] = ENGINES) -> Iterator[Check]:
        """Run the layers under each engine, and yield every blob held against the recorded one."""
        raise NotImplementedError


@dataclass(frozen=True)
class LayerReplay(Replay):
    """A layer with a margin: Forward once or more on one input, then one Backward.

    Attributes:
        inputs: what went in.
        outputs: what came out, by the keys of a recording of the layer alone.
        last_lambda: whether of the Forwards' lambdas the last alone was recorded.
    """

    kind = "layer"

    inputs: LayerRun
    outputs: Mapping[str, NDArray]
    last_lambda: bool = False

    @classmethod
    def of_layer(cls, recording: Recording, layer_param: pb.LayerParameter) -> LayerReplay:
        """Read a recording of the layer alone."""
        x = recording.floats("bottom0_data")
        _check_logits(top_shape(layer_param, x.shape), x.dtype)
        weight = recording.floats("blob0_data_before", (None, None), x.dtype)
        propagate_down = bool(recording.array("propagate_down", "b", (2,))[0])
        if not propagate_down and "bottom0_diff" in recording:
            raise ValueError("there is a bottom0_diff, though propagate_down[0] is false")
        inputs = LayerRun(
            layer_param,
            recording.rule,
            x,
            label=recording.array("bottom1_data", "fiu"),
            weight=weight,
            weight_diff=recording.floats("blob0_diff_before", weight.shape, x.dtype),
            top_diff=recording.floats("top0_diff", dtype=x.dtype),
            forwards=recording.forwards,
            propagate_down=propagate_down,
            param_propagate_down=bool(recording.array("param_propagate_down", "b", (1,))[0]),
        )
        keys = ["top0_data", "top1_data", "blob0_data", "blob0_diff", "bottom0_diff"]
        if "top1_data" not in recording:
            keys.remove("top1_data")
        if not propagate_down:
            keys.remove("bottom0_diff")
        outputs = {key: recording.floats(key, dtype=x.dtype) for key in keys}
        for key in sorted(recording.arrays):
            if key.startswith("internal_"):
                outputs[key] = recording.arrays[key]
        return cls(inputs, outputs)

    @classmethod
    def of_net(
        cls, recording: Recording, layer_param: pb.LayerParameter, has_diff: bool
    ) -> LayerReplay:
        """Read the layer out of a recording of a whole net.

        Args:
            recording: the recording.
            layer_param: the layer, with two bottoms and one top or more.
            has_diff: whether the recorded diff of bottom[0] is this layer's.
        """
        name, (bottom, label) = layer_param.name, layer_param.bottom
        x = recording.floats(f"blob/{bottom}/data")
        shape = top_shape(layer_param, x.shape)
        _check_logits(shape, x.dtype)
        top = layer_param.top[0]
        weight = recording.floats(f"param/{name}/0/data_before", (None, None), x.dtype)
        outputs = {"top0_data": recording.floats(f"blob/{top}/data", dtype=x.dtype)}
        if len(layer_param.top) > 1:
            lambda_ = f"blob/{layer_param.top[1]}/data"
            outputs["top1_data"] = recording.floats(lambda_, (1,), x.dtype)
        outputs["blob0_data"] = recording.floats(f"param/{name}/0/data", weight.shape, x.dtype)
        top_diff = np.zeros(shape, x.dtype)
        if recording.backward:
            weight_diff = recording.floats(f"param/{name}/0/diff", weight.shape, x.dtype)
            outputs["blob0_diff"] = weight_diff
            top_diff = recording.floats(f"blob/{top}/diff", dtype=x.dtype)
        if has_diff:
            outputs["bottom0_diff"] = recording.floats(f"blob/{bottom}/diff", x.shape, x.dtype)
        inputs = LayerRun(
            layer_param,
            recording.rule,
            x,
            label=recording.array(f"blob/{label}/data", "fiu"),
            weight=weight,
            weight_diff=np.zeros_like(weight),
            top_diff=top_diff,
            forwards=recording.forwards,
            propagate_down=has_diff,
            param_propagate_down=recording.backward and bool(outputs["blob0_diff"].any()),
        )
        return cls(inputs, outputs, last_lambda=True)

    def checks(self, rtol: float | None, engines: Collection[str] = ENGINES) -> Iterator[Check]:
        """Yield each output under each engine; private blobs under the one that has them."""
        for engine in engines:
            computed = self.inputs.run(engine)
            if self.outputs.keys() & SIGNS & computed.keys():
                tolerance = RTOL[self.inputs.x.dtype] if rtol is None else rtol
                cos_theta = self.inputs.cos_theta()
                computed |= settle_signs(computed, self.outputs, cos_theta, tolerance)
            for key, recorded in self.outputs.items():
                if key not in computed:
                    continue
                blob = computed[key]
                if key == "top1_data" and self.last_lambda:
                    blob = blob[-1:]
                if key.startswith("internal_") and blob.size == recorded.size:
                    blob = blob.reshape(recorded.shape)
                yield compare_blob(key, engine, blob, recorded, rtol)


@dataclass(frozen=True)
class SoftmaxLossReplay(Replay):
    """SoftmaxWithLoss: one Forward, and one Backward from its ``loss_weight``.

    Attributes:
        layer_param: the layer's message.
        scores, label: the bottoms.
        loss: the top, before ``loss_weight``.
        diff: the diff of the scores; None where it was not recorded.
    """

    kind = "softmax_loss"

    layer_param: pb.LayerParameter
    scores: FloatArray
    label: NDArray
    loss: FloatArray
    diff: FloatArray | None

    @classmethod
    def of_layer(cls, recording: Recording, layer_param: pb.LayerParameter) -> SoftmaxLossReplay:
        """Read a recording of the layer alone."""
        scores = recording.floats("bottom0_data")
        return cls(
            layer_param,
            scores,
            recording.array("bottom1_data", "fiu"),
            recording.floats("top0_data", dtype=scores.dtype),
            recording.floats("bottom0_diff", dtype=scores.dtype)
            if "bottom0_diff" in recording
            else None,
        )

    @classmethod
    def of_net(
        cls, recording: Recording, layer_param: pb.LayerParameter, has_diff: bool
    ) -> SoftmaxLossReplay:
        """Read the layer out of a recording of a whole net, as `LayerReplay.of_net`."""
        bottom, label = layer_param.bottom
        top = _first_top(layer_param)
        scores = recording.floats(f"blob/{bottom}/data")
        return cls(
            layer_param,
            scores,
            recording.array(f"blob/{label}/data", "fiu"),
            recording.floats(f"blob/{top}/data", dtype=scores.dtype),
            recording.floats(f"blob/{bottom}/diff", dtype=scores.dtype) if has_diff else None,
        )

    def checks(self, rtol: float | None, engines: Collection[str] = ENGINES) -> Iterator[Check]:
        """Yield the loss, and the diff where there is one."""
        _check_logits(self.scores.shape, self.scores.dtype)
        layer = SoftmaxWithLoss.from_param(self.layer_param)
        loss = layer.forward(self.scores, self.label)
        yield compare_blob("top0_data", "", loss, self.loss, rtol)
        if self.diff is not None:
            yield compare_blob("bottom0_diff", "", layer.backward(), self.diff, rtol)


LAYER_REPLAYS: dict[str, type[LayerReplay | SoftmaxLossReplay]] = {
    **dict.fromkeys(MARGIN_LAYERS, LayerReplay),
    SoftmaxWithLoss.type: SoftmaxLossReplay,
}
"""Which layers can be replayed, alone or out of a net."""


@dataclass(frozen=True)
class HeadSgdReplay(Replay):
    """T iterations of Caffe's SGD on a layer with a margin below SoftmaxWithLoss.

    Attributes:
        layer_param, loss_param, solver_param: the two layers, and the solver.
        rule: the gradient rule; None for what the layer says.
        x, label: (T, M, ...) and (T, ...), a batch an iteration.
        weight: (N, K), before the first iteration.
        recorded: ``loss`` and ``lambda_``, of shape (T,).
        weight_after: the weight after that many iterations.
    """

    kind = "head_sgd"

    layer_param: pb.LayerParameter
    loss_param: pb.LayerParameter
    solver_param: pb.SolverParameter
    rule: GradientRule | None
    x: FloatArray
    label: NDArray
    weight: FloatArray
    recorded: Mapping[str, FloatArray]
    weight_after: Mapping[int, FloatArray]

    @classmethod
    def of(cls, recording: Recording) -> HeadSgdReplay:
        """Read the recording."""
        net = filter_net(recording.net(), "TRAIN")
        layer_param = find_layer(net, None, MARGIN_LAYERS)
        loss_param = find_layer(net, None, SoftmaxWithLoss.type)
        solver_param = _read_solver(recording)
        x, label = recording.floats("fc5"), recording.array("label", "fiu")
        weight = recording.floats("weight_before", (None, None), x.dtype)
        if x.ndim < 2 or label.shape[:1] != x.shape[:1] or not len(x):
            raise ValueError(
                f"fc5 is {x.shape} and label {label.shape}; both must hold T batches, 1 or more"
            )
        _check_logits(top_shape(layer_param, x.shape[1:]), x.dtype)
        return cls(
            layer_param,
            loss_param,
            solver_param,
            recording.rule,
            x,
            label,
            weight,
            {key: recording.floats(key, x.shape[:1], x.dtype) for key in ("loss", "lambda_")},
            _read_weight_after(recording, len(x), weight),
        )

    def checks(self, rtol: float | None, engines: Collection[str] = ENGINES) -> Iterator[Check]:
        """Yield the losses, the lambdas and the weights, under each engine."""
        for engine in engines:
            computed, weight_after = self._train(engine)
            for key, blob in computed.items():
                yield compare_blob(key, engine, blob, self.recorded[key], rtol)
            for i, blob in weight_after.items():
                yield compare_blob(f"weight_after {i}", engine, blob, self.weight_after[i], rtol)

    def _train(self, engine: str) -> tuple[dict[str, FloatArray], dict[int, FloatArray]]:
        """Return what `recorded` and `weight_after` hold, as computed."""
        layer = make_layer(self.layer_param, self.rule, engine, self.weight)
        for x, label in zip(self.x, self.label, strict=True):
            layer.check([Blob(x), Blob(label)])
        loss_layer, sgd = SoftmaxWithLoss.from_param(self.loss_param), SGD(self.solver_param)
        computed = {key: np.full_like(array, np.nan) for key, array in self.recorded.items()}
        after = {i: np.full_like(weight, np.nan) for i, weight in self.weight_after.items()}
        for i, (x, label) in enumerate(zip(self.x, self.label, strict=True)):
            try:
                top = layer.forward(x, label)
                computed["loss"][i] = loss_layer.forward(top, label)
            except ValueError:
                if i == 0:
                    raise
                break  # the inputs were checked, so the replay has diverged: the rest stays NaN
            computed["lambda_"][i] = layer.lambda_
            layer.blobs[0].diff[...] = 0
            layer.backward(loss_layer.backward())
            sgd.step([layer.weight], [layer.blobs[0].diff], self.layer_param.param)
            if i + 1 in after:
                after[i + 1][...] = layer.weight
        return computed, after


def _read_solver(recording: Recording) -> pb.SolverParameter:
    text = recording.text("solver")
    solver_param = prototxt.parse_text(text, pb.SolverParameter(), filename="solver")
    upgrade_solver(solver_param)
    if solver_param.iter_size != 1:
        raise ValueError(f"the solver's iter_size is {solver_param.iter_size}; it must be 1")
    return solver_param


def _read_weight_after(recording: Recording, T: int, weight: FloatArray) -> dict[int, FloatArray]:
    """Return ``weight_after`` by ``weight_after_iterations``; empty where there is none."""
    if "weight_after_iterations" not in recording:
        return {}
    iterations = recording.array("weight_after_iterations", "iu", (None,)).tolist()
    weights = recording.floats("weight_after", (len(iterations), *weight.shape), weight.dtype)
    if not all(1 <= iteration <= T for iteration in iterations):
        raise ValueError(f"weight_after_iterations is {iterations}; all must lie in [1, {T}]")
    if len(set(iterations)) < len(iterations):
        raise ValueError(f"weight_after_iterations is {iterations}; one is there twice")
    return dict(zip(iterations, weights, strict=True))


class NetReplay(Replay):
    """A whole net, whose layers with a margin and softmax losses are replayed one by one.

    A net's blobs are recorded after Backward, so that what a layer read or wrote is there only
    where no other layer wrote over it or added to it; the methods whose names say so find out.

    Attributes:
        layers: those that are replayed; there may be none.
    """

    kind = "net"

    def __init__(self, recording: Recording, net: pb.NetParameter) -> None:
        self._recording = recording
        self._writers = Counter(top for layer in net.layer for top in layer.top or [AUTOMATIC])
        self._readers = Counter(bottom for layer in net.layer for bottom in layer.bottom)
        self._weight_users = Counter(spec.name for layer in net.layer for spec in layer.param)
        can = [(layer, self._can_replay(layer)) for layer in net.layer]
        self.layers = [layer for layer, replayed in can if replayed]
        self.not_replayed = tuple(layer.type for layer, replayed in can if not replayed)

    @classmethod
    def of(cls, recording: Recording) -> NetReplay:
        """Read the net of the recorded phase."""
        return cls(recording, filter_net(recording.net(), recording.text("phase")))

    def checks(self, rtol: float | None, engines: Collection[str] = ENGINES) -> Iterator[Check]:
        """Yield the checks of each layer, its name before the blob's."""
        for layer in self.layers:
            replay = LAYER_REPLAYS[layer.type].of_net(
                self._recording, layer, has_diff=self._diff_is_its_own(layer)
            )
            for check in replay.checks(rtol, engines):
                if self._shares_its_weight(layer) and check.blob in ("blob0_data", "blob0_diff"):
                    continue
                yield replace(check, blob=f"{layer.name}/{check.blob}")

    def _can_replay(self, layer: pb.LayerParameter) -> bool:
        if layer.type not in LAYER_REPLAYS:
            return False
        if len(layer.bottom) != 2:
            raise ValueError(f"layer {layer.name!r} has {len(layer.bottom)} bottoms; it needs 2")
        return not (
            self._top_is_overwritten(layer)
            or self._top_is_missing(layer)
            or self._weighs_its_probabilities(layer)
            or self._weight_is_elsewhere(layer)
        )

    def _top_is_overwritten(self, layer: pb.LayerParameter) -> bool:
        """Whether a layer above works in place, or a second loss has its top under this name."""
        return self._writers[_first_top(layer)] > 1

    def _top_is_missing(self, layer: pb.LayerParameter) -> bool:
        """Whether the layer names no top, and Caffe's own name for it is not in the recording."""
        return not layer.top and f"blob/{AUTOMATIC}/data" not in self._recording

    def _weighs_its_probabilities(self, layer: pb.LayerParameter) -> bool:
        """Whether a loss weight is given to its second top, the probabilities, too."""
        return layer.type == SoftmaxWithLoss.type and len(layer.loss_weight) > 1

    def _weight_is_elsewhere(self, layer: pb.LayerParameter) -> bool:
        """Whether the layer has a weight, and the recording no parameters at all."""
        held = any(key.startswith("param/") for key in self._recording.arrays)
        return layer.type in MARGIN_LAYERS and not held

    def _diff_is_its_own(self, layer: pb.LayerParameter) -> bool:
        """Whether the diff of bottom[0] is what this layer wrote, and neither a sum nor left alone.

        Caffe leaves it at zero where nothing below has parameters to learn.
        """
        bottom = layer.bottom[0]
        alone = self._readers[bottom] == self._writers[bottom] == 1
        return (
            alone
            and self._recording.backward
            and bool(self._recording.array(f"blob/{bottom}/diff", "f").any())
        )

    def _shares_its_weight(self, layer: pb.LayerParameter) -> bool:
        """Whether others add to the weight's diff, and may normalise the weight as well."""
        name = layer.param[0].name if layer.param else ""
        return bool(name) and self._weight_users[name] > 1


def _first_top(layer: pb.LayerParameter) -> str:
    return layer.top[0] if layer.top else AUTOMATIC


def _check_logits(shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise ValueError where a replay would take too much memory."""
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_LOGITS:
        raise ValueError(
            f"its logits, {shape} {dtype}, take {size} bytes; up to {MAX_LOGITS} are replayed"
        )
