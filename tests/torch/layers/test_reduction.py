"""Reduction, against numpy."""

import numpy as np
import pytest
import torch

from helpers.small_nets import layer

X = np.random.default_rng(0).standard_normal((5, 4, 3, 2))
X[0, 0] = 0
OPERATIONS = {
    "SUM": (lambda x: x.sum(axis=1), np.ones_like),
    "ASUM": (lambda x: np.abs(x).sum(axis=1), np.sign),
    "SUMSQ": (lambda x: (x**2).sum(axis=1), lambda x: 2 * x),
    "MEAN": (lambda x: x.mean(axis=1), lambda x: np.ones_like(x) / x.shape[1]),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("axis", "rows"), [(0, ()), (1, (5,)), (-1, (5, 4, 3)), (-3, (5,))])
@pytest.mark.parametrize("coeff", [1, -2.5, 0])
def test_reduction(operation, axis, rows, coeff):
    param = f"reduction_param {{ operation: {operation} axis: {axis} coeff: {coeff} }}"
    x = torch.from_numpy(X).requires_grad_()
    top = layer("Reduction", param, (2, 4, 3, 2))(x)
    reduce, slope = OPERATIONS[operation]
    flat = X.reshape(int(np.prod(rows)), -1)
    np.testing.assert_allclose(top.detach(), coeff * reduce(flat).reshape(rows), rtol=1e-13)
    top_diff = torch.randn(rows, dtype=torch.float64)
    (diff,) = torch.autograd.grad(top, x, top_diff)
    expected = coeff * top_diff.numpy().reshape(-1, 1) * slope(flat)
    np.testing.assert_allclose(diff.numpy(), expected.reshape(X.shape), rtol=1e-13)
