"""MarginInnerProduct, the A-Softmax layer of SphereFace, in the manner of `torch.nn.Linear`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from caffe_margin.maths.angular import check_margin
from caffe_margin.maths.annealing import Annealing
from caffe_margin.maths.gradient import GradientRule
from caffe_margin.torch.checks import check_rows, values_are_free
from caffe_margin.torch.functional import scores
from caffe_margin.torch.own_class import Margin, row_norms, working_dtype


class MarginInnerProduct(nn.Module):
    """The layer ``type: "MarginInnerProduct"`` as an `torch.nn.Module`.

        >>> import torch
        >>> head = MarginInnerProduct(512, 10572, m=4, base=1000, gamma=0.12, lambda_min=5)
        >>> head
        MarginInnerProduct(512, 10572, m=4, base=1000, gamma=0.12, power=1, lambda_min=5, \
gradient='paper')
        >>> x, label = torch.randn(2, 512), torch.tensor([7, 10571])
        >>> loss = torch.nn.functional.cross_entropy(head(x, label), label)
        >>> loss.backward()
        >>> head.weight.grad.shape, head.iteration, head.lambda_
        (torch.Size([10572, 512]), tensor(1), tensor(892.8571))

    Lambda comes from ``iteration``, which every Forward raises by one; so it does in ``eval`` too,
    as Caffe's layer counts in TEST. Under a rule without the projection every Forward also
    normalises the rows of the stored weight in place, as Caffe's does. Both change when all else
    is done: a Forward that raises has changed nothing. Neither needs a Backward in between.

    Under `torch.func` both are changes of an argument, so hand the parameters and the buffers over
    (`torch.func.functional_call`); `caffe_margin.torch.functional` changes nothing at all.

    Args:
        in_features: K, how many features a sample has.
        out_features: N, the number of classes.
        m: the margin: 1 to 4 are SINGLE, DOUBLE, TRIPLE, QUADRUPLE.
        base: with the next three, lambda over the iterations: see
            `caffe_margin.maths.annealing.Annealing`. The defaults are those of the authors'
            ``sphereface_model.prototxt``; Caffe's message has others.
        gamma: see there.
        power: see there.
        lambda_min: see there.
        iteration: how many Forwards came before.
        gradient: ``"paper"``, ``"exact"``, ``"detached"`` or a `GradientRule`.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        weight: Caffe's blob, (out_features, in_features).
        iteration: how many Forwards lambda has seen; a buffer, so that a ``state_dict`` goes on
            where it ended.
        m: the margin.
        annealing: the `Annealing`.
        gradient: the `GradientRule`.

    Raises:
        ValueError: there are no features or no classes, or m or gradient is none of the above.
    """

    iteration: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        m: int = 4,
        base: float = 1000,
        gamma: float = 0.12,
        power: float = 1,
        lambda_min: float = 5,
        iteration: int = 0,
        gradient: str | GradientRule = "paper",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
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
        """Lambda of the last Forward; before the first, that of ``iteration`` 0."""
        return self._lambda_at(self.iteration)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return the scores of all classes, (M, N), the label's with the margin.

        Args:
            x: features, (M, K).
            label: (M,), in [0, N); floats are truncated, as Caffe does.

        Raises:
            ValueError: as `caffe_margin.torch.functional.margin_inner_product`.
        """
        iteration = self.iteration + 1
        lambda_ = self._lambda_at(iteration)
        margin = Margin(self.m, self.gradient)
        if self.gradient.no_projection:
            weight = UnitRows.apply(self.weight)
            # A copy, for x may be rows of the weight.
            top = scores(x.clone(), label, weight, lambda_, margin, unit_rows=True)
            with torch.no_grad():
                self.weight.copy_(weight)
        else:
            top = scores(x, label, self.weight, lambda_, margin)
        self.iteration.copy_(iteration)
        return top

    def _lambda_at(self, iteration: Tensor) -> Tensor:
        return self.annealing(iteration.to(working_dtype(self.weight)))


class UnitRows(torch.autograd.Function):
    """The weight's rows at unit length, the derivative of which is left out.

    A tensor of its own, which Backward keeps: the stored weight may be written meanwhile.
    """

    @staticmethod
    def forward(weight: Tensor) -> Tensor:
        """Divide by the rows' lengths."""
        norm = row_norms(weight)
        if values_are_free(weight):
            check_rows(norm, "weight")
        return (weight / norm[:, None]).to(weight.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, diff: Tensor) -> Tensor:
        """Pass the gradient on."""
        return diff

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], weight: Tensor) -> tuple[Tensor, int]:
        """Take the rows of all weights together."""
        weight = weight.movedim(in_dims[0], 0)
        unit = UnitRows.apply(weight.flatten(0, 1))
        return unit.view(weight.shape), 0
