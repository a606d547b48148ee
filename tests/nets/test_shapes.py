"""Shapes: against Caffe's own unit tests, recordings of Caffe, and the sizes of well-known nets.

data/shapes_of_caffe.json records what pycaffe (the SphereFace authors' Caffe, CPU) made of random
layers: the bottom shapes, the layer, and Caffe's top and parameter shapes, or null where it died.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.text_format import parse
from caffe_margin.files.upgrade import upgrade_net
from caffe_margin.nets.forks import FORKS
from caffe_margin.nets.rules.algebra import alike
from caffe_margin.nets.shape_rules import LAYER_TYPES, check_counts
from caffe_margin.nets.shapes import LayerShapes, Shape, count_params, infer_shapes
from helpers.places import DATA

RECORDED = json.loads((DATA / "shapes_of_caffe.json").read_text())


def net(text: str) -> pb.NetParameter:
    return text_format.Parse(text, pb.NetParameter())


def run(layer: str, *bottoms: Sequence[int | None]) -> LayerShapes:
    """The last layer's shapes, where its bottoms b0, b1 ... have these shapes."""
    inputs = {f"b{i}": shape for i, shape in enumerate(bottoms)}
    text = "".join(f"layer {{ name: 'in' type: 'Input' top: '{name}' }} " for name in inputs)
    return infer_shapes(net(text + layer), inputs)[-1]


def layer(type_: str, param: str, bottoms: int, tops: int = 1) -> str:
    names = " ".join(f"bottom: 'b{i}'" for i in range(bottoms))
    names += " ".join(f" top: 't{i}'" for i in range(tops))
    return f"layer {{ name: 'x' type: '{type_}' {names} {param} }}"


def by_name(layers: list[LayerShapes]) -> dict[str, LayerShapes]:
    return {layer.name: layer for layer in layers}


