"""The parameter blobs of .caffemodel files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format as google

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.weights import read_weights, write_weights


def net(text: str) -> pb.NetParameter:
    return google.Parse(text, pb.NetParameter())


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
    path.write_text('layer { name: "fc6" type: "InnerProduct" }')
    with pytest.raises(ValueError, match="no layer has weights"):
        read_weights(path)
    for weights in ({}, {"a": []}):
        with pytest.raises(ValueError, match="no weights to write"):
            write_weights(weights, tmp_path / "w")
    with pytest.raises(ValueError, match=r"layer 'a', blob 1: .*not int64"):
        write_weights({"a": [np.zeros(1), np.zeros(1, np.int64)]}, tmp_path / "w")
    assert os.listdir(tmp_path) == ["net.prototxt"]
