"""Gradients that Caffe itself gets wrong, since a layer works in place."""

from __future__ import annotations

from collections.abc import Callable

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.select import filter_net
from caffe_margin.nets.splits import insert_splits
from caffe_margin.recordings.recording import Recording

_WRONG_IN_PLACE: dict[str, Callable[[pb.LayerParameter], bool]] = {
    # Their Backward_cpu reads the bottom, where the top is by then: its sign is enough for some.
    "BNLL": lambda layer: True,
    "Clip": lambda layer: True,
    "ELU": lambda layer: layer.elu_param.alpha < 0,
    "ReLU": lambda layer: layer.relu_param.negative_slope < 0,
    # Theirs writes to the bottom's diff before it has read the top's, which is the same.
    "Log": lambda layer: True,
    "MVN": lambda layer: layer.mvn_param.normalize_variance,
    "Normalize": lambda layer: True,
    "Power": lambda layer: layer.power_param.power * layer.power_param.scale != 0,
}
"""Type -> whether what a layer sends down is wrong where its top is its bottom."""


def wrong_in_caffe(recording: Recording) -> tuple[str, ...]:
    """Return the diffs of a recorded net that are not the gradient, by their keys.

    They are those of the blob that such a layer works on, and of all blobs and parameters below.
    Diffs that are zero throughout, which nobody asked for, are not among them.
    """
    net = insert_splits(filter_net(recording.net(), recording.text("phase")))
    blobs: set[str] = set()
    layers: set[str] = set()
    for layer in reversed(net.layer):
        if blobs.intersection(layer.top):
            blobs.update(layer.bottom)
            layers.add(layer.name)
        elif _is_wrong(layer):
            blobs.add(layer.bottom[0])
    wrong = []
    for key, array in recording.arrays.items():
        name, _, part = key.rpartition("/")
        kind, _, name = name.partition("/")
        of_layer = kind == "param" and name.rpartition("/")[0] in layers
        if part == "diff" and (of_layer or (kind == "blob" and name in blobs)) and array.any():
            wrong.append(key)
    return tuple(wrong)


def _is_wrong(layer: pb.LayerParameter) -> bool:
    in_place = list(layer.bottom[:1]) == list(layer.top[:1])
    return in_place and layer.type in _WRONG_IN_PLACE and _WRONG_IN_PLACE[layer.type](layer)