# (type, parameters, bottoms, tops, params): from src/caffe/test/test_*_layer.cpp where it says so,
# and else from the definition of the layer.
B4 = (2, 3, 6, 5)
S4 = (2, 3, 4, 5)
LITERALS: list[tuple[str, str, list[Shape], list[Shape], list[Shape]]] = [
    # ConvolutionLayerTest TestSetup, Test0DConvolution; DeconvolutionLayerTest TestSetup
    (
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: 3 stride: 2 }",
        [(2, 3, 6, 4), (2, 3, 6, 4)],
        [(2, 4, 2, 1), (2, 4, 2, 1)],
        [(4, 3, 3, 3), (4,)],
    ),
    (
        "Convolution",
        "convolution_param { num_output: 3 kernel_size: 3 stride: 2 group: 3 }",
        [(2, 3, 6, 4)],
        [(2, 3, 2, 1)],
        [(3, 1, 3, 3), (3,)],
    ),
    (
        "Convolution",
        "convolution_param { num_output: 10 axis: 3 }",
        [(2, 3, 6, 4)],
        [(2, 3, 6, 10)],
        [(10, 4), (10,)],
    ),
    # A 3-D convolution, padded and dilated: (5 + 2 - 5) / 1 + 1, (7 + 4 - 3) / 2 + 1, (9 - 1) + 1
    (
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: [3, 3, 1] pad: [1, 2, 0]"
        " stride: [1, 2, 1] dilation: [2, 1, 1] bias_term: false }",
        [(2, 3, 5, 7, 9)],
        [(2, 4, 3, 5, 9)],
        [(4, 3, 3, 3, 1)],
    ),
    (
        "Convolution",
        "convolution_param { num_output: 2 kernel_h: 1 kernel_w: 7 pad_h: 0 pad_w: 3"
        " stride_h: 1 stride_w: 2 }",
        [(1, 8, 17, 17)],
        [(1, 2, 17, 9)],
        [(2, 8, 1, 7), (2,)],
    ),
    (
        "Deconvolution",
        "convolution_param { num_output: 4 kernel_size: 3 stride: 2 }",
        [(2, 3, 6, 4)],
        [(2, 4, 13, 9)],
        [(3, 4, 3, 3), (4,)],
    ),
    # MobileNets' layers, as yonghenglh6/DepthwiseConvolution and BVLC's pull 5665 have them
    (
        "DepthwiseConvolution",
        "convolution_param { num_output: 32 kernel_size: 3 group: 32 pad: 1 }",
        [(1, 32, 112, 96)],
        [(1, 32, 112, 96)],
        [(32, 1, 3, 3), (32,)],
    ),
    (
        "ConvolutionDepthwise",
        "convolution_param { num_output: 32 kernel_size: 3 stride: 2 bias_term: false }",
        [(1, 32, 113, 97)],
        [(1, 32, 56, 48)],
        [(32, 1, 3, 3)],
    ),
    # FCN-8s' bilinear upsampling
    (
        "Deconvolution",
        "convolution_param { num_output: 21 group: 21 bias_term: false kernel_size: 16 stride: 8 }",
        [(1, 21, 70, 70)],
        [(1, 21, 568, 568)],
        [(21, 1, 16, 16)],
    ),
    # Im2colLayerTest TestSetup
    (
        "Im2col",
        "convolution_param { kernel_size: 3 stride: 2 dilation: 3 }",
        [(2, 3, 10, 11)],
        [(2, 27, 2, 3)],
        [],
    ),
    # PoolingLayerTest TestSetup, TestSetupPadded, TestSetupGlobalPooling, TestForwardRectHigh
    ("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", [B4], [(2, 3, 3, 2)], []),
    (
        "Pooling",
        "pooling_param { kernel_size: 3 stride: 2 pad: 1 pool: AVE }",
        [B4],
        [(2, 3, 4, 3)],
        [],
    ),
    ("Pooling", "pooling_param { global_pooling: true pool: AVE }", [B4], [(2, 3, 1, 1)], []),
    (
        "Pooling",
        "pooling_param { kernel_h: 3 kernel_w: 2 }",
        [(2, 2, 6, 6)],
        [(2, 2, 4, 5), (2, 2, 4, 5)],
        [],
    ),
    # The clip: without it the window at 4 would start in the padding of a side of 3.
    (
        "Pooling",
        "pooling_param { kernel_size: 2 stride: 2 pad: 1 }",
        [(1, 1, 3, 4)],
        [(1, 1, 2, 3)],
        [],
    ),
    # BVLC's last pooling_layer.cpp: floor((6 - 3) / 2) + 1; padded, floor((4 + 2 - 3) / 2) + 1 and
    # floor((5 + 2 - 3) / 2) + 1; and the ceiling of the first
    (
        "Pooling",
        "pooling_param { kernel_size: 3 stride: 2 round_mode: FLOOR }",
        [(1, 2, 6, 6)],
        [(1, 2, 2, 2)],
        [],
    ),
    (
        "Pooling",
        "pooling_param { kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR pool: AVE }",
        [(1, 2, 4, 5)],
        [(1, 2, 2, 3)],
        [],
    ),
    (
        "Pooling",
        "pooling_param { kernel_size: 3 stride: 2 round_mode: CEIL }",
        [(1, 2, 6, 6)],
        [(1, 2, 3, 3)],
        [],
    ),
    # SPPLayerTest TestSetup, TestEqualOutputDims, TestEqualOutputDims2
    ("SPP", "spp_param { pyramid_height: 3 }", [(2, 3, 9, 8)], [(2, 63)], []),
    ("SPP", "spp_param { pyramid_height: 5 }", [(4, 3, 1024, 765)], [(4, 1023)], []),
    ("SPP", "spp_param { pyramid_height: 1 }", [(10, 3, 7, 7)], [(10, 3, 1, 1)], []),
    # InnerProductLayerTest TestSetUpTransposeFalse, TestSetUpTransposeTrue
    ("InnerProduct", "inner_product_param { num_output: 10 }", [S4], [(2, 10)], [(10, 60), (10,)]),
    (
        "InnerProduct",
        "inner_product_param { num_output: 10 transpose: true bias_term: false axis: -2 }",
        [S4],
        [(2, 3, 10)],
        [(20, 10)],
    ),
    (
        "MarginInnerProduct",
        "margin_inner_product_param { num_output: 10572 type: QUADRUPLE }",
        [(256, 512), (256,)],
        [(256, 10572), (1,)],
        [(10572, 512)],
    ),
    (
        "MarginInnerProduct",
        "margin_inner_product_param { num_output: 7 axis: 2 }",
        [(3, 4, 5, 2), (3, 4)],
        [(3, 4, 7)],
        [(7, 10)],
    ),
    (
        "LargeMarginInnerProduct",
        "largemargin_inner_product_param { num_output: 10 type: DOUBLE }",
        [(64, 2, 1, 1), (64,)],
        [(64, 10), (1,)],
        [(10, 2)],
    ),
    # EmbedLayerTest TestSetUp
    (
        "Embed",
        "embed_param { num_output: 10 input_dim: 5 }",
        [(4, 1, 1, 1)],
        [(4, 1, 1, 1, 10)],
        [(5, 10), (10,)],
    ),
    ("PReLU", "", [(256, 64, 56, 48)], [(256, 64, 56, 48)], [(64,)]),
    ("PReLU", "prelu_param { channel_shared: true }", [S4], [S4], [()]),
    ("BatchNorm", "", [S4], [S4], [(3,), (3,), (1,)]),
    ("BN", "", [S4], [S4], [(1, 3)] * 4),
    ("BN", "", [(6, 4)], [(6, 4)], [(1, 4)] * 4),
    ("Normalize", "norm_param { }", [S4], [S4], [()]),
    ("Normalize", "norm_param { channel_shared: false }", [S4], [S4], [(3,)]),
    ("MVN", "", [(5, 3)], [(5, 3, 1, 1)], []),
    ("Softmax", "", [S4], [S4], []),
    ("LRN", "", [S4], [S4], []),
    # ScaleLayerTest TestForwardBroadcastMiddleWithParamAndBias, TestForwardBroadcastMiddle, -Scale
    ("Scale", "scale_param { axis: 1 num_axes: 2 bias_term: true }", [S4], [S4], [(3, 4), (3, 4)]),
    ("Scale", "scale_param { axis: 1 bias_term: true }", [S4, (3, 4)], [S4], [(3, 4)]),
    ("Scale", "", [S4, ()], [S4], []),
    ("Bias", "bias_param { axis: 0 num_axes: -1 }", [S4], [S4], [S4]),
    ("Eltwise", "eltwise_param { operation: PROD }", [S4, S4, S4], [S4], []),
    # ConcatLayerTest TestSetupNum, TestSetupChannelsNegativeIndexing
    ("Concat", "concat_param { axis: 0 }", [B4, (5, 3, 6, 5)], [(7, 3, 6, 5)], []),
    ("Concat", "concat_param { axis: -3 }", [B4, (2, 5, 6, 5)], [(2, 8, 6, 5)], []),
    ("Concat", "concat_param { concat_dim: 1 }", [B4, (2, 5, 6, 5)], [(2, 8, 6, 5)], []),
    # SliceLayerTest TestSetupNum, TestSetupChannels
    ("Slice", "slice_param { axis: 0 }", [(6, 12, 2, 3)], [(2, 12, 2, 3)] * 3, []),
    (
        "Slice",
        "slice_param { slice_dim: 1 slice_point: 3 }",
        [(6, 12, 2, 3)],
        [(6, 3, 2, 3), (6, 9, 2, 3)],
        [],
    ),
    ("Split", "", [S4], [S4, S4, S4], []),
    # TileLayerTest TestSetup
    ("Tile", "tile_param { tiles: 3 axis: 2 }", [S4], [(2, 3, 12, 5)], []),
    # CropLayerTest TestSetupShapeDefault, -NegativeIndexing, TestCrop5D
    ("Crop", "", [(2, 4, 5, 4), (2, 3, 4, 2)], [(2, 4, 4, 2)], []),
    ("Crop", "crop_param { axis: -1 }", [(2, 4, 5, 4), (2, 3, 4, 2)], [(2, 4, 5, 2)], []),
    (
        "Crop",
        "crop_param { axis: 2 offset: [1, 2, 0] }",
        [(2, 4, 5, 6, 7), (2, 3, 2, 4, 5)],
        [(2, 4, 2, 4, 5)],
        [],
    ),
    ("BatchReindex", "", [(5, 3, 4), (9,)], [(9, 3, 4)], []),
    ("Filter", "", [S4, (2,), (2, 1, 1, 1)], [(None, 3, 4, 5), (None,)], []),
    # FlattenLayerTest TestSetup, -WithAxis, -WithEndAxis, -WithStartAndEndAxis
    ("Flatten", "", [B4], [(2, 90)], []),
    ("Flatten", "flatten_param { axis: 2 }", [B4], [(2, 3, 30)], []),
    ("Flatten", "flatten_param { end_axis: -2 }", [B4], [(2, 18, 5)], []),
    ("Flatten", "flatten_param { axis: 0 end_axis: -2 }", [B4], [(36, 5)], []),
    # ReshapeLayerTest, in its order
    ("Reshape", "reshape_param { shape { dim: [0, -1, 1, 1] } }", [B4], [(2, 90, 1, 1)], []),
    ("Reshape", "reshape_param { shape { dim: [0, 3, 10, -1] } }", [B4], [(2, 3, 10, 3)], []),
    ("Reshape", "reshape_param { axis: 1 shape { dim: [3, 10, -1] } }", [B4], [(2, 3, 10, 3)], []),
    (
        "Reshape",
        "reshape_param { axis: 2 num_axes: 0 shape { dim: [1, 1, 1] } }",
        [B4],
        [(2, 3, 1, 1, 1, 6, 5)],
        [],
    ),
    (
        "Reshape",
        "reshape_param { axis: -1 num_axes: 0 shape { dim: [1, 1, 1] } }",
        [B4],
        [(2, 3, 6, 5, 1, 1, 1)],
        [],
    ),
    ("Reshape", "reshape_param { axis: 1 num_axes: 2 shape { dim: -1 } }", [B4], [(2, 18, 5)], []),
    # ReductionLayerTest TestSetUp, -WithAxis1, -WithAxis2
    # SSD's own example of order, and one that leaves axes out.
    ("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", [S4], [(2, 4, 5, 3)], []),
    ("Permute", "permute_param { order: 3 order: 1 }", [S4], [(5, 3, 2, 4)], []),
    ("Permute", "", [S4], [S4], []),
    ("Reduction", "", [S4], [()], []),
    ("Reduction", "reduction_param { axis: 1 }", [S4], [(2,)], []),
    ("Reduction", "reduction_param { axis: 2 }", [S4], [(2, 3)], []),
    # ArgMaxLayerTest TestSetupMaxVal, TestCPUTopK's shape, TestSetupAxisNegativeIndexing
    ("ArgMax", "argmax_param { out_max_val: true }", [(10, 10, 20, 20)], [(10, 2, 1, 1)], []),
    ("ArgMax", "argmax_param { top_k: 5 }", [(10, 10)], [(10, 1, 5)], []),
    ("ArgMax", "argmax_param { axis: -2 }", [(10, 10, 20, 20)], [(10, 10, 1, 20)], []),
    # AccuracyLayerTest TestSetupOutputPerClass
    ("Accuracy", "accuracy_param { top_k: 5 }", [(100, 10), (100,)], [(), (10,)], []),
    ("SoftmaxWithLoss", "", [(10, 5, 2, 3), (10, 1, 2, 3)], [(), (10, 5, 2, 3)], []),
    ("SoftmaxWithLoss", "", [(256, 10572), (256,)], [], []),
    ("InfogainLoss", "", [(4, 2, 5, 2), (4, 1, 5, 2), (1, 1, 2, 2)], [()], []),
    ("EuclideanLoss", "", [(10, 5, 1, 1), (10, 5)], [()], []),
    ("SigmoidCrossEntropyLoss", "", [(10, 5), (10, 5)], [()], []),
    ("HingeLoss", "", [(10, 5), (10,)], [()], []),
    ("MultinomialLogisticLoss", "", [(10, 5), (10,)], [()], []),
    ("ContrastiveLoss", "", [(512, 2), (512, 2), (512,)], [()], []),
    ("Silence", "", [S4, (2,)], [], []),
    ("HDF5Output", "", [S4, (2,)], [], []),
    # LSTMLayerTest and RNNLayerTest: x (T, N, 3, 2), cont (T, N), static (N, 2, 3, 4), 7 outputs
    (
        "LSTM",
        "recurrent_param { num_output: 7 }",
        [(5, 3, 3, 2), (5, 3), (3, 2, 3, 4)],
        [(5, 3, 7)],
        [(28, 6), (28,), (28, 24), (28, 7)],
    ),
    (
        "RNN",
        "recurrent_param { num_output: 7 expose_hidden: true }",
        [(5, 3, 3, 2), (5, 3), (1, 3, 7)],
        [(5, 3, 7), (1, 3, 7)],
        [(7, 6), (7,), (7, 7), (7, 7), (7,)],
    ),
    ("LSTMUnit", "", [(1, 3, 7), (1, 3, 28), (1, 3)], [(1, 3, 7), (1, 3, 7)], []),
    # Data: nothing below them.
    ("Input", "input_param { shape { dim: [1, 3] } shape { dim: 4 } }", [], [(1, 3), (4,)], []),
    (
        "DummyData",
        "dummy_data_param { num: 5 channels: [3, 1] height: 2 width: 4 }",
        [],
        [(5, 3, 2, 4), (5, 1, 2, 4)],
        [],
    ),
    ("Parameter", "parameter_param { shape { dim: [4, 5] } }", [], [(4, 5)], [(4, 5)]),
    ("Data", "data_param { batch_size: 64 }", [], [(64, None, None, None), (64,)], []),
    (
        "Data",
        "data_param { batch_size: 32 } transform_param { crop_size: 224"
        " mean_value: [104, 117, 123] }",
        [],
        [(32, 3, 224, 224)],
        [],
    ),
    ("ImageData", "image_data_param { batch_size: 256 }", [], [(256, 3, None, None), (256,)], []),
    (
        "ImageData",
        "image_data_param { is_color: false new_height: 112 new_width: 96 }",
        [],
        [(1, 1, 112, 96), (1,)],
        [],
    ),
    (
        "ImageData",
        "image_data_param { new_height: 112 new_width: 96 } transform_param { crop_size: 90 }",
        [],
        [(1, 3, 90, 90), (1,)],
        [],
    ),
    (
        "MemoryData",
        "memory_data_param { batch_size: 8 channels: 12 height: 10 width: 11 }",
        [],
        [(8, 12, 10, 11), (8,)],
        [],
    ),
    (
        "WindowData",
        "window_data_param { batch_size: 128 } transform_param { crop_size: 227 }",
        [],
        [(128, None, 227, 227), (128,)],
        [],
    ),
]
NEURONS = ["AbsVal", "BNLL", "Clip", "Dropout", "ELU", "Exp", "Log", "Power", "ReLU", "Sigmoid"]
NEURONS += ["Swish", "TanH", "Threshold"]
LITERALS += [(type_, "", [S4], [S4], []) for type_ in NEURONS]


