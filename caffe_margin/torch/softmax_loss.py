"""The softmax loss of the scores, without the M x N scores.

The softmax of a row needs its sum over all classes, and the gradient needs the softmax. So the
classes are gone through twice, a block at a time: in Forward for each row's maximum and sum, which
are kept up as the blocks come, and in Backward for the gradient, which makes the block's scores
again. That is four matrix products where the layers apart take three.

The scores are had relative to the label's, and the label's own is left out of the sum: so the loss
of a sample that is sure, log(1 + a little), keeps its digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from caffe_margin.maths.softmax import LARGEST_LOSS
from caffe_margin.torch.batching import over_samples
from caffe_margin.torch.own_class import Margin, OwnClass, row_norms
from caffe_margin.torch.scores import checked, project


class SoftmaxLoss(torch.autograd.Function):
    """(x, label, weight, weight_norm, lambda_, margin, block) -> each sample's loss, twice, (M,).

    First as Caffe has it, at most `LARGEST_LOSS`, and then without that clamp, through which the
    gradient passes as if it were not there. ``block`` is a number of classes; the other arguments
    are those of `Scores`.

    What ``backward`` writes in place is made from something that depends on every input, so that
    it has the batch of any of them under ``vmap``.
    """

    @staticmethod
    def forward(
        x: Tensor,
        label: Tensor,
        weight: Tensor,
        weight_norm: Tensor,
        lambda_: Tensor,
        margin: Margin,
        block: int,
    ) -> tuple[Tensor, Tensor]:
        """Sum the exponentials, in the manner of Milakov and Gimelshein's online softmax."""
        own = checked(x, label, weight, weight_norm, lambda_, margin)
        maximum = others = torch.zeros_like(own.x_norm)
        for part in _blocks(own, label, weight, weight_norm, block):
            before, maximum = maximum, maximum.maximum(part.relative.amax(dim=1))
            exponentials = part.relative.sub_(maximum[:, None]).exp_()
            others = others * (before - maximum).exp() + exponentials.sum(dim=1)
        # log(exp(-maximum) + others) + maximum, where the first is the label's own.
        loss = maximum + torch.log1p(torch.expm1(-maximum) + others)
        return loss.clamp(max=LARGEST_LOSS), loss

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Save the inputs and the loss."""
        *tensors, ctx.margin, ctx.block = inputs
        ctx.save_for_backward(*tensors, output[1])

    @staticmethod
    def backward(ctx: Any, clamped: Tensor, unclamped: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply the probabilities less the labels by the matrices."""
        x, label, weight, weight_norm, lambda_, loss = ctx.saved_tensors
        of_x, _, of_weight, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            weight_norm = row_norms(weight)  # for a second derivative, which goes through it
        own = OwnClass.of(x, label, weight, weight_norm, lambda_, ctx.margin)
        coefficients, diff = own.coefficients(), (clamped + unclamped)[:, None]
        label_diff = diff * torch.expm1(-loss)[:, None]
        x_diff = label_diff * (coefficients.w[:, None] * own.w + coefficients.x[:, None] * own.x)
        label_x = label_diff * coefficients.weight[:, None] * own.x
        per_x = (diff * own.x).to(x.dtype)
        weight_diff = label_x.new_empty(weight.shape if of_weight else 0, dtype=weight.dtype)

        for part in _blocks(own, label, weight, weight_norm, ctx.block):
            probability = part.relative.sub_(loss[:, None]).exp_().to(x.dtype)
            if of_x:
                x_diff = x_diff + diff * (probability @ part.w)
            if of_weight:
                gradient = label_x.new_zeros(part.w.shape)
                gradient.index_add_(0, part.row, label_x * part.inside[:, None])
                gradient += probability.T @ per_x
                if not ctx.margin.rule.no_projection:
                    norm = weight_norm[part.rows]
                    gradient = project(gradient / norm[:, None], weight[part.rows], norm)
                weight_diff[part.rows] = gradient
        return (
            x_diff.to(x.dtype) if of_x else None,
            None,
            weight_diff if of_weight else None,
            *(None,) * 4,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        """Batch the samples, or take the weights one by one."""
        return over_samples(SoftmaxLoss, info, in_dims, *args)


class _Block(NamedTuple):
    """Some n classes.

    Attributes:
        rows: where their weights are.
        w: their unit rows, in the dtype of the product, (n, K).
        relative: their scores less that of the sample's label, which is -inf itself, (M, n); free
            to be overwritten.
        inside: whether the sample's label is among them, (M,).
        row: where among them, (M,); some row where it is not.
    """

    rows: slice
    w: Tensor
    relative: Tensor
    inside: Tensor
    row: Tensor


def _blocks(
    own: OwnClass, label: Tensor, weight: Tensor, weight_norm: Tensor, block: int
) -> Iterator[_Block]:
    """Yield the classes, a block at a time."""
    score = own.score()[:, None]
    for start in range(0, len(weight), block):
        rows = slice(start, start + block)
        w = (weight[rows] / weight_norm[rows, None]).to(weight.dtype)
        relative = (own.x.to(w.dtype) @ w.T).to(score.dtype) - score
        row = label.long() - start
        inside = (row >= 0) & (row < len(w))
        row = row.clamp(0, len(w) - 1)
        # Its own is left out by adding to it: what overwrote it would need it again for a second
        # derivative.
        out = torch.zeros_like(score).masked_fill(inside[:, None], -math.inf)
        relative.scatter_add_(1, row[:, None], out)
        yield _Block(rows, w, relative, inside, row)
