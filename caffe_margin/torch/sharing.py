"""Parameters that layers share, and those that no gradient is wanted for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.torch.layers.layer import Layer


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
