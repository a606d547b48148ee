import numpy as np
import pytest

from caffe_margin.maths.gradient import DETACHED, EXACT, PAPER
from caffe_margin.study.descent import Descent, descend
from caffe_margin.study.objective import Objective
from helpers.heads import BOTH, batch, layer_param, loss, numeric_gradient


def walk(m, blob, rule, large):
    x, label, weight = batch(large=large)
    objective = Objective(layer_param(m, large=large), label, iteration=1)
    gradient, exact = (
        getattr(objective.gradients(x, weight, r), f"{blob}_diff") for r in (rule, EXACT)
    )
    return x, label, weight, gradient, descend(objective, x, weight, blob, rule, gradient, exact)


@BOTH
@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", [PAPER, EXACT, DETACHED], ids=lambda rule: rule.name)
def test_loss_along_bottom(m, rule, large):
    x, label, weight, gradient, found = walk(m, "bottom", rule, large)
    unit = -gradient / np.linalg.norm(gradient) * np.linalg.norm(x)
    expected = [loss(x + step * unit, label, weight, m, large=large) for step in found.steps]
    np.testing.assert_allclose(found.loss, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.start, loss(x, label, weight, m, large=large), rtol=1e-12)
    true = numeric_gradient(lambda at: loss(at, label, weight, m, large=large), x)
    np.testing.assert_allclose(found.slope, np.vdot(true, unit), rtol=1e-6)


@BOTH
@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", [PAPER, EXACT, DETACHED], ids=lambda rule: rule.name)
def test_loss_along_weight(m, rule, large):
    x, label, weight, gradient, found = walk(m, "weight", rule, large)
    unit = -gradient / np.linalg.norm(gradient) * np.linalg.norm(weight)
    expected = [loss(x, label, weight + step * unit, m, large=large) for step in found.steps]
    np.testing.assert_allclose(found.loss, expected, rtol=1e-9, atol=1e-12)
    true = numeric_gradient(lambda at: loss(x, label, at, m, large=large), weight)
    np.testing.assert_allclose(found.slope, np.vdot(true, unit), rtol=1e-6)


@pytest.mark.parametrize("blob", ["bottom", "weight"])
def test_a_gradient_of_zero_goes_nowhere(blob):
    x, weight = np.array([[3.0, 4.0]]), np.array([[0.0, 1.0]])
    objective = Objective(layer_param(4, classes=1), np.array([0]), iteration=1)
    zero = np.zeros((1, 2))
    found = descend(objective, x, weight, blob, PAPER, zero, zero)
    # One class: the softmax is 1.
    np.testing.assert_array_equal(found.loss, 0)
    assert (found.slope, found.gradient_norm, found.lowest) == (0, 0, (0, 0))


@pytest.mark.parametrize(
    ("losses", "lowest", "back"),
    [
        ([4.0, 3.0, 2.0], (3.0, 2.0), None),
        ([4.0, 3.0, 7.0], (2.0, 3.0), 2.5),
        ([6.0, 7.0, 8.0], (0.0, 5.0), 0.0),
        ([5.0, 5.0, 5.0], (0.0, 5.0), 0.0),
    ],
)
def test_where_it_stops(losses, lowest, back):
    found = Descent(PAPER, "bottom", np.array([1.0, 2.0, 3.0]), np.array(losses), 5.0, -1.0, 1.0)
    assert found.lowest == lowest
    assert found.back_at_start == back
