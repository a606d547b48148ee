"""Blobs as arrays, and arrays as blobs."""

from __future__ import annotations

import math

import numpy as np

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.binary import MAX_BINARY_BYTES
from caffe_margin.files.wire import varint


def blob_to_array(blob: pb.BlobProto) -> np.ndarray:
    """Return a blob's data in its shape: float64 where it holds double_data, else float32.

    Source: Blob::FromProto.

    Raises:
        ValueError: the values do not fill the shape.
    """
    shape = shape_of(blob)
    values = blob.double_data or blob.data
    count = len(values)
    if min(shape, default=0) < 0:
        raise ValueError(f"the shape {shape} has a negative dimension")
    if count != math.prod(shape):
        raise ValueError(f"{count} values for the shape {shape}, which takes {math.prod(shape)}")
    dtype = np.float64 if blob.double_data else np.float32
    return np.array(values, dtype).reshape(shape)


def shape_of(blob: pb.BlobProto) -> tuple[int, ...]:
    """Return (num, channels, height, width) where one of these is set, else `shape`, or ()."""
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        return blob.num, blob.channels, blob.height, blob.width
    return tuple(blob.shape.dim)


def fits(stored: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    """Whether a stored blob goes into one of a shape; files of old have four dimensions for all.

    Source: Blob::ShapeEquals.

    >>> fits((1, 1, 4, 3), (4, 3)), fits((1, 1, 1, 1), ()), fits((3, 1, 1, 4), (3, 4))
    (True, True, False)
    """
    ones = len(stored) - len(shape)
    return stored == (1,) * ones + shape if len(stored) == 4 and ones > 0 else stored == shape


def array_to_blob(array: np.ndarray) -> pb.BlobProto:
    """Return a blob with the array's shape; float32 goes to data, float64 to double_data.

    Source: Blob::ToProto. An empty float64 array reads back as float32: a blob notes no
    dtype but in its values.

    Raises:
        ValueError: the dtype is another, or the values take 2 GiB.
    """
    array = np.asarray(array)
    native = array.dtype.newbyteorder("=")
    if native not in (np.float32, np.float64):
        raise ValueError(f"a blob holds float32 or float64, not {array.dtype}")
    if array.nbytes > MAX_BINARY_BYTES:
        raise ValueError(f"{array.nbytes} bytes; a blob takes less than 2 GiB")
    blob = pb.BlobProto()
    if array.size:
        # The packed field as it stands in a file: its tag, its length, the values.
        number = 8 if native == np.float64 else 5
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        blob.MergeFromString(
            bytes([number << 3 | 2]) + varint(array.nbytes) + little.tobytes(order="C")
        )
    blob.shape.dim.extend(array.shape)
    return blob
