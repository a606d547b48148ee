"""Layers whose top has the shape of their first bottom, and those that broadcast over it."""

from __future__ import annotations

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.rules.algebra import (
    Blobs,
    Shape,
    alike,
    canonical_axis,
    check,
    differ,
    four_axes,
    legacy,
    not_in_place,
    show,
)


def neuron(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """NeuronLayer::Reshape."""
    return bottoms[:1], []


def absval(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """AbsValLayer::LayerSetUp."""
    not_in_place(layer)
    return bottoms[:1], []


def prelu(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """PReLULayer::LayerSetUp."""
    bottom = bottoms[0]
    check(len(bottom) >= 2, f"the bottom must have at least 2 axes, and is {show(bottom)}")
    channels = legacy(bottom)[1]
    return [bottom], [() if layer.prelu_param.channel_shared else (channels,)]


def batch_norm(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """BatchNormLayer::LayerSetUp: mean, variance, and the moving average's factor."""
    channels = bottoms[0][canonical_axis(bottoms[0], 1)]
    return bottoms[:1], [(channels,), (channels,), (1,)]


def bn(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """BNLayer::LayerSetUp of L-Softmax: scale, shift, mean, inverse standard deviation."""
    bottom = bottoms[0]
    check(len(bottom) >= 2, f"the bottom must have at least 2 axes, and is {show(bottom)}")
    return [bottom], [(1, legacy(bottom)[1])] * 4


def normalize(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """NormalizeLayer::LayerSetUp of SSD; other forks have another layer of this name."""
    bottom = bottoms[0]
    check(
        layer.HasField("norm_param"),
        "without a norm_param it may be SSD's or another fork's; write norm_param { } for SSD's",
    )
    check(len(bottom) >= 2, f"the bottom must have at least 2 axes, and is {show(bottom)}")
    channels = legacy(bottom)[1]
    return [bottom], [() if layer.norm_param.channel_shared else (channels,)]


def lrn(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """LRNLayer::LayerSetUp and Reshape."""
    size = layer.lrn_param.local_size
    check(size % 2 == 1, f"local_size must be odd, and is {size}")
    return [four_axes(bottoms[0])], []


def mvn(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """MVNLayer::Reshape, which gives every top 4 axes."""
    return [legacy(bottoms[0])], []


def softmax(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """SoftmaxLayer::Reshape."""
    canonical_axis(bottoms[0], layer.softmax_param.axis)
    return bottoms[:1], []


# Broadcasts.


def _broadcast(layer: pb.LayerParameter, bottoms: list[Shape], axis: int, num_axes: int) -> Shape:
    """The shape that ScaleLayer and BiasLayer spread over bottom 0, from `axis` on.

    It is bottom 1's where there is one, and else `num_axes` axes of bottom 0 (-1 is all of them).
    """
    bottom = bottoms[0]
    if len(bottoms) == 1:
        start = canonical_axis(bottom, axis)
        stop = len(bottom) if num_axes == -1 else start + num_axes
        check(
            num_axes >= -1 and stop <= len(bottom),
            f"axis {axis} and num_axes {num_axes} reach beyond {show(bottom)}",
        )
        return bottom[start:stop]
    other = bottoms[1]
    # A scalar fits everywhere.
    part = bottom[canonical_axis(bottom, axis) :][: len(other)] if other else ()
    rule = f"they must agree from axis {axis} on"
    check(alike(part, other), differ(layer, bottoms, 1, rule))
    return other


def scale(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ScaleLayer::LayerSetUp and Reshape."""
    param = layer.scale_param
    scale = _broadcast(layer, bottoms, param.axis, param.num_axes)
    params = [scale] if len(bottoms) == 1 else []
    if param.bias_term:
        params.append(_broadcast(layer, bottoms[:1], param.axis, len(scale)))
    return bottoms[:1], params


def bias(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """BiasLayer::LayerSetUp and Reshape."""
    bias = _broadcast(layer, bottoms, layer.bias_param.axis, layer.bias_param.num_axes)
    return bottoms[:1], [bias] if len(bottoms) == 1 else []
