import numpy as np
import pytest

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.study.head import Batch
from caffe_margin.study.training import MODIFIED_SOFTMAX, SOFTMAX, train
from helpers.heads import LAMBDA, batch, layer_param, loss, numeric_gradient, top

SOLVER = pb.SolverParameter(base_lr=0.5, lr_policy="fixed", momentum=0.9, weight_decay=0.01)
LR, MOMENTUM, DECAY = (float(np.float32(value)) for value in (0.5, 0.9, 0.01))
ITERATIONS = 4


def softmax_gradient(scores, label):
    prob = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return (prob - np.eye(scores.shape[1])[label]) / len(label)


def unit(weight):
    return weight / np.linalg.norm(weight, axis=1, keepdims=True)


def plain_loss(x, label, weight):
    scores = x @ weight.T
    return np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(x)), label])


def by_hand(name, m, large=False):
    """Train on the whole batch at once; return the loss before and after every update."""
    x, label, weight = batch(large=large)
    momentum = np.zeros_like(weight)

    def loss_now():
        if name == SOFTMAX:
            return plain_loss(x, label, weight)
        return loss(x, label, weight, 1 if name == MODIFIED_SOFTMAX else m, large=large)

    losses = [loss_now()]
    for _ in range(ITERATIONS):
        if name == "exact":
            gradient = numeric_gradient(lambda at: loss(x, label, at, m, large=large), weight)
        elif name == SOFTMAX:
            gradient = softmax_gradient(x @ weight.T, label).T @ x
        else:
            weight = weight if large else unit(weight)
            its_m = 1 if name == MODIFIED_SOFTMAX else m
            gradient = softmax_gradient(top(x, label, weight, its_m, large=large), label).T @ x
        momentum = MOMENTUM * momentum + LR * (gradient + DECAY * weight)
        weight = weight - momentum
        losses.append(loss_now())
    return losses, weight


def trained(large=False):
    of_layer = Batch(layer_param(3, large=large), 1, *batch(large=large))
    return train(of_layer, ITERATIONS, 100, SOLVER, seed=0)


@pytest.fixture(scope="module")
def training():
    return trained()


@pytest.mark.parametrize("name", ["exact", "paper", MODIFIED_SOFTMAX, SOFTMAX])
def test_against_a_loop_by_hand(training, name):
    (run,) = (run for run in training.runs if run.name == name)
    losses, weight = by_hand(name, 3)
    np.testing.assert_allclose(run.loss, losses, rtol=1e-5)

    x, label, _ = batch()
    angles = np.arccos(x @ unit(weight).T / np.linalg.norm(x, axis=1)[:, None])
    own = angles[np.arange(len(x)), label]
    angles[np.arange(len(x)), label] = np.inf
    np.testing.assert_allclose(run.own_angle[-1], own.mean(), rtol=1e-5)
    np.testing.assert_allclose(run.other_angle[-1], angles.min(axis=1).mean(), rtol=1e-5)
    scores = x @ (weight if name == SOFTMAX else unit(weight)).T
    assert run.accuracy[-1] == np.mean(scores.argmax(axis=1) == label)
    length = np.linalg.norm(weight, axis=1).mean()
    np.testing.assert_allclose(run.weight_length[-1], length, rtol=1e-5)


@pytest.mark.parametrize("name", ["exact", "paper", SOFTMAX])
def test_l_softmax_against_a_loop_by_hand(name):
    """From the weight as it is; its lengths count in the accuracy too."""
    (run,) = (run for run in trained(large=True).runs if run.name == name)
    losses, weight = by_hand(name, 3, large=True)
    np.testing.assert_allclose(run.loss, losses, rtol=1e-5)
    x, label, start = batch(large=True)
    lengths = [np.linalg.norm(rows, axis=1).mean() for rows in (start, weight)]
    np.testing.assert_allclose(run.weight_length[[0, -1]], lengths, rtol=1e-5)
    assert run.accuracy[0] == np.mean((x @ start.T).argmax(axis=1) == label)
    assert run.accuracy[0] != np.mean((x @ unit(start).T).argmax(axis=1) == label)


def test_runs_of_l_softmax():
    """It has no modified softmax: without a margin it is the plain one."""
    assert [run.name for run in trained(large=True).runs] == [
        "exact",
        "paper",
        "normalized coefficients",
        "detached in weight",
        "no projection",
        SOFTMAX,
    ]


def test_what_the_runs_share(training):
    assert [run.name for run in training.runs] == [
        "exact",
        "paper",
        "normalized coefficients",
        "detached in weight",
        "no projection",
        MODIFIED_SOFTMAX,
        SOFTMAX,
    ]
    assert training.batch == 6
    assert training.lambdas == (LAMBDA, LAMBDA)
    for run in training.runs:
        np.testing.assert_array_equal(run.iterations, range(ITERATIONS + 1))
        assert run.accuracy[0] == training.runs[0].accuracy[0]
        assert run.own_angle[0] == pytest.approx(training.runs[0].own_angle[0])


def test_lambda_falls_on():
    x, label, weight = batch()
    param = layer_param(4)
    param.margin_inner_product_param.base = 100
    param.margin_inner_product_param.gamma = 1
    param.margin_inner_product_param.power = 1
    found = train(Batch(param, 9, x, label, weight), 10, 4, SOLVER, seed=0)
    np.testing.assert_allclose(found.lambdas, [100 / 10, 100 / 20], rtol=1e-6)
    scores = top(x, label, weight, 4, lambda_=10.0)
    first = np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(x)), label])
    np.testing.assert_allclose(found.runs[0].loss[0], first, rtol=1e-6)


@pytest.mark.parametrize("lr", [1e30, 3e38])
def test_a_rate_that_diverges_is_named(lr):
    x, label, weight = (part.astype(kind) for part, kind in zip(batch(), "fif", strict=True))
    solver = pb.SolverParameter(base_lr=lr, lr_policy="fixed", momentum=0.9)
    with pytest.raises(ValueError, match=r"'exact' diverged at iteration 1: .*--lr"):
        train(Batch(layer_param(3), 1, x, label, weight), ITERATIONS, 100, solver, seed=0)


def test_batches_take_every_sample_before_any_comes_again():
    from caffe_margin.study.training import _samples

    batches = _samples(10, 4, np.random.default_rng(0))
    drawn = np.concatenate([next(batches) for _ in range(5)])
    np.testing.assert_array_equal(np.sort(drawn[:10]), range(10))
    np.testing.assert_array_equal(np.sort(drawn[10:]), range(10))
