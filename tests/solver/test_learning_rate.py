"""The learning rate policies against the formulas that Caffe's comment gives."""

import math

import numpy as np
import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.solver.learning_rate import learning_rate


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


def test_inv_multiplies_in_float_in_double_too():
    """gamma() is a float and iter_ an int: C++ multiplies them as floats."""
    param = solver('base_lr: 1 lr_policy: "inv" gamma: 0.02 power: 1')
    assert learning_rate(param, 7, np.float64) == 1 / (1 + float(np.float32(0.02) * np.float32(7)))
    assert float(np.float32(0.02) * np.float32(7)) != float(np.float32(0.02)) * 7
