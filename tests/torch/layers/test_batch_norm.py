"""Held against the C++, written down in numpy."""

import numpy as np
import pytest
import torch

import caffe_margin.torch as cmt
from helpers.layer_net import layer_net, run

SHAPES = [(5, 3), (2, 3, 4), (4, 3, 2, 5), (2, 3, 2, 1, 3)]


def batch_norm_net(param="", shape=(2, 3), phase="TRAIN"):
    net = layer_net(f"type: 'BatchNorm' batch_norm_param {{ {param} }}", shape, phase=phase)
    with torch.no_grad():
        net.layer.variance.abs_()
        net.layer.factor.fill_(2.5)
    return net


def statistics(net):
    return [blob.numpy().copy() for blob in net.layer.blobs]


def along(values, shape):
    return values.reshape(1, -1, *(1,) * (len(shape) - 2))


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("shape", SHAPES)
def test_by_the_batch(shape, phase):
    param = "eps: 0.01 moving_average_fraction: 0.75" + " use_global_stats: false"
    net = batch_norm_net(param, (9, *shape[1:]), phase)
    x = np.random.default_rng(3).normal(1, 2, size=shape)
    dims = (0, *range(2, len(shape)))
    m = x.size // 3
    mean, variance, factor = statistics(net)
    for _ in range(2):
        mean = 0.75 * mean + x.mean(dims)
        variance = 0.75 * variance + ((x - along(x.mean(dims), shape)) ** 2).sum(dims) / (m - 1)
        factor = 0.75 * factor + 1
    run(net, x)
    (y,), (x_diff,), (g,) = run(net, x)
    std = np.sqrt(x.var(dims, keepdims=True) + np.float32(0.01))
    expected = (x - x.mean(dims, keepdims=True)) / std
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-13)
    diff = g - g.mean(dims, keepdims=True) - y * (g * y).mean(dims, keepdims=True)
    np.testing.assert_allclose(x_diff, diff / std, rtol=0, atol=1e-13)
    for got, want in zip(statistics(net), (mean, variance, factor), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13)


@pytest.mark.parametrize(("phase", "param"), [("TRAIN", "use_global_stats: true"), ("TEST", "")])
@pytest.mark.parametrize("shape", SHAPES)
def test_by_what_is_stored(shape, phase, param):
    net = batch_norm_net(param, (9, *shape[1:]), phase)
    before = statistics(net)
    mean, variance, _ = (along(blob / 2.5, shape) for blob in before)
    x = np.random.default_rng(3).normal(1, 2, size=shape)
    (y,), (x_diff,), (g,) = run(net, x)
    std = np.sqrt(variance + np.float32(1e-5))
    np.testing.assert_allclose(y, (x - mean) / std, rtol=0, atol=1e-12)
    np.testing.assert_allclose(x_diff, g / std, rtol=1e-13)
    assert all(map(np.array_equal, before, statistics(net)))


def test_before_any_training():
    net = batch_norm_net("eps: 0.25", phase="TEST")
    with torch.no_grad():
        net.layer.factor.zero_()
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(run(net, x)[0][0], x / 0.5, rtol=1e-15)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value(shape):
    net = batch_norm_net("moving_average_fraction: 0.5", shape)
    mean, variance, factor = statistics(net)
    x = np.array([3.1e7, -2, 0.1]).reshape(shape)
    (y,), (x_diff,), _ = run(net, x)
    assert not y.any()
    assert not x_diff.any()
    after = statistics(net)
    np.testing.assert_allclose(after[0], mean / 2 + x.ravel(), rtol=1e-15)
    np.testing.assert_allclose(after[1], variance / 2, rtol=1e-15)
    assert after[2] == factor / 2 + 1


def test_a_bottom_that_is_refused_changes_nothing():
    net = batch_norm_net()
    before = statistics(net)
    with pytest.raises(ValueError, match="layer 'layer', with bottoms"):
        net(x0=torch.ones(2, 4, dtype=torch.float64))
    assert all(map(np.array_equal, before, statistics(net)))


def test_the_statistics_are_not_learned():
    net = batch_norm_net()
    assert not list(net.parameters())
    assert list(net.state_dict()) == ["layer.mean", "layer.variance", "layer.factor"]
    assert [blob.tolist() for blob in cmt.Net(net.param).layer.blobs] == [[0] * 3, [0] * 3, [0]]
    with pytest.raises(ValueError, match=r"layer 'layer' \(BatchNorm\): lr_mult must be 0"):
        layer_net("type: 'BatchNorm' param { decay_mult: 0 }", (2, 3))
    layer_net("type: 'BatchNorm' param { lr_mult: 0 } param { lr_mult: 0 }", (2, 3))
