"""The recordings of Caffe's data layers, and what they read."""

import functools
import io
import json
import lzma
import tarfile

import numpy as np
import pytest

from caffe_margin.files.prototxt import read_net
from caffe_margin.nets.select import filter_net
from caffe_margin.torch.data.sources import make_sources
from helpers.places import DATA

FOLDER = DATA / "data_layers"


@functools.cache
def recordings():
    """Case -> key -> array."""
    with lzma.open(FOLDER / "recordings.npz.xz") as file:
        archive = np.load(io.BytesIO(file.read()), allow_pickle=False)
    cases = {}
    for name in archive.files:
        case, _, key = name.partition("/")
        cases.setdefault(case, {})[key] = archive[name]
    return cases


@functools.cache
def errors():
    """What Caffe says to nets it refuses."""
    with tarfile.open(FOLDER / "sources.tar.xz") as tar:
        return json.load(tar.extractfile("errors/errors.json"))


def unpack(folder):
    with tarfile.open(FOLDER / "sources.tar.xz") as tar:
        tar.extractall(folder, filter="data")


def open_source(path, root, phase, seed=None):
    """The source of the one layer of a net in a file."""
    net = filter_net(read_net(path), phase)
    (layer,) = net.layer
    if layer.type == "Data" and layer.data_param.backend == layer.data_param.LEVELDB:
        need_plyvel()
    return make_sources(net, phase == "TRAIN", seed, root)[layer.name]


def need_plyvel():
    try:
        import plyvel  # noqa: F401
    except ImportError:
        pytest.importorskip("plyvel_next")


def same_bits(batch, recorded):
    return {top: (blob.shape, blob.numpy().tobytes()) for top, blob in batch.items()} == {
        top: (array.shape, array.tobytes()) for top, array in recorded.items()
    }