@pytest.mark.parametrize("case", LITERALS, ids=lambda case: case[0])
def test_literals(case: Any) -> None:
    type_, param, bottoms, tops, params = case
    shapes = run(layer(type_, param, len(bottoms), len(tops)), *bottoms)
    assert shapes.problem is None
    assert list(shapes.tops.values()) == tops
    assert list(shapes.params) == params


def test_every_type_has_a_case() -> None:
    assert set(LAYER_TYPES) == {case[0] for case in LITERALS} | {"HDF5Data"}


@pytest.mark.parametrize("case", LITERALS, ids=lambda case: case[0])
def test_an_unknown_dimension_only_takes_knowledge_away(case: Any) -> None:
    type_, param, bottoms, tops, params = case
    for i, shape in enumerate(bottoms):
        for axis in range(len(shape)):
            masked = [list(bottom) for bottom in bottoms]
            masked[i][axis] = None
            shapes = run(layer(type_, param, len(bottoms), len(tops)), *masked)
            assert shapes.problem is None
            assert all(top is not None for top in shapes.tops.values())
            assert all(
                alike(top or (), full)
                for top, full in zip(shapes.tops.values(), tops, strict=False)
            )
            assert all(map(alike, shapes.params, params))
            assert len(shapes.params) == len(params)


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["layer"].split("'")[3])
def test_recordings_of_caffe(case: Any) -> None:
    shapes = run(case["layer"], *case["bottoms"])
    if case["tops"] is None:
        assert shapes.problem is not None
        assert set(shapes.tops.values()) <= {None}
        return
    assert shapes.problem is None
    # How many items pass a Filter is known only to the run.
    assert len(shapes.tops) == len(case["tops"])
    for shape, recorded in zip(shapes.tops.values(), case["tops"], strict=True):
        assert shape is not None
        assert alike(shape, recorded)
        assert None not in shape[shapes.type == "Filter" :]
    assert [list(shape) for shape in shapes.params] == case["params"]


