import numpy as np
import pytest
import torch

from caffe_margin.maths.gradient import (
    ALL_RULES,
    DETACHED,
    EXACT,
    PAPER,
    GradientRule,
    label_coefficients,
)
from helpers.psi import psi, slope


def test_names():
    assert GradientRule.of("paper") is PAPER
    assert GradientRule.of("EXACT") is EXACT
    assert GradientRule.of(EXACT) is EXACT
    assert GradientRule.of("detached") is DETACHED
    assert (PAPER.name, EXACT.name, DETACHED.name) == ("paper", "exact", "detached")
    assert len({rule.name for rule in ALL_RULES}) == len(ALL_RULES) == 16
    assert {PAPER, EXACT, DETACHED} <= set(ALL_RULES)
    assert EXACT.departures == ()
    assert DETACHED.departures == ("detached in bottom", "detached in weight", "no projection")


@pytest.mark.parametrize("gradient", ["exakt", None, 3, ""])
def test_unknown_rule(gradient):
    with pytest.raises(ValueError, match="'paper', 'exact', 'detached' or a GradientRule"):
        GradientRule.of(gradient)


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("lambda_", [0.0, 5.0, 1000.0])
def test_coefficients_are_the_cpp_formulas(m, lambda_):
    rng = np.random.default_rng(m)
    cos, x_norm = rng.uniform(-1, 1, 200), rng.uniform(0.1, 30, 200)
    # k, and with it every sign of the C++, from the angle itself
    k = np.floor(m * np.arccos(cos) / np.pi)
    s = (-1) ** k
    coeff_w, coeff_x = {
        2: (4 * s * cos, -(2 * s * cos**2 + 1) / x_norm),
        3: (s * (12 * cos**2 - 3), -(8 * s * cos**3 + 2 * k) / x_norm),
        4: (
            s * (32 * cos**3 - 16 * cos),
            -(s * (24 * cos**4 - 8 * cos**2 - 1) + 2 * k) / x_norm,
        ),
    }[m]
    theta = np.arccos(cos)
    detached = np.ones(200), (psi(theta, m) - cos) / x_norm

    def normalized(w, x):
        return w / np.sqrt(w**2 + x**2), x / np.sqrt(w**2 + x**2)

    for rule in ALL_RULES:
        true, bottom = (
            (coeff_w, coeff_x),
            detached if rule.detached_in_bottom else (coeff_w, coeff_x),
        )
        if rule.normalized_coefficients:
            true, bottom = normalized(*true), normalized(*bottom)
        got = label_coefficients(cos, x_norm, m, lambda_, rule)
        np.testing.assert_allclose(
            got.w, (bottom[0] + lambda_) / (1 + lambda_), rtol=1e-9, atol=1e-9
        )
        np.testing.assert_allclose(got.x, bottom[1] / (1 + lambda_), rtol=1e-9, atol=1e-9)
        expected = np.ones(200) if rule.detached_in_weight else (true[0] + lambda_) / (1 + lambda_)
        np.testing.assert_allclose(got.weight, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("m", [2, 3, 4, 5, 7])
def test_exact_coefficients_are_the_gradient(m):
    """Of f = |x| (psi(c) + lambda c) / (1 + lambda), with psi's slope from its definition."""
    rng = np.random.default_rng(m)
    x, w = rng.normal(size=(2, 50, 3))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    length = np.linalg.norm(x, axis=1)
    cos = (x * w).sum(axis=1) / length
    got = label_coefficients(cos, length, m, 2.0, EXACT)
    theta = np.arccos(cos)
    # d|x|/dx = x/|x|, dc/dx = (w - c x/|x|)/|x|
    along = (psi(theta, m) + 2 * cos) / 3
    turn = (slope(theta, m) + 2) / 3
    toward = x / length[:, None]
    expected = along[:, None] * toward + turn[:, None] * (w - cos[:, None] * toward)
    np.testing.assert_allclose(got.w[:, None] * w + got.x[:, None] * x, expected, atol=1e-11)


def test_tensors_are_taken_as_arrays_are():
    cos, length = np.linspace(-0.99, 0.99, 50), np.linspace(0.1, 30, 50)
    for rule in ALL_RULES:
        expected = label_coefficients(cos, length, 4, 5.0, rule)
        got = label_coefficients(torch.from_numpy(cos), torch.from_numpy(length), 4, 5.0, rule)
        for a, b in ((got.w, expected.w), (got.x, expected.x), (got.weight, expected.weight)):
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-13)


def test_single_has_no_margin_under_any_rule():
    cos, x_norm = np.linspace(-1, 1, 5), np.full(5, 2.0)
    for rule in ALL_RULES:
        got = label_coefficients(cos, x_norm, 1, 7.0, rule)
        np.testing.assert_array_equal(got.w, 1)
        np.testing.assert_array_equal(got.x, 0)
        np.testing.assert_array_equal(got.weight, 1)
