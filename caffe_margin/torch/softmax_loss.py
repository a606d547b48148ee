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
from dataclasses import dataclass
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
        """Sum the exponentials."""
        own = checked(x, label, weight, weight_norm, lambda_, margin)
        classes = Classes(x, own.score(), label.long(), weight, weight_norm, block)
        loss = loss_of(*classes.sums())
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
        of_label = coefficients.w[:, None] * own.w + coefficients.x[:, None] * own.x
        classes = Classes(x, own.score(), label.long(), weight, weight_norm, ctx.block)
        x_diff, weight_diff = classes.gradients(
            loss,
            diff,
            label_diff * of_label if of_x else None,
            label_diff * coefficients.weight[:, None] * own.x if of_weight else None,
            projected=not ctx.margin.rule.no_projection,
        )
        x_diff = None if x_diff is None else x_diff.to(x.dtype)
        return x_diff, None, weight_diff, *(None,) * 4

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        """Batch the samples, or take the weights one by one."""
        return over_samples(SoftmaxLoss, info, in_dims, *args)


class Block(NamedTuple):
    """Some n classes.

    Attributes:
        rows: where their weights are.
        w: their rows as they are scored, in the dtype of the product, (n, K).
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


@dataclass(frozen=True)
class Classes:
    """Samples before some classes, whose scores are there a block at a time.

    What is written in place is made from something that depends on every input, so that it has the
    batch of any of them under ``vmap``.

    Attributes:
        x: in the dtype of the product, (M, K).
        score: that of the sample's own class, which need not be among these, in `working_dtype`,
            (M,).
        label: where among these classes it is, int64, (M,); outside [0, n) where it is not.
        weight: their rows, (n, K).
        weight_norm: the lengths of the rows, (n,); None where these are taken as they are.
        block: how many classes at a time.
    """

    x: Tensor
    score: Tensor
    label: Tensor
    weight: Tensor
    weight_norm: Tensor | None
    block: int

    def __iter__(self) -> Iterator[Block]:
        """Yield the classes, a block at a time; to be let go of before the next is asked for."""
        score = self.score[:, None]
        for start in range(0, len(self.weight), self.block):
            rows = slice(start, start + self.block)
            w = self.weight[rows]
            if self.weight_norm is not None:
                w = w / self.weight_norm[rows, None]
            w = w.to(self.x.dtype)
            relative = (self.x @ w.T).to(score.dtype) - score
            row = self.label - start
            inside = (row >= 0) & (row < len(w))
            row = row.clamp(0, len(w) - 1)
            # Its own is left out by adding to it: what overwrote it would need it again for a
            # second derivative.
            out = torch.zeros_like(score).masked_fill(inside[:, None], -math.inf)
            relative.scatter_add_(1, row[:, None], out)
            yield Block(rows, w, relative, inside, row)
            del w, relative  # before the next are made

    def sums(self) -> tuple[Tensor, Tensor]:
        """Return max(r, 0) and sum(exp(r - max)) of each sample's relative scores r, both (M,).

        In the manner of Milakov and Gimelshein's online softmax.
        """
        maximum = others = torch.zeros_like(self.score)
        for part in self:
            before, maximum = maximum, maximum.maximum(part.relative.amax(dim=1))
            exponentials = part.relative.sub_(maximum[:, None]).exp_()
            others = others * (before - maximum).exp() + exponentials.sum(dim=1)
            del part, exponentials
        return maximum, others

    def gradients(
        self,
        loss: Tensor,
        diff: Tensor,
        x_diff: Tensor | None,
        label_x: Tensor | None,
        projected: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return x's gradient, in `working_dtype`, and the weight's; None for None.

        Args:
            loss: of each sample, without the clamp, (M,).
            diff: the gradient of that, (M, 1).
            x_diff: what the samples' own classes contribute to x's, (M, K).
            label_x: what the samples contribute to their own classes' weights, before any
                projection, (M, K).
            projected: whether the weight's goes through the normalisation of its rows.
        """
        per_x = (diff * self.x).to(self.x.dtype)
        weight_diff: Any = None
        if label_x is not None:
            weight_diff = label_x.new_empty(self.weight.shape, dtype=self.weight.dtype)
        for part in self:
            probability = part.relative.sub_(loss[:, None]).exp_().to(self.x.dtype)
            if x_diff is not None:
                x_diff = x_diff + diff * (probability @ part.w)
            if label_x is not None:
                gradient = label_x.new_zeros(part.w.shape)
                gradient.index_add_(0, part.row, label_x * part.inside[:, None])
                gradient += probability.T @ per_x
                if projected and self.weight_norm is not None:
                    norm = self.weight_norm[part.rows]
                    gradient = project(gradient / norm[:, None], self.weight[part.rows], norm)
                weight_diff[part.rows] = gradient
                del gradient
            del part, probability
        return x_diff, weight_diff


def loss_of(maximum: Tensor, others: Tensor) -> Tensor:
    """Return each sample's loss, from what `Classes.sums` returns of all classes."""
    # log(exp(-maximum) + others) + maximum, where the first is the label's own.
    return maximum + torch.log1p(torch.expm1(-maximum) + others)
