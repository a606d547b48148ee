"""Old forms against the current one, both written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format as google

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.upgrade import upgrade_net, upgrade_solver


def net(text: str) -> pb.NetParameter:
    return google.Parse(text, pb.NetParameter())


V0_WITH_PADDING = """
name: "Padded"
input: "image" input_dim: 10 input_dim: 3 input_dim: 8 input_dim: 6
force_backward: true
layers { layer { name: "pad1" type: "padding" pad: 2 } bottom: "image" top: "pad1" }
layers {
  layer {
    name: "conv1" type: "conv" num_output: 96 kernelsize: 11 stride: 4 group: 2 biasterm: false
    weight_filler { type: "gaussian" std: 0.01 } bias_filler { type: "constant" value: 1 }
    blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
    blobs { num: 1 channels: 1 height: 1 width: 2 data: 3 data: 4 }
  }
  bottom: "pad1" top: "conv1"
}
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "pad2" type: "padding" pad: 1 } bottom: "conv1" top: "pad2" }
layers {
  layer { name: "pool1" type: "pool" pool: AVE kernelsize: 3 stride: 2 }
  bottom: "pad2" top: "pool1"
}
layers {
  layer { name: "norm1" type: "lrn" local_size: 5 alpha: 0.0001 beta: 0.5 k: 2 }
  bottom: "pool1" top: "norm1"
}
layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.2 } bottom: "norm1" top: "norm1" }
layers {
  layer { name: "cat" type: "concat" concat_dim: 2 } bottom: "norm1" bottom: "pool1" top: "cat"
}
layers {
  layer { name: "fc" type: "innerproduct" num_output: 5 biasterm: true
    weight_filler { type: "xavier" }
  }
  bottom: "cat" top: "fc"
}
"""

V2_OF_PADDING = """
name: "Padded"
force_backward: true
layer {
  name: "input" type: "Input" top: "image"
  input_param { shape { dim: 10 dim: 3 dim: 8 dim: 6 } }
}
layer {
  name: "conv1" type: "Convolution" bottom: "image" top: "conv1"
  param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  blobs { num: 1 channels: 1 height: 1 width: 2 data: 3 data: 4 }
  convolution_param {
    num_output: 96 bias_term: false pad: 2 kernel_size: 11 group: 2 stride: 4
    weight_filler { type: "gaussian" std: 0.01 } bias_filler { type: "constant" value: 1 }
  }
}
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer {
  name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }
}
layer {
  name: "norm1" type: "LRN" bottom: "pool1" top: "norm1"
  lrn_param { local_size: 5 alpha: 0.0001 beta: 0.5 k: 2 }
}
layer {
  name: "drop" type: "Dropout" bottom: "norm1" top: "norm1" dropout_param { dropout_ratio: 0.2 }
}
layer {
  name: "cat" type: "Concat" bottom: "norm1" bottom: "pool1" top: "cat"
  concat_param { concat_dim: 2 }
}
layer {
  name: "fc" type: "InnerProduct" bottom: "cat" top: "fc"
  inner_product_param { num_output: 5 bias_term: true weight_filler { type: "xavier" } }
}
"""

V0_DATA = """
layers {
  layer {
    name: "data" type: "data" source: "/train" meanfile: "/mean" batchsize: 256 cropsize: 227
    mirror: true scale: 0.5 rand_skip: 3
  }
  top: "data" top: "label"
}
layers {
  layer {
    name: "images" type: "images" source: "/list" batchsize: 2 shuffle_images: true
    new_height: 30 new_width: 40 rand_skip: 1
  }
  top: "images"
}
layers {
  layer {
    name: "window" type: "window_data" source: "/w" batchsize: 7 det_fg_threshold: 0.25
    det_bg_threshold: 0.125 det_fg_fraction: 0.75 det_context_pad: 16 det_crop_mode: "square"
  }
  top: "window"
}
layers { layer { name: "h" type: "hdf5_data" source: "/h" batchsize: 1 } top: "h" }
layers {
  layer { name: "out" type: "hdf5_output" hdf5_output_param { file_name: "/out" } }
  bottom: "h"
}
layers { layer { name: "info" type: "infogain_loss" source: "/i" } bottom: "h" bottom: "label" }
"""

V2_OF_DATA = """
layer {
  name: "data" type: "Data" top: "data" top: "label"
  data_param { source: "/train" batch_size: 256 rand_skip: 3 }
  transform_param { mean_file: "/mean" crop_size: 227 mirror: true scale: 0.5 }
}
layer {
  name: "images" type: "ImageData" top: "images"
  image_data_param {
    source: "/list" batch_size: 2 shuffle: true new_height: 30 new_width: 40 rand_skip: 1
  }
}
layer {
  name: "window" type: "WindowData" top: "window"
  window_data_param {
    source: "/w" batch_size: 7 fg_threshold: 0.25 bg_threshold: 0.125 fg_fraction: 0.75
    context_pad: 16 crop_mode: "square"
  }
}
layer { name: "h" type: "HDF5Data" top: "h" hdf5_data_param { source: "/h" batch_size: 1 } }
layer { name: "out" type: "HDF5Output" bottom: "h" hdf5_output_param { file_name: "/out" } }
layer {
  name: "info" type: "InfogainLoss" bottom: "h" bottom: "label"
  infogain_loss_param { source: "/i" }
}
"""

V1 = """
state { phase: TRAIN }
layers {
  name: "data" type: DATA top: "data"
  data_param { source: "/train" scale: 0.25 mirror: true batch_size: 3 }
  include { phase: TRAIN }
}
layers { name: "window" type: WINDOW_DATA top: "w" }
layers {
  name: "conv" type: CONVOLUTION bottom: "data" top: "conv"
  param: "shared_w" blob_share_mode: PERMISSIVE
  blobs_lr: 1 blobs_lr: 2 weight_decay: 0.5
  convolution_param { num_output: 4 kernel_size: 3 }
  exclude { stage: "x" }
}
layers { name: "relu" type: RELU bottom: "conv" top: "conv" relu_param { } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "conv"
  loss_weight: 0.5 loss_param { ignore_label: 3 } }
