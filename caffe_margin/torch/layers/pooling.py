"""Pooling: the largest, the mean, or a drawn element of each window.

PyTorch's windows are Caffe's where all lie on the image at least in part, and no pad is more than
half a kernel. Elsewhere the image is first given a frame in which each window is whole.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.rules.windows import Pool, pooled_sides, read_pool
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer

LOWEST = torch.finfo(torch.float32).min
"""What MAX begins with, in double too: the result of a window wholly outside."""


def max_pool(bottom: Tensor, pool: Pool) -> Tensor:
    """Return the largest element of each window; of equals the first has the gradient."""
    if _is_native(pool):
        return F.max_pool2d(bottom, **_options(pool))
    framed = _frame(bottom, pool, -torch.inf)
    return F.max_pool2d(framed, pool.kernel, pool.stride).clamp(min=LOWEST)


def max_pool_with_mask(bottom: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """Return the largest elements, and where in its channel each is; -1 where there is none."""
    if _is_native(pool):
        top, mask = F.max_pool2d(bottom, **_options(pool), return_indices=True)
        return top, mask.to(bottom.dtype)
    framed = _frame(bottom, pool, -torch.inf)
    top, index = F.max_pool2d(framed, pool.kernel, pool.stride, return_indices=True)
    row = index // framed.shape[3] - pool.pad[0]
    column = index % framed.shape[3] - pool.pad[1]
    height, width = bottom.shape[2:]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    mask = torch.where(inside, row * width + column, -1)
    return top.clamp(min=LOWEST), mask.to(bottom.dtype)


def average_pool(bottom: Tensor, pool: Pool) -> Tensor:
    """Return the mean of each window and of the padding within it, 0 / 0 where it has neither."""
    if _is_native(pool):
        return F.avg_pool2d(bottom, **_options(pool))
    framed = _frame(bottom, pool, 0)
    sums = F.avg_pool2d(framed, pool.kernel, pool.stride, divisor_override=1)
    sides = zip(bottom.shape[2:], sums.shape[2:], pool.kernel, pool.stride, pool.pad, strict=True)
    rows, columns = (_lengths(*side, like=sums) for side in sides)
    return sums / (rows[:, None] * columns)


def stochastic_pool(bottom: Tensor, pool: Pool, training: bool) -> Tensor:
    """Return an element drawn in proportion to its size, or in TEST the mean that this has.

    Caffe has it on GPUs alone. What it does with negative elements is taken over: the first up to
    which the sum is at least a random part of the whole.
    """
    framed = _frame(bottom, pool, 0)
    (height, width), (down, right) = pool.kernel, pool.stride
    windows = framed.unfold(2, height, down).unfold(3, width, right).flatten(-2)
    if not training:
        total = windows.sum(-1)
        mean = windows.square().sum(-1) / torch.where(total > 0, total, 1)
        return torch.where(total > 0, mean, 0)
    sums = windows.detach().cumsum(-1)
    total = sums[..., -1:]
    # A part in (0, 1], so that an element of 0 is drawn only where all are.
    reached = sums >= (1 - torch.rand_like(total)) * total
    first = reached.to(torch.uint8).argmax(-1, keepdim=True)
    return windows.gather(-1, first).squeeze(-1)


class Pooling(Layer):
    """One element for each window of each channel; with two tops, also where it was."""

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        self.method = layer.pooling_param.pool
        self.pool = read_pool(layer.pooling_param)
        self.masked = len(layer.top) > 1

    def forward(self, bottom: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Source: PoolingLayer."""
        if bottom.ndim != 4:
            raise ValueError(f"the bottom must have 4 axes (N, C, H, W), and has {bottom.ndim}")
        pool = self.pool or Pool((bottom.shape[2], bottom.shape[3]))
        if self.masked:
            return max_pool_with_mask(bottom, pool)
        if self.method == pb.PoolingParameter.MAX:
            return max_pool(bottom, pool)
        if self.method == pb.PoolingParameter.STOCHASTIC:
            return stochastic_pool(bottom, pool, self.training)
        if self.pool is None:
            return bottom.mean((2, 3), keepdim=True)
        return average_pool(bottom, pool)


def _is_native(pool: Pool) -> bool:
    """Whether PyTorch slides the same windows: it clips where Caffe only does beside padding."""
    if any(2 * p > k for p, k in zip(pool.pad, pool.kernel, strict=True)):
        return False
    apart = any(s > k for s, k in zip(pool.stride, pool.kernel, strict=True))
    return pool.floor or any(pool.pad) or not apart


def _options(pool: Pool) -> dict[str, Any]:
    return {
        "kernel_size": pool.kernel,
        "stride": pool.stride,
        "padding": pool.pad,
        "ceil_mode": not pool.floor,
    }


def _frame(bottom: Tensor, pool: Pool, value: float) -> Tensor:
    """Return the image with as much around it, or cut off, as the windows need to be whole."""
    around: list[int] = []
    tops = pooled_sides(bottom.shape[2:], pool)
    for side, top, kernel, stride, pad in zip(
        bottom.shape[2:], tops, pool.kernel, pool.stride, pool.pad, strict=True
    ):
        around = [pad, (top - 1) * stride + kernel - pad - side, *around]
    return F.pad(bottom, around, value=value)


def _lengths(side: int, top: int, kernel: int, stride: int, pad: int, *, like: Tensor) -> Tensor:
    """Return how many elements of a side and its padding each window has, as Caffe counts."""
    start = torch.arange(top, device=like.device) * stride - pad
    return ((start + kernel).clamp(max=side + pad) - start).to(like.dtype)
