"""Layers with nothing below them that make their own tops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.fillers import check_type, fill
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class Parameter(Layer):
    """A parameter as a blob."""

    weight: Tensor

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.add_blob("weight", shapes.params[0])

    def forward(self) -> Tensor:
        """Source: ParameterLayer."""
        # A view: the top has a gradient of its own, which the net's `keep` may ask for.
        return self.weight.view_as(self.weight)


class DummyData(Layer):
    """What fillers give: constants once, random numbers anew at each Forward."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        tops = len(layer.top)
        fillers = list(layer.dummy_data_param.data_filler) or [pb.FillerParameter()]
        if len(fillers) not in (1, tops):
            raise ValueError(
                f"data_filler must be given once or {tops} times, not {len(fillers)} times"
            )
        for filler in fillers:
            check_type(filler)
        self.data_fillers = fillers * tops if len(fillers) == 1 else fillers
        self._rng = np.random.default_rng(0)
        for i, shape in enumerate(shapes.tops.values()):
            top = torch.zeros([dim or 0 for dim in shape or ()])
            # No blob of Caffe's, so no file of weights has it.
            self.register_buffer(f"top{i}", top, persistent=False)

    def fill(self, rng: np.random.Generator) -> None:
        """Fill the constants, and try the others, which draw from a stream of their own."""
        self._rng = rng.spawn(1)[0]
        for i in range(len(self.data_fillers)):
            getattr(self, f"top{i}").copy_(self._drawn(i))

    def _drawn(self, i: int) -> Tensor:
        top = getattr(self, f"top{i}")
        drawn = fill(self.data_fillers[i], tuple(top.shape), self._rng)
        return torch.from_numpy(drawn).to(top)

    def forward(self) -> tuple[Tensor, ...]:
        """Source: DummyDataLayer."""
        return tuple(
            getattr(self, f"top{i}") if filler.type == "constant" else self._drawn(i)
            for i, filler in enumerate(self.data_fillers)
        )
