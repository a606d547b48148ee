"""Windows as columns: the N-d way to convolve, and a layer of its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.rules.windows import Windows, windows
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


def im2col(bottom: Tensor, slid: Windows) -> Tensor:
    """Return every window's elements as channels: (N, C, kernel, ..., top, ...).

    Args:
        bottom: (N, C, side, ...).
        slid: how the windows lie on the sides.

    Source: im2col_nd_cpu, im2col_cpu.
    """
    axes = len(slid.kernel)
    around = [pad for pad in reversed(slid.pad) for _ in range(2)]
    columns = F.pad(bottom, around)
    for i, (stride, _, extent) in enumerate(zip(*slid.steps, strict=True)):
        # The window's elements are appended as the last axis.
        columns = columns.unfold(2 + i, extent, stride)[..., :: slid.dilation[i]]
    tops, kernels = range(2, 2 + axes), range(2 + axes, 2 + 2 * axes)
    return columns.permute(0, 1, *kernels, *tops)


def col2im(columns: Tensor, slid: Windows, sides: Sequence[int]) -> Tensor:
    """Return the sums over all windows that have an element, `im2col`'s transpose.

    Args:
        columns: (N, C, kernel, ..., top, ...).
        slid: how the windows lie on the sides.
        sides: of the result, (N, C, side, ...).

    Source: col2im_nd_cpu.
    """
    padded = [side + 2 * pad for side, pad in zip(sides, slid.pad, strict=True)]
    sums = columns.new_zeros((*columns.shape[:2], *padded))
    places = itertools.product(*map(range, slid.kernel))
    for place, column in zip(places, columns.flatten(2, 1 + len(sides)).unbind(2), strict=True):
        seen = [slice(None)] * 2
        for i, top in enumerate(column.shape[2:]):
            first, stride = place[i] * slid.dilation[i], slid.stride[i]
            seen.append(slice(first, first + (top - 1) * stride + 1, stride))
        sums[tuple(seen)] += column
    for i, (side, pad) in enumerate(zip(sides, slid.pad, strict=True)):
        sums = sums.narrow(2 + i, pad, side)
    return sums


class Im2col(Layer):
    """The elements of each window as channels."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.slid = windows(layer.convolution_param, shapes.bottoms[layer.bottom[0]] or ())

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: Im2colLayer."""
        axis, axes = self.slid.axis, len(self.slid.kernel)
        items = bottom.reshape(-1, *bottom.shape[axis:])
        columns = im2col(items, self.slid).flatten(1, 1 + axes)
        return columns.reshape(*bottom.shape[:axis], *columns.shape[1:])
