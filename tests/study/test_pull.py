import numpy as np
import pytest

from caffe_margin.layers.large_margin_inner_product import LargeMarginInnerProduct
from caffe_margin.study.pull import coeff_norm, pulls

THETA = np.radians([3.0, 30.0, 44.0, 61.0, 91.0, 119.0, 136.0, 178.0])
X_NORM = np.array([5.0, 1.0, 12.0, 30.0, 0.3, 7.0, 15.0, 2.0])


def psi(theta, m):
    k = np.floor(m * theta / np.pi)
    return (-1) ** k * np.cos(m * theta) - 2 * k


def coefficients(theta, x_norm, m):
    """The closed forms in theta: d psi / d cos(theta) = (-1)^k m sin(m theta) / sin(theta)."""
    k = np.floor(m * theta / np.pi)
    w = (-1) ** k * m * np.sin(m * theta) / np.sin(theta)
    return w, (psi(theta, m) - w * np.cos(theta)) / x_norm


def vectors(theta, x_norm):
    """Return x and w_y in the plane, (M, 2) each."""
    return x_norm[:, None] * np.stack([np.cos(theta), np.sin(theta)], 1), np.array([[1.0, 0.0]])


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("lambda_", [0.0, 5.0])
def test_exact_pull_is_the_gradient_of_the_score(m, lambda_):
    x, w = vectors(THETA, X_NORM)

    def score(x):
        length = np.linalg.norm(x, axis=1)
        theta = np.arccos(x[:, 0] / length)
        return length * (psi(theta, m) + lambda_ * np.cos(theta)) / (1 + lambda_)

    h = 1e-6
    gradient = np.stack(
        [(score(x + step) - score(x - step)) / (2 * h) for step in h * np.eye(2)], axis=1
    )
    found = pulls(THETA, X_NORM, m, lambda_).exact
    built = found.along_w[:, None] * w + found.along_x[:, None] * x / X_NORM[:, None]
    np.testing.assert_allclose(built, gradient, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.length, np.linalg.norm(gradient, axis=1), rtol=1e-5)


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("length", [0.01, 1.0, 300.0])
def test_the_pull_of_l_softmax_is_in_units_of_its_weight(m, length):
    """The layer's own bottom.diff, and at |x| / |w_y| the pulls times |w_y|."""
    x, w = vectors(THETA, X_NORM)
    for rule in ("exact", "paper", "detached"):
        layer = LargeMarginInnerProduct(1, m=m, base=0.5, gamma=0, gradient=rule)
        layer.weight = length * w
        layer.forward(x, np.zeros(len(x)))
        expected = layer.backward(np.ones((len(x), 1)))
        found = getattr(pulls(THETA, X_NORM / length, m, 0.5), rule)
        built = found.along_w[:, None] * w + found.along_x[:, None] * x / X_NORM[:, None]
        np.testing.assert_allclose(length * built, expected, rtol=1e-6, atol=1e-6 * length)


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("lambda_", [0.0, 5.0])
def test_paper_pull_and_the_angle_between(m, lambda_):
    x, w = vectors(THETA, X_NORM)
    coeff_w, coeff_x = coefficients(THETA, X_NORM, m)
    norm = np.sqrt(coeff_w**2 + coeff_x**2)
    exact = ((coeff_w + lambda_)[:, None] * w + coeff_x[:, None] * x) / (1 + lambda_)
    paper = ((coeff_w / norm + lambda_)[:, None] * w + (coeff_x / norm)[:, None] * x) / (
        1 + lambda_
    )
    found = pulls(THETA, X_NORM, m, lambda_)
    np.testing.assert_allclose(found.coeff_norm, norm, rtol=1e-9)
    np.testing.assert_allclose(found.paper.length, np.linalg.norm(paper, axis=1), rtol=1e-9)
    np.testing.assert_allclose(
        found.paper.along_x, coeff_x / norm * X_NORM / (1 + lambda_), rtol=1e-9
    )
    cosine = np.einsum("ik,ik->i", paper, exact)
    cosine /= np.linalg.norm(paper, axis=1) * np.linalg.norm(exact, axis=1)
    np.testing.assert_allclose(np.cos(found.angle), cosine, rtol=1e-9)


def test_without_lambda_the_two_point_the_same_way():
    found = pulls(THETA, X_NORM, 4, 0.0)
    np.testing.assert_allclose(found.angle, 0, atol=1e-12)
    np.testing.assert_allclose(found.paper.length * found.coeff_norm, found.exact.length)


def test_where_pieces_meet_only_x_pulls():
    # There psi' is 0 and psi_4 is 1 - 2k - ... = -1, -3, -5 at 45, 90 and 135 degrees.
    theta = np.radians([45.0, 90.0, 135.0])
    found = coeff_norm(theta, np.array([2.0, 2.0, 2.0]), 4)
    np.testing.assert_allclose(found, [0.5, 1.5, 2.5], rtol=1e-12)


def test_at_no_angle_the_norm_is_m_squared():
    # d psi_m / d cos(theta) tends to m^2, coeff_x to (1 - m^2) / |x|.
    found = coeff_norm(np.array([0.0]), np.array([1e9]), 4)
    np.testing.assert_allclose(found, 16)


def test_single_has_no_trick():
    found = pulls(THETA, X_NORM, 1, 5.0)
    for pull in (found.paper, found.exact):
        np.testing.assert_array_equal(pull.along_w, 1)
        np.testing.assert_array_equal(pull.along_x, 0)
    np.testing.assert_array_equal(found.angle, 0)
    np.testing.assert_array_equal(found.coeff_norm, 1)
