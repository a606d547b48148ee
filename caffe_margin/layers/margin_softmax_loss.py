"""MarginInnerProduct and SoftmaxWithLoss in one, without the M x N logits between them.

The softmax of a row needs its sum over all classes, and the gradient needs the softmax. So the
classes are gone through twice, a block at a time: first for each row's maximum and sum, which are
kept up as the blocks come, then for the gradient, which makes the block's logits again. That is
four matrix products where the layers apart take three. As many blocks as fit in `KEPT_BYTES` are
kept from the first pass for the second, so that where the logits are no burden three will do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caffe_margin.kernels.fused import blocks, row_passes
from caffe_margin.layers.layer import FloatArray, as_labels, as_native, check_dtype, describe
from caffe_margin.layers.margin_inner_product import row_lengths
from caffe_margin.layers.softmax_with_loss import FLT_MIN
from caffe_margin.maths import angular
from caffe_margin.maths.gradient import GradientRule, label_coefficients

KEPT_BYTES = 64 << 20
"""Logits kept between the passes, at most; the rest are made twice."""


class MarginSoftmaxLoss(NamedTuple):
    """What `margin_softmax_loss` returns.

    Attributes:
        loss: mean over the samples, in the arrays' dtype.
        bottom_diff: gradient with respect to the features, (M, K).
        weight_diff: gradient with respect to the weight, (N, K).
    """

    loss: np.floating
    bottom_diff: FloatArray
    weight_diff: FloatArray


def margin_softmax_loss(
    x: FloatArray,
    weight: FloatArray,
    label: ArrayLike,
    *,
    m: int = 4,
    lambda_: float = 0.0,
    gradient: str | GradientRule = "paper",
    loss_weight: float = 1.0,
) -> MarginSoftmaxLoss:
    """Return the A-Softmax loss and both its gradients.

    The numbers are those of `MarginInnerProduct` below `SoftmaxWithLoss`. Beside its arguments and
    results it takes a few blocks of `fused.BLOCK_BYTES`, and up to `KEPT_BYTES` of logits.

    Args:
        x: features, (M, K), float32 or float64.
        weight: (N, K), of the dtype of x. A rule without the projection, the paper's among them,
            normalises its rows in place, as Caffe does; its gradient is that of the unit rows.
        label: (M,), integers or floats, in [0, N).
        m: the margin, 1 to 4.
        lambda_: the weight of the plain inner product.
        gradient: ``"paper"``, ``"exact"`` or a `GradientRule`.
        loss_weight: a factor on the gradients, not on the loss.

    Raises:
        ValueError: shapes or dtypes that disagree, a label outside [0, N), a row of x or weight
            that is zero or not finite, or m, lambda_, gradient or loss_weight is none of the
            above. Nothing has changed then.
    """
    rule = GradientRule.of(gradient)
    x = np.ascontiguousarray(as_native(x))
    check_dtype(x, "x")
    if not isinstance(weight, np.ndarray):
        raise ValueError(f"weight must be a numpy array, not {type(weight).__name__}")
    if not len(x):
        raise ValueError(f"x is {x.shape}; the mean over no samples is none")
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1] or x.dtype != weight.dtype:
        raise ValueError(
            f"x is {describe(x)} and weight {describe(weight)}; they must be (M, K) and (N, K) of "
            f"one dtype"
        )
    if len(np.shape(label)) != 1 or len(np.asarray(label)) != len(x):
        raise ValueError(f"x is {x.shape}, but label is {np.shape(label)}")
    real: Any = x.dtype.type
    with np.errstate(over="ignore"):
        lambda_, loss_weight = real(lambda_), real(loss_weight)
    if not (np.isfinite(lambda_) and lambda_ > -1):
        raise ValueError(f"lambda_ is {lambda_}; it must be finite and above -1")
    if not np.isfinite(loss_weight):
        raise ValueError(f"loss_weight is {loss_weight}; it must be finite")
    y = as_labels(np.asarray(label), len(weight), "label")
    x_norm, weight_norm = row_lengths(x, "x"), row_lengths(weight, "weight")
    if not (rule.projection or weight.flags.writeable):
        raise ValueError(f"weight is read-only, and the {rule.name} rule normalises it in place")

    if not rule.projection and np.may_share_memory(x, weight):
        x = x.copy()

    M, samples = len(x), np.arange(len(x))
    # The label's column, which alone knows of the margin, is done apart from the others.
    plain = np.einsum("ik,ik->i", x, weight[y]) / weight_norm[y]
    cos_theta = plain / x_norm
    coefficients = label_coefficients(cos_theta, x_norm, m, lambda_, rule)
    psi = x_norm * angular.psi(cos_theta, m)
    own_logit = plain if m == 1 else (psi + lambda_ * plain) / (1 + lambda_)

    inverse_norm = 1 / weight_norm
    if not rule.projection:
        weight *= inverse_norm[:, None]

    def scale_columns(block: FloatArray, rows: slice) -> None:
        """Turn what is made with the weight into what its unit rows make."""
        if rule.projection:
            block *= inverse_norm[rows]

    def labels_in(rows: slice) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the samples whose label is among the rows, and where there."""
        inside = samples[(y >= rows.start) & (y < rows.stop)]
        return inside, y[inside] - rows.start

    # First pass: the logarithm of each row's sum of exponentials, in the manner of
    # Milakov and Gimelshein's online softmax.
    maximum, total = own_logit, np.ones(M)
    kept: dict[int, tuple[FloatArray, FloatArray]] = {}
    for rows in blocks(len(weight), x[:, :1].nbytes):
        logits = np.matmul(x, weight[rows].T)
        scale_columns(logits, rows)
        logits[labels_in(rows)] = -np.inf
        before, maximum = maximum, np.maximum(maximum, logits.max(axis=1))
        logits -= maximum[:, None]
        exponential = np.exp(logits, out=logits)
        total = total * np.exp(before - maximum) + exponential.sum(axis=1)
        if (len(kept) + 1) * exponential.nbytes <= KEPT_BYTES:
            kept[rows.start] = exponential, maximum
    log_sum = (maximum + np.log(total)).astype(x.dtype)
    # -log(probability of the label): from the difference, which a sample that is sure needs.
    surprise = (maximum - own_logit) + np.log(total)
    # Caffe's -log(max(probability, FLT_MIN)).
    losses = np.minimum(surprise.astype(x.dtype), -np.log(FLT_MIN.astype(x.dtype)))

    # Second pass: the probabilities less the labels, times the matrices. The label's entry has one
    # coefficient for the features and another for the weight.
    scale = real(loss_weight / M)
    scaled_x = scale * x
    own_diff = np.expm1(-surprise).astype(x.dtype)
    bottom_diff = (own_diff * coefficients.x)[:, None] * x
    weight_diff = np.empty_like(weight)
    for rows in blocks(len(weight), x[:, :1].nbytes):
        own = labels_in(rows)
        if rows.start in kept:
            diff, its_maximum = kept.pop(rows.start)
            diff *= np.exp(its_maximum - log_sum)[:, None]
        else:
            diff = np.matmul(x, weight[rows].T)
            scale_columns(diff, rows)
            diff[own] = -np.inf  # without the margin it may be past what exp can take
            diff -= log_sum[:, None]
            np.exp(diff, out=diff)
        diff[own] = (own_diff * coefficients.weight)[own[0]]
        gradient_rows = np.matmul(diff.T, scaled_x, out=weight_diff[rows])
        if rule.projection:
            norm, zero = weight_norm[rows], real(0)
            row_passes().project(gradient_rows, weight[rows], norm, zero, gradient_rows)
        diff[own] = (own_diff * coefficients.w)[own[0]]
        scale_columns(diff, rows)
        bottom_diff += np.matmul(diff, weight[rows])
    bottom_diff *= scale
    return MarginSoftmaxLoss(losses.mean(), bottom_diff, weight_diff)
