"""caffe-margin export: what is written, what is held against what, and what is left behind."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

import caffe_margin as cm
import caffe_margin.torch as cmt
from caffe_margin.cli import main
from caffe_margin.files.blobs import array_to_blob
from caffe_margin.files.npz import write_arrays
from caffe_margin.nets.deploy import deploy
from caffe_margin.torch import onnx as exporter
from caffe_margin.torch.agreement import run_onnx
from helpers.places import DATA, MODELS

TRAIN = """
name: "small"
layer { name: "data" type: "ImageData" top: "data" top: "label"
        image_data_param { source: "list" batch_size: 2 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc5" type: "InnerProduct" bottom: "conv" top: "fc5"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "fc6" type: "MarginInnerProduct" bottom: "fc5" bottom: "label" top: "fc6" top: "l"
        margin_inner_product_param { num_output: 5 type: QUADRUPLE
                                     weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc6" bottom: "label" top: "loss" }
"""
SHAPE = ["--shape", "data=1,3,6,8"]
BLOBS = ["conv@conv", "conv", "fc5"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A net to train and its weights; in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.prototxt").write_text(TRAIN)
    shapes = {"data": (2, 3, 6, 8), "label": (2,)}
    cmt.Net("train.prototxt", phase="TRAIN", shapes=shapes, seed=1).save_weights("w.caffemodel")
    return tmp_path


def export(*arguments):
    return main(["export", "train.prototxt", *SHAPE, *arguments])


def test_a_prototxt_and_its_weights(files, capsys):
    assert export("--weights", "w.caffemodel", "-o", "d.prototxt") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["net       small: 4 layers", "weights   w.caffemodel"]
    assert lines[-2:] == ["written   d.prototxt", "written   d.caffemodel"]
    assert [line.split()[2] for line in lines[5:8]] == BLOBS
    train = cm.read_net("train.prototxt")
    assert cm.read_net("d.prototxt") == deploy(train, {"data": (1, 3, 6, 8)}).net
    theirs, ours = cm.read_weights("w.caffemodel"), cm.read_weights("d.caffemodel")
    assert list(ours) == ["conv", "fc5"]
    for name, blobs in ours.items():
        for a, b in zip(blobs, theirs[name], strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_head_that_is_kept(files, capsys):
    arguments = ["--weights", "w.caffemodel", "-o", "d.prototxt", "--keep-head", "--json"]
    assert export(*arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["written"] == ["d.prototxt", "d.caffemodel"]
    assert [(row["blob"], row["ok"]) for row in answer["check"]] == [
        (blob, True) for blob in [*BLOBS, "fc6"]
    ]
    head = cm.read_net("d.prototxt").layer[-1]
    assert (head.name, head.type) == ("fc6", "InnerProduct")
    rows = np.linalg.norm(cm.read_weights("d.caffemodel")["fc6"][0], axis=1)
    np.testing.assert_allclose(rows, 1, rtol=1e-6)


def test_without_weights_a_prototxt_alone(files, capsys):
    assert export("-o", "d.prototxt") == 0
    assert "weights   none" in capsys.readouterr().out
    assert sorted(os.listdir()) == ["d.prototxt", "train.prototxt", "w.caffemodel"]


def test_onnx(files, capsys):
    mean = ["--mean", "100,110,120", "--scale", "0.5"]
    assert export("--weights", "w.caffemodel", "-o", "d.onnx", *mean, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["blob"] for row in answer["check"]] == BLOBS
    assert all(row["ok"] and row["differences"]["onnxruntime"] < 1e-5 for row in answer["check"])
    model = onnx.load("d.onnx")
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    assert metadata["caffe_margin.net"] == "train.prototxt"
    assert metadata["caffe_margin.weights"] == "w.caffemodel"
    assert metadata["caffe_margin.mean"] == "100,110,120"
    assert len(metadata["caffe_margin.weights_sha256"]) == 64
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), np.uint8)
    data = (image - np.array([100.0, 110, 120])).transpose(0, 3, 1, 2) * 0.5
    weights = cm.read_weights("w.caffemodel")
    x = np.lib.stride_tricks.sliding_window_view(data, (3, 3), (2, 3))
    conv = np.einsum("nchwij,ocij->nohw", x, weights["conv"][0])
    fc5 = np.maximum(conv, 0).reshape(5, -1) @ weights["fc5"][0].T
    computed = run_onnx("d.onnx", {"image": image})
    assert list(computed) == ["fc5"]
    np.testing.assert_allclose(computed["fc5"], fc5, rtol=0, atol=1e-5 * np.abs(fc5).max())


def perturbed(monkeypatch, name="conv.weight"):
    """Let the exporter get one weight wrong."""
    real = exporter.export_onnx

    def wrong(net, weights, path, **options):
        real(net, weights, path, **options)
        model = onnx.load(path)
        (weight,) = (w for w in model.graph.initializer if w.name == name)
        values = onnx.numpy_helper.to_array(weight).copy()
        values.flat[0] += 1
        weight.CopyFrom(onnx.numpy_helper.from_array(values, name))
        onnx.save(model, path)

    monkeypatch.setattr(exporter, "export_onnx", wrong)


def test_an_export_that_is_off_is_not_left_behind(files, capsys, monkeypatch):
    (files / "d.onnx").write_bytes(b"before")
    perturbed(monkeypatch)
    assert export("--weights", "w.caffemodel", "-o", "d.onnx") == 1
    captured = capsys.readouterr()
    marked = [line for line in captured.out.splitlines() if "OFF" in line]
    assert [line.split()[0] for line in marked] == ["conv", "relu", "fc5"]
    assert [line.strip().endswith("OFF, the first") for line in marked] == [True, False, False]
    assert captured.err.splitlines() == [
        "caffe-margin: layer 'conv' is the first that is off, in blob 'conv@conv'; d.onnx is not "
        "written"
    ]
    assert (files / "d.onnx").read_bytes() == b"before"
    assert sorted(os.listdir()) == ["d.onnx", "train.prototxt", "w.caffemodel"]


def test_a_batch_inputs_of_its_own_and_no_weights(files, capsys):
    write_arrays("x.npz", {"data": np.ones((2, 3, 6, 8), np.float32)})
    assert export("-o", "d.onnx", "--batch", "2", "--inputs", "x.npz") == 0
    assert "weights   drawn by the fillers" in capsys.readouterr().out
    (batch, *_) = onnx.load("d.onnx").graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_value == 2


FORKED = TRAIN.replace("kernel_size: 3", "kernel_size: 3 binarize: true")


def test_what_a_fork_knows_goes_with_a_warning(files, capsys):
    (files / "train.prototxt").write_text(FORKED)
    assert export("-o", "d.prototxt", "--no-check") == 0
    assert "layer 'conv': without 'binarize' of ConvolutionParameter" in capsys.readouterr().err
    assert "binarize" not in (files / "d.prototxt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "d.pb"], "d.pb ends in neither .prototxt nor .onnx"),
        (["-o", "d.prototxt", "--batch", "2"], "--batch, --mean and --scale are for an .onnx"),
        (["-o", "d.onnx", "--mean", "1,2"], "a mean of (2,) and images of (3, 6, 8)"),
        (["-o", "d.onnx", "--mean", "nan"], "--mean: nan is not finite"),
        (["-o", "d.onnx", "--mean", "1,inf,2"], "--mean: 1,inf,2 is not finite"),
        (["-o", "d.onnx", "--scale", "nan"], "--scale: nan is not a finite number"),
        (["-o", "d.onnx", "--mean", "no.binaryproto"], "'no.binaryproto': No such file"),
        (["-o", "d.prototxt", "--weights", "x.npz"], "'x.npz': No such file"),
        (["-o", "none/d.prototxt"], "there is no folder"),
        (["-o", "d.prototxt", "--inputs", "w.caffemodel"], "w.caffemodel"),
    ],
)
def test_mistakes(files, capsys, arguments, message):
    try:
        status = export(*arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert sorted(os.listdir()) == ["train.prototxt", "w.caffemodel"]


@pytest.mark.parametrize(
    ("weights", "out", "read"),
    [
        ("w.caffemodel", "train.prototxt", "train.prototxt"),
        ("w.caffemodel", "link.prototxt", "train.prototxt"),
        ("w.caffemodel", "w.prototxt", "w.caffemodel"),
        ("w.onnx", "w.onnx", "w.onnx"),
    ],
)
def test_what_is_read_is_not_replaced(files, capsys, weights, out, read):
    os.symlink("train.prototxt", "link.prototxt")
    os.symlink("w.caffemodel", "w.onnx")
    before = {name: (files / name).read_bytes() for name in os.listdir()}
    assert export("--weights", weights, "-o", out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f" would replace {read}, which is read: give another --out")
    assert {name: (files / name).read_bytes() for name in os.listdir()} == before


def test_a_shape_that_is_wanting_is_given_by_an_option(files, capsys):
    assert main(["export", "train.prototxt", "-o", "d.prototxt"]) == 2
    assert capsys.readouterr().err == (
        "caffe-margin: the file does not say the shape of input 'data': give it, by "
        "--shape data=N,C,H,W\n"
    )


@pytest.mark.parametrize("shape", [[], SHAPE])
def test_data_that_is_there_in_training_alone(files, capsys, shape):
    rule = 'top: "label" include { phase: TRAIN }'
    (files / "train.prototxt").write_text(TRAIN.replace('top: "label"', rule, 1))
    assert main(["export", "train.prototxt", *shape, "-o", "d.prototxt"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'data' is the top of layer 'data', whose rules leave it out of phase TEST" in line


@pytest.mark.parametrize("scale", [1 / 128, 0.1234567890123])
def test_the_metadata_says_the_scale_in_full(files, scale):
    assert export("-o", "d.onnx", "--scale", str(scale), "--no-check") == 0
    metadata = {prop.key: prop.value for prop in onnx.load("d.onnx").metadata_props}
    assert float(metadata["caffe_margin.scale"]) == scale


@pytest.mark.parametrize("out", ["d.onnx", "d.prototxt"])
def test_weights_that_are_not_finite_are_off(files, capsys, out):
    weights = cm.read_weights("w.caffemodel")
    weights["conv"][0].flat[0] = np.nan
    cm.write_weights(weights, "nan.caffemodel")
    assert export("--weights", "nan.caffemodel", "-o", out) == 1
    assert "layer 'conv' is the first that is off" in capsys.readouterr().err
    assert not (files / out).exists()


def test_a_prototxt_needs_no_torch(tmp_path):
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom caffe_margin.cli import main\n"
        f"sys.exit(main(['export', {str(MODELS / 'sphereface4_model.prototxt')!r}, '--no-check', "
        "'--shape', 'data=1,3,112,96', '-o', 'd.prototxt']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert cm.read_net(tmp_path / "d.prototxt") == cm.read_net(
        MODELS / "sphereface4_deploy.prototxt"
    )


def test_stages_and_a_net_that_holds_its_weights(files, capsys):
    """A .caffemodel in the place of NET, by its stage."""
    net = cm.read_net(DATA / "cases" / "stage_net.prototxt")
    net.layer[-1].blobs.add(data=[1, 2, 3, 4, 5, 6]).shape.dim[:] = [2, 3]
    net.layer[-1].blobs.add(data=[7, 8]).shape.dim[:] = [2]
    cm.write_net(net, "stages.caffemodel")
    arguments = ["export", "stages.caffemodel", "-o", "d.prototxt", "--json"]
    assert main([*arguments, "--stage", "deploy"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == ["d.prototxt", "d.caffemodel"]
    deployed = cm.read_net("d.prototxt")
    assert [layer.name for layer in deployed.layer] == ["input", "ip"]
    assert list(deployed.layer[0].input_param.shape[0].dim) == [1, 3]
    weight, bias = cm.read_weights("d.caffemodel")["ip"]
    assert (weight.tolist(), bias.tolist()) == ([[1, 2, 3], [4, 5, 6]], [7, 8])


def test_a_mean_image(files, capsys):
    mean = np.arange(144.0).reshape(1, 3, 6, 8)
    (files / "m.binaryproto").write_bytes(array_to_blob(mean).SerializeToString())
    assert export("-o", "d.onnx", "--mean", "m.binaryproto", "--batch", "1") == 0
    image = np.full((1, 6, 8, 3), 100, np.uint8)
    computed = run_onnx("d.onnx", {"image": image}, ["data"])["data"]
    np.testing.assert_array_equal(computed, 100 - mean)
    mean.flat[5] = np.nan
    (files / "m.binaryproto").write_bytes(array_to_blob(mean).SerializeToString())
    assert export("-o", "e.onnx", "--mean", "m.binaryproto") == 2
    assert "m.binaryproto: the mean is not finite" in capsys.readouterr().err


def test_where_onnxruntime_is_missing(files, capsys, monkeypatch):
    """No check is made, unless it is asked for."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export("-o", "d.onnx") == 0
    assert "check" not in capsys.readouterr().out
    assert export("-o", "e.onnx", "--check") == 2
    assert "this needs onnxruntime, which is not installed: pip" in capsys.readouterr().err
    assert not (files / "e.onnx").exists()
