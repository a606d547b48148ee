"""What the layers with a margin share: all but what Forward makes of the weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from caffe_margin.maths.angular import check_margin
from caffe_margin.maths.annealing import Annealing
from caffe_margin.maths.gradient import GradientRule
from caffe_margin.torch.checks import check_dtype, check_tensors
from caffe_margin.torch.own_class import working_dtype


class MarginLayer(nn.Module):
    """Base of `MarginInnerProduct`, whose arguments and attributes it has, and its predecessor."""

    iteration: Tensor

    def scores(self, x: Tensor, label: Tensor, lambda_: Tensor) -> Tensor:
        """Return the scores; what is stored in the weight, if anything, changes last."""
        raise NotImplementedError

    def __init__(
        self,
        in_features: int,
        out_features: int,
        m: int,
        base: float,
        gamma: float,
        power: float,
        lambda_min: float,
        iteration: int,
        gradient: str | GradientRule,
        device: Any,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        check_dtype(dtype)
        if in_features < 1 or out_features < 1:
            raise ValueError(
                f"in_features and out_features must be positive, not {in_features} and "
                f"{out_features}"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.m = check_margin(m)
        self.annealing = Annealing(base, gamma, power, lambda_min, iteration)
        self.gradient = GradientRule.of(gradient)
        shape = (out_features, in_features)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.register_buffer("iteration", torch.empty((), device=device, dtype=torch.int64))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight as Caffe's xavier filler does, and set ``iteration`` to its start."""
        # Uniform within sqrt(3 / in_features); PyTorch's own xavier looks at out_features too.
        nn.init.kaiming_uniform_(self.weight, nonlinearity="linear")
        self.iteration.fill_(self.annealing.iteration)

    def extra_repr(self) -> str:
        """Return the arguments."""
        a = self.annealing
        return (
            f"{self.in_features}, {self.out_features}, m={self.m}, base={a.base:g}, "
            f"gamma={a.gamma:g}, power={a.power:g}, lambda_min={a.lambda_min:g}, "
            f"gradient={self.gradient.name!r}"
        )

    @property
    def lambda_(self) -> Tensor:
        """Lambda of the last Forward; before the first, that of the ``iteration`` before it."""
        return self._lambda_at(self.iteration)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return the scores of all classes, (M, N), the label's with the margin.

        Args:
            x: features, (M, K).
            label: (M,), in [0, N); floats are truncated, as Caffe does.

        Raises:
            ValueError: as `caffe_margin.torch.functional.margin_inner_product`.
        """
        check_tensors(x=x, label=label)
        iteration = self.iteration + 1
        top = self.scores(x, label, self._lambda_at(iteration))
        self.iteration.copy_(iteration)
        return top

    def _lambda_at(self, iteration: Tensor) -> Tensor:
        return self.annealing(iteration.to(working_dtype(self.weight)))
