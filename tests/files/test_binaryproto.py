"""A blob alone in a file."""

import numpy as np
import pytest

from caffe_margin.files.binaryproto import read_binaryproto

# BlobProto: num, channels, height, width are fields 1 to 4, data is 5, shape 7, double_data 8.
LEGACY = b"\x08\x01\x10\x01\x18\x01\x20\x02" + b"\x2a\x08\x00\x00\x80\x3f\x00\x00\x00\x40"
DOUBLE = b"\x3a\x03\x0a\x01\x01" + b"\x42\x08" + np.float64(0.1).tobytes()


@pytest.mark.parametrize(
    ("data", "expected"),
    [(LEGACY, np.array([[[[1, 2]]]], np.float32)), (DOUBLE, np.array([0.1]))],
)
def test_read_binaryproto(tmp_path, data, expected):
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(data)
    array = read_binaryproto(path)
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LEGACY[:-1], "no blob; it is cut short"),
        (LEGACY[:8], r"0 values for the shape \(1, 1, 1, 2\)"),
        (b"", "0 values|no values"),
        (b"num: 1", "no blob"),
    ],
)
def test_what_is_no_blob(tmp_path, data, message):
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"mean.binaryproto: .*({message})"):
        read_binaryproto(path)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="a folder, not a file"):
        read_binaryproto(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_binaryproto(tmp_path / "none")
