"""The nets that a solver's prototxt names: the one it trains, and those it tests by."""

from __future__ import annotations

from pathlib import Path

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.load import StrPath
from caffe_margin.files.prototxt import read_net


def net_to_train(solver_param: pb.SolverParameter, folder: StrPath = ".") -> pb.NetParameter:
    """Return the net to train; its ``state`` is what it is to be filtered for.

    Source: Solver::InitTrainNet.

    Args:
        solver_param: the solver.
        folder: the solver's own, where a file is looked for that is not found from the current
            folder, which is Caffe's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the solver names no net, or several.
    """
    fields = ("net", "net_param", "train_net", "train_net_param")
    named = [field for field in fields if solver_param.HasField(field)]
    if len(named) != 1:
        said = " and ".join(named) or "none of them"
        raise ValueError(f"a solver names its net by one of {', '.join(fields)}; this has {said}")
    net = _net(solver_param, named[0], folder)
    _set_state(net, pb.TRAIN, solver_param.train_state)
    return net


def nets_to_test(solver_param: pb.SolverParameter, folder: StrPath = ".") -> list[pb.NetParameter]:
    """Return the nets to test by, one a ``test_iter``, in Caffe's order.

    Source: Solver::InitTestNets.

    Args:
        solver_param: the solver.
        folder: as `net_to_train`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there are not as many ``test_iter`` or ``test_state`` as nets, or there is no
            ``test_interval``.
    """
    p = solver_param
    nets = [_copy(net) for net in p.test_net_param]
    nets += [read_net(_find(name, folder)) for name in p.test_net]
    general = [field for field in ("net_param", "net") if p.HasField(field)]
    if len(p.test_iter) < len(nets) or (not general and len(p.test_iter) > len(nets)):
        raise ValueError(f"there are {len(p.test_iter)} test_iter for {len(nets)} test nets")
    nets += [_net(p, general[0], folder) for _ in p.test_iter[len(nets) :]]
    if p.test_state and len(p.test_state) != len(nets):
        raise ValueError(f"there are {len(p.test_state)} test_state for {len(nets)} test nets")
    if nets and p.test_interval < 1:
        raise ValueError(f"test_interval must be positive, not {p.test_interval}, to test a net")
    for i, net in enumerate(nets):
        _set_state(net, pb.TEST, p.test_state[i] if p.test_state else pb.NetState())
    return nets


def _net(solver_param: pb.SolverParameter, field: str, folder: StrPath) -> pb.NetParameter:
    value = getattr(solver_param, field)
    return read_net(_find(value, folder)) if isinstance(value, str) else _copy(value)


def _copy(net: pb.NetParameter) -> pb.NetParameter:
    copy = pb.NetParameter()
    copy.CopyFrom(net)
    return copy


def _find(name: str, folder: StrPath) -> StrPath:
    """Return where a file is: from here, or else from the solver's folder, or in it."""
    places = Path(name), Path(folder) / name, Path(folder) / Path(name).name
    return next((place for place in places if place.exists()), name)


def _set_state(net: pb.NetParameter, phase: pb.Phase, merged: pb.NetState) -> None:
    state = pb.NetState(phase=phase)
    state.MergeFrom(net.state)
    state.MergeFrom(merged)
    net.state.CopyFrom(state)