# Well-known nets.


class Builder:
    """Writes a net's prototxt; every layer stands on the one before it or on `bottom`."""

    def __init__(self, **inputs: Shape) -> None:
        self.text = ""
        for name, shape in inputs.items():
            self.text += f"layer {{ name: '{name}' type: 'Input' top: '{name}' input_param {{"
            self.text += f" shape {{ dim: {list(shape)} }} }} }}\n"
            self.top = name
        self.number = 0

    def add(self, type_: str, param: str = "", *bottoms: str, name: str = "", top: str = "") -> str:
        self.number += 1
        name = name or f"{type_}{self.number}"
        names = "".join(f" bottom: '{bottom}'" for bottom in bottoms or (self.top,))
        self.top = top or name
        self.text += (
            f"layer {{ name: '{name}' type: '{type_}'{names} top: '{self.top}' {param} }}\n"
        )
        return self.top

    def conv(self, n: int, kernel: int, more: str = "", *bottoms: str) -> str:
        param = f"convolution_param {{ num_output: {n} kernel_size: {kernel} {more} }}"
        return self.add("Convolution", param, *bottoms)

    def pool(self, kernel: int, stride: int, more: str = "") -> str:
        return self.add(
            "Pooling", f"pooling_param {{ kernel_size: {kernel} stride: {stride} {more} }}"
        )

    def fc(self, n: int, name: str = "") -> str:
        return self.add("InnerProduct", f"inner_product_param {{ num_output: {n} }}", name=name)

    def in_place(self, *types: str) -> None:
        for type_ in types:
            self.add(type_, top=self.top)

    def shapes(self) -> list[LayerShapes]:
        layers = infer_shapes(net(self.text))
        assert [layer.problem for layer in layers] == [None] * len(layers)
        return layers


def test_lenet() -> None:
    b = Builder(data=(64, 1, 28, 28))
    b.conv(20, 5)
    b.pool(2, 2)
    b.conv(50, 5)
    b.pool(2, 2)
    b.fc(500)
    b.in_place("ReLU")
    b.fc(10)
    layers = b.shapes()
    assert layers[4].tops == {"Pooling4": (64, 50, 4, 4)}
    assert [layer.param_count for layer in layers if layer.params] == [520, 25050, 400500, 5010]
    assert count_params(layers) == 431080


def test_caffenet() -> None:
    b = Builder(data=(10, 3, 227, 227))
    b.conv(96, 11, "stride: 4")
    b.in_place("ReLU")
    b.pool(3, 2)
    b.add("LRN")
    b.conv(256, 5, "pad: 2 group: 2")
    b.pool(3, 2)
    b.add("LRN")
    b.conv(384, 3, "pad: 1")
    b.conv(384, 3, "pad: 1 group: 2")
    b.conv(256, 3, "pad: 1 group: 2")
    pool5 = b.pool(3, 2)
    for n in (4096, 4096):
        b.fc(n)
        b.in_place("ReLU", "Dropout")
    b.fc(1000)
    b.add("Softmax")
    layers = b.shapes()
    assert by_name(layers)[pool5].tops[pool5] == (10, 256, 6, 6)
    assert count_params(layers) == 60_965_224


def test_vgg16() -> None:
    b = Builder(data=(1, 3, 224, 224))
    for n, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(times):
            b.conv(n, 3, "pad: 1")
            b.in_place("ReLU")
        b.pool(2, 2)
    for n in (4096, 4096, 1000):
        b.fc(n)
    assert count_params(b.shapes()) == 138_357_544


