"""MarginInnerProduct and SoftmaxWithLoss in one, without the M x N logits between them.

The softmax of a row needs its sum over all classes, and the gradient needs the softmax. So the
classes are gone through twice, a block at a time: first for each row's maximum and sum, which are
kept up as the blocks come, then for the gradient, which needs the block's exponentials again. They
wait where the weight's gradient will be: of n classes it takes n K numbers, and they M n. So where
there are no more samples than features all of them find room, and three matrix products do, as in
the layers apart. Else what finds none is kept elsewhere up to `KEPT_BYTES`, and made again beyond.

The weight is read as it is stored, and what is made with it is scaled as its unit rows would have
made it; a rule that stores the unit rows does so when all else is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caffe_margin.kernels.call import Call
from caffe_margin.kernels.fused import blocks, row_passes, scale_rows
from caffe_margin.layers.checks import (
    as_labels,
    as_native,
    check_dtype,
    check_lambda,
    describe,
    row_lengths,
)
from caffe_margin.maths.angular import check_margin, label_score
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import GradientRule, label_coefficients
from caffe_margin.maths.softmax import LARGEST_LOSS

KEPT_BYTES = 64 << 20
"""Size of what is kept between the passes outside the weight's gradient, at most."""


class MarginSoftmaxLoss(NamedTuple):
    """What `margin_softmax_loss` returns.

        >>> import numpy as np
        >>> result = margin_softmax_loss(np.eye(2), [0, 1], np.eye(2), m=1)
        >>> [name for name in result._fields]
        ['loss', 'bottom_diff', 'weight_diff']

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
    label: ArrayLike,
    weight: FloatArray,
    *,
    m: int = 4,
    lambda_: float = 0.0,
    gradient: str | GradientRule = "paper",
    loss_weight: float = 1.0,
) -> MarginSoftmaxLoss:
    """Return the A-Softmax loss and both its gradients.

        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x, weight = rng.standard_normal((4, 3)), rng.standard_normal((10, 3))
        >>> loss, dx, dw = margin_softmax_loss(x, [7, 1, 0, 7], weight, gradient="exact")
        >>> dx.shape, dw.shape
        ((4, 3), (10, 3))

    The numbers are those of `MarginInnerProduct` below `SoftmaxWithLoss`. Beside its arguments and
    results it takes a few blocks of `fused.BLOCK_BYTES`; with more samples than features, up to
    `KEPT_BYTES` too.

    Args:
        x: features, (M, K), float32 or float64.
        label: (M,), integers or floats, in [0, N).
        weight: (N, K), of the dtype of x. A rule without the projection, the paper's among them,
            normalises its rows in place, as Caffe does; its gradient is that of the unit rows.
        m: the margin.
        lambda_: the weight of the plain inner product.
        gradient: ``"paper"``, ``"exact"``, ``"detached"`` or a `GradientRule`.
        loss_weight: a factor on the gradients, not on the loss.

    Raises:
        ValueError: shapes or dtypes that disagree, a label outside [0, N), a row of x or weight
            that is zero or not finite, or m, lambda_, gradient or loss_weight is none of the
            above. Nothing has changed then.
    """
    call = _checked(x, label, weight, m, lambda_, GradientRule.of(gradient))
    if not np.isfinite(call.x.dtype.type(loss_weight)):
        raise ValueError(f"loss_weight is {loss_weight}; it must be finite")
    parts = _Parts.of(call)
    weight_diff = np.empty(weight.shape, weight.dtype)
    softmax = _first_pass(parts, weight_diff)
    bottom_diff = _second_pass(parts, softmax, loss_weight, weight_diff)
    losses = np.minimum(softmax.surprise, call.x.dtype.type(LARGEST_LOSS))
    if call.rule.no_projection:
        scale_rows(weight, parts.inverse_norm)
    return MarginSoftmaxLoss(losses.mean(), bottom_diff, weight_diff)


def _checked(
    x: FloatArray, label: ArrayLike, weight: FloatArray, m: int, lambda_: float, rule: GradientRule
) -> Call:
    """Return the arguments, as the layer would hand them to an engine.

    Raises:
        ValueError: as `margin_softmax_loss`.
    """
    x = np.ascontiguousarray(as_native(x))
    check_dtype(x, "x")
    if not isinstance(weight, np.ndarray) or isinstance(weight, np.ma.MaskedArray):
        raise ValueError(f"weight must be a numpy array, not {type(weight).__name__}")
    if not len(x):
        raise ValueError(f"x is {x.shape}; the mean over no samples is none")
    if np.ndim(label) == 2 and weight.ndim == 1:
        raise ValueError("the order of the arguments is x, label, weight")
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1] or x.dtype != weight.dtype:
        raise ValueError(
            f"x is {describe(x)} and weight {describe(weight)}; they must be (M, K) and (N, K) of "
            f"one dtype"
        )
    if len(np.shape(label)) != 1 or len(np.asarray(label)) != len(x):
        raise ValueError(f"x is {x.shape}, but label is {np.shape(label)}")
    y = as_labels(np.asarray(label), len(weight), "label")
    x_norm, weight_norm = row_lengths(x, "x"), row_lengths(weight, "weight")
    if rule.no_projection and not weight.flags.writeable:
        raise ValueError(f"weight is read-only, and the {rule.name} rule normalises it in place")
    return Call(
        m=check_margin(m),
        rule=rule,
        lambda_=check_lambda(lambda_, m, x_norm, "lambda_"),
        x=x,
        label=y,
        weight=weight,
        x_norm=x_norm,
        weight_norm=weight_norm,
    )


@dataclass(frozen=True)
class _Parts:
    """What both passes need beside the call: the label's column, which alone knows of the margin.

    Attributes:
        call: the arguments.
        own_logit: the label's score, (M,).
        w: the label's coefficients, (M,): see `LabelCoefficients`.
        x: the same.
        weight: the same.
        inverse_norm: of the weight's rows, (N,).
    """

    call: Call
    own_logit: FloatArray
    w: FloatArray
    x: FloatArray
    weight: FloatArray
    inverse_norm: FloatArray

    @classmethod
    def of(cls, call: Call) -> _Parts:
        own = call.weight[call.label]
        plain = np.einsum("ik,ik->i", call.x, own) / call.weight_norm[call.label]
        c = label_coefficients(plain / call.x_norm, call.x_norm, call.m, call.lambda_, call.rule)
        own_logit = label_score(plain, call.x_norm, call.m, call.lambda_)
        return cls(call, own_logit, c.w, c.x, c.weight, 1 / call.weight_norm)

    def blocks(self) -> Iterator[slice]:
        """Yield the rows of the weight, a block at a time."""
        return blocks(len(self.call.weight), self.call.x[:, :1].nbytes)

    def scratch(self) -> FloatArray:
        """Return memory for any block, (M, n)."""
        first = next(self.blocks())
        return np.empty((len(self.call.x), first.stop), self.call.x.dtype)

    def logits(self, rows: slice, out: FloatArray) -> FloatArray:
        """Write the scores of some classes, (M, n), -inf in the label's column."""
        logits = np.matmul(self.call.x, self.call.weight[rows].T, out=out)
        logits *= self.inverse_norm[rows]
        # Without the margin the label's may be past what exp can take.
        logits[self.labels_in(rows)] = -np.inf
        return logits

    def labels_in(self, rows: slice) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the samples whose label is among the rows, and where there."""
        label = self.call.label
        (inside,) = np.nonzero((label >= rows.start) & (label < rows.stop))
        return inside, label[inside] - rows.start


@dataclass(frozen=True)
class _Softmax:
    """What the first pass finds of each row.

    Attributes:
        log_sum: logarithm of the sum of the exponentials, (M,).
        surprise: -log(probability of the label), (M,), to the digits that a sure sample needs.
        kept: exponentials of some blocks by their first row, each with what was subtracted from
            its logits, (M, n) and (M,).
    """

    log_sum: FloatArray
    surprise: FloatArray
    kept: dict[int, tuple[FloatArray, FloatArray]]


def _places(parts: _Parts, weight_diff: FloatArray) -> dict[int, FloatArray]:
    """Return memory for the exponentials of as many blocks as find room, (M, n), by first row.

    The place of a block begins max(M, K) numbers a class into the gradient. When it is read, that
    is written for the classes before the block, K numbers a class.
    """
    M, K = parts.call.x.shape
    places, spare = {}, KEPT_BYTES
    for rows in parts.blocks():
        size = M * (rows.stop - rows.start)
        place = weight_diff.reshape(-1)[max(M, K) * rows.start :][:size]
        if len(place) < size:
            spare -= size * weight_diff.itemsize
            if spare < 0:
                break
            place = np.empty(size, weight_diff.dtype)
        places[rows.start] = place.reshape(M, -1)
    return places


def _first_pass(parts: _Parts, weight_diff: FloatArray) -> _Softmax:
    """Sum the exponentials, in the manner of Milakov and Gimelshein's online softmax."""
    dtype = parts.call.x.dtype
    maximum, total = parts.own_logit, np.ones(len(parts.own_logit))
    places, kept = _places(parts, weight_diff), {}
    scratch = parts.scratch()
    for rows in parts.blocks():
        n = rows.stop - rows.start
        logits = parts.logits(rows, places.get(rows.start, scratch[:, :n]))
        before, maximum = maximum, np.maximum(maximum, logits.max(axis=1))
        logits -= maximum[:, None]
        exponential = np.exp(logits, out=logits)
        total = total * np.exp(before - maximum) + exponential.sum(axis=1)
        if rows.start in places:
            kept[rows.start] = exponential, maximum
    log_total = np.log(total)
    return _Softmax(
        log_sum=(maximum + log_total).astype(dtype),
        surprise=((maximum - parts.own_logit) + log_total).astype(dtype),
        kept=kept,
    )


