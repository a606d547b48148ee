"""tools/dump_caffe.py under a stand-in with pycaffe's surface; see the tool for the real one."""

import ast
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

import dump_caffe
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.npz import read_arrays
from caffe_margin.files.prototxt import filter_net
from caffe_margin.files.upgrade import upgrade_net
from caffe_margin.layers.layer import Blob
from caffe_margin.layers.margin_inner_product import MarginInnerProduct
from caffe_margin.layers.softmax_with_loss import SoftmaxWithLoss
from caffe_margin.recordings.replay import verify
from helpers.places import ROOT

TOOL = ROOT / "tools" / "dump_caffe.py"

HEAD = """
    name: "head"
    layer {{ name: "data" {data} }}
    layer {{ name: "fc6" type: "MarginInnerProduct" bottom: "fc5" bottom: "label" top: "fc6"
            {top} include {{ phase: TRAIN }}
            margin_inner_product_param {{ num_output: 7 type: {type} base: 9 gamma: 1
                                          lambda_min: 2 weight_filler {{ type: "xavier" }} }} }}
    layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc6" bottom: "label" top: "loss"
            include {{ phase: TRAIN }} }}
"""
INPUT = (
    'type: "Input" top: "fc5" top: "label" input_param { shape { dim: 4 dim: 6 } shape { dim: 4 } }'
)
NOWHERE = 'type: "ImageData" top: "img" top: "label"'


class Net:
    """pycaffe's Net over our own layers, in float32."""

    def __init__(self, path, phase):
        net = text_format.Parse(Path(path).read_text(), pb.NetParameter())
        upgrade_net(net)
        first, *layers = filter_net(net, phase).layer
        assert first.type == "Input"
        shapes = [tuple(shape.dim) for shape in first.input_param.shape]
        self.inputs = list(first.top)
        self.blobs = {
            top: Blob(np.zeros(shape, np.float32))
            for top, shape in zip(first.top, shapes, strict=True)
        }
        self.params = {}
        self._layers = []
        self._force_backward = net.force_backward
        for layer_param in layers:
            bottom = [self.blobs[name] for name in layer_param.bottom]
            for top in layer_param.top:
                self.blobs[top] = Blob(np.empty((0,), np.float32))
            top = [self.blobs[name] for name in layer_param.top]
            if layer_param.type == "MarginInnerProduct":
                layer = MarginInnerProduct.from_param(layer_param, rng=0)
                layer.layer_setup(bottom, top)
                self.params[layer_param.name] = layer.blobs
            else:
                layer = SoftmaxWithLoss.from_param(layer_param)
            layer.reshape(bottom, top)
            if layer_param.type == "SoftmaxWithLoss":
                top[0].diff[...] = 1
            self._layers.append((layer, bottom, top))

    def forward(self):
        for layer, bottom, top in self._layers:
            layer.forward_cpu(bottom, top)

    def backward(self):
        for layer, bottom, top in reversed(self._layers):
            down = self._force_backward or bottom[0] is not self.blobs[self.inputs[0]]
            layer.backward_cpu(top, [down, False], bottom)


@pytest.fixture
def caffe(monkeypatch):
    """The stand-in, as the modules that the tool imports."""
    module = types.ModuleType("caffe")
    module.Net, module.TRAIN, module.TEST = Net, "TRAIN", "TEST"
    module.modes = []
    module.set_mode_cpu = lambda: module.modes.append("cpu")
    module.set_mode_gpu = lambda: module.modes.append("gpu")
    module.set_device = lambda device: module.modes.append(device)
    module.__version__ = "1.0.0"
    module.proto = types.ModuleType("caffe.proto")
    module.proto.caffe_pb2 = pb
    monkeypatch.setitem(sys.modules, "caffe", module)
    monkeypatch.setitem(sys.modules, "caffe.proto", module.proto)
    monkeypatch.setitem(sys.modules, "caffe.proto.caffe_pb2", pb)
    monkeypatch.setenv("GLOG_minloglevel", "1")
    return module


@pytest.fixture
def record(caffe, tmp_path, capsys):
    """Run the tool on the head, and return the recording's path."""

    def record(*arguments, type="QUADRUPLE", data=NOWHERE, top='top: "lambda"'):
        net = tmp_path / "net.prototxt"
        net.write_text(HEAD.format(type=type, data=data, top=top))
        assert dump_caffe.main([str(net), "--out", str(tmp_path / "out"), *arguments]) == 0
        return Path(capsys.readouterr().out.strip())

    return record


