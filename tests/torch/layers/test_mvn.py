"""Held against the C++, written down in numpy."""

import numpy as np
import pytest

from helpers.layer_net import layer_net, run


@pytest.mark.parametrize("eps", [1e-9, 0.5])
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 4, 5, 2)])
def test_is_the_transcription(shape, across, eps):
    text = f"type: 'MVN' mvn_param {{ across_channels: {str(across).lower()} eps: {eps} }}"
    net = layer_net(text, (1, *shape[1:]))
    x = np.random.default_rng(2).normal(3, 2, size=shape)
    x[0] = 7  # which has no variance
    (y,), (x_diff,), (g,) = run(net, x)
    assert y.shape == shape + (1,) * (4 - len(shape))
    rows = 3 if across else 12
    x, y, g = (blob.reshape(rows, -1) for blob in (x, y, g))
    std = x.std(axis=1, keepdims=True) + np.float32(eps)
    np.testing.assert_allclose(y, (x - x.mean(axis=1, keepdims=True)) / std, rtol=0, atol=1e-12)
    along = (g * y).mean(axis=1, keepdims=True)
    diff = (g - g.mean(axis=1, keepdims=True) - y * along) / std
    np.testing.assert_allclose(x_diff.reshape(rows, -1), diff, rtol=1e-12, atol=1e-12)


def test_the_mean_only():
    net = layer_net("type: 'MVN' mvn_param { normalize_variance: false }", (1, 2, 3, 4))
    x = np.random.default_rng(2).normal(3, 2, size=(2, 2, 3, 4))
    (y,), (x_diff,), (g,) = run(net, x)
    np.testing.assert_allclose(y, x - x.mean((2, 3), keepdims=True), rtol=0, atol=1e-14)
    np.testing.assert_allclose(x_diff, g - g.mean((2, 3), keepdims=True), rtol=0, atol=1e-14)
