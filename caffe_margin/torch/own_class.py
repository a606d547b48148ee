"""Each sample with its own class: the only place where the margin is at work."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from caffe_margin.maths.angular import label_score, large_margin_length
from caffe_margin.maths.gradient import (
    GradientRule,
    LabelCoefficients,
    label_coefficients,
    large_margin_coefficients,
)


@dataclass(frozen=True)
class Margin:
    """What of a call is no tensor.

    Attributes:
        m: the margin.
        rule: the gradient rule.
        large: whether it is L-Softmax's, whose score keeps the length of the weight.
    """

    m: int
    rule: GradientRule
    large: bool = False


@dataclass(frozen=True)
class OwnClass:
    """Each sample beside the weight of its own class, in float32 at least.

    Attributes:
        margin: the call's.
        lambda_: of no dimensions.
        x: (M, K).
        x_norm: (M,).
        w: rows of the weight, at unit length unless they are L-Softmax's, (M, K).
        plain: x . w, (M,).
    """

    margin: Margin
    lambda_: Tensor
    x: Tensor
    x_norm: Tensor
    w: Tensor
    plain: Tensor

    @classmethod
    def of(
        cls,
        x: Tensor,
        label: Tensor,
        weight: Tensor,
        weight_norm: Tensor | None,
        lambda_: Tensor,
        margin: Margin,
    ) -> OwnClass:
        """Pick the classes; ``weight_norm`` is None where the weight is taken as it is."""
        real, label = working_dtype(x), label.long()
        w = weight[label].to(real)
        if weight_norm is not None:
            w = w / weight_norm[label, None]
        x_norm, x = row_norms(x), x.to(real)
        return cls(margin, lambda_, x, x_norm, w, (x * w).sum(dim=1))

    def score(self) -> Tensor:
        """Return the label's column of the output, (M,)."""
        return label_score(self.plain, self._length(), self.margin.m, self.lambda_)

    def coefficients(self) -> LabelCoefficients:
        """Return what the label's column contributes to Backward."""
        m, rule, cos_theta = self.margin.m, self.margin.rule, self.plain / self._length()
        if self.margin.large:
            w_norm = row_norms(self.w)
            return large_margin_coefficients(cos_theta, self.x_norm, w_norm, m, self.lambda_, rule)
        return label_coefficients(cos_theta, self.x_norm, m, self.lambda_, rule)

    def _length(self) -> Tensor:
        """Return what psi_m is multiplied by, (M,)."""
        if self.margin.large:
            return large_margin_length(self.x_norm, row_norms(self.w))
        return self.x_norm


def working_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of lengths, cosines and losses: the tensor's, but float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def row_norms(rows: Tensor) -> Tensor:
    """Return the length of each row, in `working_dtype`."""
    return torch.linalg.vector_norm(rows, dim=1, dtype=working_dtype(rows))
