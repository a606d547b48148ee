"""The heads that a net is trained with: margins, gradient rules, and none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.maths.gradient import EXACT, PAPER, GradientRule
from caffe_margin.nets.margin import FIELDS, margin_param, type_name
from caffe_margin.nets.select import filter_net
from caffe_margin.study.training import MODIFIED_SOFTMAX, SOFTMAX

LARGE = "L-"
"""What a type of L-Softmax begins with, whose layer has the same four."""

MARGINS = ("DOUBLE", "TRIPLE", "QUADRUPLE")
WITH_MARGIN = (*MARGINS, *(LARGE + margin for margin in MARGINS))
TYPES = ("L-SINGLE", "SINGLE", *WITH_MARGIN)
"""``"SINGLE"`` is the modified softmax, ``"L-SINGLE"`` the plain one."""


@dataclass(frozen=True)
class Variant:
    """A head.

    Attributes:
        name: what tells it from the others.
        type: one of `TYPES`.
        rule: how its gradient is computed.
    """

    name: str
    type: str
    rule: GradientRule

    @property
    def has_margin(self) -> bool:
        """Whether there is a margin."""
        return self.type in WITH_MARGIN


BASELINES = (
    Variant(MODIFIED_SOFTMAX, "SINGLE", PAPER),
    Variant(SOFTMAX, "L-SINGLE", EXACT),
)
"""Both have the one gradient there is without a margin; SINGLE's is its C++'s."""


def variants(
    net: pb.NetParameter, rules: Sequence[GradientRule] = (), types: Sequence[str] = ()
) -> tuple[Variant, ...]:
    """Return the heads to compare: each type under each rule, and the two softmaxes.

        >>> from caffe_margin import read_net
        >>> net = read_net("models/sphereface_model.prototxt")
        >>> [v.name for v in variants(net, (PAPER, EXACT))]
        ['paper', 'exact', 'modified softmax (SINGLE)', 'plain softmax']
        >>> [v.name for v in variants(net, types=["DOUBLE", "L-DOUBLE"])][:2]
        ['DOUBLE', 'L-DOUBLE']

    Args:
        net: whose layer with a margin it is.
        rules: one for each, or none for what the type's own C++ computes.
        types: of `WITH_MARGIN`; none for the net's.

    Raises:
        ValueError: the net has no layer with a margin, or it is SINGLE and no type is given.
    """
    own = type_of(head_of(net))
    if not types and own not in WITH_MARGIN:
        raise ValueError(
            f"layer {head_of(net).name!r} is SINGLE, which has no margin: give --type "
            f"{', '.join(MARGINS[:-1])} or {MARGINS[-1]}"
        )
    found = []
    for kind in types or (own,):
        for rule in rules or (EXACT if kind.startswith(LARGE) else PAPER,):
            parts = [kind] * bool(types) + [rule.name] * bool(rules or not types)
            found.append(Variant(", ".join(parts), kind, rule))
    return (*found, *BASELINES)


def type_of(layer: pb.LayerParameter) -> str:
    """Return the type of a layer with a margin, as `Variant` has it."""
    name = type_name(margin_param(layer))
    return LARGE + name if layer.type == "LargeMarginInnerProduct" else name


def with_head(net: pb.NetParameter, variant: Variant) -> pb.NetParameter:
    """Return a net whose layer with a margin is another head; the rule is not in it.

    Raises:
        ValueError: as `head_of`.
    """
    changed, name = pb.NetParameter(), head_of(net).name
    changed.CopyFrom(net)
    for layer in changed.layer:
        if layer.name == name and layer.type in FIELDS:
            _make(layer, variant)
    return changed


def _make(layer: pb.LayerParameter, variant: Variant) -> None:
    """Have a layer with a margin be another, with the same parameters."""
    old = margin_param(layer)
    fields = [(field.name, value) for field, value in old.ListFields()]
    layer.ClearField(FIELDS[layer.type])
    is_large = variant.type.startswith(LARGE)
    layer.type = "LargeMarginInnerProduct" if is_large else "MarginInnerProduct"
    new = margin_param(layer)
    for name, value in fields:
        if hasattr(value, "CopyFrom"):
            getattr(new, name).CopyFrom(value)
        else:
            setattr(new, name, value)
    new.ClearField("gradient")
    kind = variant.type.removeprefix(LARGE)
    new.type = pb.MarginInnerProductParameter.MarginType.Value(kind)  # type: ignore[assignment]


def head_of(net: pb.NetParameter) -> pb.LayerParameter:
    """Return the layer with a margin that is trained, in the net's state.

    Raises:
        ValueError: there is none, or there are several.
    """
    trained = filter_net(net, "TRAIN", net.state.level, net.state.stage)
    heads = [layer for layer in trained.layer if layer.type in FIELDS]
    if not heads:
        raise ValueError("the net has no layer with a margin to compare")
    if len(heads) > 1:
        names = " and ".join(repr(layer.name) for layer in heads)
        raise ValueError(f"the net has several layers with a margin, {names}: leave one of them")
    return heads[0]
