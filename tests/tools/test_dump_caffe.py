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
from caffe_margin.files.upgrade import upgrade_net
from caffe_margin.layers.layer import Blob
from caffe_margin.layers.margin_layers import MARGIN_LAYERS, margin_layer
from caffe_margin.layers.softmax_with_loss import SoftmaxWithLoss
from caffe_margin.nets import plugin_text
from caffe_margin.nets.select import filter_net
from caffe_margin.nets.shapes import infer_shapes
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


def as_large_margin(text):
    """Make every MarginInnerProduct of a net a LargeMarginInnerProduct."""
    return text.replace('"MarginInner', '"LargeMarginInner').replace(
        "margin_inner_product_param", "largemargin_inner_product_param"
    )


class Moves:
    """Layers that move values about, and those that do what they do to other shapes."""

    def __init__(self, layer_param, shapes):
        self.param, self.shapes = layer_param, list(shapes.tops.values())

    def reshape(self, bottom, top):
        for blob, shape in zip(top, self.shapes, strict=True):
            blob.reshape(*(shape or ()))

    def forward_cpu(self, bottom, top):
        data = [blob.data for blob in bottom]
        if self.param.type == "Slice":
            ends = np.cumsum([blob.data.shape[self.param.slice_param.axis] for blob in top])
            data = np.split(data[0], ends[:-1], self.param.slice_param.axis)
        elif self.param.type == "Concat":
            data = [np.concatenate(data, self.param.concat_param.axis)]
        elif self.param.type == "Power":
            data = [data[0] + self.param.power_param.shift]
        elif self.param.type not in ("Flatten", "Reshape", "Split"):
            self.look_up(*data)
            data = [np.zeros(blob.data.shape) for blob in top]
        for blob, values in zip(top, data * (len(top) // max(len(data), 1)), strict=True):
            blob.data[...] = values.reshape(blob.data.shape)

    def look_up(self, first, second=None, *others):
        """Read at the indices that the layer is given; numpy says where C++ would go astray."""
        type, axis = self.param.type, 1
        if type == "Embed":
            at, table = first, np.zeros(self.param.embed_param.input_dim)
        elif type == "BatchReindex":
            at, table = second, first
        elif type in ("MultinomialLogisticLoss", "HingeLoss"):
            at, table = second, first.reshape(len(first), -1)[0]
        elif type in ("InfogainLoss", "Accuracy"):
            if type == "Accuracy":
                axis = self.param.accuracy_param.axis
            at, table = second, np.zeros(first.shape[axis])
        else:
            return
        assert (at >= 0).all()
        np.testing.assert_array_equal(at, at.astype(int))
        table[at.astype(int)]

    def backward_cpu(self, top, propagate_down, bottom):
        pass


class Net:
    """pycaffe's Net over our own layers, in float32; others have their shapes, and read labels."""

    def __init__(self, path, phase):
        net = text_format.Parse(Path(path).read_text(), pb.NetParameter())
        upgrade_net(net)
        net = filter_net(net, phase)
        layer_shapes = infer_shapes(net)
        first, *layers = net.layer
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
        for layer_param, shapes_here in zip(layers, layer_shapes[1:], strict=True):
            bottom = [self.blobs[name] for name in layer_param.bottom]
            for top in layer_param.top:
                self.blobs.setdefault(top, Blob(np.empty((0,), np.float32)))
            top = [self.blobs[name] for name in layer_param.top]
            if layer_param.type in MARGIN_LAYERS:
                layer = margin_layer(layer_param, rng=0)
                layer.layer_setup(bottom, top)
                self.params[layer_param.name] = layer.blobs
            elif layer_param.type == "SoftmaxWithLoss":
                layer = SoftmaxWithLoss.from_param(layer_param)
            else:
                layer = Moves(layer_param, shapes_here)
            layer.reshape(bottom, top)
            if layer_param.type == "SoftmaxWithLoss":
                top[0].diff[...] = 1
            self._layers.append((layer, bottom, top))

    def forward(self):
        for layer, bottom, top in self._layers:
            if not isinstance(layer, Moves):
                layer.check(bottom)
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

    def record(*arguments, type="QUADRUPLE", data=NOWHERE, top='top: "lambda"', large=False):
        net = tmp_path / "net.prototxt"
        text = HEAD.format(type=type, data=data, top=top)
        net.write_text(as_large_margin(text) if large else text)
        assert dump_caffe.main([str(net), "--out", str(tmp_path / "out"), *arguments]) == 0
        return Path(capsys.readouterr().out.strip())

    return record


@pytest.mark.parametrize("large", [False, True], ids=["A-Softmax", "L-Softmax"])
@pytest.mark.parametrize("type", ["SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE"])
@pytest.mark.parametrize("seed", ["0", "1"])
def test_layer(record, type, seed, large, tmp_path):
    path = record("--layer", "fc6", "--seed", seed, "--forwards", "3", type=type, large=large)
    assert path == tmp_path / "out" / f"fc6_seed{seed}.npz"
    recording = read_arrays(path)
    assert recording["bottom0_data"].shape == (24, 16)
    assert recording["top1_data"].tolist() == [4.5, 3, 2.25]
    assert recording["blob0_diff_before"].any()
    assert ("LargeMarginInnerProduct" in str(recording["layer"])) == large
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


def test_a_large_margin_in_a_whole_net(record):
    verification = verify(record("--net", data=INPUT, large=True))
    assert verification.ok
    assert {"fc6/top0_data", "fc6/top1_data", "fc6/blob0_diff", "loss/top0_data"} <= {
        check.blob for check in verification.checks
    }


def test_a_caffe_without_the_large_margin(caffe, tmp_path, capsys, monkeypatch):
    net = tmp_path / "net.prototxt"
    net.write_text(as_large_margin(HEAD.format(type="DOUBLE", data=NOWHERE, top="")))
    monkeypatch.setitem(dump_caffe.MARGIN_PARAM, "LargeMarginInnerProduct", "of_another_fork")
    assert dump_caffe.main([str(net), "--layer", "fc6", "--out", str(tmp_path)]) == 2
    assert "this Caffe has no of_another_fork" in capsys.readouterr().err


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
    verification = verify(path, engines=["fused"])
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


# Inputs that are indices


def net_text(inputs, layers):
    tops = "".join(f'top: "{name}" ' for name in inputs)
    shapes = "".join(
        f"shape {{ {' '.join(f'dim: {dim}' for dim in shape)} }} " for shape in inputs.values()
    )
    data = f'layer {{ name: "in" type: "Input" {tops} input_param {{ {shapes} }} }}'
    return f'name: "net" {data} {layers}'


def layer(type, bottom, top="out", more=""):
    bottoms = "".join(f'bottom: "{name}" ' for name in bottom.split())
    tops = "".join(f'top: "{name}" ' for name in top.split())
    return f'layer {{ name: "{type}_{top}" type: "{type}" {bottoms} {tops} {more} }}\n'


SCORES = {"x": (40, 6), "y": (40,)}
SLICE = layer("Slice", "both", "x y", "slice_param { axis: 1 slice_point: 6 }")
MARGIN = 'margin_inner_product_param { num_output: 9 weight_filler { type: "xavier" } }'
V1 = """
    name: "net" input: "x" input: "y"
    input_dim: 40 input_dim: 6 input_dim: 1 input_dim: 1
    input_dim: 40 input_dim: 1 input_dim: 1 input_dim: 1
"""
INDEXED = {
    "loss": (net_text(SCORES, layer("SoftmaxWithLoss", "x y")), 6),
    "loss along another axis": (
        net_text(
            {"x": (9, 5, 8), "y": (9, 5)},
            layer("SoftmaxWithLoss", "x y", more="softmax_param { axis: 2 }"),
        ),
        8,
    ),
    "loss along the last axis": (
        net_text(
            {"x": (9, 8, 5), "y": (9, 8)},
            layer("SoftmaxWithLoss", "x y", more="softmax_param { axis: -1 }"),
        ),
        5,
    ),
    "accuracy": (
        net_text(
            {"x": (9, 5, 8), "y": (9, 5)},
            layer("Accuracy", "x y", more="accuracy_param { axis: 2 }"),
        ),
        8,
    ),
    "the lower of two": (
        net_text(
            {"x": (40, 6), "z": (40, 3), "y": (40,)},
            layer("SoftmaxWithLoss", "x y") + layer("SoftmaxWithLoss", "z y", "second"),
        ),
        3,
    ),
    "multinomial": (
        net_text({"x": (40, 3, 1, 2), "y": (40, 1, 1, 1)}, layer("MultinomialLogisticLoss", "x y")),
        6,
    ),
    "hinge": (net_text(SCORES, layer("HingeLoss", "x y")), 6),
    "infogain": (
        net_text(SCORES | {"H": (1, 1, 6, 6)}, layer("InfogainLoss", "x y H")),
        6,
    ),
    "embed": (
        net_text(
            {"y": (5, 8)}, layer("Embed", "y", "o", "embed_param { num_output: 2 input_dim: 7 }")
        ),
        7,
    ),
    "reindex": (net_text({"x": (4, 6), "y": (40,)}, layer("BatchReindex", "x y")), 4),
    "margin": (
        net_text(
            SCORES,
            layer("MarginInnerProduct", "x y", "o l", MARGIN),
        ),
        9,
    ),
    "large margin": (
        as_large_margin(net_text(SCORES, layer("MarginInnerProduct", "x y", "o l", MARGIN))),
        9,
    ),
    "the plugin's margin": (
        plugin_text.to_python(
            net_text(SCORES, layer("MarginInnerProduct", "x y", "o l", MARGIN))
        ).text,
        9,
    ),
    "behind slice": (net_text({"both": (40, 7)}, SLICE + layer("HingeLoss", "x y")), 6),
    "behind all": (
        net_text(
            {"x": (80, 6), "a": (40, 2), "b": (40, 2)},
            layer("Concat", "a b", "ab", "concat_param { axis: 1 }")
            + layer("Slice", "ab", "p q", "slice_param { axis: 1 slice_point: 2 }")
            + layer("Split", "p", "r s")
            + layer("Reshape", "s", "t", "reshape_param { shape { dim: 2 dim: -1 } }")
            + layer("Flatten", "t", "y", "flatten_param { axis: 0 }")
            + layer("HingeLoss", "x y"),
        ),
        6,
    ),
    "in another phase": (
        net_text(
            {"x": (40, 6), "y": (40,)},
            layer("Power", "y", "y", "power_param { shift: 1 } include { phase: TEST }")
            + layer("HingeLoss", "x y"),
        ),
        6,
    ),
    "old loss": (
        V1 + 'layers { name: "a" type: SOFTMAX_LOSS bottom: "x" bottom: "y" top: "o" }',
        6,
    ),
    "old hinge": (V1 + 'layers { name: "a" type: HINGE_LOSS bottom: "x" bottom: "y" top: "o" }', 6),
    "old slice": (
        """name: "net" input: "both" input_dim: 40 input_dim: 7 input_dim: 1 input_dim: 1
           layers { name: "s" type: SLICE bottom: "both" top: "x" top: "y"
                    slice_param { slice_dim: 1 slice_point: 6 } }
           layers { name: "a" type: MULTINOMIAL_LOGISTIC_LOSS bottom: "x" bottom: "y" top: "o" }""",
        6,
    ),
}


@pytest.mark.parametrize("case", INDEXED)
def test_indices_are_drawn_in_range(caffe, tmp_path, case):
    text, classes = INDEXED[case]
    (tmp_path / "net").write_text(text)
    drawn = set()
    for seed in ("0", "1", "2"):
        arguments = [str(tmp_path / "net"), "--net", "--out", str(tmp_path), "--seed", seed]
        assert dump_caffe.main(arguments) == 0
        recording = read_arrays(tmp_path / f"net_seed{seed}.npz")
        label = recording["blob/p/data" if case == "behind all" else "blob/y/data"]
        drawn |= set(label.reshape(-1).tolist())
        if "blob/x/data" in recording:  # and nothing else is made whole
            x = recording["blob/x/data"]
            assert (x != np.round(x)).all()
            assert x.std() > 0.6
    assert drawn == set(range(classes))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            layer("Power", "y", "shifted", "power_param { shift: -1 }")
            + layer("SoftmaxWithLoss", "x shifted"),
            "layer 'Power_shifted' computes from the input 'y': give that by --inputs",
        ),
        (
            layer("Power", "y", "y", "power_param { shift: -1 }")
            + layer("Concat", "y", "z", "concat_param { axis: 0 }")
            + layer("SoftmaxWithLoss", "x z"),
            "layer 'Power_y' computes from the input 'y'",
        ),
        (
            layer("CenterLoss", "x y"),
            "layer 'CenterLoss_out' of type CenterLoss may use the input 'x' as indices",
        ),
    ],
)
def test_indices_that_cannot_be_followed(caffe, tmp_path, capsys, monkeypatch, layers, message):
    (tmp_path / "net").write_text(net_text(SCORES, layers))
    arguments = [str(tmp_path / "net"), "--net", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(Net, "forward", pytest.fail)
    assert dump_caffe.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_indices_that_are_given(caffe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["net", "--net", "--out", "out", "--inputs", "in.npz"]
    shifted = layer("Power", "y", "z", "power_param { shift: -1 }")
    Path("net").write_text(net_text(SCORES, shifted + layer("SoftmaxWithLoss", "x z")))
    np.savez("in.npz", y=np.arange(40) % 6 + 1)
    assert dump_caffe.main(arguments) == 0

    ignoring = "loss_param { ignore_label: 255 }"
    Path("net").write_text(net_text(SCORES, layer("SoftmaxWithLoss", "x y", more=ignoring)))
    np.savez("in.npz", y=np.arange(40) % 6 * 51)
    capsys.readouterr()
    assert dump_caffe.main(arguments) == 2
    error = capsys.readouterr().err
    assert error == "dump_caffe: an index of layer 'SoftmaxWithLoss_out' is outside [0, 6)\n"
    np.savez("in.npz", y=np.where(np.arange(40) % 6 == 5, 255, 5))
    assert dump_caffe.main(arguments) == 0
    arguments = ["net", "--layer", "SoftmaxWithLoss_out", *arguments[2:], "--shape", "40,6"]
    np.savez("in.npz", label=np.where(np.arange(40) % 6 == 5, 255, 5))
    assert dump_caffe.main(arguments) == 0


def test_inputs_of_other_names(caffe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net").write_text(HEAD.format(type="DOUBLE", data=INPUT, top='top: "lambda"'))
    np.savez("in.npz", feature=np.ones((4, 6)), labels=np.ones(4))
    np.save("x.npy", np.ones((4, 6)))
    for arguments, message in [
        (
            ["--net", "--inputs", "in.npz"],
            "in.npz holds feature, labels; what is looked for is the net's inputs, which are fc5, "
            "label\n",
        ),
        (
            ["--layer", "fc6", "--inputs", "in.npz"],
            "in.npz holds feature, labels; what is looked for is x, label, weight, or a "
            "recording's keys\n",
        ),
        (["--net", "--inputs", "x.npy"], "x.npy is one array; an .npz is needed"),
    ]:
        assert dump_caffe.main(["net", "--out", "out", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_every_old_type_is_known():
    known = dump_caffe.PLAIN | dump_caffe.KEEP_VALUES | dump_caffe.INDEXED.keys()
    for value in pb.V1LayerParameter.LayerType.values():
        if value != pb.V1LayerParameter.NONE:
            assert dump_caffe.kind_of(pb.V1LayerParameter(type=value)) in known
    for type in ("ELU", "BatchNorm", "HDF5Data", "PReLU", "SPP", "Swish", "LSTM"):
        assert dump_caffe.kind_of(pb.LayerParameter(type=type)) in known
    assert dump_caffe.kind_of(pb.LayerParameter(type="CenterLoss")) not in known


FC5 = layer("InnerProduct", "img", "fc5", "inner_product_param { num_output: 11 }")
BELOW = {
    "a product": (FC5, (24, 11)),
    "in place": (FC5 + layer("PReLU", "fc5", "fc5") + layer("Dropout", "fc5", "fc5"), (24, 11)),
    "others between": (
        FC5.replace('"fc5"', '"a"') + layer("BatchNorm", "a", "b") + layer("Scale", "b", "fc5"),
        (24, 11),
    ),
    "an input": (
        'layer { name: "in" type: "Input" top: "img" top: "fc5" '
        "input_param { shape { dim: 3 dim: 9 } shape { dim: 3 dim: 2 dim: 5 } } }",
        (24, 2, 5),
    ),
    "an old input": (
        'input: "img" input: "fc5" ' + "input_dim: 3 " * 4 + "input_dim: 2 " * 4,
        None,
    ),
    "a convolution": (layer("Convolution", "img", "fc5"), (24, 16)),
}


@pytest.mark.parametrize("case", BELOW)
def test_the_net_says_the_shape(record, case):
    text, shape = BELOW[case]
    nowhere = NOWHERE + f' }} {text} layer {{ name: "none" type: "Silence"'
    assert read_arrays(record("--layer", "fc6", data=nowhere))["bottom0_data"].shape == (
        shape or (24, 2, 2, 2)
    )
    loss = read_arrays(record("--layer", "loss", data=nowhere))
    assert loss["bottom0_data"].shape == (24, 7)  # the head's num_output
    given = read_arrays(record("--layer", "fc6", "--shape", "5,3", data=nowhere))
    assert given["bottom0_data"].shape == (5, 3)


@pytest.mark.parametrize("where", ["__init__", "forward", "backward", "copy_from"])
@pytest.mark.parametrize("what", [["--net"], ["--layer", "fc6"]])
def test_a_caffe_that_throws(caffe, tmp_path, capsys, monkeypatch, where, what):
    def throw(*_):
        raise RuntimeError("Could not\nopen \x1b[2J file")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Net, where, throw, raising=False)
    Path("net").write_text(HEAD.format(type="DOUBLE", data=INPUT, top='top: "lambda"'))
    weights = ["--weights", "net"] if where == "copy_from" else []
    assert dump_caffe.main(["net", "--out", "out", *what, *weights]) == 2
    error = capsys.readouterr().err
    assert "RuntimeError: Could not open ?[2J file" in error
    assert error.count("\n") == 1


def test_a_caffe_that_cannot_be_imported(monkeypatch, capsys):
    """Old generated code beside a new protobuf raises TypeError."""

    class Finder:
        def find_spec(self, name, *_):
            if name == "caffe":
                raise TypeError("Descriptors cannot be created directly.\nIf this call came")

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "caffe", raising=False)
    monkeypatch.setenv("GLOG_minloglevel", "1")
    assert dump_caffe.main(["net", "--net", "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert "no pycaffe here: Descriptors cannot be" in error
    assert error.count("\n") == 1


def test_gpu(record, caffe):
    path = record("--layer", "fc6", "--gpu", "1")
    assert caffe.modes == [1, "gpu"]
    assert ", GPU, " in str(read_arrays(path)["source"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "fc7"], "no layer 'fc7'; to record are: fc6, loss"),
        (["--layer", "data"], "of type ImageData; MarginInnerProduct, LargeMarginInnerProduct and"),
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
