"""Caffe's SGD: the update with momentum and weight decay.

Source: SGDSolver of BVLC/caffe, src/caffe/solvers/sgd_solver.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.solver.learning_rate import learning_rate

REGULARIZATIONS = ("L2", "L1")

_DEFAULT_SPEC = pb.ParamSpec()


class SGD:
    """Caffe's ``type: "SGD"`` over plain arrays.

        sgd = SGD(solver_param)
        sgd.step([weight], [weight_diff])

    Args:
        solver_param: what the solver's prototxt says; ``max_iter`` does not stop `step`.

    Attributes:
        iteration: how many steps were taken.
        history: the momentum of each parameter, of its shape; empty before the first step.

    Raises:
        ValueError: the solver is of another type, its learning rate policy or regularization is
            not known, or ``iter_size`` is not positive.
    """

    def __init__(self, solver_param: pb.SolverParameter) -> None:
        if solver_param.type != "SGD":
            raise ValueError(f"the solver is of type {solver_param.type!r}, not 'SGD'")
        if solver_param.regularization_type not in REGULARIZATIONS:
            raise ValueError(
                f"regularization_type {solver_param.regularization_type!r} is not known; there are "
                f"{' and '.join(REGULARIZATIONS)}"
            )
        if solver_param.iter_size < 1:
            raise ValueError(f"iter_size must be positive, not {solver_param.iter_size}")
        learning_rate(solver_param, 0)
        self.solver_param = solver_param
        self.iteration = 0
        self.history: list[NDArray[np.floating]] = []

    def step(
        self,
        params: Sequence[NDArray[np.floating]],
        diffs: Sequence[NDArray[np.floating]],
        specs: Sequence[pb.ParamSpec] = (),
    ) -> np.floating:
        """Update the parameters in place, and return the learning rate.

        Source: ``SGDSolver::ApplyUpdate``: ``ClipGradients``, ``Normalize``, ``Regularize``,
        ``ComputeUpdateValue``, ``Net::Update``.

        Args:
            params: float32 or float64 arrays, the same ones in every step.
            diffs: their gradients, summed over ``iter_size`` passes; left alone, where Caffe
                overwrites them with the update.
            specs: ``lr_mult`` and ``decay_mult`` of each, 1 where there are fewer.

        Raises:
            ValueError: a gradient's or the momentum's shape or dtype is not its parameter's.
        """
        p = self.solver_param
        history = self.history or [np.zeros_like(param) for param in params]
        for i, (param, diff, momentum) in enumerate(zip(params, diffs, history, strict=True)):
            for what, array in (("gradient", diff), ("momentum", momentum)):
                if array.shape != param.shape or array.dtype != param.dtype:
                    raise ValueError(
                        f"parameter {i} is {param.shape} {param.dtype}, but its {what} is "
                        f"{array.shape} {array.dtype}"
                    )
        self.history = history

        scale = _clip(diffs, p.clip_gradients) / p.iter_size
        rate = learning_rate(p, self.iteration, params[0].dtype if params else np.float32)
        for i, (param, diff, momentum) in enumerate(zip(params, diffs, history, strict=True)):
            real = param.dtype.type
            spec = specs[i] if i < len(specs) else _DEFAULT_SPEC
            local_rate = real(rate) * real(spec.lr_mult)
            local_decay = real(p.weight_decay) * real(spec.decay_mult)
            if scale != 1:
                diff = diff * real(scale)
            if local_decay:
                decayed = param if p.regularization_type == "L2" else np.sign(param)
                diff = diff + local_decay * decayed
            momentum *= real(p.momentum)
            momentum += local_rate * diff
            param -= momentum
        self.iteration += 1
        return rate


def _clip(diffs: Sequence[NDArray[np.floating]], clip_gradients: float) -> float:
    """Return what scales the gradients down to a joint length of ``clip_gradients``, or 1.

    As in Caffe the length is that of the sum over ``iter_size``, and a negative limit is none.
    Source: ``ClipGradients``.
    """
    if clip_gradients < 0:
        return 1.0
    length = math.sqrt(sum(float(np.vdot(diff, diff)) for diff in diffs))
    return clip_gradients / length if length > clip_gradients else 1.0