"""

V2_OF_V1 = """
state { phase: TRAIN }
layer {
  name: "data" type: "Data" top: "data" include { phase: TRAIN }
  data_param { source: "/train" batch_size: 3 }
  transform_param { scale: 0.25 mirror: true }
}
layer { name: "window" type: "WindowData" top: "w" window_data_param { } transform_param { } }
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { name: "shared_w" share_mode: PERMISSIVE lr_mult: 1 decay_mult: 0.5 }
  param { lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 3 }
  exclude { stage: "x" }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" relu_param { } }
layer {
  name: "loss" type: "SoftmaxWithLoss" bottom: "conv"
  loss_weight: 0.5 loss_param { ignore_label: 3 }
}
"""

SHAPED = """
input: "a" input_shape { dim: 1 dim: 2 }
input: "b" input_shape { dim: 3 }
layer { name: "one" } layer { name: "two" }
"""
V2_OF_SHAPED = """
layer {
  name: "input" type: "Input" top: "a" top: "b"
  input_param { shape { dim: 1 dim: 2 } shape { dim: 3 } }
}
layer { name: "one" } layer { name: "two" }
"""

TWO_INPUTS = 'input: "a" input: "b" input_dim: [1, 2, 3, 4, 5, 6, 7, 8]'
V2_OF_TWO_INPUTS = """
layer {
  name: "input" type: "Input" top: "a" top: "b"
  input_param { shape { dim: [1, 2, 3, 4] } shape { dim: [5, 6, 7, 8] } }
}
"""

OLD_BATCH_NORM = """
layer {
  name: "bn" type: "BatchNorm" param { lr_mult: 1 } param { name: "p" } param { decay_mult: 3 }
}
layer { name: "bn2" type: "BatchNorm" param { lr_mult: 1 } }
layer { name: "ip" type: "InnerProduct" param { } param { } param { } }
"""
NEW_BATCH_NORM = """
layer {
  name: "bn" type: "BatchNorm"
  param { lr_mult: 0 decay_mult: 0 }
  param { name: "p" lr_mult: 0 decay_mult: 0 }
  param { lr_mult: 0 decay_mult: 0 }
}
layer { name: "bn2" type: "BatchNorm" param { lr_mult: 1 } }
layer { name: "ip" type: "InnerProduct" param { } param { } param { } }
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (V0_WITH_PADDING, V2_OF_PADDING),
        (V0_DATA, V2_OF_DATA),
        (V1, V2_OF_V1),
        (SHAPED, V2_OF_SHAPED),
        (TWO_INPUTS, V2_OF_TWO_INPUTS),
        (OLD_BATCH_NORM, NEW_BATCH_NORM),
        ('input: "data" layer { name: "a" }', 'layer { name: "a" }'),
        ("input_dim: 3", "input_dim: 3"),
        ('layers { name: "untyped" }', 'layer { name: "untyped" }'),
        ("layers { type: NONE }", 'layer { type: "" }'),
    ],
)
def test_upgrade_net(old: str, new: str) -> None:
    message = net(old)
    assert upgrade_net(message) == []
    assert message == net(new)
    assert upgrade_net(message) == []
    assert message == net(new)


