"""MarginInnerProduct and SoftmaxWithLoss in one, without the logits between them.

The softmax of a row needs its sum over all classes, and the gradient needs the softmax. So the
classes are gone through twice, a block at a time: first for each row's maximum and sum, which are
kept up as the blocks come, then for the gradient, which makes the block's logits again. That is
four matrix products where the layers apart take three, and M x block numbers in memory where they
take 2 M N. As many blocks as fit in `KEPT_BYTES` are kept from the first pass for the second, so
that sizes at which the logits are no burden cost three products.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caffe_margin import angular
from caffe_margin.gradient import GradientRule, label_coefficients
from caffe_margin.kernels.fused import blocks, row_passes
from caffe_margin.layers.layer import FloatArray, as_labels, as_native, check_dtype, describe
from caffe_margin.layers.margin_inner_product import row_lengths
from caffe_margin.layers.softmax_with_loss import FLT_MIN

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
    x: ArrayLike,
    weight: FloatArray,
    label: ArrayLike,
    *,
    m: int = 4,
    lambda_: float = 0.0,
    gradient: str | GradientRule = "paper",
    loss_weight: float = 1.0,
) -> MarginSoftmaxLoss:
    """Return the A-Softmax loss and both its gradients in memory O(M + N) K.

    The numbers are those of `MarginInnerProduct` below `SoftmaxWithLoss`.

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
            that is zero or not finite, or m, lambda_ or gradient is none of the above. Nothing has
            changed then.
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
    if not (np.isfinite(lambda_) and lambda_ > -1):
        raise ValueError(f"lambda_ is {lambda_}; it must be finite and above -1")
    y = as_labels(np.asarray(label), len(weight), "label")
    x_norm, weight_norm = row_lengths(x, "x"), row_lengths(weight, "weight")
    if not (rule.projection or weight.flags.writeable):
        raise ValueError(f"weight is read-only, and the {rule.name} rule normalises it in place")

    M, samples = len(x), np.arange(len(x))
    # The label's column, which alone knows of the margin, is done apart from the others.
    plain = np.einsum("ik,ik->i", x, weight[y]) / weight_norm[y]
    cos_theta = plain / x_norm
    coefficients = label_coefficients(cos_theta, x_norm, m, x.dtype.type(lambda_), rule)
    psi = x_norm * angular.psi(cos_theta, m)
    own_logit = plain if m == 1 else (psi + x.dtype.type(lambda_) * plain) / (1 + lambda_)

    if not rule.projection:
        weight *= (1 / weight_norm)[:, None]

    def block_of(rows: slice) -> tuple[FloatArray, NDArray[np.intp], NDArray[np.intp]]:
        """Return unit rows of the weight, the samples whose label is among them, and where."""
        unit = weight[rows]
        if rule.projection:
            unit = np.empty_like(unit)
            row_passes().normalize(weight[rows], weight_norm[rows], unit)
        inside = samples[(y >= rows.start) & (y < rows.stop)]
        return unit, inside, y[inside] - rows.start

    # First pass: the logarithm of each row's sum of exponentials, in the manner of
    # Milakov and Gimelshein's online softmax.
    maximum, total = own_logit, np.ones(M)
    kept: dict[int, tuple[FloatArray, FloatArray]] = {}
    for rows in blocks(len(weight), x[:, :1].nbytes):
        unit, inside, columns = block_of(rows)
        logits = np.matmul(x, unit.T)
        logits[inside, columns] = -np.inf
        before, maximum = maximum, np.maximum(maximum, logits.max(axis=1))
        logits -= maximum[:, None]
        exponential = np.exp(logits, out=logits)
        total = total * np.exp(before - maximum) + exponential.sum(axis=1)
        if (len(kept) + 1) * exponential.nbytes <= KEPT_BYTES:
            kept[rows.start] = exponential, maximum
    log_sum = (maximum + np.log(total)).astype(x.dtype)
    # Caffe's -log(max(probability, FLT_MIN)).
    losses = np.minimum(log_sum - own_logit, -np.log(FLT_MIN.astype(x.dtype)))

    # Second pass: the probabilities less the labels, times the matrices. The label's entry has one
    # coefficient for the features and another for the weight.
    scale = x.dtype.type(loss_weight / M)
    scaled_x = scale * x
    own_diff = np.exp(own_logit - log_sum) - 1
    bottom_diff = (own_diff * coefficients.x)[:, None] * x
    weight_diff = np.zeros(weight.shape, weight.dtype)
    for rows in blocks(len(weight), x[:, :1].nbytes):
        unit, inside, columns = block_of(rows)
        if rows.start in kept:
            diff, its_maximum = kept.pop(rows.start)
            diff *= np.exp(its_maximum - log_sum)[:, None]
        else:
            diff = np.matmul(x, unit.T)
            diff -= log_sum[:, None]
            np.exp(diff, out=diff)
        diff[inside, columns] = (own_diff * coefficients.w)[inside]
        bottom_diff += np.matmul(diff, unit)
        diff[inside, columns] = (own_diff * coefficients.weight)[inside]
        if rule.projection:
            gradient_of_unit = np.matmul(diff.T, scaled_x)
            row_passes().add_projected(gradient_of_unit, unit, weight_norm[rows], weight_diff[rows])
        else:
            np.matmul(diff.T, scaled_x, out=weight_diff[rows])
    bottom_diff *= scale
    return MarginSoftmaxLoss(losses.mean(), bottom_diff, weight_diff)
