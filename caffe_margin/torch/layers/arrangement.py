"""Layers that put blobs together, take them apart, or give them another shape."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class Split(Layer):
    """A copy for each reader, which costs nothing."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.tops = len(layer.top)

    def forward(self, bottom: Tensor) -> tuple[Tensor, ...]:
        """Source: SplitLayer."""
        # Views, for each has a gradient of its own.
        return tuple(bottom.view_as(bottom) for _ in range(self.tops))


class Concat(Layer):
    """Blobs one after the other on an axis."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.concat_param
        self.axis = param.concat_dim if param.HasField("concat_dim") else param.axis

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Source: ConcatLayer."""
        return torch.cat(bottoms, self.axis)


class Slice(Layer):
    """An axis in pieces: between ``slice_point``, or in equal ones."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.slice_param
        self.axis = param.slice_dim if param.HasField("slice_dim") else param.axis
        self.points = list(param.slice_point)
        self.tops = len(layer.top)

    def forward(self, bottom: Tensor) -> tuple[Tensor, ...]:
        """Source: SliceLayer."""
        dim = bottom.shape[self.axis]
        sizes = [dim // self.tops] * self.tops
        if self.points:
            sizes = [b - a for a, b in itertools.pairwise([0, *self.points, dim])]
        return torch.split(bottom, sizes, self.axis)


class Tile(Layer):
    """An axis several times over."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.axis = layer.tile_param.axis
        self.tiles = layer.tile_param.tiles

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: TileLayer."""
        return torch.cat([bottom] * self.tiles, self.axis)


class Flatten(Layer):
    """The axes from ``axis`` to ``end_axis`` as one."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.axis = layer.flatten_param.axis
        self.end_axis = layer.flatten_param.end_axis

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: FlattenLayer."""
        start, end = self.axis % bottom.ndim, self.end_axis % bottom.ndim
        # Of no axes at all: Caffe takes an end just before the start, and puts in a 1.
        return bottom.unsqueeze(start) if end == start - 1 else bottom.flatten(start, end)


class Reshape(Layer):
    """Other dimensions in place of ``num_axes`` from ``axis`` on: 0 is copied, -1 inferred."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.reshape_param
        self.axis, self.num_axes = param.axis, param.num_axes
        self.dims = list(param.shape.dim)

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: ReshapeLayer."""
        start = self.axis if self.axis >= 0 else bottom.ndim + self.axis + 1
        stop = bottom.ndim if self.num_axes == -1 else start + self.num_axes
        dims = [bottom.shape[i] if dim == 0 else dim for i, dim in enumerate(self.dims, start)]
        return bottom.reshape(*bottom.shape[:start], *dims, *bottom.shape[stop:])


class Permute(Layer):
    """The axes in another order; those that ``order`` leaves out come last."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.order = list(layer.permute_param.order)

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: PermuteLayer of SSD."""
        rest = [axis for axis in range(bottom.ndim) if axis not in self.order]
        return bottom.permute(*self.order, *rest)
