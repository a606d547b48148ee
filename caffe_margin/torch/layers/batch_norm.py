"""Each channel brought to mean 0 and variance 1, by the batch's statistics or stored ones."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class BatchNorm(Layer):
    """(x - mean) / sqrt(variance + ``eps``), a channel.

    What is stored are sums: each Forward that takes the batch's statistics multiplies the sums by
    ``moving_average_fraction`` and adds to them; ``factor`` sums up ones likewise, so that the
    stored mean is ``mean / factor``.
    """

    mean: Tensor
    variance: Tensor
    factor: Tensor

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.batch_norm_param
        if any(spec.lr_mult != 0 for spec in layer.param):
            raise ValueError("lr_mult must be 0 for the statistics, which are not learned")
        self.eps = param.eps
        self.fraction = param.moving_average_fraction
        given = param.HasField("use_global_stats")
        self.use_global_stats = param.use_global_stats if given else None
        for name, shape in zip(("mean", "variance", "factor"), shapes.params, strict=True):
            self.add_blob(name, shape, learned=False)

    def forward(self, bottom: Tensor) -> Tensor:
        """Source: BatchNormLayer."""
        stored = not self.training if self.use_global_stats is None else self.use_global_stats
        if stored:
            # Without a Forward in training mean and variance are 0.
            scale = torch.where(self.factor == 0, 0, 1 / self.factor)
            mean, variance = self.mean * scale, self.variance * scale
            return self._normalize(bottom, mean, variance, False)
        # With a momentum of 1 these become the batch's: its mean, and m / (m - 1) its variance.
        mean, variance = torch.zeros_like(self.mean), torch.zeros_like(self.variance)
        if bottom.numel() == bottom.shape[1]:  # m = 1: one value is its own mean
            top, mean = bottom - bottom, bottom.detach().flatten()
        else:
            top = self._normalize(bottom, mean, variance, True)
        with torch.no_grad():
            self.mean.mul_(self.fraction).add_(mean)
            self.variance.mul_(self.fraction).add_(variance)
            self.factor.mul_(self.fraction).add_(1)
        return top

    def _normalize(self, bottom: Tensor, mean: Tensor, variance: Tensor, training: bool) -> Tensor:
        cudnn = torch.backends.cudnn.enabled
        return torch.batch_norm(bottom, None, None, mean, variance, training, 1.0, self.eps, cudnn)
