"""Inner products and embeddings where their recordings do not look."""

import numpy as np
import pytest
import torch

from helpers.one_layer import one_layer

FILLERS = 'weight_filler { type: "gaussian" } bias_filler { type: "gaussian" }'


@pytest.mark.parametrize("transpose", ["false", "true"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -4])
def test_inner_product_of_any_axis(axis, transpose):
    shape = (3, 2, 4, 5)
    text = f'type: "InnerProduct" inner_product_param {{ axis: {axis} num_output: 6 '
    net = one_layer(f"{text} transpose: {transpose} {FILLERS} }}", shape)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    weight, bias = (blob.detach().numpy() for blob in net.params["layer"])
    before = shape[: axis % 4]
    rows = x.numpy().reshape(int(np.prod(before)), -1)
    expected = rows @ (weight if transpose == "true" else weight.T) + bias
    top = net(a=x)["top"].detach().numpy()
    np.testing.assert_allclose(top, expected.reshape(*before, 6), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("bias_term", ["false", "true"])
@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 1, 3, 2)])
def test_embed_is_the_loops(shape, bias_term):
    net = one_layer(
        f'type: "Embed" embed_param {{ num_output: 3 input_dim: 7 bias_term: {bias_term} '
        f"{FILLERS} }}",
        (1, *shape[1:]),
    )
    rng = np.random.default_rng(0)
    index = rng.integers(7, size=shape)
    top = net(a=torch.from_numpy(index + 0.5))["top"]
    top_diff = rng.standard_normal((*shape, 3))
    top.backward(torch.from_numpy(top_diff))

    weight, *bias = net.params["layer"]
    assert weight.shape == (7, 3)
    assert len(bias) == (bias_term == "true")
    expected, diff = np.zeros((*shape, 3)), np.zeros((7, 3))
    for at in np.ndindex(*shape):
        expected[at] = weight.detach().numpy()[index[at]]
        if bias:
            expected[at] += bias[0].detach().numpy()
        diff[index[at]] += top_diff[at]
    np.testing.assert_allclose(top.detach().numpy(), expected, rtol=1e-15)
    np.testing.assert_allclose(weight.grad.numpy(), diff, rtol=1e-13, atol=1e-15)
    if bias:
        np.testing.assert_allclose(bias[0].grad, top_diff.reshape(-1, 3).sum(0), rtol=1e-13)


@pytest.mark.parametrize("bad", [7.0, -1.0, float("nan")])
def test_embed_refuses_what_is_no_row(bad):
    net = one_layer('type: "Embed" embed_param { num_output: 3 input_dim: 7 }', (2, 2))
    with pytest.raises(ValueError, match=rf"row 2 of label is {bad}; labels must lie in \[0, 7\)"):
        net(a=torch.tensor([[0, 1], [bad, 2]], dtype=torch.float64))
