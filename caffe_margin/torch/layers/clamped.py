"""A clamp that Backward does not know of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Clamped(torch.autograd.Function):
    """(x, least, most) -> x within bounds, of which the gradient is that of x itself.

    So are Caffe's losses: the value is clamped, and Backward is that of the loss without the clamp
    (SoftmaxWithLossLayer, InfogainLossLayer), or goes on from the clamped value where it was
    clamped too (MultinomialLogisticLossLayer::Backward_cpu).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, least: float | None, most: float | None) -> Tensor:
        """Clamp."""
        return x.clamp(least, most)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, diff: Tensor) -> tuple[Tensor, None, None]:
        """Pass the gradient on."""
        return diff, None, None
