"""A run of our own layer, and the recording of it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.checks import canonical_axis, describe
from caffe_margin.layers.layer import Blob
from caffe_margin.layers.margin_layer import MarginLayer
from caffe_margin.layers.margin_layers import margin_layer
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import GradientRule
from caffe_margin.nets.margin import margin_param
from caffe_margin.recordings.recording import FORMAT_VERSION, as_recorded


def record(
    layer_param: pb.LayerParameter,
    x: FloatArray,
    label: NDArray,
    weight: FloatArray,
    top_diff: FloatArray,
    weight_diff: FloatArray,
    *,
    gradient: str | GradientRule | None = None,
    engine: str = "fused",
    iteration: int | None = None,
) -> dict[str, NDArray]:
    """Run Forward and Backward, and return the recording, of kind ``layer``.

    Args:
        layer_param: a layer of `MARGIN_LAYERS`.
        x: features, of the layer's bottom shape, float32 or float64.
        label: their labels.
        weight: (N, K), in the dtype of x.
        top_diff: what comes down from above, of the top's shape.
        weight_diff: (N, K), what the weight's diff holds before Backward adds to it.
        gradient: ``"paper"``, ``"exact"``, ``"detached"`` or a `GradientRule`; None for what the
            layer's C++ computes, whatever the message says.
        engine: ``"fused"`` or ``"line_by_line"``.
        iteration: which Forward it is, for lambda; None for the first after the message's
            ``iteration``.

    Raises:
        ValueError: as `MarginInnerProduct`; a diff is of another shape or dtype.
    """
    layer_param, label = _for_caffe(layer_param, iteration), np.asarray(label)
    rule = margin_layer(layer_param, gradient=gradient).gradient
    outputs = LayerRun(layer_param, rule, x, label, weight, weight_diff, top_diff).run(engine)
    return {
        "format_version": np.array(FORMAT_VERSION),
        "source": np.array(f"caffe_margin {metadata.version('caffe_margin')}"),
        "rule": as_recorded(rule),
        "layer": np.array(text_format.MessageToString(pb.NetParameter(layer=[layer_param]))),
        "forwards": np.array(1),
        "propagate_down": np.array([True, False]),
        "param_propagate_down": np.array([True]),
        "bottom0_data": x,
        "bottom1_data": label,
        "blob0_data_before": weight,
        "blob0_diff_before": weight_diff,
        "top0_diff": top_diff,
    } | {key: blob for key, blob in outputs.items() if not key.startswith("internal_")}


def _for_caffe(layer_param: pb.LayerParameter, iteration: int | None) -> pb.LayerParameter:
    """Return the layer by itself, at an iteration, as a text that may be given to Caffe too."""
    caffes = pb.LayerParameter()
    caffes.CopyFrom(layer_param)
    for field in ("blobs", "include", "exclude"):
        caffes.ClearField(field)
    param = margin_param(caffes)
    param.ClearField("gradient")
    if iteration is not None:
        param.iteration = iteration - 1
    if len(caffes.top) == 1:
        caffes.top.append("lambda")
    return caffes


@dataclass(frozen=True)
class LayerRun:
    """What goes into a run of a layer with a margin: Forward on one input, then one Backward.

    Attributes:
        layer_param: the layer's message.
        rule: the gradient rule; None for what the message says.
        x, label: the bottoms.
        weight: (N, K), before the first Forward.
        weight_diff: (N, K), before Backward, which adds to it.
        top_diff: what comes down from above, of the top's shape.
        forwards: how many Forwards, 1 or more.
        propagate_down, param_propagate_down: of the features and the weight, as Caffe's Net sets
            them.
    """

    layer_param: pb.LayerParameter
    rule: GradientRule | None
    x: FloatArray
    label: NDArray
    weight: FloatArray
    weight_diff: FloatArray
    top_diff: FloatArray
    forwards: int = 1
    propagate_down: bool = True
    param_propagate_down: bool = True

    def run(self, engine: str) -> dict[str, FloatArray]:
        """Return what comes out, by the keys of a recording.

        Raises:
            ValueError: as `MarginInnerProduct`; a diff is of another shape or dtype.
        """
        layer = make_layer(self.layer_param, self.rule, engine, self.weight)
        _check_like(self.weight_diff, self.weight.shape, self.weight.dtype, "blob0_diff_before")
        layer.blobs[0].diff[...] = self.weight_diff
        layer.param_propagate_down = [self.param_propagate_down]
        layer.check([Blob(self.x), Blob(self.label)])
        # Before anything of the top's size is made: a small file can ask for a large top.
        _check_like(
            self.top_diff, top_shape(self.layer_param, self.x.shape), self.x.dtype, "top0_diff"
        )
        lambdas = []
        for _ in range(self.forwards):
            top = layer.forward(self.x, self.label)
            lambdas.append(layer.lambda_)
        bottom = Blob(self.x)
        layer.backward_cpu([Blob(top, self.top_diff)], [self.propagate_down, False], [bottom])
        outputs = {
            "top0_data": top,
            "top1_data": np.array(lambdas),
            "blob0_data": layer.weight,
            "blob0_diff": layer.blobs[0].diff,
        }
        if self.propagate_down:
            outputs["bottom0_diff"] = bottom.diff
        if engine == "line_by_line":
            private = layer.saved.private._asdict()
            outputs |= {f"internal_{name}": blob for name, blob in private.items()}
        return outputs

    def cos_theta(self) -> NDArray[np.float64]:
        """Return the cosine of each sample and class, (M, N), in float64 whatever the dtype."""
        w = self.weight.astype(np.float64)
        x = self.x.astype(np.float64).reshape(-1, w.shape[1])
        x_norm, w_norm = (np.linalg.norm(rows, axis=1) for rows in (x, w))
        return (x @ w.T) / x_norm[:, None] / w_norm


def make_layer(
    layer_param: pb.LayerParameter, rule: GradientRule | None, engine: str, weight: FloatArray
) -> MarginLayer:
    """Return the layer with a weight, a copy; None leaves the rule to the message."""
    layer = margin_layer(layer_param, gradient=rule, engine=engine)
    layer.weight = weight
    return layer


def top_shape(layer_param: pb.LayerParameter, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the layer's top for a bottom's.

    Raises:
        ValueError: the layer's axis is out of range.
    """
    param = margin_param(layer_param)
    return (*shape[: canonical_axis(param.axis, shape, layer_param.name)], param.num_output)


def _check_like(
    array: FloatArray, shape: tuple[int, ...], dtype: np.dtype[np.floating], what: str
) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{what} is {describe(array)}; it must be {shape} {dtype}")
