"""Held against loops that index the small blob by some of the large one's axes."""

import itertools

import numpy as np
import pytest

import caffe_margin.torch as cmt
from helpers.layer_net import layer_net, run

SHAPE = (4, 3, 2, 5)
# Parameters, the second bottom's shape or None, and the axes that the small blob has.
SPREADS = [
    ("", None, (1,)),
    ("axis: 1 num_axes: 2", None, (1, 2)),
    ("axis: 1 num_axes: -1", None, (1, 2, 3)),
    ("axis: -2", None, (2,)),
    ("axis: 0 num_axes: -1", None, (0, 1, 2, 3)),
    ("num_axes: 0", None, ()),
    ("axis: 3 num_axes: 1", None, (3,)),
    ("axis: 0", (4, 3), (0, 1)),
    ("axis: -3", (3, 2), (1, 2)),
    ("", (), ()),
    ("axis: 0 num_axes: 1", SHAPE, (0, 1, 2, 3)),
]


@pytest.mark.parametrize(("param", "other", "axes"), SPREADS)
@pytest.mark.parametrize("bias_term", [False, True])
def test_scale(param, other, axes, bias_term):
    text = f"type: 'Scale' scale_param {{ {param} bias_term: {str(bias_term).lower()} }}"
    others = [] if other is None else [other]
    batch = SHAPE[0] if 0 in axes else 9
    net = layer_net(text, (batch, *SHAPE[1:]), *others)
    rng = np.random.default_rng(2)
    bottoms = [rng.normal(size=shape) for shape in (SHAPE, *others)]
    (y,), (x_diff, *other_diff), (g,) = run(net, *bottoms)
    x, blobs = bottoms[0], [blob.detach().numpy() for blob in net.layer.blobs]
    factor = bottoms[1] if others else blobs[0]
    bias = blobs[-1] if bias_term else np.zeros_like(factor)
    assert factor.shape == bias.shape == tuple(SHAPE[axis] for axis in axes)
    factor_diff, bias_diff = np.zeros_like(factor), np.zeros_like(bias)
    for i in itertools.product(*map(range, SHAPE)):
        c = tuple(i[axis] for axis in axes)
        assert abs(y[i] - (x[i] * factor[c] + bias[c])) < 1e-14
        assert x_diff[i] == g[i] * factor[c]
        factor_diff[c] += g[i] * x[i]
        bias_diff[c] += g[i]
    got = other_diff[0] if others else net.layer.scale.grad
    np.testing.assert_allclose(got, factor_diff, rtol=0, atol=1e-12)
    if bias_term:
        np.testing.assert_allclose(net.layer.bias.grad, bias_diff, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("param", "other", "axes"), SPREADS)
def test_bias(param, other, axes):
    others = [] if other is None else [other]
    batch = SHAPE[0] if 0 in axes else 9
    net = layer_net(f"type: 'Bias' bias_param {{ {param} }}", (batch, *SHAPE[1:]), *others)
    rng = np.random.default_rng(2)
    bottoms = [rng.normal(size=shape) for shape in (SHAPE, *others)]
    (y,), (x_diff, *other_diff), (g,) = run(net, *bottoms)
    term = bottoms[1] if others else net.layer.bias.detach().numpy()
    term_diff = np.zeros_like(term)
    for i in itertools.product(*map(range, SHAPE)):
        c = tuple(i[axis] for axis in axes)
        assert y[i] == bottoms[0][i] + term[c]
        term_diff[c] += g[i]
    assert (x_diff == g).all()
    got = other_diff[0] if others else net.layer.bias.grad
    np.testing.assert_allclose(got, term_diff, rtol=0, atol=1e-12)


def test_fillers():
    text = "type: 'Scale' scale_param { bias_term: true bias_filler { value: 3 } }"
    assert [b.tolist() for b in cmt.Net(layer_net(text, (2, 2)).param).layer.blobs] == [
        [1, 1],
        [3, 3],
    ]
    text = "type: 'Scale' scale_param { filler { value: 2 } }"
    assert cmt.Net(layer_net(text, (2, 2)).param).layer.scale.tolist() == [2, 2]
    assert cmt.Net(layer_net("type: 'Bias'", (2, 2)).param).layer.bias.tolist() == [0, 0]
