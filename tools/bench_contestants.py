"""The contestants of tools/bench.py: the layers, plain numpy, PyTorch, and bare matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

import caffe_margin as cm
from caffe_margin.maths import angular

TYPES = ("SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE")
RULES = ("paper", "exact")

FloatArray = NDArray[np.floating]
Outputs = tuple[FloatArray, FloatArray, FloatArray]


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    task: str
    M: int
    N: int
    K: int
    dtype: str
    type: str
    rule: str

    @property
    def m(self) -> int:
        """The margin, 1 to 4."""
        return TYPES.index(self.type) + 1


class Inputs(NamedTuple):
    """Arrays that the contestants share, and leave as they are."""

    x: FloatArray
    weight: FloatArray
    label: NDArray[np.intp]
    top_diff: FloatArray


@lru_cache(maxsize=1)
def draw(M: int, N: int, K: int, dtype: str) -> Inputs:
    """Return the inputs of a size, always the same."""
    rng = np.random.default_rng(0)
    x, weight, top_diff = (
        rng.standard_normal(shape, dtype)  # type: ignore[call-overload]
        for shape in ((M, K), (N, K), (M, N))
    )
    return Inputs(x, weight, rng.integers(N, size=M), top_diff)


class Contestant:
    """What is measured: `forward` and `backward`, by turns.

    Attributes:
        rules: the gradient rules it has.
        needs: the package it needs.
        arrays: how many M x N arrays it holds at once, roughly; 0 for one that is always measured.
        scalar: whether it walks through M N K numbers outside BLAS.
        peer: whether its outputs are those of the others.
    """

    rules: ClassVar[tuple[str, ...]] = RULES
    needs: ClassVar[str] = "numpy"
    arrays: ClassVar[int] = 0
    scalar: ClassVar[bool] = False
    peer: ClassVar[bool] = True

    def __init__(self, cell: Cell, inputs: Inputs) -> None:
        self.cell, self.inputs = cell, inputs

    def forward(self) -> None:
        """Compute the top, or the loss."""

    def backward(self) -> Outputs:
        """Return the top or the loss, and the gradients of the features and of the weight."""
        raise NotImplementedError


class ThreeProducts(Contestant):
    """X W^T; g W and g^T X, the last into an array that stands, as a weight's diff does."""

    weight_diff: FloatArray | None = None

    def forward(self) -> None:
        self.top = self.inputs.x @ self.inputs.weight.T

    def backward(self) -> Outputs:
        x, weight, _, g = self.inputs
        self.weight_diff = np.matmul(g.T, x, out=self.weight_diff)
        return self.top, g @ weight, self.weight_diff


class FourProducts(Contestant):
    """X W^T and again, g W and g^T X; into new arrays, as margin_softmax_loss returns them."""

    def backward(self) -> Outputs:
        x, weight, _, g = self.inputs
        top = x @ weight.T
        np.matmul(x, weight.T, out=top)
        return top, g @ weight, g.T @ x


class Fused(Contestant):
    """The layer as it comes."""

    engine: ClassVar[str] = "fused"
    layer_class: ClassVar[type[cm.MarginInnerProduct | cm.LargeMarginInnerProduct]] = (
        cm.MarginInnerProduct
    )

    def __init__(self, cell: Cell, inputs: Inputs) -> None:
        super().__init__(cell, inputs)
        self.layer = self.layer_class(
            cell.N, m=cell.m, base=0, lambda_min=0, gradient=cell.rule, engine=self.engine
        )
        self.layer.weight = inputs.weight

    def forward(self) -> None:
        self.top = self.layer.forward(self.inputs.x, self.inputs.label)

    def backward(self) -> Outputs:
        bottom_diff = self.layer.backward(self.inputs.top_diff)
        return self.top, bottom_diff, self.layer.blobs[0].diff


class LargeMargin(Fused):
    """L-Softmax's layer as it comes."""

    layer_class = cm.LargeMarginInnerProduct
    peer = False


class LineByLine(Fused):
    """The layer with the engine that is a port of the C++."""

    engine = "line_by_line"
    arrays = 10
    scalar = True


