"""Nets and layers on PyTorch out of a few words."""

from __future__ import annotations

from typing import Any

from google.protobuf import text_format

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import infer_shapes
from caffe_margin.torch.layers.layer import Layer
from caffe_margin.torch.layers.table import make_layer


def message(text: str) -> pb.NetParameter:
    """Return a net's message."""
    return text_format.Parse(text, pb.NetParameter())


def net(text: str, **options: Any) -> cmt.Net:
    """Return a net in training."""
    return cmt.Net(message(text), **{"phase": "TRAIN", "seed": 0, **options})


def inputs(**shapes: tuple[int, ...]) -> str:
    """Return an Input layer for each name."""
    return "".join(
        f"layer {{ name: '{name}' type: 'Input' top: '{name}' input_param {{ shape {{ "
        + " ".join(f"dim: {dim}" for dim in shape)
        + " } } } "
        for name, shape in shapes.items()
    )


def layer(type_: str, param: str = "", *bottoms: tuple[int, ...], tops: int = 1) -> Layer:
    """Return one layer, made for bottoms of these shapes."""
    names = [f"b{i}" for i in range(len(bottoms))]
    text = f"layer {{ name: 'layer' type: '{type_}' {param} "
    text += "".join(f"bottom: '{name}' " for name in names)
    text += "".join(f"top: 't{i}' " for i in range(tops)) + "}"
    whole = message(inputs(**dict(zip(names, bottoms, strict=True))) + text)
    shapes = infer_shapes(whole)[-1]
    if shapes.problem:
        raise ValueError(shapes.problem)
    made = make_layer(whole.layer[-1], shapes)
    assert made is not None
    return made
