"""Caffe's weights in and out of the blobs of a net."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.blobs import array_to_blob, blob_to_array
from caffe_margin.files.load import StrPath, naming
from caffe_margin.files.prototxt import write_net
from caffe_margin.files.weights import is_hdf5_name, read_weights, write_weights
from caffe_margin.nets.shapes import LayerShapes, infer_shapes

Weights: TypeAlias = "StrPath | Iterable[StrPath] | Mapping[str, Sequence[np.ndarray]]"
Arrays: TypeAlias = dict[str, list[np.ndarray]]


class Loaded(NamedTuple):
    """What came of loading weights.

    Attributes:
        unfilled: the layers with blobs that the weights say nothing of.
        unused: the layers of the weights that the net does not have.
    """

    unfilled: tuple[str, ...]
    unused: tuple[str, ...]


def read_all(weights: Weights) -> Arrays:
    """Return blobs by layer, from wherever they are."""
    if isinstance(weights, Mapping):
        return {name: list(blobs) for name, blobs in weights.items()}
    paths = [weights] if isinstance(weights, str | os.PathLike) else weights
    arrays: Arrays = {}
    for path in paths:
        arrays |= read_weights(path)
    return arrays


def take_blobs(net: pb.NetParameter) -> tuple[pb.NetParameter, Arrays]:
    """Return a net without the blobs its layers hold, and the blobs; the net is changed."""
    arrays: Arrays = {}
    for layer in net.layer:
        if layer.blobs:
            with naming(f"layer {layer.name!r}"):
                arrays[layer.name] = [blob_to_array(blob) for blob in layer.blobs]
            layer.ClearField("blobs")
    return net, arrays


def infer_with_blobs(
    net: pb.NetParameter,
    shapes: Mapping[str, Sequence[int]] | None,
    arrays: Mapping[str, Sequence[np.ndarray]],
) -> list[LayerShapes]:
    """Return the shapes in a net, unknown ones of parameters from blobs that will be loaded."""
    layers = infer_shapes(net, shapes)
    told = pb.NetParameter()
    told.CopyFrom(net)
    for param, layer in zip(told.layer, layers, strict=True):
        if layer.param_count is None:
            for array in arrays.get(layer.name, ()):
                param.blobs.add().shape.dim.extend(array.shape)
    return infer_shapes(told, shapes)


@torch.no_grad()
def load_into(params: Mapping[str, Sequence[Tensor]], arrays: Arrays) -> Loaded:
    """Copy blobs to the layers of the same name, all or none."""
    pairs = []
    for name, blobs in params.items():
        new = arrays.get(name)
        if new is None:
            continue
        if len(new) != len(blobs):
            raise ValueError(
                f"layer {name!r} has {len(new)} blobs in the weights and {len(blobs)} in the net"
            )
        for i, (array, blob) in enumerate(zip(new, blobs, strict=True)):
            if not _fits(array.shape, tuple(blob.shape)):
                raise ValueError(
                    f"layer {name!r}, blob {i}: {array.shape} in the weights and "
                    f"{tuple(blob.shape)} in the net; to train it anew, rename the layer"
                )
            pairs.append((blob, array))
    for blob, array in pairs:
        blob.copy_(torch.from_numpy(np.ascontiguousarray(array)).reshape(blob.shape))
    return Loaded(
        unfilled=tuple(name for name in params if name not in arrays),
        unused=tuple(name for name in arrays if name not in params),
    )


def _fits(stored: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a stored blob goes into one of a shape. Source: Blob::ShapeEquals."""
    ones = len(stored) - len(shape)
    return stored == (1,) * ones + shape if len(stored) == 4 and ones > 0 else stored == shape


def save_from(params: Mapping[str, Sequence[Tensor]], net: pb.NetParameter, path: StrPath) -> None:
    """Write a net's blobs to a file. Source: Net::ToProto, Net::ToHDF5."""
    arrays = {name: [_array(blob) for blob in blobs] for name, blobs in params.items()}
    if not arrays:
        raise ValueError("the net has no weights to write")
    if is_hdf5_name(path):
        write_weights(arrays, path)
        return
    full = pb.NetParameter()
    full.CopyFrom(net)
    for layer in full.layer:
        layer.blobs.extend(array_to_blob(array) for array in arrays.get(layer.name, ()))
    write_net(full, path, binary=True)


def _array(blob: Tensor) -> np.ndarray:
    array = blob.detach().cpu()
    if array.dtype not in (torch.float32, torch.float64):
        array = array.float()
    return array.contiguous().numpy()