def test_resnet50() -> None:
    """25,557,032 weights (torchvision's count) and 53 BatchNorms, which have 53,120 statistics.

    In Caffe each BatchNorm has the moving average's factor besides.
    """
    b = Builder(data=(1, 3, 224, 224))

    def conv(n: int, kernel: int, more: str = "", *bottoms: str) -> str:
        b.conv(n, kernel, f"bias_term: false pad: {kernel // 2} {more}", *bottoms)
        b.in_place("BatchNorm")
        b.add("Scale", "scale_param { bias_term: true }", top=b.top)
        return b.top

    conv(64, 7, "stride: 2")
    x = b.pool(3, 2)
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            stride = "stride: 2" if stage and not block else ""
            conv(width, 1, stride, x)
            conv(width, 3)
            branch = conv(4 * width, 1)
            shortcut = x if block else conv(4 * width, 1, stride, x)
            b.add("Eltwise", "", shortcut, branch)
            b.in_place("ReLU")
            x = b.top
    b.add("Pooling", "pooling_param { pool: AVE global_pooling: true }")
    b.fc(1000)
    layers = b.shapes()
    assert by_name(layers)[x].tops[x] == (1, 2048, 7, 7)
    assert layers[-1].tops == {b.top: (1, 1000)}
    assert count_params(layers) == 25_557_032 + 53_120 + 53


def test_googlenets_sides() -> None:
    """GoogLeNet's published sides, 112, 56, 28, 14, 7, need the ceiling; and a module's concat."""
    b = Builder(data=(1, 3, 224, 224))
    b.conv(64, 7, "stride: 2 pad: 3")
    for _ in range(2):
        b.pool(3, 2)
        b.conv(192, 3, "pad: 1")
    x = b.pool(3, 2, "pad: 0")
    parts = [b.conv(64, 1, "", x), b.conv(128, 3, "pad: 1", x), b.conv(32, 5, "pad: 2", x)]
    b.top = x
    b.pool(3, 1, "pad: 1")
    parts.append(b.conv(32, 1))
    b.add("Concat", "", *parts)
    b.pool(3, 2)
    pools = [layer.tops[layer.name] for layer in b.shapes() if layer.type == "Pooling"]
    sides = [shape and shape[2] for shape in pools]
    assert sides == [56, 28, 14, 14, 7]
    assert b.shapes()[-2].tops == {"Concat12": (1, 256, 14, 14)}


def sphereface20() -> Builder:
    """The authors' 20-layer net: residual units of two 3x3 convolutions, biases, PReLUs."""
    b = Builder()
    b.text = (
        "layer { name: 'data' type: 'ImageData' top: 'data' top: 'label'"
        " image_data_param { batch_size: 256 } }\n"
    )
    b.top = "data"
    for n, units in ((64, 1), (128, 2), (256, 4), (512, 1)):
        b.conv(n, 3, "stride: 2 pad: 1")
        b.in_place("PReLU")
        for _ in range(units):
            x = b.top
            for _ in range(2):
                b.conv(n, 3, "stride: 1 pad: 1")
                b.in_place("PReLU")
            b.add("Eltwise", "eltwise_param { operation: SUM }", x, b.top)
    b.fc(512, "fc5")
    b.text += (
        "layer { name: 'fc6' type: 'MarginInnerProduct' bottom: 'fc5' bottom: 'label' top: 'fc6'"
        " top: 'lambda' margin_inner_product_param { num_output: 10572 type: QUADRUPLE } }\n"
        "layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'fc6' bottom: 'label' top: 'loss' }\n"
    )
    return b


def test_sphereface20() -> None:
    layers = by_name(infer_shapes(net(sphereface20().text), {"data": (256, 3, 112, 96)}))
    assert list(layers["fc5"].bottoms.values()) == [(256, 512, 7, 6)]
    assert layers["fc5"].tops == {"fc5": (256, 512)}
    assert layers["fc6"].tops == {"fc6": (256, 10572), "lambda": (1,)}
    assert layers["loss"].tops == {"loss": ()}
    widths = [(3, 64)] + 2 * [(64, 64)] + [(64, 128)] + 4 * [(128, 128)]
    widths += [(128, 256)] + 8 * [(256, 256)] + [(256, 512)] + 2 * [(512, 512)]
    convolutions = sum(9 * a * b + b + b for a, b in widths)
    products = 512 * (512 * 7 * 6) + 512 + 10572 * 512
    assert count_params(layers.values()) == convolutions + products == 28_083_520


def test_sphereface20_without_the_image_size() -> None:
    layers = by_name(infer_shapes(net(sphereface20().text)))
    assert {layer.problem for layer in layers.values()} == {None}
    assert layers["data"].tops == {"data": (256, 3, None, None), "label": (256,)}
    assert layers["Convolution1"].tops == {"Convolution1": (256, 64, None, None)}
    assert layers["Convolution1"].param_count == 27 * 64 + 64
    assert layers["fc5"].params == ((512, None), (512,))
    assert layers["fc5"].param_count is None
    assert layers["fc5"].tops == {"fc5": (256, 512)}
    assert layers["fc6"].param_count == 10572 * 512
    assert count_params(layers.values()) is None


# Unknown dimensions.


def test_known_dimensions_survive() -> None:
    assert run(layer("Eltwise", "", 2), (None, 3, 4), (2, None, 4)).tops == {"t0": (2, 3, 4)}
    assert run(layer("Concat", "", 2), (None, 3, 4), (2, 5, None)).tops == {"t0": (2, 8, 4)}
    assert run(layer("Concat", "", 2), (2, None), (2, 5)).tops == {"t0": (2, None)}
    flat = layer("Reshape", "reshape_param { shape { dim: [0, -1] } }", 1)
    assert run(flat, (None, 3, 4)).tops == {"t0": (None, 12)}
    assert run(flat, (2, 3, None)).tops == {"t0": (2, None)}
    points = layer("Slice", "slice_param { slice_point: [2, 5] }", 1, tops=3)
    assert list(run(points, (4, None)).tops.values()) == [(4, 2), (4, 3), (4, None)]
    pool = layer("Pooling", "pooling_param { global_pooling: true pool: AVE }", 1)
    assert run(pool, (1, 8, None, None)).tops == {"t0": (1, 8, 1, 1)}


# Problems.


