import numpy as np
import pytest
import torch

from caffe_margin.maths import angular
from helpers.psi import psi, slope

THETA = np.linspace(0, np.pi, 20001)
MARGINS = [1, 2, 3, 4, 5, 6, 9]


@pytest.mark.parametrize("m", MARGINS)
def test_psi_is_the_papers_definition(m):
    np.testing.assert_allclose(angular.psi(np.cos(THETA), m), psi(THETA, m), rtol=0, atol=m * 1e-14)


@pytest.mark.parametrize("m", MARGINS)
def test_psi_derivative_is_the_slope(m):
    theta = THETA[1:-1]
    np.testing.assert_allclose(
        angular.psi_derivative(np.cos(theta), m), slope(theta, m), rtol=0, atol=m * 1e-11
    )


@pytest.mark.parametrize("m", MARGINS)
def test_ends_and_kinks(m):
    assert angular.psi(1.0, m) == 1
    assert angular.psi(-1.0, m) == 1 - 2 * m
    # T_m'(1) = m^2, and psi_m is symmetric in its slope
    assert angular.psi_derivative(1.0, m) == m**2
    assert angular.psi_derivative(-1.0, m) == m**2
    # where two pieces meet, theta = k pi / m, psi is (-1)^k cos(k pi) - 2k = 1 - 2k and level
    for k in range(1, m):
        c = np.cos(k * np.pi / m)
        np.testing.assert_allclose(angular.psi(c, m), 1 - 2 * k, atol=m * 1e-14)
        np.testing.assert_allclose(angular.psi_derivative(c, m), 0, atol=m**2 * 1e-14)


@pytest.mark.parametrize(("c", "m", "value"), [(0.0, 2, -1), (0.0, 4, -3), (0.5, 3, -1)])
def test_exact_kinks_need_no_patch(c, m, value):
    assert angular.psi(c, m) == value
    assert angular.psi_derivative(c, m) == 0


def test_psi_keeps_dtype_and_shape():
    c = np.zeros((2, 3), np.float32)
    for m in MARGINS:
        assert angular.psi(c, m).dtype == angular.psi_derivative(c, m).dtype == np.float32
        assert angular.psi(c, m).shape == (2, 3)


@pytest.mark.parametrize("m", [0, -1, 2.5, None])
def test_no_other_margin(m):
    with pytest.raises(ValueError, match="m must be a whole number from 1 on"):
        angular.psi(0.5, m)


@pytest.mark.parametrize("m", MARGINS)
def test_label_score(m):
    length, lambda_ = np.linspace(0.1, 30, len(THETA)), 5.0
    plain = length * np.cos(THETA)
    expected = length * (psi(THETA, m) + lambda_ * np.cos(THETA)) / (1 + lambda_)
    np.testing.assert_allclose(
        angular.label_score(plain, length, m, lambda_),
        plain if m == 1 else expected,
        rtol=0,
        atol=m * 1e-12,
    )


# The same formulas over PyTorch's arrays

C = torch.cos(torch.linspace(0.01, 3.1, 101, dtype=torch.float64))


@pytest.mark.parametrize("m", MARGINS)
def test_tensors_are_taken_as_arrays_are(m):
    for function in (angular.psi, angular.psi_derivative):
        got = function(C, m)
        assert isinstance(got, torch.Tensor)
        np.testing.assert_allclose(got.numpy(), function(C.numpy(), m), rtol=1e-14)


@pytest.mark.parametrize("m", MARGINS)
def test_autograd_of_psi_is_its_derivative(m):
    c = C.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(angular.psi(c, m).sum(), c)
    torch.testing.assert_close(gradient, angular.psi_derivative(C, m))


@pytest.mark.parametrize("m", [1, 4, 5])
def test_vmap_and_compile(m):
    torch.testing.assert_close(torch.vmap(lambda c: angular.psi(c, m))(C), angular.psi(C, m))
    compiled = torch.compile(angular.psi, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(C, m), angular.psi(C, m))
