"""Caffe's weights in and out of the blobs of a net."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.atomic import atomic_write
from caffe_margin.files.binary_rows import net_pieces, write_pieces
from caffe_margin.files.blobs import fits
from caffe_margin.files.hdf5 import BlobsByPlace, write_hdf5
from caffe_margin.files.load import StrPath, naming
from caffe_margin.files.prototxt import check_initialized
from caffe_margin.files.rows import Shares, Stored
from caffe_margin.files.weights import is_hdf5_name, own_rows, read_blobs
from caffe_margin.nets.shapes import LayerShapes, infer_shapes
from caffe_margin.torch.layers.layer import owner_of

Weights: TypeAlias = "StrPath | Iterable[StrPath] | Mapping[str, Sequence[np.ndarray]]"


class Loaded(NamedTuple):
    """What came of loading weights.

    Attributes:
        unfilled: the layers with blobs that the weights say nothing of.
        unused: the layers of the weights that the net does not have.
    """

    unfilled: tuple[str, ...]
    unused: tuple[str, ...]


def read_all(weights: Weights, shares: Shares = MappingProxyType({})) -> BlobsByPlace:
    """Return blobs by layer and place, from wherever they are; of shared ones the own rows."""
    if isinstance(weights, Mapping):
        for name, blobs in weights.items():
            if not isinstance(blobs, Mapping | list | tuple):
                raise ValueError(
                    f"layer {name!r}: give a list of its blobs, not {type(blobs).__name__}; a "
                    f"state_dict is for load_state_dict"
                )
        return {
            name: own_rows(name, dict(enumerate(blobs)), shares) for name, blobs in weights.items()
        }
    paths = [weights] if isinstance(weights, str | os.PathLike) else weights
    arrays: BlobsByPlace = {}
    for path in paths:
        arrays |= read_blobs(path, shares)
    return arrays


def infer_with_blobs(
    net: pb.NetParameter,
    shapes: Mapping[str, Sequence[int]] | None,
    arrays: BlobsByPlace,
) -> list[LayerShapes]:
    """Return the shapes in a net, unknown ones of parameters from blobs that will be loaded."""
    layers = infer_shapes(net, shapes)
    if not any(layer.param_count is None and layer.name in arrays for layer in layers):
        return layers
    told = pb.NetParameter()
    told.CopyFrom(net)
    for param, layer in zip(told.layer, layers, strict=True):
        blobs = arrays.get(layer.name, {})
        if layer.param_count is None and blobs.keys() == set(range(len(blobs))):
            for array in blobs.values():
                param.blobs.add().shape.dim.extend(array.shape)
    return infer_shapes(told, shapes)


@torch.no_grad()
def load_into(params: Mapping[str, Sequence[Tensor]], arrays: BlobsByPlace) -> Loaded:
    """Copy blobs to the layers of the same name, all or none.

    What a layer shares with one before it may be missing.
    Source: Net::CopyTrainedLayersFrom, Net::CopyTrainedLayersFromHDF5.
    """
    pairs = [pair for name in params for pair in _pairs(name, params, arrays)]
    for blob, array in pairs:
        blob.copy_(torch.from_numpy(np.ascontiguousarray(array)).reshape(blob.shape))
    filled = {id(owner_of(blob)) for blob, _ in pairs}
    return Loaded(
        unfilled=tuple(
            name
            for name, blobs in params.items()
            if not filled.issuperset(id(owner_of(blob)) for blob in blobs)
        ),
        unused=tuple(name for name in arrays if name not in params),
    )


def _pairs(
    name: str, params: Mapping[str, Sequence[Tensor]], arrays: BlobsByPlace
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Yield each of a layer's blobs with what goes into it."""
    new, blobs = arrays.get(name), params[name]
    if new is None:
        return
    others = {id(owner_of(blob)) for other in params if other != name for blob in params[other]}
    missing = [
        i for i, blob in enumerate(blobs) if i not in new and id(owner_of(blob)) not in others
    ]
    if missing or max(new, default=0) >= len(blobs):
        raise ValueError(
            f"layer {name!r} has {len(new)} blobs in the weights and {len(blobs)} in the net; to "
            "train it anew, rename the layer"
        )
    for i, array in new.items():
        shape = tuple(blobs[i].shape)
        if not fits(array.shape, shape):
            hint = " (or is the input of another size?)" if array.shape[:1] == shape[:1] else ""
            raise ValueError(
                f"layer {name!r}, blob {i}: {array.shape} in the weights and {shape} in the net; "
                f"to train it anew, rename the layer{hint}"
            )
        yield blobs[i], array


def save_from(
    params: Mapping[str, Sequence[Tensor]],
    net: pb.NetParameter,
    path: StrPath,
    stored: Callable[[Tensor], Stored],
) -> None:
    """Write a net's blobs to a file, each as ``stored``. Source: Net::ToProto, Net::ToHDF5."""
    if not params:
        raise ValueError("the net has no weights to write")
    if is_hdf5_name(path):
        owned: dict[str, dict[int, Stored]] = {layer.name: {} for layer in net.layer}
        written: set[int] = set()
        for name, blobs in params.items():
            own = {i: blob for i, blob in enumerate(blobs) if id(owner_of(blob)) not in written}
            owned[name] = {i: stored(blob) for i, blob in own.items()}
            written.update(id(owner_of(blob)) for blob in blobs)
        write_hdf5(owned, path)
        return
    check_initialized(net)
    blobs_of = ([stored(blob) for blob in params.get(layer.name, ())] for layer in net.layer)
    with atomic_write(path) as unfinished, open(unfinished, "wb") as file, naming(path):
        write_pieces(file, net_pieces(net, blobs_of))


def as_array(blob: Tensor) -> np.ndarray:
    """Return a blob as files hold it: float64, or else float32."""
    array = blob.detach().cpu()
    if array.dtype not in (torch.float32, torch.float64):
        array = array.float()
    return array.contiguous().numpy()
