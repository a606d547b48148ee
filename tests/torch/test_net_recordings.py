"""Every layer and every net that Caffe recorded, replayed through PyTorch."""

import pytest

from caffe_margin.files.npz import read_arrays
from caffe_margin.recordings.recording import Recording
from caffe_margin.recordings.torch_net import replay_through_torch
from helpers.places import DATA

RECORDINGS = sorted([*(DATA / "layers").glob("*.npz"), *(DATA / "nets").glob("*.npz")])


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_replays(path):
    checks = list(replay_through_torch(Recording(read_arrays(path)), path, None, None))
    assert checks
    assert [check for check in checks if not check.ok] == []
