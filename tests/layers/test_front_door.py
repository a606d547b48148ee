"""What is handed the wrong thing says what to call, before anything runs."""

import numpy as np
import pytest

import caffe_margin as cm
from caffe_margin import caffe_margin_pb2 as pb

LAYERS = [cm.MarginInnerProduct, cm.LargeMarginInnerProduct, cm.SoftmaxWithLoss]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_message_in_place_of_a_number(layer):
    message = pb.LayerParameter(type=layer.type)
    with pytest.raises(TypeError, match=rf"call {layer.__name__}\.from_param\(layer_param\)"):
        layer(message)
    with pytest.raises(TypeError, match=rf"call {layer.__name__}\.from_net\(net, name\)"):
        layer(pb.NetParameter())
    with pytest.raises(TypeError, match="from_param takes a layer's message, not"):
        layer.from_param(pb.NetParameter())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"iteration": 1.5}, TypeError, "iteration is a whole number"),
        ({"iteration": 2**31}, ValueError, "must lie in"),
        ({"axis": "a"}, TypeError, "axis is a whole number"),
        ({"m": 2.5}, ValueError, "m must be a whole number"),
        ({"m": 0}, ValueError, "m must be a whole number"),
        ({"weight_filler": "foo"}, ValueError, "unknown filler type 'foo'"),
        ({"gradient": "exakt"}, ValueError, "'paper', 'exact', 'detached' or a GradientRule"),
    ],
)
def test_options(options, error, message):
    for layer in LAYERS[:2]:
        with pytest.raises(error, match=message):
            layer(10, **options)


def test_a_rule_is_made_of_switches():
    for switch in ("paper", "false", 1, None):
        with pytest.raises(ValueError, match="must be True or False"):
            cm.GradientRule(switch)


def test_the_rule_may_be_set():
    layer = cm.MarginInnerProduct(10)
    layer.gradient = "exact"
    assert layer.gradient is cm.EXACT
    with pytest.raises(ValueError, match="gradient must be"):
        layer.gradient = "exakt"
    assert layer.gradient is cm.EXACT


def test_the_order_of_old_is_named():
    with pytest.raises(ValueError, match="the order of the arguments is x, label, weight"):
        cm.margin_softmax_loss(np.ones((2, 3)), np.ones((4, 3)), np.array([0, 1]))


def test_repr():
    assert repr(cm.SoftmaxWithLoss(ignore_label=255)) == (
        "SoftmaxWithLoss(axis=1, ignore_label=255, normalization='VALID', loss_weight=1)"
    )
    assert repr(cm.MarginInnerProduct(10, m=True, gradient="exact", name="fc6")) == (
        "MarginInnerProduct(10, name='fc6', m=1, gradient='exact', iteration=0)"
    )
