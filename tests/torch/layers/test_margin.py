"""The two layers with a margin in a net: the same as the layers over arrays, and the wiring."""

import numpy as np
import pytest
import torch
from google.protobuf import text_format

import caffe_margin as cm
import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb
from helpers.one_layer import one_layer

PARAMS = {
    "MarginInnerProduct": "margin_inner_product_param",
    "LargeMarginInnerProduct": "largemargin_inner_product_param",
}


def layer_text(type_, says="", top_2='top: "lambda"'):
    return (
        f'type: "{type_}" top: "scores" {top_2} {PARAMS[type_]} {{ num_output: 5 type: TRIPLE '
        f"base: 20 gamma: 0.5 lambda_min: 2 iteration: 3 "
        f'weight_filler {{ type: "xavier" }} {says} }}'
    )


@pytest.mark.parametrize("gradient", ["", "gradient: EXACT", "gradient: DETACHED"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 4), 1), ((6, 4), -1), ((6, 2, 2, 1), 1), ((3, 2, 2, 2), 2)]
)
@pytest.mark.parametrize("type_", PARAMS)
def test_is_the_layer_over_arrays(type_, shape, axis, gradient):
    rng = np.random.default_rng(0)
    rows = int(np.prod(shape[: axis % len(shape)]))
    label_shape = shape[: axis % len(shape)]
    text = layer_text(type_, f"axis: {axis} {gradient}")
    built_for = (1, *shape[1:]), (1, *label_shape[1:])
    net = one_layer(text, *built_for)
    weight = net.layer.weight.detach().numpy().copy()
    x, label = rng.standard_normal(shape), rng.integers(5, size=label_shape).astype(float)
    top_diff = rng.standard_normal((*shape[: axis % len(shape)], 5))

    flat = text_format.Parse(layer_text(type_, gradient), pb.LayerParameter(name="fc6"))
    layer = getattr(cm, type_).from_param(flat)
    layer.weight = weight
    expected = layer.forward(x.reshape(rows, -1), label.reshape(-1))
    x_diff = layer.backward(top_diff.reshape(rows, 5))

    a = torch.from_numpy(x).requires_grad_()
    blobs = net(a=a, b=torch.from_numpy(label))
    blobs["scores"].backward(torch.from_numpy(top_diff))
    assert blobs["scores"].shape == top_diff.shape
    assert blobs["lambda"].tolist() == [layer.lambda_]
    assert net.layer.iteration == layer.iteration == 4
    for got, wanted in (
        (blobs["scores"].detach(), expected),
        (a.grad, x_diff),
        (net.layer.weight.detach(), layer.weight),
        (net.layer.weight.grad, layer.blobs[0].diff),
    ):
        np.testing.assert_allclose(
            got.numpy().reshape(wanted.shape), wanted, rtol=1e-12, atol=1e-13
        )


@pytest.mark.parametrize("type_", PARAMS)
def test_a_blob_and_a_count(type_):
    net = one_layer(layer_text(type_, top_2=""), (2, 4), (2,))
    assert [tuple(blob.shape) for blob in net.params["layer"]] == [(5, 4)]
    assert net.state_dict().keys() == {"layer.weight", "layer.iteration"}
    # Caffe's xavier: uniform within sqrt(3 / fan_in).
    assert 0 < net.layer.weight.abs().max() <= (3 / 4) ** 0.5
    x = torch.randn(2, 4, dtype=torch.float64)
    blobs = net(a=x, b=torch.tensor([4.0, 0]))
    assert blobs.keys() == {"scores"}
    again = one_layer(layer_text(type_, top_2=""), (2, 4), (2,))
    again.load_state_dict(net.state_dict())
    assert again.layer.iteration == 4
    assert torch.equal(again.layer.weight, net.layer.weight)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"row 1 of label is 5.0; labels must lie in \[0, 5\)"):
        one_layer(layer_text("MarginInnerProduct"), (2, 4), (2,))(
            a=torch.ones(2, 4, dtype=torch.float64), b=torch.tensor([0, 5.0])
        )
    with pytest.raises(ValueError, match="filler"):
        one_layer(
            'type: "MarginInnerProduct" margin_inner_product_param '
            '{ num_output: 5 weight_filler { type: "xaver" } }',
            (2, 4),
            (2,),
        )
    # Caffe fills with zeros where the file names no filler; a row of zeros has no direction.
    net = one_layer(
        'type: "MarginInnerProduct" margin_inner_product_param { num_output: 5 }', (2, 4), (2,)
    )
    with pytest.raises(ValueError, match="row 0 of weight is zero"):
        net(a=torch.ones(2, 4, dtype=torch.float64), b=torch.zeros(2))


def test_two_heads_that_share_a_weight():
    head = """
        layer {{ name: "{0}" type: "MarginInnerProduct" bottom: "x" bottom: "label" top: "{0}"
                 param {{ name: "w" }}
                 margin_inner_product_param {{ num_output: 5 type: DOUBLE lambda_min: 0
                                               weight_filler {{ type: "xavier" }} }} }}
        layer {{ name: "{0}_loss" type: "SoftmaxWithLoss" bottom: "{0}" bottom: "label"
                 top: "{0}_loss" loss_weight: {1} }}"""
    text = """
        layer { name: "x" type: "Input" top: "x" top: "label"
                input_param { shape { dim: 3 dim: 4 } shape { dim: 3 } } }"""
    text += head.format("one", 0.25) + head.format("two", 2)
    net = cmt.Net(text_format.Parse(text, pb.NetParameter()), phase="TRAIN")
    assert net.one.weight is net.two.weight
    assert net.loss_weights == {"one_loss": 0.25, "two_loss": 2}
    bottoms = {"x": torch.randn(3, 4), "label": torch.tensor([0.0, 4, 1])}
    net.loss(net(**bottoms)).backward()
    both, net.one.weight.grad = net.one.weight.grad, None
    net(**bottoms)["two_loss"].backward()
    torch.testing.assert_close(both, 2.25 * net.one.weight.grad)
