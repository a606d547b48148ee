import numpy as np
import pytest
from heads import batch, layer_param, loss, numeric_gradient, top

from caffe_margin.gradient import EXACT, PAPER
from caffe_margin.measures.gradient_check import check_gradients
from caffe_margin.measures.objective import Gradients, Objective


def checked(m, change=lambda gradients: gradients):
    x, label, weight = batch(M=9)
    objective = Objective(layer_param(m), label, iteration=1)
    gradients = {rule: change(objective.gradients(x, weight, rule)) for rule in (PAPER, EXACT)}
    rng = np.random.default_rng(3)
    return {(c.rule, c.blob): c for c in check_gradients(objective, x, weight, gradients, rng)}


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_exact_passes(m):
    found = checked(m)
    for blob in ("bottom", "weight"):
        assert found[EXACT, blob].passes
        assert found[EXACT, blob].largest < 1e-7


@pytest.mark.parametrize("m", [2, 3, 4])
def test_paper_fails(m):
    found = checked(m)
    for blob in ("bottom", "weight"):
        assert not found[PAPER, blob].passes
        assert found[PAPER, blob].largest > 0.01


def test_single_fails_by_the_projection_alone():
    found = checked(1)
    assert found[PAPER, "bottom"].passes
    assert not found[PAPER, "weight"].passes


def test_a_gradient_off_by_a_hundredth_fails():
    found = checked(4, lambda g: Gradients(1.01 * g.bottom_diff, 1.01 * g.weight_diff))
    for blob in ("bottom", "weight"):
        assert not found[EXACT, blob].passes


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_objective(m):
    x, label, weight = batch()
    objective = Objective(layer_param(m), label, iteration=1)
    assert objective.m == m
    assert objective.lambda_ == 1.5
    scores = top(x, label, weight, m)
    each = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(x)), label]
    np.testing.assert_allclose(objective.sample_losses(x, weight), each, rtol=1e-12)
    found = objective.gradients(x, weight, EXACT)
    np.testing.assert_allclose(
        found.bottom_diff, numeric_gradient(lambda at: loss(at, label, weight, m), x), atol=1e-8
    )
    np.testing.assert_allclose(
        found.weight_diff, numeric_gradient(lambda at: loss(x, label, at, m), weight), atol=1e-8
    )


def test_loss_has_no_ceiling():
    # Caffe's own is clamped at 87.3365.
    x = np.array([[200.0, 0.0]])
    weight = np.array([[-1.0, 0.0], [1.0, 0.0]])
    objective = Objective(layer_param(1, classes=2), np.array([0]), iteration=1)
    np.testing.assert_allclose(objective.sample_losses(x, weight), [400.0])
