"""The net to deploy: what goes, what stays, and what others make of it."""

import cv2
import pytest

import caffe_margin as cm
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.prototxt import UnknownFieldWarning, parse_text
from caffe_margin.nets.deploy import deploy
from helpers.places import MODELS

DATA = {"data": (1, 3, 112, 96)}


@pytest.mark.parametrize("depth", ["4", "10", "", "36", "64"])
def test_the_net_to_train_becomes_the_net_to_deploy(depth):
    """The 20-layer files are the authors' own, message by message; see test_make_models."""
    train = cm.read_net(MODELS / f"sphereface{depth}_model.prototxt")
    by_hand = cm.read_net(MODELS / f"sphereface{depth}_deploy.prototxt")
    assert deploy(train, DATA) == (by_hand, [])


def test_opencv_reads_it(tmp_path):
    net = deploy(cm.read_net(MODELS / "sphereface4_model.prototxt"), DATA).net
    cm.write_net(net, tmp_path / "deploy.prototxt")
    read = cv2.dnn.readNetFromCaffe(str(tmp_path / "deploy.prototxt"))
    assert read.getLayerNames()[-1] == "fc5"


def test_a_head_kept_is_a_product():
    net = cm.read_net(MODELS / "sphereface4_model.prototxt")
    head = deploy(net, DATA, keep_head=True).net.layer[-1]
    assert (head.name, head.type, list(head.bottom)) == ("fc6", "InnerProduct", ["fc5"])
    assert head.inner_product_param.num_output == 10572
    assert not head.inner_product_param.bias_term


NET = """
layer {{ name: "data" type: "Data" top: "data" top: "label" {phase}
  data_param {{ source: "x" batch_size: 2 }} transform_param {{ crop_size: 8 }} }}
layer {{ name: "conv" type: "{type}" bottom: "data" top: "conv"
  convolution_param {{ num_output: 3 kernel_size: 3 {field} }} loss_weight: 0 }}
layer {{ name: "weigh" type: "Power" bottom: "label" top: "weigh" }}
layer {{ name: "second" type: "InnerProduct" bottom: "conv" top: "second"
  inner_product_param {{ num_output: 4 }} }}
layer {{ name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param {{ num_output: 4 }} include {{ phase: TRAIN }} }}
layer {{ name: "fc_test" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param {{ num_output: 4 }} include {{ phase: TEST }} }}
layer {{ name: "relu" type: "ReLU" bottom: "fc" top: "fc" propagate_down: false }}
layer {{ name: "acc" type: "Accuracy" bottom: "fc" bottom: "label" top: "acc" }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "second" bottom: "weigh" top: "loss" }}
"""


def net(type="Convolution", field="", phase=""):
    return parse_text(NET.format(type=type, field=field, phase=phase), pb.NetParameter())


def test_what_served_the_labels_goes():
    deployed = deploy(net(), {"data": (1, 3, 8, 8)}).net
    assert [layer.name for layer in deployed.layer] == [
        "input",
        "conv",
        "second",
        "fc_test",
        "relu",
    ]
    assert list(deployed.layer[0].top) == ["data"]
    for layer in deployed.layer:
        assert not [*layer.include, *layer.loss_weight, *layer.propagate_down]


def test_what_forks_know_goes_with_a_word():
    with pytest.warns(UnknownFieldWarning):
        forked = net(type="DepthwiseConvolution", field="binarize: true")
    deployed, notes = deploy(forked, {"data": (1, 3, 8, 8)})
    assert notes == [
        "layer 'conv': without 'binarize' of ConvolutionParameter, which only a fork knows",
        "layer 'conv': DepthwiseConvolution is a Convolution in groups now",
    ]
    assert deployed.layer[1].type == "Convolution"
    assert deployed.layer[1].convolution_param.group == 3
    assert "binarize" not in str(deployed)


def test_an_unknown_shape():
    with pytest.raises(ValueError, match="does not say the shape of input 'data': give it"):
        deploy(net())


def test_nothing_left():
    only = parse_text('layer { name: "x" type: "Input" top: "x" }', pb.NetParameter())
    with pytest.raises(ValueError, match="nothing is left to deploy"):
        deploy(only)


def test_the_net_is_left_alone():
    before = net()
    deploy(before, {"data": (1, 3, 8, 8)})
    assert before == net()
    assert len(before.layer) == 9
