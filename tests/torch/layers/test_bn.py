"""Held against the C++ of wy1iu/LargeMargin_Softmax_Loss, written down in numpy."""

import numpy as np
import pytest
import torch

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.prototxt import parse_text
from helpers.layer_net import layer_net, run

SHAPES = [(5, 3), (4, 3, 2, 5)]


def bn_net(param, shape, phase):
    net = layer_net(f"type: 'BN' bn_param {{ {param} }}", (9, *shape[1:]), phase=phase)
    with torch.no_grad():
        net.layer.inverse_std.abs_()
    return net


def blobs(net, shape):
    ones = (1,) * (len(shape) - 2)
    return [blob.detach().numpy().copy().reshape(1, -1, *ones) for blob in net.layer.blobs]


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(shape, phase):
    net = bn_net("momentum: 0.75 eps: 0.01", shape, phase)
    scale, shift, mean, inverse_std = blobs(net, shape)
    x = np.random.default_rng(3).normal(1, 2, size=shape)
    (y,), (x_diff,), (g,) = run(net, x)
    dims = (0, *range(2, len(shape)))
    if phase == "TRAIN":
        average, mean = mean, x.mean(dims, keepdims=True)
        average_std, inverse_std = (
            inverse_std,
            (x.var(dims, keepdims=True) + np.float32(0.01)) ** -0.5,
        )
        after = blobs(net, shape)
        np.testing.assert_allclose(after[2], 0.75 * average + 0.25 * mean, rtol=1e-12)
        np.testing.assert_allclose(after[3], 0.75 * average_std + 0.25 * inverse_std, rtol=1e-12)
    x_norm = (x - mean) * inverse_std
    np.testing.assert_allclose(y, x_norm * scale + shift, rtol=0, atol=1e-12)
    along_x = (x_norm * g * scale).mean(dims, keepdims=True)
    diff = g * scale - (g * scale).mean(dims, keepdims=True) - x_norm * along_x
    np.testing.assert_allclose(x_diff, diff * inverse_std, rtol=0, atol=1e-12)
    scale_diff = (g * x_norm).sum(dims)[None]
    np.testing.assert_allclose(net.layer.scale.grad, scale_diff, rtol=0, atol=1e-12)
    np.testing.assert_allclose(net.layer.shift.grad, g.sum(dims)[None], rtol=0, atol=1e-12)


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("shape", SHAPES)
def test_frozen(shape, phase):
    net = bn_net("frozen: true", shape, phase)
    before = scale, shift, mean, inverse_std = blobs(net, shape)
    x = np.random.default_rng(3).normal(1, 2, size=shape)
    (y,), (x_diff,), (g,) = run(net, x)
    np.testing.assert_allclose(y, (x - mean) * inverse_std * scale + shift, rtol=0, atol=1e-13)
    np.testing.assert_allclose(x_diff, g * inverse_std * scale, rtol=1e-13)
    assert net.layer.scale.grad is net.layer.shift.grad is None
    assert all(map(np.array_equal, before, blobs(net, shape)))


def test_what_it_starts_from():
    net = cmt.Net(
        bn_net("slope_filler { value: 2 } bias_filler { value: 3 }", (2, 3), "TRAIN").param
    )
    assert [blob.tolist() for blob in net.layer.blobs] == [
        [[2] * 3],
        [[3] * 3],
        [[0] * 3],
        [[1] * 3],
    ]
    assert [name for name, _ in net.named_parameters()] == ["layer.scale", "layer.shift"]


def test_another_forks_is_not_guessed():
    text = """
    layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: [2, 3] } } }
    layer { name: 'a' type: 'BN' bottom: 'x' top: 'y' bn_param { bn_mode: INFERENCE } }
    """
    with pytest.warns(UserWarning, match="bn_mode"):
        param = parse_text(text, pb.NetParameter())
    with pytest.raises(ValueError, match="no shape is certain with the field 'bn_mode'"):
        cmt.Net(param)(x=torch.zeros(2, 3))
