"""A blob less a mean and times a factor, with the gradient of one standardized by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Standardized(torch.autograd.Function):
    """(x, mean, factor, dims) -> (x - mean) factor.

    ``backward`` is factor (g - mean(g) - y mean(g y)), means taken over ``dims``: what it would be
    if ``mean`` and 1 / ``factor`` were the mean and standard deviation of ``x`` itself, over
    ``dims``. Caffe's layers take it also where they are not quite, or not at all, and there it is
    not the gradient.
    """

    @staticmethod
    def forward(x: Tensor, mean: Tensor, factor: Tensor, dims: tuple[int, ...]) -> Tensor:
        """Subtract and multiply."""
        return (x - mean) * factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save the output."""
        _, _, factor, ctx.dims = inputs
        ctx.save_for_backward(output, factor)

    @staticmethod
    def backward(ctx: Any, diff: Tensor) -> tuple[Tensor | None, ...]:
        """Take the means out."""
        y, factor = ctx.saved_tensors
        mean = diff.mean(ctx.dims, keepdim=True)
        along = (diff * y).mean(ctx.dims, keepdim=True)
        return (diff - mean - y * along) * factor, None, None, None
