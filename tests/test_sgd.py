"""Caffe's SGD against closed forms; tests/test_dumps.py holds it against Caffe's own runs."""

import math

import numpy as np
import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.sgd import SGD, learning_rate


def solver(text):
    return text_format.Parse(text, pb.SolverParameter())


# What the comment above GetLearningRate says of each policy
POLICIES = {
    'lr_policy: "fixed"': lambda i: 0.5,
    'lr_policy: "step" gamma: 0.25 stepsize: 10': lambda i: 0.5 * 0.25 ** (i // 10),
    'lr_policy: "exp" gamma: 0.875': lambda i: 0.5 * 0.875**i,
    'lr_policy: "inv" gamma: 0.125 power: 0.75': lambda i: 0.5 * (1 + 0.125 * i) ** -0.75,
    'lr_policy: "multistep" gamma: 0.25 stepvalue: 3 stepvalue: 20': lambda i: (
        0.5 * 0.25 ** ((i >= 3) + (i >= 20))
    ),
    'lr_policy: "poly" power: 2 max_iter: 50': lambda i: 0.5 * (1 - i / 50) ** 2,
    'lr_policy: "sigmoid" gamma: -0.25 stepsize: 10': lambda i: (
        0.5 / (1 + math.exp(0.25 * (i - 10)))
    ),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("text", POLICIES)
def test_policies(text, dtype):
    param = solver(f"base_lr: 0.5 {text}")
    rates = [learning_rate(param, i, dtype) for i in range(40)]
    assert all(type(rate) is dtype for rate in rates)
    np.testing.assert_allclose(
        rates, [POLICIES[text](i) for i in range(40)], rtol=8 * np.finfo(dtype).eps
    )


def test_multistep_takes_one_step_an_iteration():
    """current_step_ rises by one at most in each call of GetLearningRate."""
    param = solver('base_lr: 1 lr_policy: "multistep" gamma: 0.5 ' + "stepvalue: 2 " * 3)
    assert [float(learning_rate(param, i)) for i in range(6)] == [1, 1, 0.5, 0.25, 0.125, 0.125]


def test_base_lr_is_a_float32_in_double_too():
    assert learning_rate(solver('base_lr: 0.1 lr_policy: "fixed"'), 0, np.float64) == np.float32(
        0.1
    )


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
