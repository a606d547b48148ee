import numpy as np
import pytest

from caffe_margin.maths.gradient import ALL_RULES, EXACT, PAPER, GradientRule, label_coefficients


def test_names():
    assert GradientRule.of("paper") is PAPER
    assert GradientRule.of("EXACT") is EXACT
    assert GradientRule.of(EXACT) is EXACT
    assert (PAPER.name, EXACT.name) == ("paper", "exact")
    assert len({rule.name for rule in ALL_RULES}) == len(ALL_RULES) == 8
    assert PAPER in ALL_RULES
    assert EXACT in ALL_RULES


@pytest.mark.parametrize("gradient", ["exakt", None, 3, ""])
def test_unknown_rule(gradient):
    with pytest.raises(ValueError, match="'paper' or 'exact' or a GradientRule"):
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
    norm = np.sqrt(coeff_w**2 + coeff_x**2)

    for rule in ALL_RULES:
        w, x = (
            (coeff_w / norm, coeff_x / norm) if rule.normalized_coefficients else (coeff_w, coeff_x)
        )
        got = label_coefficients(cos, x_norm, m, lambda_, rule)
        np.testing.assert_allclose(got.w, (w + lambda_) / (1 + lambda_), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(got.x, x / (1 + lambda_), rtol=1e-9, atol=1e-9)
        expected = (w + lambda_) / (1 + lambda_) if rule.margin_in_weight else np.ones(200)
        np.testing.assert_allclose(got.weight, expected, rtol=1e-9, atol=1e-9)


def test_single_has_no_margin_under_any_rule():
    cos, x_norm = np.linspace(-1, 1, 5), np.full(5, 2.0)
    for rule in ALL_RULES:
        got = label_coefficients(cos, x_norm, 1, 7.0, rule)
        np.testing.assert_array_equal(got.w, 1)
        np.testing.assert_array_equal(got.x, 0)
        np.testing.assert_array_equal(got.weight, 1)
