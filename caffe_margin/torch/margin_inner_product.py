"""MarginInnerProduct, the A-Softmax layer of SphereFace, in the manner of `torch.nn.Linear`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from caffe_margin.maths.gradient import GradientRule
from caffe_margin.torch.checks import check_rows, values_are_free
from caffe_margin.torch.functional import scores
from caffe_margin.torch.margin_layer import MarginLayer
from caffe_margin.torch.own_class import Margin, row_norms


class MarginInnerProduct(MarginLayer):
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
        """Return the scores; under a rule without the projection, store the unit rows then."""
        margin = Margin(self.m, self.gradient)
        if not self.gradient.no_projection:
            return scores(x, label, self.weight, lambda_, margin)
        weight = UnitRows.apply(self.weight)
        # A copy, for x may be rows of the weight.
        top = scores(x.clone(), label, weight, lambda_, margin, as_stored=True)
        with torch.no_grad():
            self.weight.copy_(weight)
        return top


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
