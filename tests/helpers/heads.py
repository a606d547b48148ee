"""A small batch and its loss, written out in theta for the tests of this folder."""

import numpy as np

from caffe_margin import caffe_margin_pb2 as pb
from helpers.psi import psi

TYPES = ("SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE")
LAMBDA = 1.5


def layer_param(m, classes=4):
    param = pb.MarginInnerProductParameter(
        num_output=classes, type=TYPES[m - 1], base=LAMBDA, gamma=0, lambda_min=0
    )
    return pb.LayerParameter(name="fc", type="MarginInnerProduct", margin_inner_product_param=param)


def batch(M=6, N=4, K=5, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(N, K))
    weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    return rng.normal(size=(M, K)) * 2, np.arange(M) % N, weight


def top(x, label, weight, m, lambda_=LAMBDA):
    """The layer's output; psi by its definition in theta."""
    length = np.linalg.norm(x, axis=1)
    cosine = x @ weight.T / length[:, None] / np.linalg.norm(weight, axis=1)
    scores = length[:, None] * cosine
    rows = np.arange(len(x))
    c = cosine[rows, label]
    if m > 1:
        scores[rows, label] = length * (psi(np.arccos(c), m) + lambda_ * c) / (1 + lambda_)
    return scores


def loss(x, label, weight, m, lambda_=LAMBDA):
    scores = top(x, label, weight, m, lambda_)
    own = scores[np.arange(len(x)), label]
    return np.mean(np.log(np.exp(scores).sum(axis=1)) - own)


def numeric_gradient(function, at, h=1e-6):
    gradient = np.empty_like(at)
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = h
        gradient[index] = (function(at + step) - function(at - step)) / (2 * h)
    return gradient
