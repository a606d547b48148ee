"""What a solver has in its charge: a net's blobs, and how fast each is to move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.torch.layers.layer import owner_of


class Learnable(NamedTuple):
    """One of the blobs that a solver has in its charge.

    Attributes:
        blob: the parameter; or a buffer, which has no gradient, but its place in a snapshot.
        lr_mult: times the solver's rate.
        decay_mult: times the solver's weight decay.
    """

    blob: Tensor
    lr_mult: float
    decay_mult: float


def learnable_params(net: pb.NetParameter, params: Mapping[str, list[Tensor]]) -> list[Learnable]:
    """Return a net's blobs in Caffe's order, a shared one once. Source: Net::AppendParam.

    BatchNorm sets the ``lr_mult`` of its statistics to 0. BN does not: weight decay moves its
    statistics, unless a ``decay_mult`` of 0 is given for them.

    Args:
        net: the net.
        params: for each layer its blobs.
    """
    found: dict[int, Learnable] = {}
    for layer in net.layer:
        for i, blob in enumerate(params.get(layer.name, ())):
            spec = layer.param[i] if i < len(layer.param) else pb.ParamSpec()
            moves = layer.type != "BatchNorm"
            owner = owner_of(blob)
            new = Learnable(owner, spec.lr_mult if moves else 0.0, spec.decay_mult)
            old = found.setdefault(id(owner), new)
            # What the owner leaves open, a later layer may say.
            found[id(owner)] = Learnable(
                owner,
                new.lr_mult if spec.HasField("lr_mult") and moves else old.lr_mult,
                new.decay_mult if spec.HasField("decay_mult") else old.decay_mult,
            )
    return list(found.values())
