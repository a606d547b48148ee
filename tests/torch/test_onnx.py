"""Nets in ONNX: what onnxruntime makes of them, against Caffe's blobs and against our own."""

import os

import cv2
import numpy as np
import onnx
import pytest

import caffe_margin as cm
import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.npz import read_arrays
from caffe_margin.files.prototxt import parse_text
from caffe_margin.files.weights import read_blobs
from caffe_margin.nets.deploy import deploy, deploy_weights
from caffe_margin.recordings.recording import Recording
from caffe_margin.torch.agreement import (
    agreements,
    check_onnx,
    check_prototxt,
    draw_inputs,
    run_onnx,
)
from caffe_margin.torch.layers.table import FED, LAYERS, LOSS_TYPES
from caffe_margin.torch.onnx import Bytes, export_onnx
from helpers.every_type import ANY_BATCH, NOT_AT_INFERENCE, ONE_BATCH, layer
from helpers.places import DATA, MODELS

REAL = DATA / "real"
CAFFE = 1e-5
"""How far a blob may be from Caffe's, over the largest magnitude in it."""


def message(text):
    return parse_text(text, pb.NetParameter())


def drawn(net, seed=0):
    """Weights by the fillers."""
    params = cmt.Net(net, seed=seed).params
    return {name: [blob.detach().numpy() for blob in blobs] for name, blobs in params.items()}


# Nets that other people trained

