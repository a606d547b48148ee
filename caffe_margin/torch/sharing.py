"""Parameters that layers share, and those that no gradient is wanted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.torch.layers.layer import Layer

if TYPE_CHECKING:
    from caffe_margin.torch.net import Net


@dataclass
class _Owned:
    """A parameter with a name, as the first layer that uses it has it.

    Attributes:
        blob: the parameter.
        layer: the layer's name.
        mults: what has been said of ``lr_mult`` and ``decay_mult``.
    """

    blob: Tensor
    layer: str
    mults: dict[str, float] = field(default_factory=dict)


def share_params(net: pb.NetParameter, modules: Sequence[Layer | None]) -> None:
    """Give layers that name a parameter alike the same one, and freeze ``lr_mult: 0``.

    The first that uses a name owns the parameter; what any of them says of ``lr_mult`` and
    ``decay_mult`` counts for all. Where shapes differ, as ``share_mode: PERMISSIVE`` allows, each
    layer has it in its own. With ``force_backward`` nothing is frozen: Caffe then computes all
    gradients, and a rate of zero is the solver's concern.
    Source: Net::AppendParam, Net::Init.

    Args:
        net: the net, of which it is known that shared parameters have the same shapes, or counts.
        modules: of its layers; None for those without.

    Raises:
        ValueError: a shared parameter has two ``lr_mult`` or ``decay_mult``.
    """
    owners: dict[str, _Owned] = {}
    for param, module in zip(net.layer, modules, strict=True):
        if module is None:
            continue
        for attribute, spec in zip(module.fillers, param.param, strict=False):
            blob = getattr(module, attribute)
            if spec.name:
                owned = owners.setdefault(spec.name, _Owned(blob, param.name))
                _check_mults(param.name, spec, owned)
                module.share(attribute, owned.blob)
                blob = owned.blob
            if spec.HasField("lr_mult") and spec.lr_mult == 0 and not net.force_backward:
                blob.requires_grad_(False)


def _check_mults(layer: str, spec: pb.ParamSpec, owned: _Owned) -> None:
    """Check that what a layer says of a shared parameter is what was said, and note it."""
    for name in ("lr_mult", "decay_mult"):
        if spec.HasField(name):
            value = getattr(spec, name)
            if owned.mults.setdefault(name, value) != value:
                raise ValueError(
                    f"layer {layer!r} shares {spec.name!r} with {owned.layer!r}, and gives it "
                    f"{name} {value:g} where {owned.mults[name]:g} was given"
                )


def share_layers(net: Net, owner: Net) -> None:
    """Give the layers of a net the blobs of another's layers of the same names.

    Source: Net::ShareTrainedLayersWith.

    Raises:
        ValueError: the blobs of two layers of one name differ in number or shape.
    """
    owners = owner.layers
    for name, layer in net.layers.items():
        if name not in owners:
            continue
        shapes, theirs = ([blob.shape for blob in one.blobs] for one in (layer, owners[name]))
        if shapes != theirs:
            raise ValueError(
                f"layer {name!r} has blobs of {[tuple(s) for s in shapes]} in one net and of "
                f"{[tuple(s) for s in theirs]} in the other"
            )
        for attribute, other in zip(layer.fillers, owners[name].fillers, strict=True):
            layer.share(attribute, getattr(owners[name], other))
