"""The parameter blobs of nets: .caffemodel files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.blobs import array_to_blob, blob_to_array
from caffe_margin.files.load import StrPath, naming
from caffe_margin.files.prototxt import load_net, write_net


def is_hdf5_name(path: StrPath) -> bool:
    """Whether a file of this name is to be HDF5."""
    return str(path).endswith((".h5", ".hdf5"))


def read_weights(path: StrPath) -> dict[str, list[np.ndarray]]:
    """Read the parameter blobs of a .caffemodel, V0 and V1 files too.

        >>> import numpy as np
        >>> write_weights({"fc6": [np.ones((10, 4))]}, "a.caffemodel")
        >>> weights = read_weights("a.caffemodel")
        >>> [(name, [blob.shape for blob in blobs]) for name, blobs in weights.items()]
        [('fc6', [(10, 4)])]

    Fields the schema lacks are passed over: weights from a fork read like any other. Where
    two layers have the same name the later one counts, as in Net::CopyTrainedLayersFrom.

    Returns:
        layer name -> its blobs, float32 or float64, writable and independent of each other;
        layers without blobs are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no net or has no weights, or a blob's values do not fill its
            shape (the message names layer and blob).
    """
    net, _ = load_net(path)
    weights = {}
    for layer in net.layer:
        arrays = []
        for i, blob in enumerate(layer.blobs):
            with naming(f"{path}: layer {layer.name!r}, blob {i}"):
                arrays.append(blob_to_array(blob))
        if arrays:
            weights[layer.name] = arrays
    if not weights:
        raise ValueError(
            f"{path}: no layer has weights; they are in a .caffemodel, not a .prototxt"
        )
    return weights


def write_weights(weights: Mapping[str, Sequence[np.ndarray]], path: StrPath) -> None:
    """Write blobs to a binary file that Net::CopyTrainedLayersFrom reads, whole or not at all.

        >>> import numpy as np
        >>> write_weights({"fc6": [np.ones((10, 4), np.float32)]}, "a.caffemodel")

    Args:
        weights: layer name -> its blobs, float32 or float64.
        path: the file, replaced where it exists.

    Raises:
        ValueError: there are no weights, a blob is of another dtype, or they take 2 GiB.
        OSError: the file cannot be written.
    """
    net = pb.NetParameter()
    for name, arrays in weights.items():
        layer = net.layer.add(name=name)
        for i, array in enumerate(arrays):
            with naming(f"layer {name!r}, blob {i}"):
                layer.blobs.append(array_to_blob(array))
    if not any(layer.blobs for layer in net.layer):
        raise ValueError("there are no weights to write")
    write_net(net, path, binary=True)