RECORDINGS = {
    "hyperlpr_CharacterRecognization": ["hyperlpr_CharacterRecognization"],
    "hyperlpr_Segmentation": ["hyperlpr_Segmentation"],
    "mobilenet_tusimple": ["mobilenet_tusimple"],
    "mtcnn_det1": ["mtcnn_det1_random", "mtcnn_det1_face"],
    "mtcnn_det2": ["mtcnn_det2"],
    "mtcnn_det3": ["mtcnn_det3"],
    "ultraface_rfb320": ["ultraface_rfb320"],
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_onnxruntime_computes_what_caffe_did(name, tmp_path):
    for case in RECORDINGS[name]:
        recording = Recording(read_arrays(REAL / f"{case}.npz"))
        net = recording.net()
        deployed = deploy(net).net
        weights = deploy_weights(deployed, net, read_blobs(REAL / f"{name}.caffemodel"))
        path = tmp_path / f"{case}.onnx"
        export_onnx(deployed, weights, path)
        inputs = {
            key.partition("/")[2]: array
            for key, array in recording.arrays.items()
            if key.startswith("input/")
        }
        blobs = {top for layer in deployed.layer[1:] for top in layer.top}
        computed = run_onnx(path, inputs, sorted(blobs))
        outputs = run_onnx(path, inputs)
        for blob in blobs:
            whole = computed[blob]
            assert off(recording, blob, whole) <= CAFFE, blob
            if blob in outputs:
                assert off(recording, blob, outputs[blob]) <= CAFFE, blob
        rows = check_onnx(path, net, deployed, weights, inputs)
        assert [row for row in rows if not row.ok] == []


def off(recording, blob, computed):
    """How far from the recorded blob, or the part of it that was kept, over the largest."""
    part = recording.arrays.get(f"blob_part/{blob}/data")
    if part is not None:
        largest = recording.arrays[f"norm/{blob}"][0]
        return np.abs(computed[:, : part.shape[1]] - part).max() / largest
    expected = recording.arrays[f"blob/{blob}/data"]
    assert computed.shape == expected.shape
    return np.abs(computed - expected).max() / np.abs(expected).max()


# Every type of layer


def export(net, path, batch=None, **options):
    deployed = deploy(net).net
    weights = drawn(deployed)
    export_onnx(deployed, weights, path, batch=batch, **options)
    return deployed, weights


@pytest.mark.parametrize(("text", "batch"), [(ANY_BATCH, None), (ONE_BATCH, 3)])
def test_every_type_of_layer(text, batch, tmp_path):
    net = message(text)
    deployed, weights = export(net, tmp_path / "a.onnx", batch)
    onnx.checker.check_model(tmp_path / "a.onnx", full_check=True)
    inputs = draw_inputs(deployed, 3)
    rows = check_onnx(tmp_path / "a.onnx", net, deployed, weights, inputs)
    assert {row.blob for row in rows} == {top for layer in net.layer[1:] for top in layer.top}
    assert [row for row in rows if not row.ok] == []


def test_that_no_type_is_left_out():
    there = {layer.type for text in (ANY_BATCH, ONE_BATCH) for layer in message(text).layer}
    assert there - {"Input"} == LAYERS.keys() - LOSS_TYPES - NOT_AT_INFERENCE - FED


INPUT = "layer { name: 'in' type: 'Input' top: 'x' input_param { shape { dim: 1 dim: 6 } } }\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "layer { name: 'in' type: 'Input' top: 'x' top: 's' "
            "input_param { shape { dim: 1 dim: 6 } shape { dim: 1 } } }\n"
            + layer("Filter", "", "x s"),
            "layer 'filter': Filter has no meaning in ONNX: how many samples it keeps",
        ),
        (
            INPUT
            + layer("Reshape", "reshape_param { shape { dim: 1 dim: 6 } }")
            + layer("InnerProduct", "inner_product_param { num_output: 2 }", "reshape"),
            r"layer 'reshape', with bottoms .*; if the net is for one batch alone, say which",
        ),
    ],
)
def test_what_cannot_be_exported(text, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        export(message(text), tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_a_batch_that_would_become_a_constant_unsaid(tmp_path):
    with pytest.raises(ValueError, match="if the net is for one batch alone, say which"):
        export(message(ONE_BATCH), tmp_path / "a.onnx")


# Names

CLASHES = (
    INPUT
    + layer("InnerProduct", "inner_product_param { num_output: 3 }", name="relu")
    + layer("ReLU", "", "relu", name="linear")
    + "layer { name: 'a' type: 'ELU' bottom: 'linear' top: 'linear' }\n"
    + "layer { name: 'b' type: 'Dropout' bottom: 'linear' top: 'linear' }\n"
    + layer("Softmax", "", "linear", name="relu.weight")
)


def test_blobs_keep_their_names(tmp_path):
    """Though the exporter would have some of them for its own."""
    net = message(CLASHES)
    net.name = "named"
    metadata = {"caffe_margin.net": "named.prototxt"}
    deployed, weights = export(net, tmp_path / "a.onnx", metadata=metadata)
    rows = check_onnx(tmp_path / "a.onnx", net, deployed, weights, draw_inputs(deployed, 5))
    assert [row.blob for row in rows] == [
        *("relu", "linear@linear", "linear@a", "linear", "relu.weight")
    ]
    assert all(row.ok for row in rows)
    model = onnx.load(tmp_path / "a.onnx")
    assert [value.name for value in model.graph.input] == ["x"]
    assert [value.name for value in model.graph.output] == ["relu.weight"]
    assert (model.graph.name, model.producer_name) == ("named", "caffe_margin")
    assert {prop.key: prop.value for prop in model.metadata_props} == metadata
    assert [node.name for node in model.graph.node if node.op_type == "Relu"] == ["linear/Relu"]
    assert str(os.getcwd()).encode() not in (tmp_path / "a.onnx").read_bytes()


# The check


@pytest.fixture(scope="module")
def sphereface4(tmp_path_factory):
    """The net, its deployed one, weights, and the model's file."""
    path = tmp_path_factory.mktemp("onnx") / "sphereface4.onnx"
    net = cm.read_net(MODELS / "sphereface4_model.prototxt")
    deployed = deploy(net, {"data": (1, 3, 112, 96)}).net
    weights = drawn(deployed)
    export_onnx(deployed, weights, path)
    return net, deployed, weights, path


@pytest.mark.parametrize("layer_name", ["conv1_1", "conv3_1", "fc5"])
def test_one_weight_that_is_off_names_its_layer(sphereface4, layer_name, tmp_path):
    net, deployed, weights, path = sphereface4
    model = onnx.load(path)
    (weight,) = (w for w in model.graph.initializer if w.name == f"{layer_name}.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[7] += np.abs(values).max()
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "off.onnx")
    inputs = draw_inputs(deployed, 3)
    rows = check_onnx(tmp_path / "off.onnx", net, deployed, weights, inputs)
    assert next(row.layer for row in rows if not row.ok) == layer_name
    assert all(row.ok for row in check_onnx(path, net, deployed, weights, inputs))


@pytest.mark.parametrize("depth", ["10", ""])
def test_deeper_nets(depth, tmp_path):
    net = cm.read_net(MODELS / f"sphereface{depth}_deploy.prototxt")
    deployed, weights = export(net, tmp_path / "a.onnx")
    rows = check_onnx(tmp_path / "a.onnx", net, deployed, weights, draw_inputs(deployed, 3))
    assert len(rows) == len(deployed.layer) - 1
    assert [row for row in rows if not row.ok] == []


def test_a_written_prototxt_is_held_against_the_net_and_opencv(tmp_path):
    net = cm.read_net(MODELS / "glyphs_deploy.prototxt")
    deployed = deploy(net).net
    weights = drawn(deployed)
    cm.write_net(deployed, tmp_path / "a.prototxt")
    cm.write_weights(weights, tmp_path / "a.caffemodel")
    inputs = draw_inputs(deployed, 2)
    files = tmp_path / "a.prototxt", tmp_path / "a.caffemodel"
    rows, why = check_prototxt(*files, net, deployed, inputs)
    assert why == ""
    assert {engine for row in rows for engine in row.differences} == {"caffe_margin", "OpenCV"}
    assert all(row.ok for row in rows)
    # A layer that does something else in the file is found by both.
    convolution = next(layer for layer in deployed.layer if layer.type == "Convolution")
    convolution.convolution_param.dilation.append(2)
    convolution.convolution_param.pad[:] = [2 * convolution.convolution_param.pad[0]]
    cm.write_net(deployed, tmp_path / "a.prototxt")
    rows, _ = check_prototxt(*files, net, deployed, inputs)
    first = next(row for row in rows if not row.ok)
    assert first.layer == convolution.name
    assert all(difference > first.rtol for difference in first.differences.values())


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("expected", "computed", "difference"),
    [
        ([[4.0, -2.0]], [[4.0, -1.0]], 0.25),
        ([[4.0, NAN]], [[3.0, NAN]], 0.25),
        ([[4.0, NAN]], [[4.0, 1.0]], INF),
        ([[4.0, -INF]], [[4.0, -INF]], 0),
        ([[4.0, -INF]], [[4.0, INF]], INF),
        ([[4.0, 2.0]], [[4.0, NAN]], INF),
        ([[4.0, 2.0]], [[4.0]], INF),
        ([[4.0], [2.0]], [[4.0, 2.0]], INF),
        ([[0.0]], [[0.0]], 0),
        ([[0.0]], [[1e-30]], INF),
    ],
)
def test_how_far_off_a_blob_is(expected, computed, difference):
    net = message(INPUT + layer("ReLU"))
    (row,) = agreements(net, {"relu": np.array(expected)}, {"e": {"relu": np.array(computed)}})
    assert row.differences == {"e": difference}
    assert row.ok == (difference <= 1e-5)


@pytest.mark.parametrize(
    ("kind", "bottom", "difference"), [("ReLU", 1.0, INF), ("ReLU", NAN, 0), ("Log", 1.0, 0)]
)
def test_what_is_not_finite_of_what_is(kind, bottom, difference):
    """Alike, and made of finite numbers: by a layer that is not defined everywhere, or wrong."""
    net = message(INPUT + layer(kind))
    top = np.array([[4.0, NAN]])
    reference = {"x": np.array([[4.0, bottom]]), net.layer[1].top[0]: top}
    (row,) = agreements(net, reference, {"e": {net.layer[1].top[0]: top}})
    assert row.differences == {"e": difference}


# An image's bytes


def test_from_an_image_s_bytes_to_the_authors_feature(tmp_path):
    """Their images, and what their MATLAB and their Caffe made of them; by two engines."""
    recorded = read_arrays(DATA / "extraction" / "extraction.npz")
    net = cm.read_net(DATA / "extraction" / "sphereface20_small.prototxt")
    deployed = deploy(net).net
    blobs = read_blobs(DATA / "extraction" / "sphereface20_small.caffemodel")
    weights = deploy_weights(deployed, net, blobs)
    path, of_bytes = tmp_path / "a.onnx", Bytes(np.array([127.5]), 1 / 128)
    export_onnx(deployed, weights, path, of_bytes=of_bytes)
    bgr = np.ascontiguousarray(recorded["image"][..., ::-1])
    computed = run_onnx(path, {"image": bgr}, ["data", "fc5"])
    np.testing.assert_array_equal(computed["data"], recorded["data"])
    largest = np.abs(recorded["fc5_float64"]).max()
    assert np.abs(computed["fc5"] - recorded["fc5_float64"]).max() <= CAFFE * largest
    rows = check_onnx(path, net, deployed, weights, {"image": bgr}, of_bytes)
    assert all(row.ok for row in rows)


def test_opencv_reads_the_model_too(sphereface4):
    _, deployed, _, path = sphereface4
    inputs = draw_inputs(deployed, 2)
    reader = cv2.dnn.readNetFromONNX(str(path))
    reader.setInput(inputs["data"], "data")
    theirs, ours = reader.forward("fc5"), run_onnx(path, inputs)["fc5"]
    assert np.abs(theirs - ours).max() <= CAFFE * np.abs(ours).max()


def test_bytes_are_one_input(tmp_path):
    net = message(ONE_BATCH)
    with pytest.raises(ValueError, match="takes 'noise' and 'x', and an image's bytes are one"):
        export(net, tmp_path / "a.onnx", 3, of_bytes=Bytes(np.array(1.0), 1.0))
