"""A part of a net: the layers of one phase, or one layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.names import near


def filter_net(
    net: pb.NetParameter, phase: str = "TRAIN", level: int = 0, stages: Iterable[str] = ()
) -> pb.NetParameter:
    """Return the net as Caffe builds it for one phase: the layers whose rules the state meets.

    The kept layers are unchanged; the state is noted in the new net's `state`. Stages add to
    those the net's own `state` lists, phase and level replace. Source: Net::Net,
    Net::FilterNet, Net::StateMeetsRule.

    Args:
        net: a net in the current form, left alone.
        phase: "TRAIN" or "TEST".
        level: what min_level and max_level are held against.
        stages: what stage and not_stage are held against.

    Raises:
        ValueError: the phase is another, or a layer has both include and exclude rules.
    """
    if phase not in ("TRAIN", "TEST"):
        raise ValueError(f"no phase {phase!r}; the phases are TRAIN and TEST")
    filtered = pb.NetParameter()
    filtered.CopyFrom(net)
    state = filtered.state
    state.phase = pb.TRAIN if phase == "TRAIN" else pb.TEST
    state.level = level
    state.stage.extend(stages)
    filtered.ClearField("layer")
    for layer in net.layer:
        if layer.include and layer.exclude:
            raise ValueError(
                f"layer {layer.name!r} has both include and exclude rules; it may have one kind"
            )
        if layer.include:
            kept = any(_meets(state, rule) for rule in layer.include)
        else:
            kept = not any(_meets(state, rule) for rule in layer.exclude)
        if kept:
            filtered.layer.append(layer)
    return filtered


def find_layer(
    net: pb.NetParameter, name: str | None = None, type: str | Iterable[str] | None = None
) -> pb.LayerParameter:
    """Return one layer of a net: by name, or the only one of a type, or both.

    Args:
        net: the net.
        name: the layer's; None for any.
        type: the layer's, or several that it may be of; None for any.

    Raises:
        ValueError: no layer or more than one answers, or the named layer has another type.
    """
    types = [type] if isinstance(type, str) else list(type or ())
    wanted = " or ".join(map(repr, types))
    layers = list(net.layer)
    if name is not None:
        layers = [layer for layer in net.layer if layer.name == name]
        if not layers:
            names = [layer.name for layer in net.layer if not types or layer.type in types]
            names = names or [layer.name for layer in net.layer]
            raise ValueError(f"the net has no layer {name!r}{_suggest(name, names)}")
    found = [layer for layer in layers if not types or layer.type in types]
    if len(found) == 1:
        return found[0]
    if name is not None and not found:
        raise ValueError(f"layer {name!r} is of type {layers[0].type!r}, not {wanted}")
    if not found:
        there = sorted({layer.type for layer in net.layer})
        suggestion = _suggest(types[0] if types else "", there)
        raise ValueError(f"the net has no layer of type {wanted}{suggestion}")
    if name is not None:
        raise ValueError(f"{len(found)} layers are named {name!r}; filter_net keeps one phase's")
    what = f"layers of type {wanted}" if types else "layers"
    names = [repr(layer.name) for layer in found]
    raise ValueError(f"the net has {len(names)} {what}; name one: {_some(names)}")


def needed_for(net: pb.NetParameter, blobs: Iterable[str]) -> pb.NetParameter:
    """Return the net with the layers that blobs come from, directly or not, and no others.

    Args:
        net: a net of one phase, left alone.
        blobs: names of tops.

    Raises:
        ValueError: a blob is nobody's top.
    """
    tops = {top for layer in net.layer for top in layer.top}
    wanted = set(blobs)
    for name in wanted - tops:
        raise ValueError(f"the net has no blob {name!r}{_suggest(name, sorted(tops))}")
    kept = []
    for layer in reversed(net.layer):
        if wanted.intersection(layer.top):
            kept.append(layer)
            wanted.update(layer.bottom)
    part = pb.NetParameter()
    part.CopyFrom(net)
    part.ClearField("layer")
    part.layer.extend(reversed(kept))
    return part


def unread_tops(layers: Iterable[tuple[Iterable[str], Iterable[str]]]) -> set[str]:
    """Return the tops that no later layer reads, of layers that are given as (bottoms, tops).

    What a layer works on in place is its top again. Source: Net::Init, ``available_blobs``.

    >>> sorted(unread_tops([([], ["data"]), (["data"], ["fc"]), (["fc"], ["fc"])]))
    ['fc']
    """
    unread: set[str] = set()
    for bottoms, tops in layers:
        unread -= set(bottoms)
        unread |= set(tops)
    return unread


def _meets(state: pb.NetState, rule: pb.NetStateRule) -> bool:
    """Source: Net::StateMeetsRule."""
    return (
        not (rule.HasField("phase") and rule.phase != state.phase)
        and not (rule.HasField("min_level") and state.level < rule.min_level)
        and not (rule.HasField("max_level") and state.level > rule.max_level)
        and all(stage in state.stage for stage in rule.stage)
        and not any(stage in state.stage for stage in rule.not_stage)
    )


def _suggest(name: str, names: Sequence[str]) -> str:
    if meant := near(name, names):
        return f"; did you mean {meant!r}?"
    return f"; it has {_some([repr(other) for other in names])}" if names else "; it has no layers"


def _some(items: Sequence[str]) -> str:
    return (
        ", ".join(items)
        if len(items) <= 20
        else f"{', '.join(items[:20])} and {len(items) - 20} more"
    )
