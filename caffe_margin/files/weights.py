"""The parameter blobs of nets: .caffemodel files, and HDF5's .h5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from google.protobuf.message import DecodeError

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.binary_rows import take_net_rows
from caffe_margin.files.blobs import array_to_blob, blob_to_array
from caffe_margin.files.hdf5 import MAGIC, BlobsByPlace, read_hdf5, write_hdf5
from caffe_margin.files.load import HEAD_BYTES, StrPath, is_text, naming
from caffe_margin.files.prototxt import load_net, write_net
from caffe_margin.files.regular import check_regular
from caffe_margin.files.rows import Shares


def is_hdf5_name(path: StrPath) -> bool:
    """Whether a file of this name is to be HDF5."""
    return str(path).endswith((".h5", ".hdf5"))


def read_weights(path: StrPath) -> dict[str, list[np.ndarray]]:
    """Read the parameter blobs of a .caffemodel, V0 and V1 files too, or of a .h5.

        >>> import numpy as np
        >>> write_weights({"fc6": [np.ones((10, 4))]}, "a.caffemodel")
        >>> weights = read_weights("a.caffemodel")
        >>> [(name, [blob.shape for blob in blobs]) for name, blobs in weights.items()]
        [('fc6', [(10, 4)])]

    Which of them it is the content says. Fields the schema lacks are passed over: weights from a
    fork read like any other. Where two layers have the same name the later one counts, as in
    Net::CopyTrainedLayersFrom.

    Returns:
        layer name -> its blobs, float32 or float64, writable and independent of each other;
        layers without blobs are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no net or has no weights, a blob's values do not fill its
            shape (the message names layer and blob), or h5py, which HDF5 needs, is not
            installed.
    """
    weights = read_blobs(path)
    for name, blobs in weights.items():
        if missing := set(range(len(blobs))) - blobs.keys():
            raise ValueError(
                f"{path}: layer {name!r} has blob {max(blobs)} and not {min(missing)}, which "
                "another layer must own; its net can load it"
            )
    return {name: list(blobs.values()) for name, blobs in weights.items()}


def read_blobs(path: StrPath, shares: Shares = MappingProxyType({})) -> BlobsByPlace:
    """Read blobs as `read_weights`, by their places: a .h5 may leave out what other layers own.

    Args:
        path: the file.
        shares: of some layers, by name, the rows that are read of the first blob, and no others;
            what a file of old has in another form is read whole first.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `read_weights`.
    """
    check_regular(path)
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(MAGIC):
        return read_hdf5(path, shares)
    data: bytes | None = None
    weights: BlobsByPlace = {}
    if shares and not is_text(path, head):
        data, weights = _take_rows(path, shares)
    net, _ = load_net(path, data=data)
    for layer in net.layer:
        blobs = {}
        for i, blob in enumerate(layer.blobs):
            with naming(f"{path}: layer {layer.name!r}, blob {i}"):
                blobs[i] = blob_to_array(blob)
        if blobs:
            weights[layer.name] = own_rows(layer.name, blobs, shares, f"{path}: ")
    if not weights:
        raise ValueError(
            f"{path}: no layer has weights; they are in a .caffemodel or .h5, not a .prototxt"
        )
    return weights


def own_rows(
    layer: str, blobs: dict[int, np.ndarray], shares: Shares, where: str = ""
) -> dict[int, np.ndarray]:
    """Return a layer's blobs, of the first only the rows that are wanted."""
    if layer not in shares or 0 not in blobs:
        return blobs
    return {**blobs, 0: shares[layer].of(blobs[0], f"{where}layer {layer!r}, blob 0")}


def _take_rows(path: StrPath, shares: Shares) -> tuple[bytes | None, BlobsByPlace]:
    """Return what is left of a file, None for the whole, and what of it was read by rows."""
    try:
        data, rows = take_net_rows(path, shares)
    except DecodeError:
        return None, {}  # whoever reads it whole says what is wrong
    return data, {name: {0: array} for name, array in rows.items()}


def take_blobs(net: pb.NetParameter) -> tuple[pb.NetParameter, BlobsByPlace]:
    """Return a net without the blobs its layers hold, and the blobs; the net is changed."""
    arrays: BlobsByPlace = {}
    for layer in net.layer:
        if layer.blobs:
            with naming(f"layer {layer.name!r}"):
                arrays[layer.name] = dict(enumerate(map(blob_to_array, layer.blobs)))
            layer.ClearField("blobs")
    return net, arrays


def write_weights(weights: Mapping[str, Sequence[np.ndarray]], path: StrPath) -> None:
    """Write blobs to a file that Net::CopyTrainedLayersFrom reads, whole or not at all.

        >>> import numpy as np
        >>> write_weights({"fc6": [np.ones((10, 4), np.float32)]}, "a.caffemodel")

    Args:
        weights: layer name -> its blobs, float32 or float64.
        path: the file, replaced where it exists: HDF5 where its name ends in .h5 or .hdf5, and
            else a .caffemodel.

    Raises:
        ValueError: there are no weights, a blob is of another dtype, they take 2 GiB in a
            .caffemodel, or h5py, which HDF5 needs, is not installed.
        OSError: the file cannot be written.
    """
    if not any(len(arrays) for arrays in weights.values()):
        raise ValueError("there are no weights to write")
    if is_hdf5_name(path):
        by_place = {
            name: dict(enumerate(map(np.asarray, arrays))) for name, arrays in weights.items()
        }
        write_hdf5(by_place, path)
        return
    net = pb.NetParameter()
    for name, arrays in weights.items():
        layer = net.layer.add(name=name)
        for i, array in enumerate(arrays):
            with naming(f"layer {name!r}, blob {i}"):
                layer.blobs.append(array_to_blob(array))
    write_net(net, path, binary=True)
