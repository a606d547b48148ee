"""A small batch and its loss, written out in theta for the tests of this folder."""

import numpy as np
import pytest

from caffe_margin import caffe_margin_pb2 as pb
from helpers.psi import psi

TYPES = ("SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE")
LAMBDA = 1.5

BOTH = pytest.mark.parametrize("large", [False, True], ids=["A-Softmax", "L-Softmax"])


def layer_param(m, classes=4, large=False):
    param = {"num_output": classes, "type": TYPES[m - 1], "base": LAMBDA, "gamma": 0}
    if large:
        return pb.LayerParameter(
            name="fc", type="LargeMarginInnerProduct", largemargin_inner_product_param=param
        )
    return pb.LayerParameter(name="fc", type="MarginInnerProduct", margin_inner_product_param=param)


def batch(M=6, N=4, K=5, seed=0, large=False):
    """Features, labels and a weight, whose rows are of unit length unless they are L-Softmax's."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(N, K))
    weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    x = rng.normal(size=(M, K)) * 2
    return x, np.arange(M) % N, weight * rng.uniform(0.2, 3, size=(N, 1)) if large else weight


def top(x, label, weight, m, lambda_=LAMBDA, large=False):
    """The layer's output; psi by its definition in theta."""
    x_norm, weight_norm = (np.linalg.norm(rows, axis=1) for rows in (x, weight))
    if not large:
        weight, weight_norm = weight / weight_norm[:, None], np.ones(len(weight))
    scores = x @ weight.T
    rows = np.arange(len(x))
    length = x_norm * weight_norm[label] + (1e-9 if large else 0)
    c = scores[rows, label] / length
    if m > 1:
        scores[rows, label] = length * (psi(np.arccos(c), m) + lambda_ * c) / (1 + lambda_)
    return scores


def loss(x, label, weight, m, lambda_=LAMBDA, large=False):
    scores = top(x, label, weight, m, lambda_, large)
    own = scores[np.arange(len(x)), label]
    return np.mean(np.log(np.exp(scores).sum(axis=1)) - own)


def numeric_gradient(function, at, h=1e-6):
    gradient = np.empty_like(at)
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = h
        gradient[index] = (function(at + step) - function(at - step)) / (2 * h)
    return gradient
