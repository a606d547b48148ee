"""Held against closed forms, at the points where the pieces meet too."""

import math

import numpy as np
import pytest
import torch

from helpers.layer_net import layer_net, run

X = np.array([[-800, -60, -22, -1.5, -1, -0.25, 0], [0.25, 0.5, 1, 1.5, 22, 60, 800]])
MILD = np.clip(X, -3, 3)


def sigmoid(x):
    return np.where(x > 0, 1 / (1 + np.exp(-abs(x))), np.exp(-abs(x)) / (1 + np.exp(-abs(x))))


def swish(beta):
    return (
        lambda x: x * sigmoid(beta * x),
        lambda x: sigmoid(beta * x) * (1 + beta * x * (1 - sigmoid(beta * x))),
    )


NEURONS = {
    # The layer, x, the function, its derivative as Backward_cpu has it.
    "AbsVal": ("type: 'AbsVal'", X, abs, np.sign),
    "BNLL": ("type: 'BNLL'", X, lambda x: np.logaddexp(0, x), sigmoid),
    "Clip": (
        "type: 'Clip' clip_param { min: -1 max: 0.5 }",
        X,
        lambda x: np.clip(x, -1, 0.5),
        lambda x: (x >= -1) & (x <= 0.5),
    ),
    "Clip, crossed": (
        "type: 'Clip' clip_param { min: 2 max: -2 }",
        X,
        lambda x: np.maximum(2, np.minimum(x, -2)),
        np.zeros_like,
    ),
    "ELU": (
        "type: 'ELU' elu_param { alpha: 0.5 }",
        X,
        lambda x: np.where(x > 0, x, 0.5 * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, 0.5 * np.exp(np.minimum(x, 0))),
    ),
    "Exp": ("type: 'Exp'", MILD, np.exp, np.exp),
    "Exp of a base": (
        "type: 'Exp' exp_param { base: 2 scale: 0.5 shift: 3 }",
        MILD,
        lambda x: 2 ** (3 + x / 2),
        lambda x: 2 ** (3 + x / 2) * math.log(2) / 2,
    ),
    "Exp, shifted": (
        "type: 'Exp' exp_param { shift: -2 }",
        MILD,
        lambda x: np.exp(x - 2),
        lambda x: np.exp(x - 2),
    ),
    "Log": ("type: 'Log'", abs(X) + 0.5, np.log, lambda x: 1 / x),
    "Log of a base": (
        "type: 'Log' log_param { base: 0.25 scale: 0.5 shift: 3 }",
        MILD,
        lambda x: np.log(x / 2 + 3) / math.log(0.25),
        lambda x: 0.5 / (x / 2 + 3) / math.log(0.25),
    ),
    "Power": ("type: 'Power'", X, lambda x: x, np.ones_like),
    "Power, fractional": (
        "type: 'Power' power_param { power: 2.5 scale: 0.5 shift: 3 }",
        MILD,
        lambda x: (3 + x / 2) ** 2.5,
        lambda x: 1.25 * (3 + x / 2) ** 1.5,
    ),
    "Power, cubed": (
        "type: 'Power' power_param { power: 3 scale: -2 }",
        MILD,
        lambda x: -8 * x**3,
        lambda x: -24 * x**2,
    ),
    "Power of what is not there": (
        "type: 'Power' power_param { power: 2 scale: 0 shift: 1.5 }",
        np.where(X > 0, np.nan, X),
        lambda x: np.full_like(x, 2.25),
        np.zeros_like,
    ),
    "Power, none": (
        "type: 'Power' power_param { power: 0 shift: -3 }",
        X,
        np.ones_like,
        np.zeros_like,
    ),
    "Power, a pole": (
        "type: 'Power' power_param { power: -1 scale: 0 }",
        X,
        lambda x: np.full_like(x, np.inf),
        np.zeros_like,
    ),
    "ReLU": ("type: 'ReLU'", X, lambda x: np.maximum(x, 0), lambda x: x > 0),
    "ReLU, leaking": (
        "type: 'ReLU' relu_param { negative_slope: 0.25 }",
        X,
        lambda x: np.where(x > 0, x, x / 4),
        lambda x: np.where(x > 0, 1, 0.25),
    ),
    "Sigmoid": ("type: 'Sigmoid'", X, sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
    "Swish": ("type: 'Swish'", X, *swish(1)),
    "Swish, steep": ("type: 'Swish' swish_param { beta: 2 }", X, *swish(2)),
    "TanH": ("type: 'TanH'", X, np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "Threshold": (
        "type: 'Threshold' threshold_param { threshold: 0.5 }",
        X,
        lambda x: x > 0.5,
        None,
    ),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", NEURONS)
def test_is_its_closed_form(case, dtype):
    layer, x, function, derivative = NEURONS[case]
    net = layer_net(layer, (1, 4))  # of another shape
    x = x.astype(dtype)
    if derivative is None:
        y = net(x0=torch.from_numpy(x).requires_grad_())["y0"]
        assert not y.requires_grad
        np.testing.assert_array_equal(y.numpy(), function(x))
        return
    (y,), (x_diff,), (y_diff,) = run(net, x)
    rtol = 1e-13 if dtype == np.float64 else 2e-6
    exact = x.astype(np.float64)
    np.testing.assert_allclose(y, function(exact), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(x_diff, y_diff * derivative(exact), rtol=rtol, atol=rtol)
    assert y.dtype == x_diff.dtype == dtype


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("type: 'Exp' exp_param { base: 0 }", "base must be above 0 and finite, or -1 for e"),
        ("type: 'Exp' exp_param { base: -2 }", "base must be above 0 and finite, or -1 for e"),
        ("type: 'Log' log_param { base: inf }", "base must be above 0 and finite, or -1 for e"),
        ("type: 'Log' log_param { base: 1 }", "base must not be 1"),
        ("type: 'AbsVal' top: 'x0'", "the layer cannot work in place"),
    ],
)
def test_refuses(layer, message):
    with pytest.raises(ValueError, match=f"layer 'layer'.*{message}"):
        layer_net(layer, (1, 4), tops="top" not in layer)
