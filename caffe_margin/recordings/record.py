"""A recording of our own layer."""

from __future__ import annotations

from importlib import metadata

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.checks import describe
from caffe_margin.layers.margin_inner_product import MarginInnerProduct
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import GradientRule
from caffe_margin.recordings.recording import FORMAT_VERSION, as_recorded


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
    layer = MarginInnerProduct.from_param(caffes, gradient=rule, engine=engine)
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
        "rule": as_recorded(rule),
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