@pytest.mark.parametrize(
    ("type_", "param", "bottoms", "tops", "message"),
    [
        ("Foo", "", [S4], 1, "unknown layer type 'Foo'"),
        (
            "Convolutoin",
            "",
            [S4],
            1,
            "unknown layer type 'Convolutoin', did you mean 'Convolution'?",
        ),
        ("Python", "", [S4], 1, "a Python layer's shapes are its own code's"),
        (
            "Eltwise",
            "",
            [S4, B4],
            1,
            "Eltwise: bottom 'b0' is (2, 3, 4, 5) but 'b1' is (2, 3, 6, 5)",
        ),
        ("BN", "", [(3,)], 1, "BN: the bottom must have at least 2 axes, and is (3,)"),
        ("Normalize", "norm_param { }", [(3,)], 1, "at least 2 axes, and is (3,)"),
        ("Normalize", "", [S4], 1, "Normalize: without a norm_param it may be SSD's or another"),
        ("Concat", "", [(2, 3), (2,)], 1, "they must be equal except on axis 1"),
        ("Concat", "", [(2, 3), (3, 3)], 1, "they must be equal except on axis 1"),
        ("Eltwise", "", [S4], 1, "the number of bottoms must be at least 2, and is 1"),
        ("InnerProduct", "", [S4, S4], 1, "the number of bottoms must be 1, and is 2"),
        (
            "Pooling",
            "pooling_param { kernel_size: 2 }",
            [S4],
            3,
            "the number of tops must be at most 2, and is 3",
        ),
        ("Pooling", "pooling_param { kernel_size: 2 pool: AVE }", [S4], 2, "only max pooling"),
        ("Pooling", "pooling_param { kernel_size: 2 pad: 2 }", [S4], 1, "must be smaller"),
        ("Pooling", "pooling_param { kernel_size: 7 }", [S4], 1, "finds no place"),
        (
            "Convolution",
            "convolution_param { num_output: 1 kernel_size: 7 pad: 1 }",
            [S4],
            1,
            "spans 7, and the padded bottom only 6",
        ),
        (
            "Convolution",
            "convolution_param { num_output: 4 kernel_size: 1 group: 2 }",
            [S4],
            1,
            "channels by group: 3 cannot be divided by 2",
        ),
        (
            "Convolution",
            "convolution_param { num_output: 4 kernel_size: 1 group: 3 }",
            [S4],
            1,
            "num_output by group: 4 cannot be divided by 3",
        ),
        (
            "Convolution",
            "convolution_param { num_output: 4 kernel_size: 3 stride_h: 1 }",
            [S4],
            1,
            "stride must be positive, and is [1, 0]",
        ),
        (
            "Convolution",
            "convolution_param { num_output: 4 kernel_size: 3 kernel_h: 3 }",
            [S4],
            1,
            "exclude each other",
        ),
        (
            "Convolution",
            "convolution_param { num_output: 4 }",
            [S4],
            1,
            "kernel_size must be given once or 2 times, not 0 times",
        ),
        (
            "InnerProduct",
            "inner_product_param { num_output: 4 axis: 4 }",
            [S4],
            1,
            "axis 4 is out of range for (2, 3, 4, 5)",
        ),
        ("InnerProduct", "", [S4], 1, "num_output must be positive"),
        (
            "MarginInnerProduct",
            "margin_inner_product_param { num_output: 4 }",
            [(5, 3), (4,)],
            1,
            "one label for each row",
        ),
        ("SoftmaxWithLoss", "", [(2, 3, 4), (2,)], 1, "there must be 8 labels"),
        ("Reshape", "reshape_param { shape { dim: [7, -1] } }", [S4], 1, "cannot be reshaped"),
        ("Input", "", [], 1, "gives no shape"),
        (
            "HDF5Data",
            "hdf5_data_param { batch_size: 8 }",
            [],
            2,
            "the shapes are in the HDF5 files",
        ),
        ("WindowData", "window_data_param { batch_size: 8 }", [], 2, "crop_size"),
        ("ImageData", "image_data_param { new_height: 8 }", [], 2, "go together"),
        ("Data", "", [], 1, "batch_size must be positive"),
        ("Input", "input_param { shape { dim: -1 } }", [], 1, "cannot be negative"),
        ("Input", "input_param { shape { dim: [65536, 65536] } }", [], 1, "2^31 - 1"),
        (
            "InnerProduct",
            "inner_product_param { num_output: 9 } param {} param {} param {}",
            [S4],
            1,
            "3 param for 2 parameter blobs",
        ),
    ],
)
def test_problems(type_: str, param: str, bottoms: list[Shape], tops: int, message: str) -> None:
    shapes = run(layer(type_, param, len(bottoms), tops), *bottoms)
    assert shapes.problem is not None
    assert message in shapes.problem


def test_a_problem_stops_what_depends_on_it_and_nothing_else() -> None:
    layers = by_name(
        infer_shapes(
            net("""
            layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: [4, 3] } } }
            layer { name: 'odd' type: 'Odd' bottom: 'data' top: 'a' }
            layer { name: 'relu' type: 'ReLU' bottom: 'a' top: 'a' }
            layer { name: 'ip' type: 'InnerProduct' bottom: 'a' top: 'b'
              inner_product_param { num_output: 2 axis: -1 } }
            layer { name: 'sum' type: 'Eltwise' bottom: 'data' bottom: 'b' top: 'c' }
            layer { name: 'good' type: 'InnerProduct' bottom: 'data' top: 'd'
              inner_product_param { num_output: 2 } }
            """)
        )
    )
    assert layers["odd"].tops == {"a": None}
    assert layers["relu"].problem == "needs the shape of 'a' (stopped at 'odd')"
    assert layers["ip"].problem == "needs the shape of 'a' (stopped at 'odd')"
    assert layers["ip"].params == ()
    assert layers["ip"].param_count is None
    assert layers["sum"].problem == "needs the shape of 'b' (stopped at 'odd')"
    assert layers["good"].problem is None
    assert layers["good"].tops == {"d": (4, 2)}
    assert count_params(layers.values()) is None


def test_wiring() -> None:
    layers = by_name(
        infer_shapes(
            net("""
            layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: [4, 3] } } }
            layer { name: 'typo' type: 'ReLU' bottom: 'dta' top: 'a' }
            layer { name: 'early' type: 'ReLU' bottom: 'late' top: 'b' }
            layer { name: 'late' type: 'ReLU' bottom: 'data' top: 'late' }
            layer { name: 'again' type: 'Input' top: 'data' input_param { shape { dim: [9] } } }
            layer { name: 'use' type: 'ReLU' bottom: 'data' top: 'c' }
            """)
        )
    )
    assert layers["typo"].problem == "bottom 'dta' is nobody's top, did you mean 'data'?"
    assert layers["early"].problem == "bottom 'late' is the top of 'late', further down"
    assert layers["again"].problem is not None
    assert "top 'data' has a maker already" in layers["again"].problem
    assert layers["use"].tops == {"c": (4, 3)}


