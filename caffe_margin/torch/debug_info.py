"""Caffe's ``debug_info``: what the blobs and diffs of a Forward and its Backward come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.torch.layers.layer import Layer, diff_of
from caffe_margin.torch.learnable import learnable_params
from caffe_margin.torch.net import Net, Step

Write: TypeAlias = Callable[[str], Any]


class DebugInfo:
    """Writes Caffe's lines, of which each has the mean magnitude of a blob or a diff.

        >>> import torch
        >>> net = Net("models/sphereface4_deploy.prototxt", seed=0)
        >>> lines = []
        >>> with DebugInfo(net, lines.append) as info:
        ...     net(data=torch.ones(1, 3, 112, 96))["fc5"].sum().backward()
        ...     info.backward()
        >>> lines[0]
        '    [Forward] Layer input, top blob data data: 1'

    The lines of Forward come as it goes. A parameter that layers share has the same diff in all
    of them, where Caffe's is what came of those above.

    Source: Net::ForwardDebugInfo, Net::BackwardDebugInfo, Net::Backward.

    Args:
        net: a net to which the tops of its data layers are handed.
        write: takes a line.
    """

    def __init__(self, net: Net, write: Write) -> None:
        self.net, self.write = net, write
        self._diffs: dict[tuple[str, int], str] = {}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> DebugInfo:
        net = self.net
        self._hooks = [net.register_forward_pre_hook(self._inputs, with_kwargs=True)]
        for step, layer in zip(net._steps, net.param.layer, strict=True):
            if step.module:
                module = net.get_submodule(step.module)
                self._hooks.append(
                    module.register_forward_hook(partial(self._forward, step, layer))
                )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _inputs(self, net: Net, _: object, inputs: Mapping[str, Tensor]) -> None:
        """Write the lines of the data layers."""
        for step in net._steps:
            for top in step.tops if not step.module else ():
                if top in inputs:
                    self._line("Forward", step, f"top blob {top} data", inputs[top])

    def _forward(
        self,
        step: Step,
        layer: pb.LayerParameter,
        module: Layer,
        bottoms: tuple[Tensor, ...],
        tops: Tensor | tuple[Tensor, ...],
    ) -> None:
        """Write a layer's lines, and have the diffs of its bottoms noted."""
        tops = (tops,) if isinstance(tops, Tensor) else tops
        for name, top in zip(step.tops, tops, strict=False):
            self._line("Forward", step, f"top blob {name} data", top)
        for i, blob in enumerate(module.blobs):
            name = (layer.param[i].name if i < len(layer.param) else "") or str(i)
            self._line("Forward", step, f"param blob {name} data", blob)
        for i, bottom in enumerate(bottoms):
            if bottom.requires_grad:
                bottom.register_hook(partial(self._note, (step.module, i)))

    def _note(self, place: tuple[str, int], diff: Tensor) -> None:
        self._diffs[place] = _mean(diff)

    def backward(self) -> None:
        """Write the lines of the Backward that has been, from the last layer to the first."""
        for step in reversed(self.net._steps):
            for i, name in enumerate(step.bottoms):
                if mean := self._diffs.pop((step.module, i), ""):
                    self.write(f"    [Backward] Layer {step.name}, bottom blob {name} diff: {mean}")
            module = self.net.get_submodule(step.module) if step.module else None
            for i, blob in enumerate(module.blobs if isinstance(module, Layer) else ()):
                if (diff := diff_of(blob)) is not None:
                    self._line("Backward", step, f"param blob {i} diff", diff)
        params = [known.blob for known in learnable_params(self.net.param, self.net.params)]
        diffs = [blob.grad for blob in params if blob.grad is not None]
        l1, l2 = (f"({_norm(params, order)}, {_norm(diffs, order)})" for order in (1, 2))
        self.write(f"    [Backward] All net params (data, diff): L1 norm = {l1}; L2 norm = {l2}")

    def _line(self, turn: str, step: Step, what: str, blob: Tensor) -> None:
        self.write(f"    [{turn}] Layer {step.name}, {what}: {_mean(blob)}")


def _mean(blob: Tensor) -> str:
    """Return the mean magnitude as C++ prints it."""
    return f"{float(blob.detach().abs().mean(dtype=torch.float64)):g}"


def _norm(blobs: Iterable[Tensor], order: int) -> str:
    norms = [torch.linalg.vector_norm(blob.detach(), order, dtype=torch.float64) for blob in blobs]
    return f"{float(sum(norm**order for norm in norms)) ** (1 / order):g}"
