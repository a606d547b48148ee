"""Files in, messages and arrays out, and back."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format as google
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.prototxt import (
    ParseError,
    UnknownFieldWarning,
    parse_text,
    read_net,
    read_solver,
    write_net,
)
from caffe_margin.files.weights import read_weights
from helpers.places import DATA

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
        (b"\x89HDF\r\n\x1a\n\0", "HDF5 file"),
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
        with pytest.raises(
            ParseError, match=r"solver:2:1: 'net' belongs to a solver.* must be a net$"
        ):
            read_net(solver, strict=strict)
        with pytest.raises(
            ParseError, match=r"net:1:1: 'name' belongs to a net.* must be a solver$"
        ):
            read_solver(model, strict=strict)
        with pytest.raises(ValueError, match="a solver is text"):
            read_solver(binary, strict=strict)


def test_text_that_is_neither(tmp_path: Path) -> None:
    path = DATA / "cases" / "labelmap.prototxt"
    for read, kind in ((read_net, "net"), (read_solver, "solver")):
        with pytest.raises(ParseError, match=rf"labelmap.prototxt:1:1: 'item' .* a {kind}, nor"):
            read(path)
    path = tmp_path / "nothing"
    path.write_text("# nothing")
    assert read_net(path) == pb.NetParameter()


# What a fork has


def test_a_forks_value_is_no_end() -> None:
    path = DATA / "cases" / "enum_value.prototxt"
    said = r"enum_value.prototxt:3: skipped the value PRE_FIXED of .*normalization.* 'loss'"
    with pytest.warns(UnknownFieldWarning, match=said):
        layers = read_net(path).layer
    assert [layer.name for layer in layers] == ["in", "ip", "loss"]
    with pytest.raises(ParseError, match="no value 'PRE_FIXED'; it takes FULL, VALID"):
        read_net(path, strict=True)


def test_a_type_that_v1_lacks_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "c3d.prototxt"
    path.write_text(
        'input: "x" input_dim: [1, 2, 3, 4] layers { name: "r" type: RELU bottom: "x" top: "x" }\n'
        'layers { name: "v" type: VIDEO_DATA top: "v" } layers { name: "n" type: NONE }'
    )
    with pytest.warns(UnknownFieldWarning, match=r":2: skipped the value VIDEO_DATA of .*type'"):
        layers = read_net(path).layer
    assert [layer.type for layer in layers] == ["Input", "ReLU", "VIDEO_DATA", ""]
    with pytest.raises(ParseError, match="'VIDEO_DATA'"):
        read_net(path, strict=True)


def test_no_name_is_suggested_for_a_forks_field() -> None:
    text = 'layer { name: "p" type: "Interp" interp_param { zoom_factor: 7 } }'
    with pytest.warns(UnknownFieldWarning, match="which the schema lacks$") as caught:
        parse_text(text, pb.NetParameter())
    assert len(caught) == 1


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


def test_binary_net_with_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    net = pb.NetParameter(name="n")
    net.layer.add(name="XX", type="Input")
    path = tmp_path / "gbk.caffemodel"
    path.write_bytes(net.SerializeToString().replace(b"XX", b"\xd6\xd0"))
    for read in (read_net, read_weights):
        with pytest.raises(ValueError, match=r"LayerParameter.name is b'.xd6.xd0'.* not UTF-8"):
            read(path)