def test_old_formats_are_refused() -> None:
    for text in ("layers { name: 'x' type: RELU }", "input: 'data' input_dim: [1, 3, 4, 5]"):
        with pytest.raises(ValueError, match="upgrade it first"):
            infer_shapes(net(text))


def test_an_inner_product_needs_nothing_from_below() -> None:
    layers = by_name(
        infer_shapes(
            net("""
            layer { name: 'data' type: 'Input' top: 'label' input_param { shape { dim: 8 } } }
            layer { name: 'odd' type: 'Odd' top: 'a' }
            layer { name: 'fc5' type: 'InnerProduct' bottom: 'a' top: 'fc5'
              inner_product_param { num_output: 16 } }
            layer { name: 'relu' type: 'PReLU' bottom: 'fc5' top: 'fc5' }
            layer { name: 'fc6' type: 'MarginInnerProduct' bottom: 'fc5' bottom: 'label' top: 'fc6'
              margin_inner_product_param { num_output: 10 } }
            layer { name: 'deep' type: 'InnerProduct' bottom: 'a' top: 'deep'
              inner_product_param { num_output: 16 axis: 2 } }
            layer { name: 'absurd' type: 'InnerProduct' bottom: 'a' top: 'b'
              inner_product_param { num_output: 16 axis: 2000000000 } }
            """)
        )
    )
    assert layers["fc5"].bottoms == {"a": None}
    assert layers["fc5"].tops == {"fc5": (None, 16)}
    assert layers["fc5"].params == ((16, None), (16,))
    assert layers["fc5"].problem is None
    assert layers["fc6"].params == ((10, 16),)
    assert layers["fc6"].problem is None
    assert layers["deep"].tops == {"deep": (None, None, 16)}
    assert layers["absurd"].problem == "needs the shape of 'a' (stopped at 'odd')"


# Blobs in the file.


def stored(blobs: str, inputs: dict[str, Sequence[int | None]] | None = None) -> LayerShapes:
    """An InnerProduct of two outputs above a database, with blobs."""
    text = f"""
        layer {{ name: 'd' type: 'Data' top: 'x' top: 'label' data_param {{ batch_size: 2 }} }}
        layer {{ name: 'ip' type: 'InnerProduct' bottom: 'x' top: 'y' {blobs}
          inner_product_param {{ num_output: 2 }} }}
    """
    return infer_shapes(net(text), inputs)[-1]


def test_blobs_in_the_file_say_the_parameters() -> None:
    new = "blobs { shape { dim: [2, 12] } } blobs { shape { dim: 2 } }"
    old = "blobs { height: 2 width: 12 num: 1 channels: 1 } blobs { width: 2 }"
    old = old.replace("{ width: 2 }", "{ num: 1 channels: 1 height: 1 width: 2 }")
    for blobs in (new, old):
        for inputs in (None, {"x": (2, 3, 2, 2)}):
            shapes = stored(blobs, inputs)
            assert shapes.params == ((2, 12), (2,))
            assert shapes.param_count == 26
            assert shapes.problem is None
    wrong = stored(new, {"x": (2, 13)})
    assert wrong.problem == "InnerProduct: blob 0 is (2, 12) in the file, and not (2, 13)"
    assert wrong.tops == {"y": (2, 2)}
    few = stored("blobs { shape { dim: [2, 12] } }")
    assert few.problem == "InnerProduct: the file holds 1 blobs, and the layer has 2"
    assert stored("blobs { shape { dim: -2 } }").problem == (
        "the file's blob 0 is (-2,): a dimension cannot be negative"
    )


def test_blobs_of_a_layer_without_a_rule() -> None:
    blobs = "blobs { shape { dim: 3 } } blobs { shape { dim: [3, 4] } }"
    shapes = run(f"layer {{ name: 'x' type: 'Odd' bottom: 'b0' top: 't0' {blobs} }}", (1, 3))
    assert shapes.params == ((3,), (3, 4))
    assert shapes.param_count == 15
    assert shapes.tops == {"t0": None}


# What a fork has and Caffe lacks.


def fork(text: str) -> pb.NetParameter:
    """A net as the project's own reader reads it, which keeps account of what it skips."""
    message = pb.NetParameter()
    assert parse(text, message)
    upgrade_net(message)
    return message


@pytest.mark.parametrize(
    "text",
    [
        "layer { name: 'p' type: 'Pooling' bottom: 'x' top: 'y'"
        " pooling_param { kernel_size: 2 ceil_mode: false } }",
        "layers { name: 'p' type: POOLING bottom: 'x' top: 'y'"
        " pooling_param { kernel_size: 2 ceil_mode: false } }",
    ],
)
def test_a_field_of_a_fork_that_may_change_the_shape(text: str) -> None:
    kind = text[: text.index(" ")]
    data = "layer { name: 'd' type: 'Input' top: 'x' input_param { shape { dim: [1, 1, 6, 6] } } }"
    if kind == "layers":
        data = "input: 'x' input_shape { dim: [1, 1, 6, 6] }"
    message = fork(data + text)
    copy = pb.NetParameter()
    copy.CopyFrom(message)
    pool = infer_shapes(copy)[-1]
    assert pool.tops == {"y": None}
    assert pool.problem == (
        "Pooling: no shape is certain with the field 'ceil_mode' of pooling_param,"
        " which only a fork knows"
    )
    assert infer_shapes(message, {"y": (1, 1, 3, 3)})[-1].tops == {"y": (1, 1, 3, 3)}


def test_a_field_of_a_fork_in_a_binary() -> None:
    text = layer("Convolution", "convolution_param { num_output: 4 kernel_size: 3 }", 1)
    message = net("layer { name: 'd' type: 'Input' top: 'b0' }" + text)
    assert infer_shapes(message, {"b0": S4})[-1].problem is None
    message.layer[1].convolution_param.MergeFromString(b"\xc0\x3e\x07")  # field 1000, a varint of 7
    problem = infer_shapes(message, {"b0": S4})[-1].problem
    assert problem is not None
    assert "the field '1000' of convolution_param" in problem


