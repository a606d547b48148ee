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
    large_margin_coefficients,
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


def large_margin_forward(x, w, m, lambda_, held=None):
    """L-Softmax's label score, and what its margin adds to |w| |x| cos(theta), by definition.

    Where ``held`` is given, (psi - cos) is that, a constant: the margin is detached.
    """
    length = np.linalg.norm(x, axis=1) * np.linalg.norm(w, axis=1)
    cos = (x * w).sum(axis=1) / length
    margin = psi(np.arccos(cos), m) - cos if held is None else held
    return length * (cos + margin / (1 + lambda_)), margin


@pytest.mark.parametrize("m", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("detached", [False, True])
def test_large_margin_coefficients_are_the_gradient(m, detached):
    """Against central differences of a forward in which what is detached is held constant."""
    rng = np.random.default_rng(m)
    x, w = rng.normal(size=(2, 40, 3))
    w *= rng.uniform(0.1, 10, size=(40, 1))
    x_norm, w_norm = np.linalg.norm(x, axis=1), np.linalg.norm(w, axis=1)
    rule = GradientRule(detached_in_bottom=detached, detached_in_weight=detached)
    cos = (x * w).sum(axis=1) / (x_norm * w_norm)
    got = large_margin_coefficients(cos, x_norm, w_norm, m, 2.0, rule)
    held = large_margin_forward(x, w, m, 2.0)[1] if detached else None

    def differences(at, forward):
        columns = []
        for k in range(3):
            step = 1e-6 * np.eye(3)[k]
            columns.append((forward(at + step)[0] - forward(at - step)[0]) / 2e-6)
        return np.stack(columns, axis=1)

    bottom = got.w[:, None] * w + got.x[:, None] * x
    weight = got.weight[:, None] * x + got.weight_w[:, None] * w
    expected = differences(x, lambda x: large_margin_forward(x, w, m, 2.0, held))
    np.testing.assert_allclose(bottom, expected, rtol=1e-6, atol=1e-6)
    expected = differences(w, lambda w: large_margin_forward(x, w, m, 2.0, held))
    np.testing.assert_allclose(weight, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("m", [2, 4, 5])
def test_large_margin_rules_differ_where_their_departures_are(m):
    rng = np.random.default_rng(m)
    cos, x_norm, w_norm = rng.uniform(-1, 1, 60), rng.uniform(1, 9, 60), rng.uniform(0.1, 9, 60)
    theta = np.arccos(cos)
    ratio = x_norm / w_norm
    for rule in ALL_RULES:
        got = large_margin_coefficients(cos, x_norm, w_norm, m, 0.5, rule)
        sides = []
        for is_detached in (rule.detached_in_bottom, rule.detached_in_weight):
            up = 1.0 if is_detached else slope(theta, m)
            s = cos * up - psi(theta, m)
            over = np.ones(60)
            if rule.normalized_coefficients and not (sides and is_detached):
                over = np.sqrt(up**2 + (s / ratio) ** 2)
            sides.append((up / over, s / over))
        (up, s), (weight_up, weight_s) = sides
        np.testing.assert_allclose(got.w, (up + 0.5) / 1.5, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(got.x, -s / ratio / 1.5, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(got.weight, (weight_up + 0.5) / 1.5, rtol=1e-6, atol=1e-7)
        if rule.no_projection:
            assert got.weight_w is None
        else:
            np.testing.assert_allclose(got.weight_w, -weight_s * ratio / 1.5, rtol=1e-6, atol=1e-7)


def test_large_margin_coefficients_of_tensors():
    arrays = np.linspace(-0.99, 0.99, 50), np.linspace(0.1, 30, 50), np.linspace(3, 0.01, 50)
    for rule in ALL_RULES:
        expected = large_margin_coefficients(*arrays, 4, 5.0, rule)
        got = large_margin_coefficients(*map(torch.from_numpy, arrays), 4, 5.0, rule)
        for name in ("w", "x", "weight") + (() if rule.no_projection else ("weight_w",)):
            np.testing.assert_allclose(
                getattr(got, name).numpy(), getattr(expected, name), rtol=1e-13
            )
