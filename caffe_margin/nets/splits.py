"""What Net::Init adds to a net: layers where several read one blob, names of tops without one."""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from caffe_margin import caffe_margin_pb2 as pb

AUTOMATIC = "(automatic)"
"""What Net::AppendTop calls the top of a loss that names none."""

_Top: TypeAlias = tuple[int, int]
"""A layer's place in the net, and which of its tops."""


def insert_splits(net: pb.NetParameter) -> pb.NetParameter:
    """Return the net with a Split layer behind every blob that several layers read.

    Each reader then has a blob of its own, and a diff of its own: the blob's diff is their sum.
    Names are Caffe's: ``data_data_0_split_1`` is what the second reader of ``data`` gets. A top
    with a loss weight counts as read once more, and its weight goes to the first of the copies.
    Source: InsertSplits.

    Args:
        net: a net in the current form, filtered for one phase, left alone.

    Raises:
        ValueError: a bottom is nobody's top.
    """
    newest: dict[str, _Top] = {}
    sources: dict[tuple[int, int], _Top] = {}
    readers: Counter[_Top] = Counter()
    for i, layer in enumerate(net.layer):
        for j, name in enumerate(layer.bottom):
            if name not in newest:
                raise ValueError(f"layer {layer.name!r}: bottom {name!r} is nobody's top")
            sources[i, j] = newest[name]
            readers[newest[name]] += 1
        newest.update((name, (i, j)) for j, name in enumerate(layer.top))
        for j, weight in enumerate(layer.loss_weight[: len(layer.top)]):
            readers[i, j] += bool(weight)

    split_net = pb.NetParameter()
    split_net.CopyFrom(net)
    split_net.ClearField("layer")
    copies: Counter[_Top] = Counter()
    for i, layer in enumerate(net.layer):
        new = split_net.layer.add()
        new.CopyFrom(layer)
        for j, name in enumerate(layer.bottom):
            source = sources[i, j]
            if readers[source] > 1:
                maker = net.layer[source[0]].name
                new.bottom[j] = _copy_name(maker, name, source[1], copies[source])
                copies[source] += 1
        for j in range(len(layer.top)):
            if readers[i, j] > 1:
                split_net.layer.append(_split(layer, j, readers[i, j]))
                if split_net.layer[-1].loss_weight:
                    # All of them go, as in Caffe: a loss then has its default, 1, once more.
                    new.ClearField("loss_weight")
                    copies[i, j] += 1
    return split_net


def _split(layer: pb.LayerParameter, j: int, count: int) -> pb.LayerParameter:
    """Return the Split behind a layer's top j. Source: ConfigureSplitLayer."""
    name = layer.top[j]
    split = pb.LayerParameter(name=f"{name}_{layer.name}_{j}_split", type="Split", bottom=[name])
    split.top.extend(_copy_name(layer.name, name, j, k) for k in range(count))
    weight = layer.loss_weight[j] if j < len(layer.loss_weight) else 0
    if weight:
        split.loss_weight.extend([weight] + [0] * (count - 1))
    return split


def _copy_name(layer: str, blob: str, j: int, k: int) -> str:
    """Source: SplitBlobName."""
    return f"{blob}_{layer}_{j}_split_{k}"
