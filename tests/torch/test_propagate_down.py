"""Where ``propagate_down`` sends a gradient, and where it keeps it from going."""

import pytest
import torch
from google.protobuf import text_format

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "one" type: "InnerProduct" bottom: "x" top: "one" %s
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "two" type: "InnerProduct" bottom: "one" top: "two" %s
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "two" bottom: "target" top: "loss" }
"""
TARGET = 'layer { name: "t" type: "Input" top: "target" input_param { shape { dim: 2 dim: 3 } } }'


@pytest.mark.parametrize("of_one", ["", "propagate_down: true", "propagate_down: false"])
@pytest.mark.parametrize("of_two", ["", "propagate_down: true", "propagate_down: false"])
def test_where_a_gradient_arrives(of_one, of_two):
    net = cmt.Net(text_format.Parse(TARGET + NET % (of_one, of_two), pb.NetParameter()))
    x, target = torch.randn(2, 2, 3)
    blobs = net(x=x, target=target, keep="all")
    net.loss(blobs).backward()

    two_diff = (blobs["two"] - target).detach() / 2
    torch.testing.assert_close(blobs["two"].grad, two_diff)
    torch.testing.assert_close(net.two.weight.grad, two_diff.T @ blobs["one"].detach())
    stopped = "false" in of_two
    assert (blobs["one"].grad is None) == stopped
    assert (net.one.weight.grad is None) == stopped
    if not stopped:
        one_diff = two_diff @ net.two.weight.detach()
        torch.testing.assert_close(blobs["one"].grad, one_diff)
    assert x.grad is None
    if "true" in of_one and not stopped:
        torch.testing.assert_close(blobs["x"].grad, one_diff @ net.one.weight.detach())
    else:
        assert blobs["x"].grad is None