# The names of Caffe's layer factory (REGISTER_LAYER_CLASS), which no rule derives.
TYPES = """
AbsVal Accuracy ArgMax BNLL Concat ContrastiveLoss Convolution Deconvolution Data Dropout DummyData
EuclideanLoss Eltwise Exp Flatten HDF5Data HDF5Output HingeLoss Im2col ImageData InfogainLoss
InnerProduct LRN MemoryData MultinomialLogisticLoss MVN Pooling Power ReLU Sigmoid
SigmoidCrossEntropyLoss Silence Softmax Split Slice TanH WindowData Threshold
"""


def test_every_v1_type_has_its_name() -> None:
    message = pb.NetParameter()
    numbers = pb.V1LayerParameter.LayerType.items()
    for _, number in numbers:
        message.layers.add(type=number)
    upgrade_net(message)
    got = {name: layer.type for (name, _), layer in zip(numbers, message.layer, strict=True)}
    assert got.pop("NONE") == ""
    assert got.pop("SOFTMAX_LOSS") == "SoftmaxWithLoss"
    assert {name.replace("_", "").lower(): type_ for name, type_ in got.items()} == {
        type_.lower(): type_ for type_ in TYPES.split()
    }


def test_every_v1_message_is_carried_over() -> None:
    message = pb.NetParameter()
    layer = message.layers.add()
    names = []
    for field in pb.V1LayerParameter.DESCRIPTOR.fields:
        if field.name.endswith("_param"):
            getattr(layer, field.name).SetInParent()
            names.append(field.name)
    upgrade_net(message)
    assert len(names) == 30  # as many as UpgradeV1LayerParameter asks for
    assert sorted(field.name for field, _ in message.layer[0].ListFields()) == sorted(names)


def test_what_has_no_place_is_told() -> None:
    message = net(
        'layers { layer { name: "r" type: "relu" num_output: 3 pad: 1 alpha: 2 source: "s" } }'
    )
    problems = upgrade_net(message)
    assert message == net('layer { name: "r" type: "ReLU" }')
    assert len(problems) == 4
    assert problems[0] == "layer 'r': 'num_output' has no meaning in a layer of type 'relu'"


PAD = 'layers { layer { name: "p" type: "padding" pad: 1 } bottom: "x" top: "p" }'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('layer { name: "a" } layers { name: "b" }', "both 'layer' and 'layers'"),
        ('layer { name: "a" } layers { layer { name: "b" } }', "both 'layer' and 'layers'"),
        ('layers { layer { name: "a" type: "novel" } }', "unknown type 'novel'"),
        ('layers { layer { name: "a" type: "relu" } bottom: "x" }', "bottom 'x'"),
        (f'input: "x" {PAD} layers {{ layer {{ type: "relu" }} bottom: "p" }}', "only 'conv' and"),
        (
            f'input: "x" {PAD} layers {{ layer {{ type: "conv" }} bottom: "p" bottom: "x" }}',
            "one bottom each",
        ),
        ('input: "a" input_dim: 1 input_dim: 2', "1 'input' and 2 'input_dim'"),
        ('input: "a" input: "b" input_shape { dim: 1 }', "2 'input' and 1 'input_shape'"),
    ],
)
def test_what_caffe_aborts_on_is_an_error(text: str, said: str) -> None:
    message = net(text)
    with pytest.raises(ValueError, match=said):
        upgrade_net(message)
    assert message == net(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("solver_type: SGD", 'type: "SGD"'),
        ("solver_type: NESTEROV", 'type: "Nesterov"'),
        ("solver_type: ADAGRAD", 'type: "AdaGrad"'),
        ("solver_type: RMSPROP", 'type: "RMSProp"'),
        ("solver_type: ADADELTA", 'type: "AdaDelta"'),
        ("solver_type: ADAM", 'type: "Adam"'),
        ("base_lr: 1", "base_lr: 1"),
        ('type: "SGD"', 'type: "SGD"'),
    ],
)
def test_upgrade_solver(old: str, new: str) -> None:
    solver: Any = google.Parse(old, pb.SolverParameter())
    upgrade_solver(solver)
    assert solver == google.Parse(new, pb.SolverParameter())


def test_a_solver_with_both_types_is_an_error() -> None:
    solver = google.Parse('solver_type: SGD type: "SGD"', pb.SolverParameter())
    with pytest.raises(ValueError, match="keep only 'type'"):
        upgrade_solver(solver)
