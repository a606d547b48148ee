"""Blobs of one shape, element by element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class Eltwise(Layer):
    """The sum, the product or the larger of blobs of one shape."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.eltwise_param
        self.operation = param.operation
        self.coeff = list(param.coeff) or [1.0] * len(layer.bottom)
        self.stable_prod_grad = param.stable_prod_grad

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Source: EltwiseLayer."""
        first, *others = bottoms
        if any(other.shape != first.shape for other in others):
            raise ValueError("the bottoms must have one shape")
        if self.operation == pb.EltwiseParameter.SUM:
            top = first if self.coeff[0] == 1 else first * self.coeff[0]
            for other, coeff in zip(others, self.coeff[1:], strict=True):
                top = torch.add(top, other, alpha=coeff)
            return top
        if self.operation == pb.EltwiseParameter.MAX:
            return _larger(*bottoms)
        if self.stable_prod_grad:
            top = first
            for other in others:
                top = top * other
            return top
        top, *_ = _DividedProduct.apply(*bottoms)
        return top


def _larger(first: Tensor, second: Tensor, *others: Tensor) -> Tensor:
    """Return the largest: the second of the first two equals, then the one before.

    `torch.maximum` would share the gradient among equals.
    """
    top = torch.where(first > second, first, second)
    for other in others:
        top = torch.where(other > top, other, top)
    return top


class _DividedProduct(torch.autograd.Function):
    """The product, and Caffe's gradient without ``stable_prod_grad``: top / bottom.

    Autograd's is finite where a bottom is zero; this is not. Source: EltwiseLayer::Backward_cpu.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*bottoms: Tensor) -> tuple[Tensor, ...]:
        first, *others = bottoms
        top = first
        for other in others:
            top = top * other
        return (top,)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, diff: Tensor) -> tuple[Tensor | None, ...]:
        *bottoms, top = ctx.saved_tensors
        return tuple(
            top / bottom * diff if needed else None
            for bottom, needed in zip(bottoms, ctx.needs_input_grad, strict=True)
        )
