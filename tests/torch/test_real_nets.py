"""Nets that other people trained, against what Caffe and OpenCV's reader compute with them."""

import cv2
import numpy as np
import pytest
import torch

import caffe_margin.torch as cmt
from caffe_margin.files.npz import read_arrays
from caffe_margin.recordings.recording import Recording
from caffe_margin.recordings.torch_net import GAPS, RTOL_FLOAT32, replay_through_torch
from helpers.places import DATA

REAL = DATA / "real"
CASES = {
    "hyperlpr_CharacterRecognization": "hyperlpr_CharacterRecognization",
    "hyperlpr_Segmentation": "hyperlpr_Segmentation",
    "mobilenet_tusimple": "mobilenet_tusimple",
    "mtcnn_det1_face": "mtcnn_det1",
    "mtcnn_det1_random": "mtcnn_det1",
    "mtcnn_det2": "mtcnn_det2",
    "mtcnn_det3": "mtcnn_det3",
    "ultraface_rfb320": "ultraface_rfb320",
}
"""For each recording the weights."""


def read(case):
    """The recording, its weights, and the outputs of Caffe's double by name."""
    recording = Recording(read_arrays(REAL / f"{case}.npz"))
    doubles = {
        key.partition("/")[2]: array
        for key, array in read_arrays(REAL / "outputs_float64.npz").items()
        if key.startswith(f"{case}/")
    }
    assert doubles
    return recording, REAL / f"{CASES[case]}.caffemodel", doubles


def distance(computed, expected):
    """How far apart two blobs are, over the largest magnitude."""
    assert computed.shape == expected.shape
    return np.abs(computed - expected).max() / np.abs(expected).max()


def bound(recording, doubles):
    """What float32 determines: some times as much as Caffe's own float is off."""
    gaps = [
        distance(recording.floats(f"blob/{name}/data", double.shape), double)
        for name, double in doubles.items()
    ]
    return max(RTOL_FLOAT32, GAPS * max(gaps))


def inputs_of(recording):
    return {
        key.partition("/")[2]: array
        for key, array in recording.arrays.items()
        if key.startswith("input/")
    }


@pytest.mark.parametrize("case", CASES)
def test_every_blob_is_caffe_s(case):
    recording, weights, doubles = read(case)
    rtol = bound(recording, doubles)
    checks = list(replay_through_torch(recording, REAL / f"{case}.npz", rtol, weights))
    blobs = {check.blob.partition("/")[2].removesuffix("/data") for check in checks}
    assert blobs == {top for layer in recording.net().layer for top in layer.top}
    assert [check for check in checks if not check.ok] == []


@pytest.mark.parametrize("case", CASES)
def test_in_double_the_outputs_are_those_of_caffe_s_double(case):
    recording, weights, doubles = read(case)
    net = cmt.Net(recording.net(), weights, dtype=torch.float64)
    inputs = {
        name: torch.from_numpy(array).double() for name, array in inputs_of(recording).items()
    }
    with torch.no_grad():
        outputs = net(**inputs)
    assert outputs.keys() == doubles.keys()
    for name, double in doubles.items():
        assert distance(outputs[name].numpy(), double) <= 1e-12


@pytest.mark.parametrize("case", CASES)
def test_the_outputs_are_opencv_s(case, tmp_path):
    recording, weights, doubles = read(case)
    path = tmp_path / "net.prototxt"
    path.write_text(recording.text("net"))
    reader = cv2.dnn.readNetFromCaffe(str(path), str(weights))
    reader.enableWinograd(False)
    inputs = inputs_of(recording)
    for name, array in inputs.items():
        reader.setInput(array, name)
    net = cmt.Net(recording.net(), weights)
    with torch.no_grad():
        outputs = net(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    for name, theirs in zip(doubles, reader.forward(list(doubles)), strict=True):
        # Each may be as far from the truth, in its own direction.
        rtol = 2 * bound(recording, doubles)
        if name == "sigmoid":
            # OpenCV's comes in steps of 2^-24, however small it is.
            rtol += 2**-23 / doubles[name].max()
        assert distance(outputs[name].numpy(), theirs.reshape(doubles[name].shape)) <= rtol
