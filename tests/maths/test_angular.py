import numpy as np
import pytest

from caffe_margin.maths import angular

THETA = np.linspace(0, np.pi, 20001)
MARGINS = [1, 2, 3, 4]


def psi_of_theta(theta, m):
    """The paper's definition, in theta."""
    k = np.minimum(np.floor(m * theta / np.pi), m - 1)
    return (-1) ** k * np.cos(m * theta) - 2 * k


@pytest.mark.parametrize("m", MARGINS)
def test_psi_is_the_papers_definition(m):
    np.testing.assert_allclose(
        angular.psi(np.cos(THETA), m), psi_of_theta(THETA, m), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("m", MARGINS)
def test_psi_derivative_is_the_slope(m):
    # d psi / d cos = (d psi / d theta) / (-sin theta) = m (-1)^k sin(m theta) / sin(theta)
    theta = THETA[1:-1]
    k = np.minimum(np.floor(m * theta / np.pi), m - 1)
    expected = m * (-1) ** k * np.sin(m * theta) / np.sin(theta)
    np.testing.assert_allclose(
        angular.psi_derivative(np.cos(theta), m), expected, rtol=0, atol=1e-11
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
        np.testing.assert_allclose(angular.psi(c, m), 1 - 2 * k, atol=1e-14)
        np.testing.assert_allclose(angular.psi_derivative(c, m), 0, atol=1e-14)


@pytest.mark.parametrize(("c", "m", "value"), [(0.0, 2, -1), (0.0, 4, -3), (0.5, 3, -1)])
def test_exact_kinks_need_no_patch(c, m, value):
    assert angular.psi(c, m) == value
    assert angular.psi_derivative(c, m) == 0


def test_psi_keeps_dtype_and_shape():
    c = np.zeros((2, 3), np.float32)
    for m in MARGINS:
        assert angular.psi(c, m).dtype == angular.psi_derivative(c, m).dtype == np.float32
        assert angular.psi(c, m).shape == (2, 3)


@pytest.mark.parametrize("m", [0, 5, 2.5])
def test_no_other_margin(m):
    with pytest.raises(ValueError, match="m must be 1, 2, 3 or 4"):
        angular.psi(0.5, m)


def test_annealed_lambda_follows_the_closed_form():
    iteration = np.array([1, 2, 10, 1000, 10**6])
    got = angular.annealed_lambda(iteration, 1000, 0.12, 1, 5, np.float64)
    # 1 + 0.12 t is 1.12, 1.24, 2.2, 121, 120001; lambda_min takes over at t = 1659
    expected = [1000 / 1.12, 1000 / 1.24, 1000 / 2.2, 1000 / 121, 5]
    np.testing.assert_allclose(got, expected, rtol=1e-15)


def test_annealed_lambda_computes_in_its_dtype():
    got = angular.annealed_lambda([1, 2, 3], 1000, 0.12, 1, 5)
    assert got.dtype == np.float32
    # recorded from Caffe, in float32
    np.testing.assert_array_equal(got, np.float32([892.8571, 806.4516, 735.2941]))
