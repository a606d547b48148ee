"""The features of a source's images, by a net in training."""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.margin import FIELDS
from caffe_margin.nets.select import filter_net, needed_for
from caffe_margin.torch.data.sources import SOURCES, make_sources
from caffe_margin.torch.net import Net
from caffe_margin.torch.sharing import share_layers


class Verifier:
    """The net below the head, in Caffe's TEST, fed by a source of its own.

    The source is read as the net's data layer would read it in TEST, in order, once, but that
    nothing is mirrored.

    Args:
        net: the net in training, whose parameters are used.
        param: its message, with the layers of both phases.
        source: an LMDB or LevelDB (a folder), a ``.h5`` file, or a list for the net's data layer.

    Raises:
        ValueError: the net has no layer with a margin, or no data layer that reads such a source.
    """

    def __init__(self, net: Net, param: pb.NetParameter, source: str) -> None:
        heads = [layer for layer in param.layer if layer.type in FIELDS]
        if not heads:
            raise ValueError("the net has no layer with a margin, below which the features are")
        self.blob = heads[0].bottom[0]
        phases = (filter_net(param, "TEST"), filter_net(param, "TRAIN"))
        data = next((x for phase in phases for x in phase.layer if x.type in SOURCES), None)
        if data is None or len(data.top) < 2:
            raise ValueError("the net has no data layer with images and labels to read it by")
        layer = _reading(data, source)
        whole = pb.NetParameter(layer=[layer])
        whole.layer.extend(x for x in phases[1].layer if not set(x.top) & set(layer.top))
        part = needed_for(whole, [self.blob])
        self.source = make_sources(pb.NetParameter(layer=[layer]), train=False, seed=0)[layer.name]
        if layer.type == "HDF5Data" and source.endswith((".h5", ".hdf5")):
            self.source.paths = [source]  # type: ignore[attr-defined]
        self.source.open()
        shapes = self.source.shapes()
        like = next(net.parameters())
        self.net = Net(part, phase="TEST", shapes=shapes, device=like.device, dtype=like.dtype)
        share_layers(self.net, net)
        self.data = next(top for top in layer.top if top in self.net.inputs)
        self.label = next(top for top in layer.top if top != self.data)

    @torch.no_grad()
    def features(self) -> tuple[NDArray, NDArray]:
        """Return the features of all images, (N, D), and their labels, (N,)."""
        like = next(self.net.parameters())
        rows: list[NDArray] = []
        labels: list[NDArray] = []
        count, self.source.iteration = self.source.count, 0
        while sum(len(label) for label in labels) < count:
            batch = next(self.source)
            inputs = {top: batch[top].to(like) for top in self.net.inputs}
            blob = self.net(keep=[self.blob], **inputs)[self.blob]
            rows.append(blob.flatten(1).cpu().numpy())
            labels.append(batch[self.label].flatten().numpy())
        return np.concatenate(rows)[:count], np.concatenate(labels)[:count].astype(np.int64)


def _reading(data: pb.LayerParameter, source: str) -> pb.LayerParameter:
    """Return a data layer that reads a source."""
    layer = pb.LayerParameter()
    layer.CopyFrom(data)
    layer.ClearField("include")
    layer.ClearField("exclude")
    layer.transform_param.ClearField("mirror")
    if os.path.isdir(source):
        kind = "Data"
    elif source.endswith((".h5", ".hdf5")):
        kind = "HDF5Data"
    else:
        kind = data.type
    if kind != data.type and "HDF5Data" in (kind, data.type):
        raise ValueError(f"{source}: the net's data layer is a {data.type}, which does not read it")
    batch = data.image_data_param.batch_size if data.type == "ImageData" else 0
    layer.type = kind
    if kind == "Data":
        layer.data_param.source = source
        layer.data_param.batch_size = batch or layer.data_param.batch_size
        layer.data_param.ClearField("rand_skip")
        levels = any(name.endswith((".ldb", ".log")) for name in os.listdir(source))
        layer.data_param.backend = pb.DataParameter.LEVELDB if levels else pb.DataParameter.LMDB
    elif kind == "HDF5Data":
        layer.ClearField("transform_param")
        layer.hdf5_data_param.source = source
        layer.hdf5_data_param.shuffle = False
    elif kind == "ImageData":
        layer.image_data_param.source = source
        layer.image_data_param.shuffle = False
        layer.image_data_param.ClearField("rand_skip")
    else:
        raise ValueError(f"{source}: a {data.type} layer reads no such source")
    return layer
