import numpy as np
import pytest

from caffe_margin.maths.gradient import DETACHED, EXACT, PAPER
from caffe_margin.nets.margin import margin_param
from caffe_margin.study.gradient_check import FLOOR, check_gradients
from caffe_margin.study.head import Gradients
from caffe_margin.study.objective import Objective
from helpers.heads import BOTH, LAMBDA, batch, layer_param, loss, numeric_gradient, top

RULES = (PAPER, EXACT, DETACHED)


def checked(m, change=lambda gradients: gradients, data=None, base=LAMBDA, large=False):
    x, label, weight = data or batch(M=9, large=large)
    param = layer_param(m, len(weight), large)
    margin_param(param).base = base
    objective = Objective(param, label, iteration=1)
    gradients = {rule: change(objective.gradients(x, weight, rule)) for rule in RULES}
    rng = np.random.default_rng(3)
    return {(c.rule, c.blob): c for c in check_gradients(objective, x, weight, gradients, rng)}


@BOTH
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_exact_passes(m, large):
    found = checked(m, large=large)
    for blob in ("bottom", "weight"):
        assert found[EXACT, blob].passes
        assert found[EXACT, blob].largest < 1e-7


@pytest.mark.parametrize("base", [0.0, 1e-4])
def test_exact_passes_where_pieces_of_psi_meet(base):
    # At 90 degrees, on top of another class; the weight's gradient is zero but for lambda's share.
    label = np.arange(20) % 5
    x = np.zeros((20, 5))
    x[np.arange(20), (label + 1) % 5] = 7
    found = checked(4, data=(x, label, np.eye(5)), base=base)
    for blob in ("bottom", "weight"):
        assert found[EXACT, blob].passes
    # d loss / d x is w_other + 3 x/|x|: of length 4.
    assert 1 < found[EXACT, "bottom"].scale < 4


@pytest.mark.parametrize("m", [1, 4])
def test_exact_passes_where_the_gradient_is_zero(m):
    label = np.arange(10) % 5
    found = checked(m, data=(1000 * np.eye(5)[label], label, np.eye(5)), base=0.0)
    for rule in (PAPER, EXACT):
        assert found[rule, "bottom"].passes
        assert found[rule, "weight"].passes
        np.testing.assert_array_equal(found[rule, "bottom"].claimed, 0)


@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("m", [1, 4])
def test_the_verdict_does_not_hang_on_the_length_of_the_weight(m, size):
    x, label, weight = batch(M=9, large=True)
    found = checked(m, data=(x / size, label, size * weight), large=True)
    for blob in ("bottom", "weight"):
        assert found[EXACT, blob].passes
        assert found[PAPER, blob].passes == (m == 1)
    # A step is taken over the length of the row, and a scale in its units.
    expected = checked(m, data=(x, label, weight), large=True)[EXACT, "weight"].scale
    assert found[EXACT, "weight"].scale == pytest.approx(expected / size)
    own_length = size * np.linalg.norm(weight[label], axis=1).mean()
    assert found[EXACT, "bottom"].floor == pytest.approx(FLOOR * own_length)


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize("m", [1, 4])
def test_the_verdict_does_not_hang_on_the_length_of_the_features(m, size):
    x, label, weight = batch(M=9)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = checked(m, data=(size * x, label, weight))
    for blob in ("bottom", "weight"):
        assert found[EXACT, blob].passes
    assert not found[PAPER, "weight"].passes


@BOTH
@pytest.mark.parametrize("m", [2, 3, 4])
def test_paper_and_detached_fail(m, large):
    found = checked(m, large=large)
    for rule in (PAPER, DETACHED):
        for blob in ("bottom", "weight"):
            assert not found[rule, blob].passes
            assert found[rule, blob].largest > 0.01


def test_single_fails_by_the_projection_alone():
    found = checked(1)
    assert found[PAPER, "bottom"].passes
    assert not found[PAPER, "weight"].passes
    # L-Softmax has none: without a margin every rule of it is the exact one.
    assert all(check.passes for check in checked(1, large=True).values())


def test_a_gradient_off_by_a_hundredth_fails():
    found = checked(4, lambda g: Gradients(g.loss, 1.01 * g.bottom_diff, 1.01 * g.weight_diff))
    for blob in ("bottom", "weight"):
        assert not found[EXACT, blob].passes


@BOTH
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_objective(m, large):
    x, label, weight = batch(large=large)
    objective = Objective(layer_param(m, large=large), label, iteration=1)
    assert objective.m == m
    assert objective.lambda_ == 1.5
    scores = top(x, label, weight, m, large=large)
    there, w_there = x + 0.3, weight[:, ::-1].copy()
    each, each_there = (
        np.log(np.exp(s).sum(axis=1)) - s[np.arange(len(x)), label]
        for s in (scores, top(there, label, w_there, m, large=large))
    )
    change = objective.loss_changes(x, weight)
    np.testing.assert_allclose(change(there, w_there), each_there - each, rtol=1e-12)
    found = objective.gradients(x, weight, EXACT)
    np.testing.assert_allclose(
        found.bottom_diff,
        numeric_gradient(lambda at: loss(at, label, weight, m, large=large), x),
        atol=1e-8,
    )
    np.testing.assert_allclose(
        found.weight_diff,
        numeric_gradient(lambda at: loss(x, label, at, m, large=large), weight),
        atol=1e-8,
    )


def test_loss_has_no_ceiling():
    # Caffe's own is clamped at 87.3365.
    x = np.array([[200.0, 0.0]])
    weight = np.array([[-1.0, 0.0], [1.0, 0.0]])
    objective = Objective(layer_param(1, classes=2), np.array([0]), iteration=1)
    change = objective.loss_changes(x, weight)
    np.testing.assert_allclose(change(1.5 * x, weight), [200.0])


def test_small_changes_of_the_loss_keep_their_digits():
    # At x = 0 of two opposite classes d loss / d x is -w.
    x, weight = np.array([[1e-12, 0.0]]), np.array([[1.0, 0.0], [-1.0, 0.0]])
    change = Objective(layer_param(1, classes=2), np.array([0]), 1).loss_changes(x, weight)
    np.testing.assert_allclose(change(2 * x, weight), [-1e-12], rtol=1e-9)
