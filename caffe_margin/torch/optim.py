"""Caffe's six solvers as optimizers, and its learning rate policies as a scheduler.

    optimizer = cmt.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

They are not PyTorch's of the same names: Caffe keeps the rate inside the momentum, adds its
``delta`` after the root, and does not correct Adam's by the bias. What they share is in `_Solver`:
clipping, ``iter_size``, weight decay and the multipliers of each parameter, in Caffe's order.

Source: src/caffe/solvers of BVLC/caffe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.solver.learning_rate import learning_rate
from caffe_margin.solver.sgd import REGULARIZATIONS

__all__ = ["SGD", "AdaDelta", "AdaGrad", "Adam", "LRPolicy", "Nesterov", "RMSProp", "of_solver"]

Tensors = list[Tensor]


class _Solver(torch.optim.Optimizer):
    """What the six have in common; a subclass says how a gradient moves a weight.

    A group may have ``lr_mult`` and ``decay_mult``, Caffe's multipliers, beside PyTorch's options,
    and ``sharded``, whether its parameters are rows of which other processes have the rest.
    Every parameter takes part in every step, one without a ``grad`` as if that were zero: its
    momentum goes on, and its weight decays. A ``grad`` is changed by the step, as Caffe changes a
    ``diff``: call `zero_grad` before the next Backward.

    Args:
        params: tensors, or groups of them.
        lr: the learning rate.
        weight_decay: times ``decay_mult`` and the weight, or its sign, added to the gradient.
        regularization_type: ``"L2"`` or ``"L1"``.
        clip_gradients: the length that the gradients of all groups together, summed over
            ``iter_size``, are cut to; none where it is negative.
        iter_size: how many Backwards a step the gradients are the sum of.
        **options: the solver's own.

    Attributes:
        sum_shards: adds a number up over the processes that share the parameters of groups that
            are ``sharded``, for the length of all gradients together.

    Raises:
        ValueError: the regularization is not known, or ``iter_size`` is not positive.
    """

    slots: ClassVar[int] = 1
    """How many tensors of history a parameter has."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        weight_decay: float = 0,
        regularization_type: str = "L2",
        clip_gradients: float = -1,
        iter_size: int = 1,
        **options: float,
    ) -> None:
        if regularization_type not in REGULARIZATIONS:
            raise ValueError(
                f"regularization_type {regularization_type!r} is not known; there are "
                f"{' and '.join(REGULARIZATIONS)}"
            )
        if iter_size < 1:
            raise ValueError(f"iter_size must be positive, not {iter_size}")
        defaults = {
            "lr": lr,
            "lr_mult": 1.0,
            "weight_decay": weight_decay,
            "decay_mult": 1.0,
            "regularization_type": regularization_type,
            "iteration": 0,
            "sharded": False,
            **options,
        }
        super().__init__(params, defaults)
        self.clip_gradients = clip_gradients
        self.iter_size = iter_size
        self.sum_shards: Callable[[Tensor], Tensor] = lambda number: number

    def update(
        self, group: dict[str, Any], weights: Tensors, grads: Tensors, history: list[Tensors]
    ) -> None:
        """Move the weights of a group. Source: ``ComputeUpdateValue``, ``Net::Update``.

        Args:
            group: its options.
            weights: the parameters.
            grads: their gradients, clipped and regularized; may be changed.
            history: for each slot a tensor a parameter.
        """
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step. Source: ``SGDSolver::ApplyUpdate``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = self._clip() / self.iter_size
        for group in self.param_groups:
            weights = group["params"]
            grads = [_grad(weight) for weight in weights]
            if scale != 1:
                torch._foreach_mul_(grads, scale)
            if decay := _round(group["weight_decay"] * group["decay_mult"], weights):
                decayed = weights
                if group["regularization_type"] == "L1":
                    decayed = torch._foreach_sign(weights)
                torch._foreach_add_(grads, decayed, alpha=decay)
            self.update(group, weights, grads, self._history(weights))
            group["iteration"] += 1
        return loss

    def _clip(self) -> float:
        """Source: ``SGDSolver::ClipGradients``."""
        if self.clip_gradients < 0:
            return 1.0
        length = math.hypot(self._length(sharded=False), self._length(sharded=True))
        return self.clip_gradients / length if length > self.clip_gradients else 1.0

    def _length(self, sharded: bool) -> float:
        """Return the length of the gradients of the groups that are ``sharded``, or of the rest."""
        groups = [group for group in self.param_groups if group["sharded"] == sharded]
        grads = [w.grad for group in groups for w in group["params"] if w.grad is not None]
        if not grads:
            return 0.0
        norms = [norm.double() for norm in torch._foreach_norm(grads)]
        squares = torch.stack(norms).square().sum()
        return math.sqrt(self.sum_shards(squares) if sharded else squares)

    def _history(self, weights: Tensors) -> list[Tensors]:
        """Return the history of parameters, by slot; zeros before the first step."""
        for weight in weights:
            if not self.state[weight]:
                zeros = {f"history{slot}": torch.zeros_like(weight) for slot in range(self.slots)}
                self.state[weight] = zeros
        return [
            [self.state[weight][f"history{slot}"] for weight in weights]
            for slot in range(self.slots)
        ]

    def history(self, params: Iterable[Tensor]) -> Tensors:
        """Return the history of parameters as Caffe's snapshots hold it: slot after slot."""
        return [blob for slot in self._history(list(params)) for blob in slot]


