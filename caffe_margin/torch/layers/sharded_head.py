"""A layer with a margin and the softmax loss above it, as two layers of a net over processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.maths.annealing import Annealing
from caffe_margin.nets.fillers import check_type, fill_rows
from caffe_margin.nets.margin import gradient_name, margin_param
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer
from caffe_margin.torch.sharded import ShardedMarginInnerProduct


class ShardedHead(Layer, ShardedMarginInnerProduct):
    """The layer, whose top is the mean loss over the samples of all processes, not the scores.

    The features come from a body in DistributedDataParallel.

    Attributes:
        met: set by each Forward, before the processes exchange anything.
    """

    met = False

    def __init__(
        self, layer: pb.LayerParameter, shapes: LayerShapes, group: dist.ProcessGroup | None
    ) -> None:
        param = margin_param(layer)
        out_features, in_features = shapes.params[0]
        if out_features is None or in_features is None:
            raise ValueError(f"the shape of weight is not known: {shapes.params[0]}")
        if len(shapes.tops[layer.top[0]] or ()) != 2:
            raise ValueError("a head that is shared among processes has one label a sample")
        check_type(param.weight_filler)
        ShardedMarginInnerProduct.__init__(
            self,
            in_features,
            out_features,
            m=param.type + 1,
            **vars(Annealing.of(param)),
            gradient=gradient_name(param),
            group=group,
            ddp=True,
            large=layer.type == "LargeMarginInnerProduct",
        )
        self.fillers = {"weight": param.weight_filler}
        self.tops = len(layer.top)

    @torch.no_grad()
    def fill(self, rng: np.random.Generator) -> None:
        """Fill this process's rows, as `MarginInnerProduct` would fill them."""
        shape = self.out_features, self.in_features
        rows = fill_rows(self.fillers["weight"], shape, self.rows, rng)
        self.weight.copy_(torch.from_numpy(rows))

    def extra_repr(self) -> str:
        """Return the arguments."""
        return ShardedMarginInnerProduct.extra_repr(self)

    def forward(self, bottom: Tensor, label: Tensor) -> Any:
        """Source: MarginInnerProductLayer and SoftmaxWithLossLayer."""
        self.met = True
        loss = ShardedMarginInnerProduct.forward(self, bottom.flatten(1), label.flatten())
        return loss if self.tops < 2 else (loss, self.lambda_.reshape(1))


class LossOfHead(Layer):
    """The SoftmaxWithLoss above, which hands on what the head has computed already."""

    def forward(self, bottom: Tensor, label: Tensor) -> Tensor:
        """Return the loss."""
        return bottom
