"""Losses, and what is measured beside them."""

from __future__ import annotations

from torch import Tensor

from caffe_margin.torch.layers.layer import Layer


class EuclideanLoss(Layer):
    """Half the mean squared distance of a batch."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Source: EuclideanLossLayer."""
        return (first - second).square().sum() / (2 * first.shape[0])
