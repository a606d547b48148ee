"""The layers with a margin by their type in a net."""

from __future__ import annotations

from typing import Any

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.large_margin_inner_product import LargeMarginInnerProduct
from caffe_margin.layers.margin_inner_product import MarginInnerProduct
from caffe_margin.layers.margin_layer import MarginLayer

MARGIN_LAYERS: dict[str, type[MarginLayer]] = {
    cls.type: cls for cls in (MarginInnerProduct, LargeMarginInnerProduct)
}


def margin_layer(layer_param: pb.LayerParameter, **options: Any) -> MarginLayer:
    """Make the layer that a message describes, by its type.

    Args:
        layer_param: the message.
        options: as `MarginLayer.from_param`.

    Raises:
        ValueError: the layer is of another type; or as `MarginLayer.from_param`.
    """
    cls = MARGIN_LAYERS.get(layer_param.type)
    if cls is None:
        raise ValueError(
            f"layer {layer_param.name!r} is of type {layer_param.type!r}, not "
            f"{' or '.join(map(repr, MARGIN_LAYERS))}"
        )
    return cls.from_param(layer_param, **options)