class PlainNumpy(Contestant):
    """The layer's formulas as one writes them down: every class has a margin, and one uses it."""

    arrays = 15

    def forward(self) -> None:
        x, weight, label, _ = self.inputs
        self.x_norm = np.linalg.norm(x, axis=1, keepdims=True)
        self.w_norm = np.linalg.norm(weight, axis=1, keepdims=True)
        self.unit = weight / self.w_norm
        product = x @ self.unit.T
        self.cos_theta = product / self.x_norm
        self.psi = angular.psi(self.cos_theta, self.cell.m)
        self.is_label = np.arange(len(weight)) == label[:, None]
        self.top = np.where(self.is_label, self.x_norm * self.psi, product)

    def backward(self) -> Outputs:
        x, _, _, g = self.inputs
        coeff_w = angular.psi_derivative(self.cos_theta, self.cell.m)
        coeff_x = (self.psi - self.cos_theta * coeff_w) / self.x_norm
        if self.cell.rule == "paper":
            coeff_norm = np.sqrt(coeff_w**2 + coeff_x**2)
            coeff_w, coeff_x = coeff_w / coeff_norm, coeff_x / coeff_norm
        g_w = np.where(self.is_label, g * coeff_w, g)
        g_x = np.where(self.is_label, g * coeff_x, 0).sum(axis=1, keepdims=True)
        bottom_diff = g_w @ self.unit + g_x * x
        if self.cell.rule == "paper":
            return self.top, bottom_diff, g.T @ x
        gradient = g_w.T @ x
        along = (gradient * self.unit).sum(axis=1, keepdims=True)
        return self.top, bottom_diff, (gradient - along * self.unit) / self.w_norm


class Torch(Contestant):
    """The layer in PyTorch: the margin in the label's column alone, and autograd."""

    rules = ("exact",)
    needs = "torch"
    arrays = 5

    def __init__(self, cell: Cell, inputs: Inputs) -> None:
        super().__init__(cell, inputs)
        import torch

        self.torch = torch
        self.x, self.weight, self.label, self.g = map(torch.from_numpy, inputs)
        self.x.requires_grad_()
        self.weight.requires_grad_()

    def forward(self) -> None:
        torch, m, index = self.torch, self.cell.m, self.label[:, None]
        self.x.grad = None
        product = self.x @ torch.nn.functional.normalize(self.weight).T
        x_norm = self.x.norm(dim=1, keepdim=True)
        theta = torch.acos(product.gather(1, index) / x_norm)
        k = torch.floor(theta.detach() * m / torch.pi)
        psi = (-1) ** k * torch.cos(m * theta) - 2 * k
        self.top = product.scatter(1, index, x_norm * psi)

    def backward(self) -> Outputs:
        self.top.backward(self.g if self.top.ndim else None)
        assert self.x.grad is not None
        assert self.weight.grad is not None
        return self.top.detach().numpy(), self.x.grad.numpy(), self.weight.grad.numpy()


class MarginSoftmaxLoss(Contestant):
    """margin_softmax_loss, which has no passes to tell apart."""

    def __init__(self, cell: Cell, inputs: Inputs) -> None:
        super().__init__(cell, inputs)
        self.weight = inputs.weight.copy()

    def backward(self) -> Outputs:
        x, _, label, _ = self.inputs
        loss, bottom_diff, weight_diff = cm.margin_softmax_loss(
            x, label, self.weight, m=self.cell.m, gradient=self.cell.rule
        )
        return np.asarray(loss), bottom_diff, weight_diff


class TwoLayers(Fused):
    """MarginInnerProduct below SoftmaxWithLoss."""

    arrays = 5

    def __init__(self, cell: Cell, inputs: Inputs) -> None:
        super().__init__(cell, inputs)
        self.softmax = cm.SoftmaxWithLoss()

    def forward(self) -> None:
        super().forward()
        self.loss = self.softmax.forward(self.top, self.inputs.label)

    def backward(self) -> Outputs:
        bottom_diff = self.layer.backward(self.softmax.backward())
        return self.loss, bottom_diff, self.layer.blobs[0].diff


class TorchLoss(Torch):
    """The layer in PyTorch, and cross_entropy."""

    def forward(self) -> None:
        super().forward()
        self.top = self.torch.nn.functional.cross_entropy(self.top, self.label)


class MetricLearning(Torch):
    """SphereFaceLoss of pytorch-metric-learning; its weight is (K, N)."""

    needs = "pytorch_metric_learning"
    arrays = 15

    def __init__(self, cell: Cell, inputs: Inputs) -> None:
        super().__init__(cell, inputs)
        from pytorch_metric_learning.losses import SphereFaceLoss

        self.loss = SphereFaceLoss(cell.N, cell.K, margin=cell.m, scale=1)
        self.loss.W.data = self.weight.detach().T.contiguous()

    def forward(self) -> None:
        self.x.grad = None
        self.top = self.loss(self.x, self.label)

    def backward(self) -> Outputs:
        self.top.backward()
        assert self.x.grad is not None
        return self.top.detach().numpy(), self.x.grad.numpy(), self.loss.W.grad.numpy().T


BARE = "bare products"
TASKS: dict[str, dict[str, type[Contestant]]] = {
    "layer": {
        BARE: ThreeProducts,
        "fused": Fused,
        "L-Softmax, fused": LargeMargin,
        "line_by_line": LineByLine,
        "plain numpy": PlainNumpy,
        "torch autograd": Torch,
    },
    "loss": {
        BARE: FourProducts,
        "margin_softmax_loss": MarginSoftmaxLoss,
        "two layers": TwoLayers,
        "torch autograd": TorchLoss,
        "pytorch-metric-learning": MetricLearning,
    },
}
