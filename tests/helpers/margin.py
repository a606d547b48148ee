"""Batches for the layers with a margin, and central differences of a layer's output."""

import numpy as np


def make_batch(M=6, N=5, K=4, dtype=np.float64, seed=0):
    """Features, labels, a weight of uneven norms and a top diff."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(M, K)).astype(dtype)
    label = rng.integers(N, size=M)
    weight = (rng.normal(size=(N, K)) * rng.uniform(0.1, 10, size=(N, 1))).astype(dtype)
    top_diff = rng.normal(size=(M, N)).astype(dtype)
    return x, label, weight, top_diff


def differences(layer_of, x, label, weight, top_diff, step=3e-8):
    """Central differences of sum(top_diff * top) in every element of x and of the weight.

    A sample's row of the output depends on its own row of x alone, and a class's column on its own
    row of the weight, so one pair of forwards serves a whole column of either.
    """

    def objective(x, weight, axis):
        layer = layer_of()
        layer.weight = weight
        return (top_diff * layer.forward(x, label)).sum(axis)

    def columns(array, axis, at):
        gradient = np.empty_like(array)
        for k in range(array.shape[1]):
            h = np.zeros_like(array)
            h[:, k] = step * np.linalg.norm(array, axis=1)
            difference = at(array + h, axis) - at(array - h, axis)
            gradient[:, k] = difference / (2 * h[:, k])
        return gradient

    return (
        columns(x, 1, lambda moved, axis: objective(moved, weight, axis)),
        columns(weight, 0, lambda moved, axis: objective(x, moved, axis)),
    )


def angles_across_every_kink(m, K=6, N=7, seed=3):
    """Samples at, just beside and between the kinks of psi_m about their own class."""
    rng = np.random.default_rng(seed)
    kinks = np.arange(1, m) * np.pi / m
    theta = np.concatenate([np.linspace(0.05, np.pi - 0.05, 24), kinks, kinks - 1e-4, kinks + 1e-4])
    label = rng.integers(N, size=len(theta))
    weight = rng.normal(size=(N, K))
    weight *= (10.0 ** rng.uniform(-2, 3, size=N) / np.linalg.norm(weight, axis=1))[:, None]
    unit = weight[label] / np.linalg.norm(weight[label], axis=1, keepdims=True)
    across = rng.normal(size=(len(theta), K))
    across -= (across * unit).sum(1, keepdims=True) * unit
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    x = np.cos(theta)[:, None] * unit + np.sin(theta)[:, None] * across
    x *= rng.uniform(0.5, 20, size=(len(theta), 1))
    return x, label, weight, rng.normal(size=(len(theta), N))


def relative_error(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)
