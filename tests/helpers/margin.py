"""Batches for the layers with a margin, and central differences of a layer's output."""

import numpy as np

from helpers.psi import psi, slope


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


def check_rule(layer, score_length):
    """Hold a rule to differences of a forward in which what it detaches is held constant.

    The label's columns alone, at lambda 0.5. Coefficients that a rule divides by their own norm are
    read off the differences; what has no projection is in closed form.

    Args:
        layer: of five classes, with a base of 0.5.
        score_length: what multiplies psi, of x and the samples' own rows of the weight.
    """
    x, _, weight, _ = make_batch(M=5, N=5)
    label, lambda_, m, rule = np.arange(5), 0.5, layer.m, layer.gradient
    g = np.array([[1.0], [-2.0], [0.5], [3.0], [-1.0]])
    layer.weight = weight
    top = layer.forward(x, label)
    bottom_diff = layer.backward(np.diag(g[:, 0]))

    def cosine(x, own):
        return (x * own).sum(axis=1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(own, axis=1))

    def plain(x, own):
        return score_length(x, own) * cosine(x, own)

    theta = np.arccos(cosine(x, weight))
    held = psi(theta, m) - np.cos(theta)

    def with_margin(x, own, detached):
        c = cosine(x, own)
        return score_length(x, own) * (c + held if detached else psi(np.arccos(c), m))

    def differences(of, at, scores, *more):
        gradient = np.empty_like(at)
        for k in range(at.shape[1]):
            step = np.zeros_like(at)
            step[:, k] = 1e-6 * np.linalg.norm(at, axis=1)
            ends = [(end, weight) if of == "x" else (x, end) for end in (at + step, at - step)]
            up, down = (scores(*end, *more) for end in ends)
            gradient[:, k] = (up - down) / (2 * step[:, k])
        return gradient

    def coeff_norm(detached):
        """By the coefficients of w_y, of unit length in A-Softmax, and of x."""
        toward = differences("x", x, with_margin, detached)
        if not rule.normalized_coefficients:
            return np.ones((5, 1))
        unit = np.linalg.norm(weight, axis=1) if layer.type == "MarginInnerProduct" else np.ones(5)
        pairs = np.stack([weight / unit[:, None], x], axis=2)
        found = [
            np.linalg.lstsq(pair, to, rcond=None)[0] for pair, to in zip(pairs, toward, strict=True)
        ]
        return np.linalg.norm(found, axis=1, keepdims=True)

    def mixed(of, at, detached, norm):
        margin = differences(of, at, with_margin, detached) / norm
        return g * (margin + lambda_ * differences(of, at, plain)) / (1 + lambda_)

    expected = (with_margin(x, weight, False) + lambda_ * plain(x, weight)) / (1 + lambda_)
    np.testing.assert_allclose(top[label, label], expected, rtol=1e-8)
    expected = mixed("x", x, rule.detached_in_bottom, coeff_norm(rule.detached_in_bottom))
    np.testing.assert_allclose(bottom_diff, expected, rtol=1e-6, atol=1e-6)
    # Detached in weight is the plain weight's, whatever is normalised.
    norm = 1 if rule.detached_in_weight else coeff_norm(False)
    expected = mixed("weight", weight, rule.detached_in_weight, norm)
    if rule.no_projection:
        # What it leaves out is along w_y, and what it keeps along x.
        up = 1.0 if rule.detached_in_weight else slope(theta, m)[:, None] / norm
        expected = g * (up + lambda_) / (1 + lambda_) * x
    np.testing.assert_allclose(layer.blobs[0].diff, expected, rtol=1e-6, atol=1e-6)
