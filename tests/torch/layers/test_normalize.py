"""Held against the C++ of SSD, written down in numpy, and where it is one the gradient."""

import numpy as np
import pytest
import torch

import caffe_margin.torch as cmt
from helpers.layer_net import layer_net, run


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5, 2)])
def test_is_the_transcription(shape, across, shared):
    net = layer_net(
        f"type: 'Normalize' norm_param {{ across_spatial: {str(across).lower()} "
        f"channel_shared: {str(shared).lower()} eps: 0.5 }}",
        (1, *shape[1:]),
    )
    x = np.random.default_rng(2).normal(size=shape)
    (y,), (x_diff,), (g,) = run(net, x)
    scale = net.layer.scale.detach().numpy()
    if not shared:
        scale = scale.reshape(-1, *(1,) * (len(shape) - 2))
    dims = tuple(range(1, len(shape))) if across else (1,)
    norm = np.sqrt((x**2).sum(dims, keepdims=True) + 0.5)
    np.testing.assert_allclose(y, scale * x / norm, rtol=0, atol=1e-14)
    dot = (x * g).sum(dims, keepdims=True)
    np.testing.assert_allclose(x_diff, scale * (g - x * dot / norm**2) / norm, rtol=0, atol=1e-14)
    summed = None if shared else (0, *range(2, len(shape)))
    np.testing.assert_allclose(net.layer.scale.grad, (g * x / norm).sum(summed), rtol=0, atol=1e-13)


@pytest.mark.parametrize("across", ["true", "false"])
def test_gradient_of_a_shared_scale(across):
    layer = layer_net(
        f"type: 'Normalize' norm_param {{ across_spatial: {across} }}", (1, 4, 2, 3)
    ).layer
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_fills_one():
    text = "type: 'Normalize' norm_param { channel_shared: false }"
    assert cmt.Net(layer_net(text, (1, 2)).param).layer.scale.tolist() == [1, 1]