def _grad(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _round(value: float, weights: Tensors) -> float:
    """Return a factor as Caffe's Dtype holds it."""
    single = not weights or weights[0].dtype != torch.float64
    return float(np.float32(value)) if single else value


def _rate(group: dict[str, Any], weights: Tensors) -> float:
    return _round(group["lr"] * group["lr_mult"], weights)


class SGD(_Solver):
    """h = momentum h + lr g, w -= h. Source: SGDSolver.

    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = SGD([weight], lr=0.5, momentum=0.9)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     weight.sum().backward()
    ...     optimizer.step()
    >>> weight
    Parameter containing:
    tensor([-0.4500], requires_grad=True)
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0, **options: Any
    ) -> None:
        super().__init__(params, lr, momentum=momentum, **options)

    def update(
        self, group: dict[str, Any], weights: Tensors, grads: Tensors, history: list[Tensors]
    ) -> None:
        """Source: SGDSolver::ComputeUpdateValue."""
        (h,) = history
        torch._foreach_mul_(h, group["momentum"])
        torch._foreach_add_(h, grads, alpha=_rate(group, weights))
        torch._foreach_sub_(weights, h)


class Nesterov(SGD):
    """h' = momentum h + lr g, w -= (1 + momentum) h' - momentum h. Source: NesterovSolver."""

    def update(
        self, group: dict[str, Any], weights: Tensors, grads: Tensors, history: list[Tensors]
    ) -> None:
        """Source: NesterovSolver::ComputeUpdateValue."""
        (h,) = history
        momentum = group["momentum"]
        torch._foreach_add_(weights, h, alpha=momentum)
        torch._foreach_mul_(h, momentum)
        torch._foreach_add_(h, grads, alpha=_rate(group, weights))
        torch._foreach_sub_(weights, h, alpha=1 + momentum)


class AdaGrad(_Solver):
    """h += g^2, w -= lr g / (sqrt(h) + delta). Source: AdaGradSolver."""

    def __init__(
        self, params: Iterable[Any], lr: float, delta: float = 1e-8, **options: Any
    ) -> None:
        super().__init__(params, lr, delta=delta, **options)

    def update(
        self, group: dict[str, Any], weights: Tensors, grads: Tensors, history: list[Tensors]
    ) -> None:
        """Source: AdaGradSolver::ComputeUpdateValue."""
        (h,) = history
        torch._foreach_addcmul_(h, grads, grads)
        _divide_and_move(weights, grads, h, group["delta"], _rate(group, weights))


class RMSProp(_Solver):
    """h = rms_decay h + (1 - rms_decay) g^2, w -= lr g / (sqrt(h) + delta).

    Source: RMSPropSolver.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        rms_decay: float = 0.99,
        delta: float = 1e-8,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, rms_decay=rms_decay, delta=delta, **options)

    def update(
        self, group: dict[str, Any], weights: Tensors, grads: Tensors, history: list[Tensors]
    ) -> None:
        """Source: RMSPropSolver::ComputeUpdateValue."""
        (h,) = history
        _average(h, grads, group["rms_decay"])
        _divide_and_move(weights, grads, h, group["delta"], _rate(group, weights))


class AdaDelta(_Solver):
    """h = m h + (1 - m) g^2, u = g sqrt((h2 + delta) / (h + delta)), w -= lr u, m being momentum.

    h2 is the average of u^2 as h is that of g^2. Source: AdaDeltaSolver.
    """

    slots = 2

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        momentum: float = 0.95,
        delta: float = 1e-8,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, momentum=momentum, delta=delta, **options)

    def update(
        self, group: dict[str, Any], weights: Tensors, grads: Tensors, history: list[Tensors]
    ) -> None:
        """Source: AdaDeltaSolver::ComputeUpdateValue."""
        h, h2 = history
        _average(h, grads, group["momentum"])
        ratio = torch._foreach_add(h2, group["delta"])
        torch._foreach_div_(ratio, torch._foreach_add(h, group["delta"]))
        torch._foreach_sqrt_(ratio)
        torch._foreach_mul_(grads, ratio)
        _average(h2, grads, group["momentum"])
        torch._foreach_sub_(weights, grads, alpha=_rate(group, weights))