@pytest.mark.parametrize("type", ["SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE"])
@pytest.mark.parametrize("seed", ["0", "1"])
def test_layer(record, type, seed, tmp_path):
    path = record("--layer", "fc6", "--seed", seed, "--forwards", "3", type=type)
    assert path == tmp_path / "out" / f"fc6_seed{seed}.npz"
    recording = read_arrays(path)
    assert recording["bottom0_data"].shape == (24, 16)
    assert recording["top1_data"].tolist() == [4.5, 3, 2.25]
    assert recording["blob0_diff_before"].any()
    assert str(recording["source"]) == f"Caffe 1.0.0, CPU, by dump_caffe.py with seed {seed}"
    verification = verify(path)
    assert verification.kind == "layer"
    assert verification.ok
    assert {check.blob for check in verification.checks} == {
        "top0_data",
        "top1_data",
        "blob0_data",
        "blob0_diff",
        "bottom0_diff",
    }
    # the batch covers angles on both sides
    cos = recording["top0_data"] if type == "SINGLE" else None
    if cos is not None:
        own = cos[np.arange(24), recording["bottom1_data"].astype(int)]
        assert own.min() < 0 < own.max()


def test_seeds_differ_and_repeat(record):
    first = read_arrays(record("--layer", "fc6"))["bottom0_diff"]
    np.testing.assert_array_equal(read_arrays(record("--layer", "fc6"))["bottom0_diff"], first)
    other = read_arrays(record("--layer", "fc6", "--seed", "9"))["bottom0_diff"]
    assert not np.array_equal(other, first)


def test_loss(record):
    path = record("--layer", "loss", "--shape", "5,7")
    verification = verify(path)
    assert verification.kind == "softmax_loss"
    assert verification.ok
    assert {check.blob for check in verification.checks} == {"top0_data", "bottom0_diff"}


def test_a_second_top_is_added(record):
    recording = read_arrays(record("--layer", "fc6", top=""))
    assert 'top: "lambda"' in str(recording["layer"])


def test_inputs_from_a_file_or_a_recording(record, tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x, label=[0, 6, 2], weight=np.ones((7, 5)))
    path = record("--layer", "fc6", "--inputs", str(tmp_path / "in.npz"))
    recording = read_arrays(path)
    np.testing.assert_array_equal(recording["bottom0_data"], x)
    np.testing.assert_array_equal(recording["bottom1_data"], [0, 6, 2])
    np.testing.assert_array_equal(recording["blob0_data_before"], 1)
    again = read_arrays(record("--layer", "fc6", "--inputs", str(path), "--seed", "5"))
    for key in recording.keys() - {"source"}:
        np.testing.assert_array_equal(again[key], recording[key])


def test_features_are_drawn_about_the_given_labels(record, tmp_path):
    label = np.arange(24) % 7
    np.savez(tmp_path / "in.npz", label=label)
    path = record("--layer", "fc6", "--inputs", str(tmp_path / "in.npz"), type="SINGLE")
    recording = read_arrays(path)
    np.testing.assert_array_equal(recording["bottom1_data"], label)
    x, weight = recording["bottom0_data"], recording["blob0_data_before"][label]
    cos = (x * weight).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(weight, axis=1)
    assert cos.std() > 0.6  # 0.25 for features that know nothing of their class


def test_a_prototxt_that_is_not_utf_8(record, caffe, tmp_path):
    data = NOWHERE + "\n# caf\udce9\n"
    net = tmp_path / "latin.prototxt"
    text = HEAD.format(type="DOUBLE", data=data, top="")
    net.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert dump_caffe.main([str(net), "--layer", "fc6", "--out", str(tmp_path)]) == 0


def test_the_phase_is_in_the_name(record):
    assert record("--net", "--phase", "TEST", data=INPUT).name == "head_TEST_seed0.npz"


def test_what_an_earlier_run_left_behind(record, tmp_path):
    (tmp_path / "out" / "fc6_seed0.npz.tmp").mkdir(parents=True)
    first = record("--layer", "fc6")
    assert record("--layer", "fc6") == first
    names = sorted(path.name for path in first.parent.iterdir())
    assert names == ["fc6_seed0.npz", "fc6_seed0.npz.tmp"]


