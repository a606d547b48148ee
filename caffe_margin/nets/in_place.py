"""Blobs that layers work on in place, and a name for each of the values that they take."""

from __future__ import annotations

from collections.abc import Collection

from caffe_margin import caffe_margin_pb2 as pb


def name_apart(net: pb.NetParameter) -> pb.NetParameter:
    """Return the net with no layer in place: every value that a blob takes has its own name.

    The last one has the blob's, and those before it are called BLOB@LAYER, by the layer that made
    them. The tops of layers without bottoms keep theirs, since they are what is handed in: of
    these the last is BLOB@LAYER too.

    >>> from caffe_margin.files.prototxt import read_net
    >>> net = name_apart(read_net("models/sphereface4_deploy.prototxt"))
    >>> [layer.top[0] for layer in net.layer[:3]]
    ['data', 'conv1_1@conv1_1', 'conv1_1']

    Args:
        net: a net of one phase, left alone.
    """
    last: dict[str, int] = {}
    for i, layer in enumerate(net.layer):
        last.update(dict.fromkeys(layer.top, i))
    handed = {top for layer in net.layer if not layer.bottom for top in layer.top}
    apart = pb.NetParameter()
    apart.CopyFrom(net)
    newest: dict[str, str] = {}
    taken = {*last}
    for i, layer in enumerate(apart.layer):
        for j, name in enumerate(layer.bottom):
            layer.bottom[j] = newest.get(name, name)
        for j, name in enumerate(layer.top):
            if layer.bottom and (last[name] != i or name in handed):
                layer.top[j] = _free(f"{name}@{layer.name}", taken)
                taken.add(layer.top[j])
            newest[name] = layer.top[j]
    return apart


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name
