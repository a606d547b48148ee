"""Caffe's learning rate policies.

Source: SGDSolver of BVLC/caffe, src/caffe/solvers/sgd_solver.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from caffe_margin import caffe_margin_pb2 as pb

LR_POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")


def learning_rate(
    solver_param: pb.SolverParameter, iteration: int, dtype: DTypeLike = np.float32
) -> np.floating:
    """Return the learning rate at an iteration, counted from 0, of a run that began at 0.

    Every step is taken in ``dtype`` where C++ takes it in ``Dtype``, and in double where ``pow``
    does. Source: ``SGDSolver::GetLearningRate``.

    Raises:
        ValueError: the policy is none of `LR_POLICIES`, or lacks what it needs.
    """
    p, policy = solver_param, solver_param.lr_policy
    real: Any = np.dtype(dtype).type
    if policy not in LR_POLICIES:
        raise ValueError(
            f"lr_policy {policy!r} is not known; the policies are {', '.join(LR_POLICIES)}"
        )
    if policy in ("step", "sigmoid") and p.stepsize < 1:
        raise ValueError(f"lr_policy {policy!r} needs a positive stepsize, not {p.stepsize}")
    if policy == "poly" and p.max_iter < 1:
        raise ValueError(f"lr_policy 'poly' needs a positive max_iter, not {p.max_iter}")
    # A sigmoid that falls has a negative gamma, which Caffe refuses from 2017 on; it is harmless.
    if policy in ("step", "exp", "inv", "multistep") and not p.gamma >= 0:
        raise ValueError(f"lr_policy {policy!r} needs a gamma of 0 or more, not {p.gamma:g}")
    base_lr, gamma, power = real(p.base_lr), real(p.gamma), real(p.power)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        if policy == "fixed":
            return base_lr
        if policy == "step":
            return real(p.base_lr * np.float64(p.gamma) ** (iteration // p.stepsize))
        if policy == "exp":
            return real(p.base_lr * np.float64(p.gamma) ** iteration)
        if policy == "inv":
            # A float times an int: a float in double too.
            grown = real(np.float32(p.gamma) * np.float32(iteration))
            return real(base_lr * (1 + grown) ** -power)
        if policy == "multistep":
            current_step = sum(drop <= iteration for drop in multistep_drops(p.stepvalue))
            return real(p.base_lr * np.float64(p.gamma) ** current_step)
        if policy == "poly":
            return real(base_lr * (1 - real(iteration) / real(p.max_iter)) ** power)
        return real(base_lr / (1 + np.exp(-gamma * (real(iteration) - real(p.stepsize)))))


def multistep_drops(stepvalue: Sequence[int]) -> list[int]:
    """Return the iterations at which multistep takes its steps: one an iteration at most.

    >>> multistep_drops([16000, 8000, 16000])
    [16000, 16001, 16002]
    """
    drops: list[int] = []
    for value in stepvalue:
        drops.append(max(value, drops[-1] + 1 if drops else 0))
    return drops
