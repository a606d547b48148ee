"""Softmax, and the forms in which every neuron and normalization comes."""

import operator

import numpy as np
import pytest
import torch

from helpers import layer_net as nets
from helpers.layer_net import run

LAYERS = [
    *("type: 'AbsVal'", "type: 'BNLL'", "type: 'Dropout'", "type: 'ELU'", "type: 'Exp'"),
    *("type: 'Power' power_param { power: 2 }", "type: 'Power' power_param { scale: 0 shift: 2 }"),
    *("type: 'ReLU'", "type: 'Sigmoid'", "type: 'Swish'", "type: 'TanH'", "type: 'Threshold'"),
    *("type: 'PReLU'", "type: 'PReLU' prelu_param { channel_shared: true }"),
    "type: 'Log' log_param { shift: 9 }",
    "type: 'Clip' clip_param { min: -1 max: 1 }",
    "type: 'Scale' scale_param { bias_term: true }",
    "type: 'Scale' scale_param { axis: 1 num_axes: -1 }",
    "type: 'Bias'",
    *("type: 'BatchNorm'", "type: 'BN'", "type: 'BN' bn_param { frozen: true }"),
    *("type: 'MVN'", "type: 'MVN' mvn_param { normalize_variance: false across_channels: true }"),
    *("type: 'Normalize' norm_param { }", "type: 'Softmax'"),
    "type: 'Normalize' norm_param { across_spatial: false channel_shared: false }",
]
SHAPE = (3, 4, 2, 5)


def layer_net(*args, **options):
    """Return a net of one layer, whose variances are positive."""
    net = nets.layer_net(*args, **options)
    with torch.no_grad():
        for blob in net.layer.blobs:
            blob.abs_()
    return net


@pytest.mark.parametrize(("axis", "shape"), [(1, (3, 4)), (-1, (2, 3, 4)), (0, SHAPE), (2, SHAPE)])
def test_softmax(axis, shape):
    net = layer_net(f"type: 'Softmax' softmax_param {{ axis: {axis} }}", (3, *shape[1:]))
    x = np.random.default_rng(0).normal(0, 400, size=shape)
    (y,), (x_diff,), (g,) = run(net, x)
    e = np.exp(x - x.max(axis, keepdims=True))
    p = e / e.sum(axis, keepdims=True)
    np.testing.assert_allclose(y, p, rtol=1e-12)
    np.testing.assert_allclose(x_diff, p * (g - (g * p).sum(axis, keepdims=True)), atol=1e-14)


@pytest.mark.parametrize("layer", LAYERS)
def test_channels_last(layer):
    net = layer_net(layer, (1, *SHAPE[1:]))
    x = torch.randn(SHAPE, dtype=torch.float64)
    (y,), (x_diff,), _ = run(net, x) if "Threshold" not in layer else ([net(x0=x)["y0"]], [0], 0)
    last = x.contiguous(memory_format=torch.channels_last)
    if "Threshold" in layer:
        assert torch.equal(net(x0=last)["y0"], y)
        return
    (y_last,), (x_diff_last,), _ = run(net, last)
    np.testing.assert_allclose(y_last, y, rtol=0, atol=1e-13)
    np.testing.assert_allclose(x_diff_last, x_diff, rtol=0, atol=1e-13)


# PyTorch's own warning, of how it traces a Function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("layer", LAYERS)
def test_compiles_without_a_break(layer, phase):
    net = layer_net(layer, (1, *SHAPE[1:]), phase=phase)
    copy = layer_net(layer, (1, *SHAPE[1:]), phase=phase)
    x = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(net.layer, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    y = compiled(x)
    torch.manual_seed(0)
    expected = copy.layer(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-13)
    for blob, other in zip(net.layer.blobs, copy.layer.blobs, strict=True):
        torch.testing.assert_close(blob, other, rtol=0, atol=1e-13)
    if "Threshold" not in layer:
        g = torch.randn_like(y)
        (got,), (want,) = (torch.autograd.grad(top, x, g) for top in (y, expected))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("layer", LAYERS)
def test_exports(layer):
    net = layer_net(layer, (1, *SHAPE[1:]))
    batch = torch.export.Dim("batch", min=2)
    x = torch.randn(SHAPE, dtype=torch.float64)
    program = torch.export.export(net.layer, (x,), dynamic_shapes=({0: batch},))
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    ours = [call for call in calls if not isinstance(call, torch._ops.OpOverload)]
    assert set(ours) <= {operator.getitem}
    other = torch.randn(7, *SHAPE[1:], dtype=torch.float64)
    torch.testing.assert_close(program.module()(other), net.layer(other), rtol=0, atol=1e-13)


@pytest.mark.parametrize("layer", LAYERS)
def test_single_precision(layer):
    phase = "TEST" if "Dropout" in layer else "TRAIN"
    net = layer_net(layer, (1, *SHAPE[1:]), phase=phase, dtype=torch.float32)
    y = net(x0=torch.randn(SHAPE))["y0"]
    assert y.dtype == torch.float32
