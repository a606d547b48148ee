"""The parameters of the two layers with a margin, which are two messages with the same fields."""

from __future__ import annotations

from typing import TypeAlias

from caffe_margin import caffe_margin_pb2 as pb

MarginParam: TypeAlias = pb.MarginInnerProductParameter | pb.LargeMarginInnerProductParameter

FIELDS = {
    "MarginInnerProduct": "margin_inner_product_param",
    "LargeMarginInnerProduct": "largemargin_inner_product_param",
}
"""The field of LayerParameter that a layer's type goes with."""


def margin_param(layer: pb.LayerParameter) -> MarginParam:
    """Return the parameters of a layer of one of the types of `FIELDS`; they may be changed."""
    param: MarginParam = getattr(layer, FIELDS[layer.type])
    return param


def type_name(param: MarginParam) -> str:
    """Return SINGLE, DOUBLE, TRIPLE or QUADRUPLE."""
    return pb.MarginInnerProductParameter.MarginType.Name(param.type)


def gradient_name(param: MarginParam) -> str:
    """Return PAPER, EXACT or DETACHED; where the field is absent, the message's own default."""
    return pb.MarginInnerProductParameter.Gradient.Name(param.gradient)


def set_gradient(net: pb.NetParameter, gradient: str) -> None:
    """Have the layers with a margin of a net take another rule; ``"paper"``, ``"exact"`` or so.

    Raises:
        ValueError: the net has no layer with a margin.
    """
    layers = [layer for layer in net.layer if layer.type in FIELDS]
    if not layers:
        raise ValueError("the net has no layer with a margin, whose gradient could be another")
    for layer in layers:
        value = pb.MarginInnerProductParameter.Gradient.Value(gradient.upper())
        margin_param(layer).gradient = value  # type: ignore[assignment]
