"""The table of the sources: type to class."""

from __future__ import annotations

import os

import torch

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.load import StrPath
from caffe_margin.torch.data.data import Data
from caffe_margin.torch.data.hdf5_data import HDF5Data
from caffe_margin.torch.data.image_data import ImageData
from caffe_margin.torch.data.memory_data import MemoryData
from caffe_margin.torch.data.rng import Twister, draw_seeds
from caffe_margin.torch.data.source import Source

SOURCES: dict[str, type[Source]] = {
    "Data": Data,
    "HDF5Data": HDF5Data,
    "ImageData": ImageData,
    "MemoryData": MemoryData,
}
"""For each type of data layer the source."""


def make_sources(
    net: pb.NetParameter, train: bool, seed: int | None = None, root: StrPath = ""
) -> dict[str, Source]:
    """Return the sources of a net's data layers by the layers' names; nothing is opened.

        >>> import caffe_margin as cm
        >>> net = cm.read_net("models/sphereface_model.prototxt")
        >>> make_sources(net, train=True, seed=1)["data"].tops
        ('data', 'label')

    Args:
        net: a net in the current format, filtered for one phase.
        train: whether the phase is TRAIN.
        seed: what Caffe's ``random_seed`` would be: crops, mirrors, shuffles and skips are then
            Caffe's own, as long as no layer before a data layer draws to fill its blobs. None
            takes one from `torch`'s generator.
        root: the folder from which paths in the net start.
    """
    rng = Twister(int(torch.randint(2**32, ())) if seed is None else seed)
    sources = {}
    for layer in net.layer:
        seeds = draw_seeds(layer, train, rng)
        if kind := SOURCES.get(layer.type):
            sources[layer.name] = kind(layer, seeds, train=train, root=os.fspath(root))
    return sources
