"""A blob alone in a file: .binaryproto, as means and matrices of losses are kept."""

from __future__ import annotations

import numpy as np
from google.protobuf.message import DecodeError

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.binary import MAX_BINARY_BYTES
from caffe_margin.files.blobs import blob_to_array
from caffe_margin.files.load import StrPath, naming
from caffe_margin.files.regular import check_regular


def read_binaryproto(path: StrPath) -> np.ndarray:
    """Return the blob in a ``.binaryproto``, float64 where it holds doubles, else float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short, too large, or no blob.
    """
    check_regular(path)
    with open(path, "rb") as file:
        data = file.read(MAX_BINARY_BYTES + 1)
    blob = pb.BlobProto()
    try:
        blob.ParseFromString(data)
    except (DecodeError, ValueError):
        raise ValueError(f"{path}: no blob; it is cut short, damaged or of another kind") from None
    with naming(path):
        array = blob_to_array(blob)
    if not blob.data and not blob.double_data:
        raise ValueError(f"{path}: no blob: it holds no values")
    return array
