"""The two layers with a margin, as layers of a net."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.maths.annealing import Annealing
from caffe_margin.nets.fillers import check_type
from caffe_margin.nets.margin import gradient_name, margin_param
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch import large_margin_inner_product, margin_inner_product
from caffe_margin.torch.layers.layer import Layer
from caffe_margin.torch.margin_layer import MarginLayer


class MarginInNet(Layer, MarginLayer):
    """What makes a layer of a net of the module.

    All axes from ``axis`` on are flattened; a second top holds lambda.
    """

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        param = margin_param(layer)
        out_features, in_features = shapes.params[0]
        if out_features is None or in_features is None:
            raise ValueError(f"the shape of weight is not known: {shapes.params[0]}")
        MarginLayer.__init__(
            self,
            in_features,
            out_features,
            m=param.type + 1,
            **vars(Annealing.of(param)),
            gradient=gradient_name(param),
            device=None,
            dtype=None,
        )
        check_type(param.weight_filler)
        self.fillers = {"weight": param.weight_filler}
        self.axis = param.axis
        self.tops = len(layer.top)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return MarginLayer.extra_repr(self)

    def forward(self, bottom: Tensor, label: Tensor) -> Any:
        """Source: MarginInnerProductLayer, LargeMarginInnerProductLayer."""
        x = bottom.flatten(self.axis)
        scores = MarginLayer.forward(self, x.reshape(-1, x.shape[-1]), label.flatten())
        top = scores.reshape(*x.shape[:-1], self.out_features)
        return top if self.tops < 2 else (top, self.lambda_.reshape(1))


class MarginInnerProduct(MarginInNet, margin_inner_product.MarginInnerProduct):
    """A-Softmax: the inner products with rows at unit length, the label's with a margin."""


class LargeMarginInnerProduct(MarginInNet, large_margin_inner_product.LargeMarginInnerProduct):
    """L-Softmax: the inner products, the label's with a margin."""
