"""The net to deploy: what goes, what stays, and what others make of it."""

import cv2
import numpy as np
import pytest

import caffe_margin as cm
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.prototxt import UnknownFieldWarning, parse_text
from caffe_margin.nets.deploy import deploy, deploy_weights
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


HEAD = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 1 dim: 3 } shape { dim: 1 } } }
layer { name: "fc5" type: "InnerProduct" bottom: "data" top: "fc5"
  param { name: "w" } inner_product_param { num_output: 3 bias_term: false } }
layer { name: "again" type: "InnerProduct" bottom: "fc5" top: "again"
  param { name: "w" } inner_product_param { num_output: 3 bias_term: false } }
layer { name: "fc6" type: "MarginInnerProduct" bottom: "again" bottom: "label" top: "fc6"
  margin_inner_product_param { num_output: 4 type: QUADRUPLE } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc6" bottom: "label" }
"""


def weights(**blobs):
    rng = np.random.default_rng(0)
    normal = {"fc5": (3, 3), "again": (3, 3), "fc6": (4, 3), "other": (7,)} | blobs
    return {
        name: {0: rng.standard_normal(shape, np.float32)}
        for name, shape in normal.items()
        if shape is not None
    }


def deployed_head():
    net = parse_text(HEAD, pb.NetParameter())
    return deploy(net, keep_head=True).net, net


def test_the_rows_of_a_head_are_brought_to_unit_length():
    deployed, net = deployed_head()
    blobs = weights()
    found = deploy_weights(deployed, net, blobs)
    assert list(found) == ["fc5", "again", "fc6"]
    np.testing.assert_array_equal(found["fc5"][0], blobs["fc5"][0])
    fc6 = blobs["fc6"][0].astype(float)
    expected = fc6 / np.sqrt((fc6**2).sum(axis=1, keepdims=True))
    assert found["fc6"][0].dtype == np.float32
    np.testing.assert_allclose(found["fc6"][0], expected, rtol=1e-6)


def test_shared_weights_and_those_of_four_dimensions():
    deployed, net = deployed_head()
    blobs = weights(again=None, fc6=(1, 1, 4, 3))
    found = deploy_weights(deployed, net, blobs)
    np.testing.assert_array_equal(found["again"][0], blobs["fc5"][0])
    assert found["fc6"][0].shape == (4, 3)


def test_what_is_shared_in_another_shape():
    """fc5's weight is (3, 4), again's (4, 3), and a file has it once."""
    text = HEAD.replace("dim: 1 dim: 3", "dim: 1 dim: 4").replace(
        """top: "again"
  param { name: "w" } inner_product_param { num_output: 3""",
        """top: "again"
  param { name: "w" share_mode: PERMISSIVE } inner_product_param { num_output: 4""",
    )
    net = parse_text(text, pb.NetParameter())
    blobs = weights(fc5=(3, 4), again=None, fc6=(4, 4))
    found = deploy_weights(deploy(net, keep_head=True).net, net, blobs)
    np.testing.assert_array_equal(found["again"][0], blobs["fc5"][0].reshape(4, 3))


def test_a_scalar_of_four_dimensions():
    """As old files hold the slope of a PReLU whose channels share it."""
    text = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [2, 3] } } }
      layer { name: "relu" type: "PReLU" bottom: "data" top: "relu"
        prelu_param { channel_shared: true } }"""
    net = parse_text(text, pb.NetParameter())
    slope = np.full((1, 1, 1, 1), 0.5, np.float32)
    (array,) = deploy_weights(deploy(net).net, net, {"relu": {0: slope}})["relu"]
    assert array == np.float32(0.5)
    assert array.shape == ()


def test_a_net_that_ends_in_place():
    text = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [2, 3] } } }
      layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
        inner_product_param { num_output: 4 } }
      layer { name: "relu" type: "ReLU" bottom: "fc" top: "fc" }"""
    deployed = deploy(parse_text(text, pb.NetParameter())).net
    assert [layer.name for layer in deployed.layer] == ["input", "fc", "relu"]


@pytest.mark.parametrize(
    ("blobs", "match"),
    [
        ({"fc6": None}, "no weights for layer 'fc6', blob 0"),
        ({"fc6": (5, 3)}, r"'fc6', blob 0: \(5, 3\) in the weights and \(4, 3\) in the net"),
        ({"fc5": (3, 1, 1, 3)}, r"\(3, 1, 1, 3\) in the weights"),
    ],
)
def test_weights_that_do_not_fit(blobs, match):
    with pytest.raises(ValueError, match=match):
        deploy_weights(*deployed_head(), weights(**blobs))


def test_more_blobs_than_the_net_has():
    blobs = weights()
    blobs["fc5"][1] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="'fc5' has 2 blobs in the weights and 1 in the net"):
        deploy_weights(*deployed_head(), blobs)


def test_a_row_without_direction():
    blobs = weights()
    blobs["fc6"][0][2] = 0
    with pytest.raises(ValueError, match="layer 'fc6': row 2 of the weight is zero"):
        deploy_weights(*deployed_head(), blobs)
