"""Convolutions, over any number of axes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.rules.windows import groups, windows
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.im2col import col2im, im2col
from caffe_margin.torch.layers.layer import Layer

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SPREAD = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
"""PyTorch's functions by the number of spatial axes; what has more goes by way of columns."""


class Convolution(Layer):
    """The weight times each window of the channels, plus the bias, for each pair of blobs."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.convolution_param
        bottom = shapes.bottoms[layer.bottom[0]] or ()
        self.slid = windows(param, bottom)
        if 0 in self.slid.dilation:
            raise ValueError(f"dilation must be positive, and is {self.slid.dilation}")
        self.group = groups(layer, bottom[self.slid.axis]) or 0
        self.add_weight_and_bias(param, shapes)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Source: BaseConvolutionLayer, ConvolutionLayer."""
        return tuple(self._over_items(bottom) for bottom in bottoms)

    def _over_items(self, bottom: Tensor) -> Tensor:
        """Convolve a bottom whose axes before the channels' are all the batch."""
        axis, axes = self.slid.axis, len(self.slid.kernel)
        if bottom.ndim != axis + 1 + axes:
            raise ValueError(f"the bottom must have {axis + 1 + axes} axes, and has {bottom.ndim}")
        if axis == 1 and axes:
            return self._convolve(bottom)
        items = bottom.reshape(-1, *bottom.shape[axis:])
        top = self._convolve(items) if axes else self._multiply(items)
        return top.reshape(*bottom.shape[:axis], *top.shape[1:])

    def _multiply(self, bottom: Tensor) -> Tensor:
        """Without a spatial axis a window is an item's channels."""
        weight = self.weight[..., None]
        return F.conv1d(bottom[..., None], weight, self.bias, groups=self.group)[..., 0]

    def _convolve(self, bottom: Tensor) -> Tensor:
        _, kernel, stride, pad, dilation = self.slid
        if convolve := CONVOLVE.get(len(kernel)):
            return convolve(bottom, self.weight, self.bias, stride, pad, dilation, self.group)
        columns = im2col(bottom, self.slid)
        sides = columns.shape[2 + len(kernel) :]
        columns = columns.reshape(bottom.shape[0], self.group, self.weight[0].numel(), -1)
        top = self.weight.reshape(self.group, -1, columns.shape[2]) @ columns
        return self._add_bias(top.reshape(bottom.shape[0], -1, *sides))

    def _add_bias(self, top: Tensor) -> Tensor:
        if self.bias is None:
            return top
        return top + self.bias.reshape(-1, *[1] * len(self.slid.kernel))


class Deconvolution(Convolution):
    """Each element times the weight, summed where the windows overlap, plus the bias."""

    def _multiply(self, bottom: Tensor) -> Tensor:
        weight = self.weight[..., None]
        top = F.conv_transpose1d(bottom[..., None], weight, self.bias, groups=self.group)
        return top[..., 0]

    def _convolve(self, bottom: Tensor) -> Tensor:
        """Source: DeconvolutionLayer."""
        _, kernel, stride, pad, dilation = self.slid
        if spread := SPREAD.get(len(kernel)):
            return spread(bottom, self.weight, self.bias, stride, pad, 0, self.group, dilation)
        weight = self.weight.reshape(self.group, self.weight.shape[0] // self.group, -1)
        columns = weight.mT @ bottom.reshape(bottom.shape[0], *weight.shape[:2], -1)
        columns = columns.reshape(bottom.shape[0], -1, *kernel, *bottom.shape[2:])
        sides = [
            stride * (side - 1) + extent - 2 * pad
            for side, stride, pad, extent in zip(bottom.shape[2:], *self.slid.steps, strict=True)
        ]
        return self._add_bias(col2im(columns, self.slid, sides))
