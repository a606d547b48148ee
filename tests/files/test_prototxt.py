"""Files in, messages and arrays out, and back."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format as google
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.prototxt import (
    ParseError,
    UnknownFieldWarning,
    array_to_blob,
    blob_to_array,
    filter_net,
    find_layer,
    parse_text,
    read_net,
    read_solver,
    read_weights,
    write_net,
    write_weights,
)

TEXT = """\
name: "little"
layer {
  name: "data" type: "ImageData" top: "data" top: "label"
  transform_param { mean_value: 127.5 scale: 0.0078125 }
  image_data_param { source: "list.txt" batch_size: 256 }
}
layer {
  name: "fc6" type: "MarginInnerProduct" bottom: "data" bottom: "label" top: "fc6" top: "lambda"
  param { lr_mult: 1 }
  margin_inner_product_param {
    num_output: 10572 type: QUADRUPLE weight_filler { type: "xavier" }
    base: 1000 gamma: 0.12 power: 1 lambda_min: 5 iteration: 0
  }
}
"""


def net(text: str = TEXT) -> pb.NetParameter:
    return google.Parse(text, pb.NetParameter())


# Reading nets


def test_read_net_text_and_binary_by_content(tmp_path: Path) -> None:
    text, binary = tmp_path / "a.caffemodel", tmp_path / "a.prototxt"
    text.write_text(TEXT)
    binary.write_bytes(net().SerializeToString())
    assert read_net(text) == read_net(str(binary)) == net()


def test_read_net_upgrades(tmp_path: Path) -> None:
    old = 'input: "x" input_dim: [1, 2, 3, 4] layers { name: "r" type: RELU bottom: "x" top: "y" }'
    new = net(
        'layer { name: "input" type: "Input" top: "x" input_param { shape { dim: [1, 2, 3, 4] } } }'
        'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }'
    )
    (tmp_path / "text").write_text(old)
    (tmp_path / "binary").write_bytes(net(old).SerializeToString())
    assert read_net(tmp_path / "text") == read_net(tmp_path / "binary") == new


def test_read_net_refuses_what_cannot_be_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "net"
    path.write_text('layer { name: "a" } layers { name: "b" }')
    with pytest.raises(ValueError, match=r"net: the net has both 'layer' and 'layers'"):
        read_net(path)
    path.write_text('layers { layer { name: "r" type: "relu" num_output: 1 } }')
    with pytest.warns(UnknownFieldWarning, match="'num_output' has no meaning"):
        assert read_net(path) == net('layer { name: "r" type: "ReLU" }')
    with pytest.raises(ValueError, match="'num_output' has no meaning"):
        read_net(path, strict=True)


def test_unknown_fields_warn_where_the_caller_is(tmp_path: Path) -> None:
    path = tmp_path / "fork.prototxt"
    path.write_text('layer {\n  novel_param { x: [1, 2] }\n  name: "fc" type: "Novel"\n}\n')
    with pytest.warns(
        UnknownFieldWarning, match=r"fork.prototxt:2: .*'layer.novel_param'.*'fc'"
    ) as w:
        assert read_net(path) == net('layer { name: "fc" type: "Novel" }')
    assert w[0].filename == __file__
    with pytest.warns(UnknownFieldWarning) as w:
        parse_text("novel: 1", pb.NetParameter())
    assert w[0].filename == __file__
    with pytest.raises(ParseError, match=r"fork.prototxt:2:3: 'novel_param' is no field"):
        read_net(path, strict=True)


def test_unknown_fields_of_a_binary(tmp_path: Path) -> None:
    # Field 200, which no layer has, with the three bytes "abc".
    path = tmp_path / "fork.caffemodel"
    layer = pb.LayerParameter(name="fc").SerializeToString() + b"\xc2\x0c\x03abc"
    path.write_bytes(b"".join(b"\xa2\x06" + bytes([len(layer)]) + layer for _ in range(2)))
    with pytest.warns(
        UnknownFieldWarning, match="field 200 of LayerParameter in layer 'fc'.*; 2 such"
    ):
        assert [layer.name for layer in read_net(path).layer] == ["fc", "fc"]
    with pytest.raises(ValueError, match="unknown field 200"):
        read_net(path, strict=True)


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


# An ONNX file starts with ir_version, a varint in field 1.
ONNX = b"\x08\x07\x12\x07pytorch\x1a\x031.9"
SOLVERSTATE = pb.SolverState(iter=3, history=[pb.BlobProto(data=[1, 2])]).SerializeToString()
MEAN = pb.BlobProto(num=1, channels=3, height=1, width=1, data=[1, 2, 3]).SerializeToString()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "a PNG image"),
        (npz(), "a zip archive"),
        (npy(), "a numpy array"),
        (gzip.compress(TEXT.encode()), "a gzip archive"),
        (b"\x89HDF\r\n\x1a\n\0", "BINARYPROTO"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "web page"),
        (TEXT.encode("utf-16"), "UTF-16"),
        (TEXT.encode("utf-16-le"), "UTF-16"),
        (TEXT.encode("utf-16-be"), "UTF-16"),
        (net().SerializeToString()[:-5], "cut short"),
        (net().SerializeToString()[:30], "cut short"),
        (ONNX, "starts with 08 07"),
        (SOLVERSTATE, "neither a prototxt nor a caffemodel"),
        (MEAN, "neither a prototxt nor a caffemodel"),
        (b"\0" * 5000, "neither a prototxt nor a caffemodel"),
        # Fields 7 (debug_info) known, 9 unknown, and no layer: a message of somebody else's.
        (b"\x38\x01\x48\x01", "no net"),
        # A layer without anything Caffe knows in it.
        (b"\xa2\x06\x04\xc2\x0c\x01a", "no net"),
    ],
)
def test_foreign_files(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(content)
    for read in (read_net, read_weights):
        with pytest.raises(ValueError, match=said) as caught:
            read(path)
        assert "net.prototxt" in str(caught.value)
    with pytest.raises(ValueError, match=r"net\.prototxt"):
        read_solver(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for read in (read_net, read_solver, read_weights):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="a folder"):
            read(tmp_path)
    if os.path.exists("/dev/null"):
        with pytest.raises(ValueError, match="device"):
            read_net("/dev/null")


def test_size_is_refused_before_reading(tmp_path: Path) -> None:
    # Sparse files: they take no room on the disk, and would take it in memory.
    text, binary = tmp_path / "text", tmp_path / "binary"
    text.write_bytes(b"# a net\n" * 1024)
    os.truncate(text, 64 * 2**20 + 1)
    binary.write_bytes(net().SerializeToString())
    os.truncate(binary, 2**31)
    with pytest.raises(ValueError, match="a text of 67108865 bytes"):
        read_net(text)
    with pytest.raises(ValueError, match="a text of 67108865 bytes"):
        read_solver(text)
    with pytest.raises(ValueError, match="a binary file of 2147483648 bytes"):
        read_net(binary)


def test_text_in_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes("# 注释\nname: 'a' # 注释".encode("gbk"))
    assert read_net(path).name == "a"
    path.write_bytes("name: '名'".encode("gbk"))
    with pytest.raises(ParseError, match="not UTF-8"):
        read_net(path)
    path.write_bytes("\ufeffname: '名'\r\n".encode())
    assert read_net(path).name == "名"
    path.write_bytes(TEXT.encode() + b"\x1a")
    with pytest.raises(ParseError, match=r"net.prototxt:15:1: unexpected character '\\x1a'"):
        read_net(path)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_bytes_read_or_are_a_value_error(tmp_path: Path, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([TEXT.encode(), net().SerializeToString()]))
    content = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    path = tmp_path / "net"
    path.write_bytes(
        data.draw(st.sampled_from([bytes(content), data.draw(st.binary(max_size=50))]))
    )
    for read in (read_net, read_solver, read_weights):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnknownFieldWarning)
            with contextlib.suppress(ValueError):
                read(path)


# Solvers


def test_read_solver(tmp_path: Path) -> None:
    path = tmp_path / "solver.prototxt"
    path.write_text('net: "n" base_lr: 0.1 stepvalue: 16000 stepvalue: 24000 solver_type: ADAM')
    solver = read_solver(path)
    assert solver == pb.SolverParameter(net="n", base_lr=0.1, stepvalue=[16000, 24000], type="Adam")
    path.write_text('solver_type: ADAM type: "SGD"')
    with pytest.raises(ValueError, match=r"solver.prototxt: .*keep only 'type'"):
        read_solver(path)
    path.write_text("base_lr: 1 novel: 2")
    with pytest.warns(UnknownFieldWarning, match="'novel'"):
        read_solver(path)
    with pytest.raises(ParseError, match="'novel'"):
        read_solver(path, strict=True)


def test_a_solver_is_no_net_and_a_net_no_solver(tmp_path: Path) -> None:
    solver, model, binary = tmp_path / "solver", tmp_path / "net", tmp_path / "binary"
    solver.write_text('# a solver\nnet: "net.prototxt"\nbase_lr: 0.1')
    model.write_text(TEXT)
    binary.write_bytes(net().SerializeToString())
    for strict in (False, True):
        with pytest.raises(ParseError, match=r"solver:2:1: 'net' belongs to a solver.*read_solver"):
            read_net(solver, strict=strict)
        with pytest.raises(ParseError, match=r"net:1:1: 'name' belongs to a net.*read_net"):
            read_solver(model, strict=strict)
        with pytest.raises(ValueError, match="a solver is text"):
            read_solver(binary, strict=strict)


# Writing nets


@pytest.mark.parametrize(
    ("name", "binary", "is_binary"),
    [
        ("a.prototxt", None, False),
        ("a.caffemodel", None, True),
        ("a.binaryproto", None, True),
        ("a", None, False),
        ("a.prototxt", True, True),
        ("a.caffemodel", False, False),
    ],
)
def test_write_net(tmp_path: Path, name: str, binary: bool | None, is_binary: bool) -> None:
    path = tmp_path / name
    path.write_text("old")
    path.chmod(0o640)
    write_net(net(), path, binary=binary)
    content = path.read_bytes()
    if is_binary:
        assert pb.NetParameter.FromString(content) == net()
    else:
        assert google.Parse(content, pb.NetParameter()) == net()
        assert b"gamma: 0.12\n" in content
    assert read_net(path) == net()
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == [name]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False), max_size=5),
    name=st.text(max_size=10),
    binary=st.booleans(),
)
def test_round_trip(tmp_path: Path, values: list[float], name: str, binary: bool) -> None:
    message = pb.NetParameter(layer=[pb.LayerParameter(name=name, type="T", loss_weight=values)])
    write_net(message, tmp_path / "net", binary=binary)
    assert read_net(tmp_path / "net") == message


def test_write_net_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text("old")
    lacking = pb.NetParameter()
    lacking.layer.add().clip_param.min = 0
    with pytest.raises(ValueError, match=r"clip_param\.max"):
        write_net(lacking, path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_net(net(), tmp_path / "nowhere" / "net")
    with pytest.raises(OSError, match="a folder"):
        write_net(net(), tmp_path)

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_net(net(), path)
    assert os.listdir(tmp_path) == ["net.prototxt"]
    assert path.read_text() == "old"


def test_write_net_follows_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_net(net(), link)
    assert link.is_symlink()
    assert read_net(target) == net()


# Weights


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def test_blob_bytes_by_hand() -> None:
    # shape (7): message with dim (1) packed; data (5): packed floats, as protobuf's
    # encoding guide lays them out.
    shape = b"\x3a\x04\x0a\x02\x02\x01"
    blob = pb.BlobProto.FromString(b"\x2a\x08" + floats(0.5, -2) + shape)
    assert blob_to_array(blob).tolist() == [[0.5], [-2]]
    made = array_to_blob(np.array([[0.5], [-2]], np.float32))
    assert made == blob
    assert list(made.data) == [0.5, -2]
    assert not made.double_data


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", ">f8"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3), (1, 2, 3, 4), (5, 30, 30)])
def test_arrays_round_trip(shape: tuple[int, ...], dtype: str) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(dtype)
    blob = array_to_blob(array)
    assert tuple(blob.shape.dim) == shape
    assert list(blob.double_data if dtype[1:] == "f8" else blob.data) == array.ravel().tolist()
    back = blob_to_array(pb.BlobProto.FromString(blob.SerializeToString()))
    assert back.shape == shape
    np.testing.assert_array_equal(back, array)
    assert back.dtype == (np.float64 if dtype[1:] == "f8" and array.size else np.float32)
    assert back.flags.writeable


def test_special_values_and_strides() -> None:
    array = np.array([[np.nan, np.inf], [-np.inf, -0.0], [1e-45, 3.4028235e38]], np.float32)
    for view in (array, array.T, array[::2], np.asfortranarray(array)):
        back = blob_to_array(array_to_blob(view))
        assert back.tobytes() == view.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.int64, object, "S3", bool, np.complex64])
def test_array_to_blob_refuses_other_types(dtype: Any) -> None:
    with pytest.raises(ValueError, match="float32 or float64"):
        array_to_blob(np.zeros(3, dtype))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("num: 1 channels: 2 height: 1 width: 3 data: [1, 2, 3, 4, 5, 6]", (1, 2, 1, 3)),
        # One of the legacy four is enough, and wins over shape. Blob::FromProto.
        ("num: 1 shape { dim: 3 }", (1, 0, 0, 0)),
        ("shape { dim: 6 } double_data: [1, 2, 3, 4, 5, 6]", (6,)),
        ("data: 7", ()),
        ("shape { dim: 2 dim: 0 }", (2, 0)),
    ],
)
def test_shapes_of_blobs(text: str, expected: tuple[int, ...]) -> None:
    blob = google.Parse(text, pb.BlobProto())
    array = blob_to_array(blob)
    assert array.shape == expected
    assert array.ravel().tolist() == list(blob.data) + list(blob.double_data)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shape { dim: 3 dim: 4 } data: [1, 2]", r"2 values for the shape \(3, 4\).* 12"),
        ("", r"0 values for the shape \(\)"),
        ("shape { dim: -1 dim: -2 } data: [1, 2]", r"the shape \(-1, -2\) has a negative"),
        ("num: 1 channels: 1 height: 1 width: 3 data: 1", r"1 values for the shape \(1, 1, 1, 3\)"),
    ],
)
def test_blobs_that_do_not_fill_their_shape(tmp_path: Path, text: str, said: str) -> None:
    blob = google.Parse(text, pb.BlobProto())
    with pytest.raises(ValueError, match=said):
        blob_to_array(blob)
    good = array_to_blob(np.zeros(1, np.float32))
    layer = pb.LayerParameter(name="fc6", blobs=[good, blob])
    path = tmp_path / "w.caffemodel"
    path.write_bytes(pb.NetParameter(layer=[layer]).SerializeToString())
    with pytest.raises(ValueError, match=r"w.caffemodel: layer 'fc6', blob 1: " + said):
        read_weights(path)


def test_weights_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "fc5": [rng.normal(size=(512, 37)).astype(np.float32), np.zeros(512, np.float32)],
        "fc6": [rng.normal(size=(1057, 512)).astype(np.float32)],
        "odd/层": [np.array(3.0), np.zeros((0, 4), np.float32)],
    }
    path = tmp_path / "w.anything"
    write_weights(weights, path)
    back = read_weights(path)
    assert list(back) == list(weights)
    for name, arrays in weights.items():
        assert len(back[name]) == len(arrays)
        for got, expected in zip(back[name], arrays, strict=True):
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
            np.testing.assert_array_equal(got, expected)
    plain = pb.NetParameter.FromString(path.read_bytes())
    assert [layer.name for layer in plain.layer] == list(weights)
    assert list(plain.layer[1].blobs[0].data[:3]) == weights["fc6"][0].ravel()[:3].tolist()


def test_weights_of_old_files(tmp_path: Path) -> None:
    blob = "blobs { num: 1 channels: 1 height: 1 width: 2 data: 3 data: 4 }"
    v1 = f'input: "x" layers {{ name: "c" type: CONVOLUTION {blob} }} layers {{ name: "r" }}'
    v0 = f'layers {{ layer {{ name: "c" type: "conv" {blob} }} }}'
    for text in (v0, v1):
        path = tmp_path / "old.caffemodel"
        path.write_bytes(net(text).SerializeToString())
        weights = read_weights(path)
        assert list(weights) == ["c"]
        np.testing.assert_array_equal(weights["c"][0], np.array([[[[3, 4]]]], np.float32))


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(TEXT)
    with pytest.raises(ValueError, match="no layer has weights"):
        read_weights(path)
    for weights in ({}, {"a": []}):
        with pytest.raises(ValueError, match="no weights to write"):
            write_weights(weights, tmp_path / "w")
    with pytest.raises(ValueError, match=r"layer 'a', blob 1: .*not int64"):
        write_weights({"a": [np.zeros(1), np.zeros(1, np.int64)]}, tmp_path / "w")
    assert os.listdir(tmp_path) == ["net.prototxt"]


# Choosing layers


@pytest.mark.parametrize(
    ("rules", "state", "kept"),
    [
        ("", {}, True),
        ("include { phase: TRAIN }", {"phase": "TRAIN"}, True),
        ("include { phase: TRAIN }", {"phase": "TEST"}, False),
        ("exclude { phase: TRAIN }", {"phase": "TRAIN"}, False),
        ("exclude { phase: TRAIN }", {"phase": "TEST"}, True),
        ("include { phase: TRAIN } include { phase: TEST }", {"phase": "TEST"}, True),
        ("include { min_level: 2 }", {"level": 1}, False),
        ("include { min_level: 2 }", {"level": 2}, True),
        ("include { max_level: 2 }", {"level": 2}, True),
        ("include { max_level: 2 }", {"level": 3}, False),
        ("include { stage: 'a' stage: 'b' }", {"stages": ["a"]}, False),
        ("include { stage: 'a' stage: 'b' }", {"stages": ["b", "a"]}, True),
        ("include { not_stage: 'a' not_stage: 'b' }", {"stages": ["b"]}, False),
        ("include { not_stage: 'a' }", {"stages": ["c"]}, True),
        ("include { phase: TRAIN stage: 'a' }", {"phase": "TRAIN"}, False),
        ("exclude { stage: 'a' } exclude { stage: 'b' }", {"stages": ["b"]}, False),
        ("include { }", {}, True),
        ("exclude { }", {}, False),
    ],
)
def test_filter_net(rules: str, state: dict[str, Any], kept: bool) -> None:
    whole = net(f'name: "n" layer {{ name: "a" }} layer {{ name: "b" {rules} }}')
    before = whole.SerializeToString()
    filtered = filter_net(whole, **state)
    expected = [whole.layer[0], whole.layer[1]] if kept else [whole.layer[0]]
    assert list(filtered.layer) == expected
    assert whole.SerializeToString() == before
    assert filtered.state == pb.NetState(
        phase=state.get("phase", "TRAIN"),
        level=state.get("level", 0),
        stage=state.get("stages", ()),
    )


def test_filter_net_adds_to_the_nets_own_stages() -> None:
    whole = net('state { phase: TEST stage: "a" } layer { include { stage: "a" stage: "b" } }')
    assert len(filter_net(whole, stages=["b"]).layer) == 1
    assert len(filter_net(whole).layer) == 0


def test_filter_net_refuses() -> None:
    with pytest.raises(ValueError, match="layer 'a' has both include and exclude"):
        filter_net(net('layer { name: "a" include { } exclude { } }'))
    with pytest.raises(ValueError, match="TRAIN and TEST"):
        filter_net(net(), phase="train")


def test_find_layer() -> None:
    whole = net(TEXT + 'layer { name: "r1" type: "ReLU" } layer { name: "r2" type: "ReLU" }')
    assert find_layer(whole, "fc6") is not None
    assert find_layer(whole, "fc6") == whole.layer[1]
    assert find_layer(whole, type="MarginInnerProduct") == whole.layer[1]
    assert find_layer(whole, "r2", "ReLU") == whole.layer[3]
    assert find_layer(net('layer { name: "only" }')).name == "only"


@pytest.mark.parametrize(
    ("name", "type_", "said"),
    [
        ("fc7", None, "no layer 'fc7'; did you mean 'fc6'?"),
        ("zzz", None, "no layer 'zzz'; it has 'data', 'fc6', 'r', 'r'"),
        ("fc6", "InnerProduct", "layer 'fc6' is of type 'MarginInnerProduct', not 'InnerProduct'"),
        (None, "ReLU", "2 layers of type 'ReLU'; name one: 'r', 'r'"),
        ("r", None, "2 layers are named 'r'; filter_net"),
        (None, "MarginProduct", "no layer of type 'MarginProduct'; did you mean 'MarginInnerP"),
        (None, None, "the net has 4 layers; name one: 'data', 'fc6', 'r', 'r'"),
    ],
)
def test_find_layer_refuses(name: str | None, type_: str | None, said: str) -> None:
    whole = net(TEXT + 'layer { name: "r" type: "ReLU" } layer { name: "r" type: "ReLU" }')
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole text is compared below
        find_layer(whole, name, type_)
    assert said in str(caught.value)
    with pytest.raises(ValueError, match="no layers"):
        find_layer(pb.NetParameter(), name or "a")


def test_binary_net_with_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    net = pb.NetParameter(name="n")
    net.layer.add(name="XX", type="Input")
    path = tmp_path / "gbk.caffemodel"
    path.write_bytes(net.SerializeToString().replace(b"XX", b"\xd6\xd0"))
    for read in (read_net, read_weights):
        with pytest.raises(ValueError, match=r"LayerParameter.name is b'.xd6.xd0'.* not UTF-8"):
            read(path)