def test_a_field_of_a_fork_that_changes_no_shape() -> None:
    message = fork(
        "layer { name: 'd' type: 'Input' top: 'x' input_param { shape { dim: [1, 1, 6, 6] } } }"
        "layer { name: 'c' type: 'Convolution' bottom: 'x' top: 'c' convolution_param {"
        " num_output: 2 kernel_size: 3 weight_filler { novel: 1 } } }"
        "layer { name: 'r' type: 'ReLU' bottom: 'c' top: 'c' relu_param { novel: 1 } }"
    )
    layers = infer_shapes(message)
    assert [layer.problem for layer in layers] == [None] * 3
    assert layers[-1].tops == {"c": (1, 2, 4, 4)}


@pytest.mark.parametrize("type_", sorted(FORKS))
def test_a_layer_of_a_fork(type_: str) -> None:
    problem = run(layer(type_, "", 1), S4).problem
    assert problem == f"layer type '{type_}' is of {FORKS[type_]}, not of BVLC's Caffe"
    assert type_ not in LAYER_TYPES


def test_reshape_counts_the_elements_of_the_blob() -> None:
    shapes = run(
        layer("Reshape", "reshape_param { shape { dim: [0, 18, -1, 0] } }", 1), (1, 2, 570, 38)
    )
    assert 1 * 2 * 570 * 38 == 43320
    assert shapes.problem == (
        "Reshape: (1, 2, 570, 38) cannot be reshaped: 43320 elements into (1, 18, -1, 38)"
    )


# Large nets.


def test_work_is_linear_in_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[int] = []

    def search(name: str, names: Iterable[str]) -> None:
        searches.append(len(list(names)))

    monkeypatch.setattr("caffe_margin.nets.shapes.near", search)
    text = "".join(
        f"layer {{ name: 'r{i}' type: 'ReLU' bottom: 'missing{i}' top: 't{i}' }}" for i in range(50)
    )
    assert all("is nobody's top" in str(layer.problem) for layer in infer_shapes(net(text)))
    assert len(searches) == 10


# Shared parameters.


def siamese(first: str, second: str) -> list[LayerShapes]:
    text = "layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: [4, 3] } } }"
    for i, more in enumerate((first, second)):
        text += f" layer {{ name: 'ip{i}' type: 'InnerProduct' bottom: 'data' top: 't{i}' {more} }}"
    return infer_shapes(net(text))


def test_shared_parameters_count_once() -> None:
    named = "param { name: 'w' } param { name: 'b' } inner_product_param { num_output: 5 }"
    layers = siamese(named, named)
    assert [layer.param_count for layer in layers] == [0, 20, 20]
    assert layers[2].param_names == ("w", "b")
    assert count_params(layers) == 20
    assert count_params(siamese(named, named.replace("'b'", "'c'"))) == 25
    assert count_params(siamese(*["inner_product_param { num_output: 5 }"] * 2)) == 40


def test_shared_parameters_must_match() -> None:
    first = "param { name: 'w' } inner_product_param { num_output: 5 }"
    layers = siamese(first, first.replace("5", "6"))
    assert layers[2].problem == (
        "InnerProduct: shares param 'w' with 'ip0', which has it as (5, 3) and not as (6, 3)"
    )
    assert layers[2].tops == {"t1": (4, 6)}
    transposed = first.replace("5", "5 transpose: true")
    assert siamese(first, transposed)[2].problem is not None
    permissive = transposed.replace("'w'", "'w' share_mode: PERMISSIVE")
    assert siamese(first, permissive)[2].problem is None


# Given input shapes.


def test_inputs_take_the_place_of_the_files_shapes() -> None:
    text = """
        layer { name: 'h5' type: 'HDF5Data' top: 'data' top: 'label' }
        layer { name: 'py' type: 'Python' bottom: 'data' top: 'aug' }
        layer { name: 'ip' type: 'InnerProduct' bottom: 'aug' top: 'ip'
          inner_product_param { num_output: 2 } }
    """
    layers = by_name(infer_shapes(net(text), {"data": [8, 3], "label": [8], "aug": (8, None)}))
    assert {layer.problem for layer in layers.values()} == {None}
    assert layers["h5"].tops == {"data": (8, 3), "label": (8,)}
    assert layers["ip"].tops == {"ip": (8, 2)}
    assert layers["h5"].param_count == 0
    assert layers["py"].param_count is None

    partly = by_name(infer_shapes(net(text), {"data": (8, 3)}))
    assert partly["h5"].tops == {"data": (8, 3), "label": None}
    assert partly["h5"].problem is not None


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"dat": (1, 3)}, "input 'dat' is nobody's top, did you mean 'data'?"),
        ({"ip": (1, 3)}, "input 'ip' is the top of 'ip', of type InnerProduct"),
        ({"ip": (1, 3)}, "of type InnerProduct: only tops of data layers, and of .* not known"),
        ({"data": (1, -3)}, r"input 'data' is \(1, -3\): a dimension cannot be negative"),
        ({"data": (1, 3.5)}, "is not a sequence of int or None"),
        ({"data": "1,3"}, "is not a sequence of int or None"),
    ],
)
def test_bad_inputs(inputs: Any, message: str) -> None:
    b = Builder(data=(4, 3))
    b.fc(2, "ip")
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        infer_shapes(net(b.text), inputs)


# Counts of bottoms and tops.


@pytest.mark.parametrize(
    ("type_", "bottoms", "tops", "message"),
    [
        ("MarginInnerProduct", 1, 1, "the number of bottoms must be 2, and is 1"),
        ("MarginInnerProduct", 2, 3, "the number of tops must be at most 2, and is 3"),
        ("MarginInnerProduct", 2, 0, "the number of tops must be at least 1, and is 0"),
        ("Silence", 1, 1, "the number of tops must be 0, and is 1"),
    ],
)
def test_counts(type_: str, bottoms: int, tops: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_counts(type_, bottoms, tops)


def test_counts_that_are_right() -> None:
    check_counts("MarginInnerProduct", 2, 2)
    check_counts("SoftmaxWithLoss", 2, 0)