def test_whole_net(record, tmp_path):
    np.savez(tmp_path / "in.npz", label=[6, 5, 4, 3])
    path = record("--net", "--inputs", str(tmp_path / "in.npz"), data=INPUT)
    assert path.name == "head_seed0.npz"
    recording = read_arrays(path)
    blobs = ("fc5", "label", "fc6", "lambda", "loss")
    assert {f"blob/{name}/{part}" for name in blobs for part in ("data", "diff")} == {
        key for key in recording if key.startswith("blob/")
    }
    assert recording["blob/label/data"].tolist() == [6, 5, 4, 3]
    verification = verify(path)
    assert verification.kind == "net"
    assert verification.ok
    # nothing below fc6 learns, so fc5's diff is nobody's
    assert {check.blob for check in verification.checks} == {
        "fc6/top0_data",
        "fc6/top1_data",
        "fc6/blob0_data",
        "fc6/blob0_diff",
        "loss/bottom0_diff",
        "loss/top0_data",
    }


def test_gpu(record, caffe):
    path = record("--layer", "fc6", "--gpu", "1")
    assert caffe.modes == [1, "gpu"]
    assert ", GPU, " in str(read_arrays(path)["source"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "fc7"], "no layer 'fc7'; to record are: fc6, loss"),
        (["--layer", "data"], "of type ImageData; MarginInnerProduct and"),
        (["--layer", "fc6", "--shape", "4"], "axis 1 is out of range"),
        (["--layer", "fc6", "--inputs", "labels"], "a label is outside [0, 7)"),
        (["--layer", "fc6", "--inputs", "few"], "bottom1_data is (3,), but the net's is (24,)"),
        (["--layer", "fc6", "--inputs", "weight"], "blob0_data_before is (2, 2), but the net's is"),
        (["--layer", "fc6", "--inputs", "net.prototxt"], "dump_caffe: "),
        (["--layer", "fc6", "--inputs", "nothing"], "No such file"),
    ],
)
def test_mistakes(caffe, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(HEAD.format(type="DOUBLE", data=NOWHERE, top=""))
    with open("labels", "wb") as file:
        np.savez(file, label=np.full(24, 7))
    with open("few", "wb") as file:
        np.savez(file, label=[0, 1, 2])
    with open("weight", "wb") as file:
        np.savez(file, weight=np.ones((2, 2)))
    assert dump_caffe.main(["net.prototxt", "--out", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "old", "new", "message"),
    [
        (["--layer", "fc6"], "num_output: 7", "", "'fc6' has no num_output"),
        (["--net"], "num_output: 7", "num_output: 0", "'fc6' has no num_output"),
        (["--net"], "", "", "'fc6' needs two tops"),
        (["--layer", "fc6"], "num_output: 7", "num_output: 7 axis: 0", "Caffe wants 24 labels"),
        (["--layer", "fc6", "--weights", "none"], "", "", "there is no file none"),
        (["--net", "--weights", "none"], "", "", "there is no file none"),
    ],
)
def test_mistakes_that_caffe_would_die_of(
    caffe, tmp_path, capsys, monkeypatch, arguments, old, new, message
):
    monkeypatch.chdir(tmp_path)
    caffe.Net = pytest.fail
    Path("net").write_text(HEAD.format(type="DOUBLE", data=INPUT, top="").replace(old, new))
    assert dump_caffe.main(["net", "--out", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("shape", ["0,4", "-1,4", "a,b", "4,", "", "1.5"])
def test_shapes_that_are_none(shape, capsys):
    with pytest.raises(SystemExit) as caught:
        dump_caffe.main(["net", "--layer", "fc6", "--out", "out", f"--shape={shape}"])
    assert caught.value.code == 2
    assert f"{shape!r} is not positive numbers" in capsys.readouterr().err


def test_without_caffe(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "caffe", None)
    monkeypatch.setenv("GLOG_minloglevel", "1")
    assert dump_caffe.main(["net", "--net", "--out", "out"]) == 2
    assert "no pycaffe here" in capsys.readouterr().err


def test_runs_where_old_caffes_live():
    """Python 3.6 parses it, and it imports nothing but pycaffe's own needs."""
    tree = ast.parse(TOOL.read_text(), feature_version=(3, 6))
    imported = {"google"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"caffe", "google", "numpy"}
    assert not any(isinstance(node, ast.NamedExpr) for node in ast.walk(tree))
