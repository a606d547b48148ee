"""Losses, accuracy, and layers that only swallow."""

from __future__ import annotations

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.rules.algebra import (
    Blobs,
    Shape,
    agree,
    all_ones,
    canonical_axis,
    check,
    count,
    differ,
    legacy,
    replace_axis,
    show,
)


def loss(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """LossLayer::Reshape."""
    for shape in bottoms[:2]:
        canonical_axis(shape, 0)
    same = agree(bottoms[0][0], bottoms[1][0])
    check(same, differ(layer, bottoms, 1, "the first dimensions must agree"))
    return [(), bottoms[0]], []


def _check_labels(layer: pb.LayerParameter, bottoms: list[Shape], axis: int) -> int:
    """One label for each position of bottom 0 outside the axis of the classes, which it returns."""
    axis = canonical_axis(bottoms[0], axis)
    positions = count(replace_axis(bottoms[0], axis, 1))
    rule = f"with the classes on axis {axis} there must be {positions} labels"
    check(agree(positions, count(bottoms[1])), differ(layer, bottoms, 1, rule))
    return axis


def softmax_loss(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """SoftmaxWithLossLayer::Reshape; the second top is the softmax."""
    _check_labels(layer, bottoms, layer.softmax_param.axis)
    return loss(layer, bottoms)


def infogain_loss(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """InfogainLossLayer::Reshape; the second top is the softmax."""
    classes = bottoms[0][_check_labels(layer, bottoms, layer.infogain_loss_param.axis)]
    if len(bottoms) == 3:
        square = None if classes is None else classes**2
        rule = f"the matrix must be {classes} by {classes}"
        check(agree(count(bottoms[2]), square), differ(layer, bottoms, 2, rule))
    else:
        check(layer.infogain_loss_param.HasField("source"), "no matrix: neither source nor bottom")
    return loss(layer, bottoms)


def equal_counts_loss(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """EuclideanLossLayer::Reshape and SigmoidCrossEntropyLossLayer::Reshape."""
    tops = loss(layer, bottoms)
    same = agree(count(bottoms[0][1:]), count(bottoms[1][1:]))
    check(same, differ(layer, bottoms, 1, "they must hold as many elements"))
    return tops


def multinomial_loss(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """MultinomialLogisticLossLayer::Reshape."""
    single = all_ones(legacy(bottoms[1])[1:])
    check(single, f"there must be one label for each item, and they are {show(bottoms[1])}")
    return loss(layer, bottoms)


def contrastive_loss(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ContrastiveLossLayer::LayerSetUp."""
    a, b, similar = map(legacy, bottoms)
    pairs = agree(a[1], b[1]) and all_ones(a[2:]) and all_ones(b[2:])
    check(pairs, differ(layer, bottoms, 1, "both must be (N, C)"))
    check(all_ones(similar[1:]), differ(layer, bottoms, 2, "there must be one mark for each pair"))
    return loss(layer, bottoms)


def accuracy(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """AccuracyLayer::Reshape; the second top is the accuracy per class."""
    param = layer.accuracy_param
    classes = bottoms[0][_check_labels(layer, bottoms, param.axis)]
    possible = classes is None or param.top_k <= classes
    check(possible, f"top_k {param.top_k} is more than the {classes} classes")
    return [(), (classes,)], []


def sink(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """SilenceLayer and HDF5OutputLayer, which have no tops."""
    return [], []
