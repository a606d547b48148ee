"""The scores of all classes: three matrix products, and what M rows need beside them.

With W's rows of unit length, only the label's column of the output knows of the margin:

    top = X W^T,            but top_iy  = |x_i| (psi_m(c_i) + lambda c_i) / (1 + lambda)
    x.grad = g W,           but g_iy w_y becomes g_iy (coeff.w_i w_y + coeff.x_i x_i)
    weight.grad = g^T X,    but g_iy x_i becomes g_iy coeff.weight_i x_i

with c_i = cos(theta) of sample i and its own class, and the coefficients of
`caffe_margin.maths.gradient`. L-Softmax differs in that column alone, and in Backward adds
g_iy coeff.weight_w_i w_y to weight.grad's row y. The products run in the dtype of x and the weight.
Rows that are not of unit length are scaled after the product, or before it in Backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caffe_margin.maths.gradient import LabelCoefficients
from caffe_margin.torch.batching import over_samples
from caffe_margin.torch.checks import check_label, check_lambda, check_rows, values_are_free
from caffe_margin.torch.own_class import Margin, OwnClass, row_norms

PROJECTED_ROWS = 512


class Scores(torch.autograd.Function):
    """(x, label, weight, weight_norm, lambda_, margin) -> the scores, (M, N), in a tuple of one.

    ``weight_norm`` is the lengths of the weight's rows, None where these are taken as they are: at
    unit length, or L-Softmax's. No gradient goes through it, since Backward knows of it, nor
    through lambda.

    Only ``forward`` writes in place, which plain tensors allow: it never sees those of ``vmap``.
    """

    @staticmethod
    def forward(
        x: Tensor,
        label: Tensor,
        weight: Tensor,
        weight_norm: Tensor | None,
        lambda_: Tensor,
        margin: Margin,
    ) -> tuple[Tensor]:
        """Source: ``Forward_cpu``."""
        own = checked(x, label, weight, weight_norm, lambda_, margin)
        scores = x @ weight.T
        if weight_norm is not None:
            scores /= weight_norm
        if margin.m > 1:
            scores.scatter_(1, label.long()[:, None], own.score().to(scores.dtype)[:, None])
        return (scores,)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save the inputs: of the size of the weight, nothing else."""
        *tensors, ctx.margin = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, diff: Tensor) -> tuple[Tensor | None, ...]:
        """Source: ``Backward_cpu``, and the rules beside it."""
        x, label, weight, weight_norm, lambda_ = ctx.saved_tensors
        margin = ctx.margin
        if weight_norm is not None and torch.is_grad_enabled():
            weight_norm = row_norms(weight)  # for a second derivative, which goes through it
        own = OwnClass.of(x, label, weight, weight_norm, lambda_, margin)
        coefficients, at_label = own.coefficients(), label.long()[:, None]
        label_diff = diff.gather(1, at_label)
        scaled = diff if weight_norm is None else (diff / weight_norm).to(diff.dtype)
        x_diff = weight_diff = None

        if ctx.needs_input_grad[0]:
            x_diff = scaled @ weight
            if margin.m > 1:
                of_w, of_x = (coefficients.w - 1)[:, None], coefficients.x[:, None]
                x_diff = (x_diff + label_diff * (of_w * own.w + of_x * own.x)).to(x.dtype)

        if ctx.needs_input_grad[2]:
            projected = weight_norm is not None and not margin.rule.no_projection
            per_x = scaled if projected else diff
            weight_diff = per_x.T @ x
            of_label = _of_label(per_x.gather(1, at_label), label_diff, own, coefficients)
            if of_label is not None:
                weight_diff.index_add_(0, at_label[:, 0], of_label.to(weight.dtype))
            if projected:
                weight_diff = project(weight_diff, weight, weight_norm)
        return x_diff, None, weight_diff, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        """Batch the samples, or take the weights one by one."""
        return over_samples(Scores, info, in_dims, *args)


def _of_label(
    per_x: Tensor, per_w: Tensor, own: OwnClass, coefficients: LabelCoefficients
) -> Tensor | None:
    """Return what each sample adds to row y of per_x^T X, (M, K); None where there is nothing."""
    margin, of_label = own.margin, None
    if margin.m > 1 and not margin.rule.detached_in_weight:
        of_label = per_x * (coefficients.weight - 1)[:, None] * own.x
    if coefficients.weight_w is not None:
        along_w = per_w * coefficients.weight_w[:, None] * own.w
        of_label = along_w if of_label is None else of_label + along_w
    return of_label


def checked(
    x: Tensor,
    label: Tensor,
    weight: Tensor,
    weight_norm: Tensor | None,
    lambda_: Tensor,
    margin: Margin,
) -> OwnClass:
    """Return each sample with its own class, once the values have been looked at.

    Raises:
        ValueError: a value is out of place, where `caffe_margin.torch.checks` looks at values.
    """
    if not values_are_free(x):
        return OwnClass.of(x, label, weight, weight_norm, lambda_, margin)
    check_label(label, len(weight))
    if margin.m > 1:
        check_lambda(lambda_)
    own = OwnClass.of(x, label, weight, weight_norm, lambda_, margin)
    check_rows(own.x_norm, "x")
    if weight_norm is not None or margin.large:
        check_rows(row_norms(weight) if weight_norm is None else weight_norm, "weight")
    return own


def project(diff: Tensor, weight: Tensor, weight_norm: Tensor) -> Tensor:
    """Return diff less its part along the weight's rows: the derivative of their normalisation.

    But for the division by the rows' lengths, which ``diff`` has seen. It is written over where
    nothing needs it again.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.addcmul(diff, weight, _share(diff, weight, weight_norm), value=-1)
    # A block of rows at a time: memory for all of their products is dearer than the products.
    parts = (tensor.split(PROJECTED_ROWS) for tensor in (diff, weight, weight_norm))
    for d, w, norm in zip(*parts, strict=True):
        d.addcmul_(w, _share(d, w, norm), value=-1)
    return diff


def _share(diff: Tensor, weight: Tensor, weight_norm: Tensor) -> Tensor:
    """Return how much of each of the weight's rows there is in diff's, (n, 1)."""
    along = torch.linalg.vecdot(diff.to(weight_norm.dtype), weight.to(weight_norm.dtype))
    return (along / weight_norm / weight_norm)[:, None].to(diff.dtype)
