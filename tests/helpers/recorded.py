"""The recordings of Caffe that the tests hold the layers against."""

import numpy as np
import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.layer import Blob
from helpers.places import DATA

FOLDER = DATA / "recordings"
LARGE_MARGIN = DATA / "large_margin"

# Of the blob's largest magnitude.
TOLERANCE = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 2e-6}


def recordings(pattern, folder=FOLDER):
    paths = sorted(folder.glob(pattern))
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


def assert_replays(layer, recording):
    """Run a layer with a margin as it was recorded, and hold every blob against the recording."""
    layer.weight = recording["blob0_data_before"]
    layer.blobs[0].diff[...] = recording["blob0_diff_before"]
    layer.param_propagate_down = list(recording["param_propagate_down"])

    lambdas = []
    for _ in range(int(recording["forwards"])):
        top = layer.forward(recording["bottom0_data"], recording["bottom1_data"])
        lambdas.append(layer.lambda_)
    top_blob = Blob(top, recording["top0_diff"])
    bottom = Blob(recording["bottom0_data"])
    layer.backward_cpu([top_blob], list(recording["propagate_down"]), [bottom])

    assert_blob(top, recording["top0_data"], "top0_data")
    assert_blob(np.array(lambdas), recording["top1_data"], "top1_data")
    assert_blob(layer.weight, recording["blob0_data"], "blob0_data")
    assert_blob(layer.blobs[0].diff, recording["blob0_diff"], "blob0_diff")
    if recording["propagate_down"][0]:
        assert_blob(bottom.diff, recording["bottom0_diff"], "bottom0_diff")
    if layer.engine == "line_by_line":
        for name in (n for n in recording if n.startswith("internal_")):
            private = getattr(layer.saved.private, name.removeprefix("internal_"))
            assert_blob(private, recording[name].ravel(), name)
