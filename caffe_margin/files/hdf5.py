"""Caffe's weights in HDF5 files: ``/data/LAYER/INDEX``, a dataset a blob.

A blob that several layers share is there with its owner alone. A file that a stranger made may
declare more than it holds, or point to other files: nothing is read but what lies in it, and no
more than its size can answer for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, TypeAlias

import numpy as np

from caffe_margin.files.atomic import atomic_write
from caffe_margin.files.load import StrPath
from caffe_margin.files.npz import FREE_BYTES, MAX_BYTES, MAX_RATIO
from caffe_margin.files.regular import check_regular
from caffe_margin.files.rows import MisfitError, Rows, Share, Shares, Stored
from caffe_margin.files.visible import visible

BlobsByPlace: TypeAlias = dict[str, dict[int, np.ndarray]]
"""Layer -> place among the layer's blobs -> blob. Places are left out where others own the blob."""

MAGIC = b"\x89HDF"
MAX_BLOBS = 1000
"""Blobs of a layer at most; an LSTM has four."""

DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, AttributeError)


def read_hdf5(path: StrPath, shares: Shares = MappingProxyType({})) -> BlobsByPlace:
    """Return the blobs of a file of weights, by layer and place.

    Source: Net::CopyTrainedLayersFromHDF5.

    Args:
        path: the file.
        shares: of some layers, by name, the rows that are read of the first blob.

    Returns:
        float64 for doubles and whole numbers, else float32; layers without blobs are left out.

    Raises:
        OSError: there is no such file.
        ValueError: h5py is not installed; the file is damaged, holds no weights, or what Caffe
            does not write there, or declares more than its size and `MAX_BYTES`, or `MAX_RATIO`
            times its size.
    """
    h5py = import_h5py(path)
    check_regular(path)
    weights: BlobsByPlace = {}
    try:
        with h5py.File(path, "r") as file:
            datasets = list(_datasets(h5py, file))
            check_declared(path, [dataset for _, _, dataset in datasets])
            for layer, place, dataset in datasets:
                share = shares.get(layer) if place == 0 else None
                weights.setdefault(layer, {})[place] = read_blob(dataset, share)
    except MisfitError as error:
        raise ValueError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise ValueError(f"{path}: no HDF5 file of weights, or damaged: {reason(error)}") from None
    if not weights:
        raise ValueError(f"{path}: no layer has weights in it")
    return {layer: dict(sorted(blobs.items())) for layer, blobs in weights.items()}


def _datasets(h5py: ModuleType, file: Any) -> Iterator[tuple[str, int, Any]]:
    """Yield layer, place and dataset of each blob, each one that Caffe would read."""
    data = held(h5py, file, "data", h5py.Group)
    for layer in data:
        group = held(h5py, data, layer, h5py.Group)
        for name in group:
            dataset = held(h5py, group, name, h5py.Dataset)
            where = f"/data/{layer}/{name}"
            if not (name.isascii() and name.isdecimal() and str(int(name)) == name):
                raise ValueError(f"{where} has no number for a name, as a layer's blobs have")
            if int(name) >= MAX_BLOBS:
                raise ValueError(f"{where}: no layer has so many blobs")
            check_numbers(dataset)
            yield layer, int(name), dataset


def check_numbers(dataset: Any) -> None:
    """Check that a dataset holds numbers, in its own file."""
    if dataset.shape is None or dataset.dtype.kind not in "fiu":
        raise ValueError(f"{dataset.name} holds no numbers")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} lies in other files")


def check_declared(path: StrPath, datasets: Iterable[Any]) -> None:
    """Check that a file does not declare more than its size can answer for."""
    declared = sum(math.prod(d.shape) * d.dtype.itemsize for d in datasets)
    size = os.path.getsize(path)
    if declared > max(size, min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * size))):
        raise ValueError(f"it declares {declared} bytes of blobs, and is of {size}")


def read_blob(dataset: Any, share: Share | None = None) -> np.ndarray:
    """Return a dataset's numbers, or some rows.

    They are float64 where they are doubles or whole numbers, else float32.

    Raises:
        MisfitError: rows are wanted of a blob of another shape.
    """
    if share is not None:
        return share.of(dataset, dataset.name)
    single = dataset.dtype.kind == "f" and dataset.dtype.itemsize <= 4
    return np.array(dataset[()], np.float32 if single else np.float64)


def held(h5py: ModuleType, group: Any, name: str, kind: type) -> Any:
    """Return what a group holds under a name: a group or a dataset, and no link to elsewhere."""
    what = "group" if kind is h5py.Group else "dataset"
    where = f"{group.name.rstrip('/')}/{name}"
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"there is no {what} {where}")
    held = group[name]
    if not isinstance(held, kind):
        raise ValueError(f"{where} is no {what}")
    return held


def reason(error: Exception) -> str:
    """Return what h5py says is wrong, in a line."""
    return visible(" ".join(str(error).split()), 200)


def write_hdf5(weights: Mapping[str, Mapping[int, Stored]], path: StrPath) -> None:
    """Write blobs to a file of weights that Caffe reads, whole or not at all.

    Source: Net::ToHDF5.

    Args:
        weights: by layer and place, float32 or float64; a layer may have none.
        path: the file, replaced where it exists.

    Raises:
        OSError: the file cannot be written.
        ValueError: h5py is not installed, a blob is of another dtype, or no group of HDF5 can
            have a layer's name.
    """
    h5py = import_h5py(path)
    for layer, blobs in weights.items():
        if not layer or "/" in layer or "\0" in layer or layer == ".":
            raise ValueError(
                f"layer {layer!r}: HDF5 has no group of this name; write a .caffemodel instead"
            )
        for i, array in blobs.items():
            if array.dtype.newbyteorder("=") not in (np.float32, np.float64):
                raise ValueError(
                    f"layer {layer!r}, blob {i}: a blob holds float32 or float64, not {array.dtype}"
                )
    with atomic_write(path) as unfinished, h5py.File(unfinished, "w") as file:
        data = file.create_group("data")
        for layer, blobs in weights.items():
            group = data.create_group(layer)
            for i, array in blobs.items():
                write_blob(group, i, array)


def write_blob(group: Any, place: int, blob: Stored) -> None:
    """Write a blob under its number, a block at a time where it comes so."""
    dtype = blob.dtype.newbyteorder("<")
    if not isinstance(blob, Rows):
        group.create_dataset(str(place), data=blob.astype(dtype, copy=False))
        return
    dataset, at = group.create_dataset(str(place), blob.shape, dtype), 0
    for block in blob.blocks:
        dataset[at : at + len(block)] = block
        at += len(block)


def import_h5py(path: StrPath) -> ModuleType:
    """Return h5py. Raises ValueError where it is not installed."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path}: an HDF5 file needs h5py, which is not installed: "
            "pip install 'caffe_margin[torch]'"
        ) from error
    module: ModuleType = h5py
    return module