def _second_pass(
    parts: _Parts, softmax: _Softmax, loss_weight: float, weight_diff: FloatArray
) -> FloatArray:
    """Multiply the probabilities less the labels by the matrices; return the features' gradient.

    The label's entry has one coefficient for the features and another for the weight.
    """
    call = parts.call
    scale = call.x.dtype.type(loss_weight / len(call.x))
    scaled_x = scale * call.x
    own_diff = np.expm1(-softmax.surprise)
    bottom_diff = (own_diff * parts.x)[:, None] * call.x
    scratch = parts.scratch()
    for rows in parts.blocks():
        diff = scratch[:, : rows.stop - rows.start]
        _probabilities(parts, softmax, rows, diff)
        own = parts.labels_in(rows)
        diff[own] = (own_diff * parts.weight)[own[0]]
        gradient = np.matmul(diff.T, scaled_x, out=weight_diff[rows])
        if not call.rule.no_projection:
            row_passes().project(gradient, call.weight[rows], call.weight_norm[rows])
        diff[own] = (own_diff * parts.w)[own[0]]
        diff *= parts.inverse_norm[rows]
        bottom_diff += np.matmul(diff, call.weight[rows])
    bottom_diff *= scale
    return bottom_diff


def _probabilities(parts: _Parts, softmax: _Softmax, rows: slice, out: FloatArray) -> None:
    """Write the probabilities of some classes, (M, n), 0 in the label's column."""
    if rows.start in softmax.kept:
        exponential, maximum = softmax.kept[rows.start]
        np.multiply(exponential, np.exp(maximum - softmax.log_sum)[:, None], out=out)
    else:
        logits = parts.logits(rows, out)
        logits -= softmax.log_sum[:, None]
        np.exp(logits, out=out)
