"""The layers and their loss as pure functions, which take lambda and change nothing.

They run where their tensors are, under `torch.autocast` (products in its dtype; lengths, cosines
and log-sum-exp in float32), `torch.compile` and `torch.func`. Under the exact rule the gradient can
be differentiated again.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from caffe_margin.maths.angular import check_margin
from caffe_margin.maths.gradient import GradientRule
from caffe_margin.torch.checks import check_shapes, check_tensors
from caffe_margin.torch.own_class import Margin, row_norms, working_dtype
from caffe_margin.torch.scores import Scores
from caffe_margin.torch.softmax_loss import SoftmaxLoss

__all__ = ["large_margin_inner_product", "margin_inner_product", "margin_softmax_loss"]


def margin_inner_product(
    x: Tensor,
    label: Tensor,
    weight: Tensor,
    *,
    m: int = 4,
    lambda_: float | Tensor = 0.0,
    gradient: str | GradientRule = "paper",
) -> Tensor:
    """Return the scores of all classes, (M, N), the label's with the margin.

        >>> import torch
        >>> x, weight = torch.eye(2, 3, requires_grad=True), torch.eye(4, 3) + 1
        >>> label = torch.tensor([0, 2])
        >>> top = margin_inner_product(x, label, weight, m=4, lambda_=5, gradient="exact")
        >>> top.detach()
        tensor([[0.5508, 0.4082, 0.4082, 0.5774],
                [0.4082, 0.8165, 0.0254, 0.5774]])
        >>> torch.nn.functional.cross_entropy(top, label).backward()

    The weight's rows count as of unit length, whatever theirs is.

    Args:
        x: features, (M, K), of a floating-point dtype.
        label: (M,), in [0, N); floats are truncated, as Caffe does.
        weight: (N, K), of the dtype of x where there is no autocast.
        m: the margin.
        lambda_: the weight of the plain inner product. Under ``torch.compile`` a tensor is
            another value of the same program, where a number may be another program.
        gradient: ``"paper"``, ``"exact"``, ``"detached"`` or a `GradientRule`. Under one without
            the projection the weight's gradient is that with respect to its unit rows.

    Raises:
        ValueError: shapes or dtypes that disagree, or m or gradient is none of the above; on a CPU,
            outside ``torch.compile``, also a label outside [0, N), a lambda_ that is not finite or
            not above -1, and a row of x or weight that is zero or not finite.
    """
    return scores(x, label, weight, lambda_, Margin(check_margin(m), GradientRule.of(gradient)))


def large_margin_inner_product(
    x: Tensor,
    label: Tensor,
    weight: Tensor,
    *,
    m: int = 4,
    lambda_: float | Tensor = 0.0,
    gradient: str | GradientRule = "exact",
) -> Tensor:
    """Return the scores of `LargeMarginInnerProduct`, (M, N): L-Softmax, A-Softmax's predecessor.

        >>> import torch
        >>> x, weight = torch.eye(2, 3, requires_grad=True), torch.eye(4, 3) + 1
        >>> large_margin_inner_product(x, torch.tensor([0, 2]), weight, m=4, lambda_=5).detach()
        tensor([[1.3491, 1.0000, 1.0000, 1.0000],
                [1.0000, 2.0000, 0.0622, 1.0000]])

    It is `margin_inner_product` with the weight's rows at the length they have.

    Args:
        x: as in `margin_inner_product`.
        label: as there.
        weight: as there.
        m: as there.
        lambda_: as there.
        gradient: as there; under a rule without the projection the weight's gradient lacks what
            goes along the weight.

    Raises:
        ValueError: as there.
    """
    margin = Margin(check_margin(m), GradientRule.of(gradient), large=True)
    return scores(x, label, weight, lambda_, margin, as_stored=True)


def margin_softmax_loss(
    x: Tensor,
    label: Tensor,
    weight: Tensor,
    *,
    m: int = 4,
    lambda_: float | Tensor = 0.0,
    gradient: str | GradientRule = "paper",
    block: int = 8192,
) -> Tensor:
    """Return the mean softmax loss of `margin_inner_product`, without its M x N scores.

        >>> import torch
        >>> x, weight = torch.eye(2, 3, requires_grad=True), torch.eye(4, 3) + 1
        >>> loss = margin_softmax_loss(x, torch.tensor([0, 2]), weight, m=4, lambda_=5, block=2)
        >>> loss
        tensor(1.5912, grad_fn=<MeanBackward0>)
        >>> loss.backward()
        >>> x.grad.shape
        torch.Size([2, 3])

    The scores are made ``block`` classes at a time, and again in Backward; no more than two
    M x block arrays of them exist at any time.

    As in Caffe, no sample's loss exceeds 87.3365, and its gradient is that of the loss without this
    clamp.

    Args:
        x: as in `margin_inner_product`.
        label: as there.
        weight: as there.
        m: as there.
        lambda_: as there.
        gradient: as there.
        block: how many classes.

    Raises:
        ValueError: as there; there is no sample; or block is not positive.
    """
    margin = Margin(check_margin(m), GradientRule.of(gradient))
    if operator.index(block) < 1:
        raise ValueError(f"block is {block}; it must be a positive number of classes")
    x, weight = _as_in_product(x, label, weight)
    if not len(x):
        raise ValueError(f"x is {tuple(x.shape)}; the mean over no samples is none")
    loss, _ = SoftmaxLoss.apply(
        x, label, weight, _norms(weight), _lambda(lambda_, x), margin, block
    )
    return loss.mean()


def scores(
    x: Tensor,
    label: Tensor,
    weight: Tensor,
    lambda_: float | Tensor,
    margin: Margin,
    as_stored: bool = False,
) -> Tensor:
    """Return the scores, as `margin_inner_product` does.

    Args:
        x: as there.
        label: as there.
        weight: as there.
        lambda_: as there.
        margin: the rest.
        as_stored: whether the weight's rows are taken as they are: at unit length already, or
            L-Softmax's.
    """
    x, weight = _as_in_product(x, label, weight)
    norm = None if as_stored else _norms(weight)
    (result,) = Scores.apply(x, label, weight, norm, _lambda(lambda_, x), margin)
    return result


def _as_in_product(x: Tensor, label: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and weight as a matrix product would have them: cast where there is autocast.

    Raises:
        ValueError: as `check_shapes`.
    """
    check_tensors(x=x, label=label, weight=weight)
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight = x.to(dtype), weight.to(dtype)
    check_shapes(x, label, weight)
    return x, weight


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the dtype to which autocast takes a matrix product of x; None where it does not."""
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if autocast and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return None


def _norms(weight: Tensor) -> Tensor:
    return row_norms(weight.detach())


def _lambda(lambda_: float | Tensor, x: Tensor) -> Tensor:
    dtype = working_dtype(x)
    if isinstance(lambda_, Tensor):
        return lambda_.detach().to(dtype)
    return torch.full((), lambda_, dtype=dtype, device=x.device)
