"""The recordings of Caffe that the tests hold the layers against."""

import numpy as np
import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from helpers.places import DATA

FOLDER = DATA / "recordings"

# Of the blob's largest magnitude.
TOLERANCE = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 2e-6}


def recordings(pattern):
    paths = sorted(FOLDER.glob(pattern))
    return [pytest.param(path, id=path.stem) for path in paths]


def load(path):
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def layer_param(recording):
    (layer,) = text_format.Parse(str(recording["layer"]), pb.NetParameter()).layer
    return layer


def assert_blob(got, recorded, name):
    assert got.shape == recorded.shape, name
    assert got.dtype == recorded.dtype, name
    error = np.abs(got - recorded).max(initial=0)
    largest = np.abs(recorded).max(initial=0)
    assert error <= TOLERANCE[recorded.dtype] * largest, f"{name}: {error:g} of {largest:g}"
