"""Caffe's SGD against closed forms; tests/recordings holds it against Caffe's own runs."""

import numpy as np
import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.solver.sgd import SGD


def solver(text):
    return text_format.Parse(text, pb.SolverParameter())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('lr_policy: "plateau"', "'plateau' is not known; the policies are fixed, step"),
        ("", "lr_policy '' is not known"),
        ('lr_policy: "step" gamma: 0.1', "positive stepsize, not 0"),
        ('lr_policy: "sigmoid" gamma: 0.1', "positive stepsize, not 0"),
        ('lr_policy: "exp" gamma: -0.1', "gamma of 0 or more, not -0.1"),
        ('lr_policy: "exp" gamma: nan', "gamma of 0 or more, not nan"),
        ('lr_policy: "poly"', "positive max_iter, not 0"),
        ('lr_policy: "fixed" type: "Adam"', "'Adam', not 'SGD'"),
        ('lr_policy: "fixed" regularization_type: "L3"', "'L3' is not known"),
        ('lr_policy: "fixed" iter_size: 0', "iter_size must be positive"),
    ],
)
def test_bad_solver(text, message):
    with pytest.raises(ValueError, match=message):
        SGD(solver(f"base_lr: 1 {text}"))


def steps(text, diffs, start=1.0, specs=()):
    sgd = SGD(solver(f'base_lr: 0.5 lr_policy: "fixed" {text}'))
    param, seen = np.array([start]), []
    for diff in diffs:
        sgd.step([param], [np.array([float(diff)])], specs)
        seen.append(float(param[0]))
    assert sgd.iteration == len(diffs)
    return seen


def test_plain_descent():
    assert steps("", [1, 2, 0]) == [0.5, -0.5, -0.5]


def test_momentum():
    # v = 0.5 g + 0.5 v: 0.5, 1.25, 0.625
    assert steps("momentum: 0.5", [1, 2, 0]) == [0.5, -0.75, -1.375]


def test_weight_decay():
    # g = 0 + 0.25 w: w loses an eighth each time
    assert steps("weight_decay: 0.25", [0, 0]) == [0.875, 0.765625]
    assert steps('weight_decay: 0.25 regularization_type: "L1"', [0, 0], -1.0) == [-0.875, -0.75]


def test_multipliers():
    spec = pb.ParamSpec(lr_mult=2, decay_mult=4)
    assert steps("", [1], specs=[spec]) == [0]
    assert steps("weight_decay: 0.25", [0], specs=[spec]) == [0]
    assert steps("momentum: 0.5", [1, 1], specs=[pb.ParamSpec(lr_mult=0)]) == [1, 1]


def test_iter_size_and_clipping():
    assert steps("iter_size: 4", [2]) == [0.75]
    # 3 and 4 have a joint length of 5; Caffe clips the sum over iter_size, then divides it
    sgd = SGD(solver('base_lr: 1 lr_policy: "fixed" clip_gradients: 2.5 iter_size: 2'))
    params, diffs = [np.zeros(1), np.zeros(1)], [np.array([3.0]), np.array([4.0])]
    sgd.step(params, diffs)
    assert [float(param[0]) for param in params] == [-0.75, -1]
    # and the gradients are the caller's
    assert [float(diff[0]) for diff in diffs] == [3, 4]
    assert steps("clip_gradients: 2.5", [1]) == [0.5]


@pytest.mark.parametrize("diff", [np.zeros(2), np.zeros(3, np.float32)])
def test_bad_gradient_changes_nothing(diff):
    sgd = SGD(solver('base_lr: 1 lr_policy: "fixed"'))
    param = np.ones(3)
    with pytest.raises(ValueError, match=r"parameter 0 is \(3,\) float64, but its gradient is"):
        sgd.step([param], [diff])
    assert sgd.iteration == 0
    assert not sgd.history
    np.testing.assert_array_equal(param, 1)


def test_float32_stays_float32():
    sgd = SGD(solver('base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 weight_decay: 5e-4'))
    param = np.ones((2, 3), np.float32)
    rate = sgd.step([param], [np.ones((2, 3), np.float32)])
    assert rate.dtype == param.dtype == sgd.history[0].dtype == np.float32