class Adam(_Solver):
    """Adam as Caffe has it: delta is added to sqrt(v), which no bias correction has touched.

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2,
    w -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + delta), with b1 = momentum, b2 = momentum2.
    Source: AdamSolver.
    """

    slots = 2

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        momentum2: float = 0.999,
        delta: float = 1e-8,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, momentum=momentum, momentum2=momentum2, delta=delta, **options)

    def update(
        self, group: dict[str, Any], weights: Tensors, grads: Tensors, history: list[Tensors]
    ) -> None:
        """Source: AdamSolver::ComputeUpdateValue."""
        m, v = history
        beta1, beta2 = group["momentum"], group["momentum2"]
        t = group["iteration"] + 1
        correction = (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        torch._foreach_mul_(m, beta1)
        torch._foreach_add_(m, grads, alpha=_round(1 - beta1, weights))
        _average(v, grads, beta2)
        rate = _round(_rate(group, weights) * correction, weights)
        _divide_and_move(weights, m, v, group["delta"], rate)


def _average(mean: Tensors, values: Tensors, decay: float) -> None:
    """Take the squares of values into a running mean."""
    torch._foreach_mul_(mean, decay)
    torch._foreach_addcmul_(mean, values, values, value=_round(1 - decay, mean))


def _divide_and_move(
    weights: Tensors, steps: Tensors, squares: Tensors, delta: float, rate: float
) -> None:
    """W -= rate step / (sqrt(squares) + delta)."""
    root = torch._foreach_sqrt(squares)
    torch._foreach_add_(root, delta)
    torch._foreach_addcdiv_(weights, steps, root, value=-rate)


_OPTIONS: dict[str, tuple[type[_Solver], tuple[str, ...]]] = {
    "SGD": (SGD, ("momentum",)),
    "Nesterov": (Nesterov, ("momentum",)),
    "AdaGrad": (AdaGrad, ("delta",)),
    "RMSProp": (RMSProp, ("rms_decay", "delta")),
    "AdaDelta": (AdaDelta, ("momentum", "delta")),
    "Adam": (Adam, ("momentum", "momentum2", "delta")),
}
"""For each ``type`` of a solver its optimizer, and the fields that are its own."""


def of_solver(solver_param: pb.SolverParameter, params: Iterable[Any]) -> _Solver:
    """Return the optimizer that a solver's prototxt asks for; its rate is the first iteration's.

    >>> import caffe_margin as cm
    >>> solver_param = cm.read_solver("models/sphereface_solver.prototxt")
    >>> type(of_solver(solver_param, [torch.zeros(3)])).__name__
    'SGD'

    Args:
        solver_param: the solver.
        params: tensors, or groups of them.

    Raises:
        ValueError: the solver's type, policy or regularization is not known.
    """
    if solver_param.type not in _OPTIONS:
        raise ValueError(
            f"the solver's type {solver_param.type!r} is not known; there are {', '.join(_OPTIONS)}"
        )
    optimizer, own = _OPTIONS[solver_param.type]
    return optimizer(
        params,
        lr=float(learning_rate(solver_param, 0)),
        weight_decay=solver_param.weight_decay,
        regularization_type=solver_param.regularization_type,
        clip_gradients=solver_param.clip_gradients,
        iter_size=solver_param.iter_size,
        **{name: getattr(solver_param, name) for name in own},
    )


class LRPolicy(torch.optim.lr_scheduler.LRScheduler):
    """The learning rate policy of a solver's prototxt, a step an iteration.

    >>> import caffe_margin as cm
    >>> solver_param = cm.read_solver("models/sphereface_solver.prototxt")
    >>> optimizer = of_solver(solver_param, [torch.zeros(3)])
    >>> [rate] = LRPolicy(optimizer, solver_param, last_epoch=15999).get_last_lr()
    >>> round(rate, 6)
    0.01

    Args:
        optimizer: whose rate it sets, in the precision of its first parameter.
        solver_param: the solver.
        last_epoch: PyTorch's name for the iteration before the next one.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        solver_param: pb.SolverParameter,
        last_epoch: int = -1,
    ) -> None:
        self.solver_param = solver_param
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of every group. Source: ``SGDSolver::GetLearningRate``."""
        first = self.optimizer.param_groups[0]["params"][0]
        dtype = np.float64 if first.dtype == torch.float64 else np.float32
        rate = float(learning_rate(self.solver_param, self.last_epoch, dtype))
        return [rate for _ in self.optimizer.param_groups]
