"""LargeMarginInnerProduct, the L-Softmax layer, in the manner of `torch.nn.Linear`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caffe_margin.maths.gradient import GradientRule
from caffe_margin.torch.functional import scores
from caffe_margin.torch.margin_layer import MarginLayer
from caffe_margin.torch.own_class import Margin


class LargeMarginInnerProduct(MarginLayer):
    """The layer ``type: "LargeMarginInnerProduct"``, L-Softmax, as a `torch.nn.Module`.

        >>> import torch
        >>> head = LargeMarginInnerProduct(512, 10, m=4, base=1000, gamma=2.5e-5, power=35)
        >>> x, label = torch.randn(2, 512), torch.tensor([7, 1])
        >>> loss = torch.nn.functional.cross_entropy(head(x, label), label)
        >>> loss.backward()
        >>> head.weight.grad.shape, head.iteration, head.lambda_
        (torch.Size([10, 512]), tensor(1), tensor(999.1242))

    It is `MarginInnerProduct` without the normalised weight: Forward leaves the weight alone under
    every rule, psi_m is multiplied by |w_y| |x|, and the gradient is the exact one unless
    ``gradient`` says otherwise, as in its authors' C++. Every Forward counts, as there.

    Arguments and attributes are those of `MarginInnerProduct`. The defaults of the annealing are
    those of the authors' net for MNIST; Caffe's message has others.

    Raises:
        ValueError: as `MarginInnerProduct`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        m: int = 4,
        base: float = 1000,
        gamma: float = 2.5e-05,
        power: float = 35,
        lambda_min: float = 0,
        iteration: int = 0,
        gradient: str | GradientRule = "exact",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            m,
            base,
            gamma,
            power,
            lambda_min,
            iteration,
            gradient,
            device,
            dtype,
        )

    def scores(self, x: Tensor, label: Tensor, lambda_: Tensor) -> Tensor:
        """Return the scores; the weight is left alone."""
        margin = Margin(self.m, self.gradient, large=True)
        return scores(x, label, self.weight, lambda_, margin, as_stored=True)
