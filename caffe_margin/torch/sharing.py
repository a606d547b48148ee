"""Parameters that layers share, and those that no gradient is wanted for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.torch.layers.layer import Layer

if TYPE_CHECKING:
    from caffe_margin.torch.net import Net


def share_params(net: pb.NetParameter, layers: Mapping[str, Layer]) -> None:
    """Give layers that name a parameter alike the same one, and freeze ``lr_mult: 0``.

    The first that uses a name owns the parameter; ``lr_mult`` of any of them counts for all.
    Source: Net::AppendParam.

    Raises:
        ValueError: a shared parameter has two shapes, or two ``lr_mult`` or ``decay_mult``.
    """
    owners: dict[str, tuple[nn.Parameter, str]] = {}
    for param in net.layer:
        layer = layers.get(param.name)
        for attribute, spec in zip(layer.fillers if layer else (), param.param, strict=False):
            blob = getattr(layer, attribute)
            if spec.name:
                blob, owner = owners.setdefault(spec.name, (blob, param.name))
                if blob.shape != getattr(layer, attribute).shape:
                    raise ValueError(
                        f"layer {param.name!r} shares {spec.name!r} with {owner!r} in another "
                        f"shape (share_mode: PERMISSIVE), which the PyTorch engine does not"
                    )
                setattr(layer, attribute, blob)
            if spec.HasField("lr_mult") and spec.lr_mult == 0:
                blob.requires_grad_(False)


class Learnable(NamedTuple):
    """One of the blobs that a solver has in its charge.

    Attributes:
        blob: the parameter; or a buffer that no rate moves, but that has its place in a snapshot.
        lr_mult: times the solver's rate.
        decay_mult: times the solver's weight decay.
    """

    blob: Tensor
    lr_mult: float
    decay_mult: float


def learnable_params(net: pb.NetParameter, params: Mapping[str, list[Tensor]]) -> list[Learnable]:
    """Return a net's blobs in Caffe's order, a shared one once. Source: Net::AppendParam.

    Args:
        net: the net.
        params: for each layer its blobs.
    """
    found: dict[int, Learnable] = {}
    for layer in net.layer:
        for i, blob in enumerate(params.get(layer.name, ())):
            spec = layer.param[i] if i < len(layer.param) else pb.ParamSpec()
            moves = isinstance(blob, nn.Parameter)
            new = Learnable(blob, spec.lr_mult if moves else 0.0, spec.decay_mult)
            old = found.setdefault(id(blob), new)
            # What the owner leaves open, a later layer may say.
            found[id(blob)] = Learnable(
                blob,
                new.lr_mult if spec.HasField("lr_mult") and moves else old.lr_mult,
                new.decay_mult if spec.HasField("decay_mult") else old.decay_mult,
            )
    return list(found.values())


def share_layers(net: Net, owner: Net) -> None:
    """Give the layers of a net the blobs of another's layers of the same names.

    Source: Net::ShareTrainedLayersWith.

    Raises:
        ValueError: the blobs of two layers of one name differ in number or shape.
    """
    for name, layer in net.layers.items():
        if name not in owner.layers:
            continue
        shapes, theirs = ([blob.shape for blob in one.blobs] for one in (layer, owner.layers[name]))
        if shapes != theirs:
            raise ValueError(
                f"layer {name!r} has blobs of {[tuple(s) for s in shapes]} in one net and of "
                f"{[tuple(s) for s in theirs]} in the other"
            )
        for attribute, other in zip(layer.fillers, owner.layers[name].fillers, strict=True):
            setattr(layer, attribute, getattr(owner.layers[name], other))
