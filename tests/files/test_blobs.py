"""Blobs as arrays, and arrays as blobs."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format as google

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.blobs import array_to_blob, blob_to_array
from caffe_margin.files.weights import read_weights


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
