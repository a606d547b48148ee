"""Layers that pick items of a batch."""

from __future__ import annotations

from torch import Tensor

from caffe_margin.torch.checks import values_are_free
from caffe_margin.torch.layers.layer import Layer


class BatchReindex(Layer):
    """The items that the second bottom numbers, in its order, as often as it has them."""

    def forward(self, bottom: Tensor, index: Tensor) -> Tensor:
        """Source: BatchReindexLayer."""
        if index.ndim != 1:
            raise ValueError("the second bottom must have one axis")
        items = len(bottom)
        if values_are_free(index) and not bool(((index >= 0) & (index < items)).all()):
            raise ValueError(f"an index is not in [0, {items}): {index.detach().tolist()}")
        return bottom.index_select(0, index.long())


class Filter(Layer):
    """The items whose element of the last bottom is not zero.

    How many there are is known only then, and may be none.
    """

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Source: FilterLayer."""
        *filtered, selector = bottoms
        if any(len(bottom) != selector.numel() for bottom in filtered):
            raise ValueError("the selector must have one element for each item")
        index = selector.flatten().nonzero().flatten()
        return tuple(bottom.index_select(0, index) for bottom in filtered)
