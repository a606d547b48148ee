"""Held against loops over every element."""

import itertools

import numpy as np
import pytest

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.prototxt import parse_text
from helpers.layer_net import layer_net, run


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2), (3, 4, 2, 5)])
def test_is_the_loop(shape, shared):
    text = f"type: 'PReLU' prelu_param {{ channel_shared: {str(shared).lower()} }}"
    net = layer_net(text, (1, *shape[1:]))
    slope = net.layer.slope.detach().numpy()
    assert slope.shape == (() if shared else (4,))
    x = np.random.default_rng(2).normal(size=shape).round()  # with zeros
    assert (x == 0).any()
    (y,), (x_diff,), (y_diff,) = run(net, x)
    slope_diff = np.zeros_like(slope)
    for i in itertools.product(*map(range, shape)):
        c = () if shared else i[1]
        above = x[i] > 0
        assert y[i] == (x[i] if above else slope[c] * x[i])
        assert x_diff[i] == y_diff[i] * (1 if above else slope[c])
        slope_diff[c] += 0 if above else y_diff[i] * x[i]
    np.testing.assert_allclose(net.layer.slope.grad, slope_diff, rtol=1e-13)


def test_fills_a_quarter():
    text = """
    layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: [1, 3] } } }
    layer { name: 'a' type: 'PReLU' bottom: 'x' top: 'x' }
    layer { name: 'b' type: 'PReLU' bottom: 'x' top: 'x' prelu_param { filler { value: 2 } } }
    """
    net = cmt.Net(parse_text(text, pb.NetParameter()))
    assert net.a.slope.tolist() == [0.25] * 3
    assert net.b.slope.tolist() == [2] * 3
