"""What a head makes of each batch that goes through a net."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caffe_margin.maths.softmax import LARGEST_LOSS
from caffe_margin.torch.large_margin_inner_product import LargeMarginInnerProduct
from caffe_margin.torch.margin_layer import MarginLayer
from caffe_margin.torch.net import Net
from caffe_margin.torch.own_class import row_norms
from caffe_margin.torch.weights import as_array


@dataclass(frozen=True)
class Observation:
    """One Forward of a head; means over its samples.

    Attributes:
        accuracy: share of the samples whose own class scores highest, without the margin.
        length: the features' |x|.
        own_angle: the angle to the own class's weight, in radians.
        other_angle: the angle to the nearest other class's, in radians.
        clamped: share of the samples whose loss is Caffe's largest, 87.3365, or would be more.
    """

    accuracy: float
    length: float
    own_angle: float
    other_angle: float
    clamped: float


class Observer:
    """Looks at each Forward of a net's first layer with a margin, and at what the net is fed.

        >>> import torch
        >>> net = Net("models/glyphs_model.prototxt", phase="TRAIN", shapes={
        ...     "data": (2, 1, 32, 32), "label": (2,)})
        >>> observer = Observer(net)
        >>> _ = net(data=torch.randn(2, 1, 32, 32), label=torch.tensor([7.0, 1499.0]))
        >>> 0 <= observer.last.accuracy <= 1, observer.features[0].shape
        (True, (2, 64))

    Args:
        net: the net.
        keep: of how many of the last samples the features are kept.

    Attributes:
        last: of the last Forward.
        batch: a digest of what the net was fed last.

    Raises:
        ValueError: the net has no layer with a margin.
    """

    last: Observation
    batch: str

    def __init__(self, net: Net, keep: int = 0) -> None:
        heads = [layer for layer in net.layers.values() if isinstance(layer, MarginLayer)]
        if not heads:
            raise ValueError("the net has no layer with a margin to look at")
        self.net, self.head, self._keep = net, heads[0], keep
        self._large = isinstance(self.head, LargeMarginInnerProduct)
        self._kept: deque[tuple[Tensor, Tensor]] = deque()
        net.register_forward_pre_hook(self._fed, with_kwargs=True)
        self.head.register_forward_hook(self._seen)

    @property
    def features(self) -> tuple[NDArray, NDArray]:
        """The features of the last samples, (n, K), and their labels, (n,)."""
        if not self._kept:
            return np.empty((0, self.head.in_features)), np.empty(0, np.int64)
        x, label = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        return as_array(x), as_array(label)

    @property
    def weight(self) -> NDArray:
        """The head's weight as it is stored, (N, K)."""
        return as_array(self.head.weight)

    def parameters_digest(self) -> str:
        """Return a digest of all of the net's parameters and buffers."""
        digest = hashlib.sha256()
        for blobs in self.net.params.values():
            for blob in blobs:
                digest.update(as_array(blob).tobytes())
        return digest.hexdigest()

    def _fed(self, net: Any, args: Any, inputs: dict[str, Tensor]) -> None:
        digest = hashlib.sha256()
        for top in sorted(inputs.keys() & set(self.net.inputs)):
            digest.update(as_array(inputs[top]).tobytes())
        self.batch = digest.hexdigest()

    @torch.no_grad()
    def _seen(self, head: Any, args: tuple[Tensor, Tensor], output: Any) -> None:
        scores = output[0] if isinstance(output, tuple) else output
        label = args[1].flatten().long()
        x, scores = args[0].detach().reshape(len(label), -1), scores.reshape(len(label), -1)
        self.last = observe(x, label, self.head.weight, scores, self._large)
        self._kept.append((x.cpu(), label.cpu()))
        while len(self._kept) > 1 and len(x) * (len(self._kept) - 1) >= self._keep:
            self._kept.popleft()


def observe(
    x: Tensor, label: Tensor, weight: Tensor, scores: Tensor, large: bool = False
) -> Observation:
    """Return what there is to see of a Forward.

        >>> import torch
        >>> x, label, weight = torch.eye(2) * 3, torch.tensor([0, 0]), torch.eye(2)
        >>> observe(x, label, weight, x @ weight.T)
        Observation(accuracy=0.5, length=3.0, own_angle=0.78..., other_angle=0.78..., clamped=0.0)

    Args:
        x: features, (M, K).
        label: (M,), in [0, N).
        weight: as it is stored, (N, K).
        scores: (M, N), the label's with the margin.
        large: whether they are L-Softmax's, which have the lengths of the weight's rows in them.
    """
    at, norm, length = label[:, None], row_norms(weight), row_norms(x)
    cos = (x * weight[label]).sum(dim=1) / norm[label] / length
    surprise = scores.logsumexp(dim=1) - scores.gather(1, at)[:, 0]
    others = scores.scatter(1, at, -torch.inf)
    own = cos * length * norm[label] if large else cos * length
    cosines = (others / norm if large else others) / length[:, None]
    return Observation(
        accuracy=float((own > others.amax(dim=1)).to(length.dtype).mean()),
        length=float(length.mean()),
        own_angle=float(cos.clamp(-1, 1).arccos().mean()),
        other_angle=float(cosines.amax(dim=1).clamp(-1, 1).arccos().mean()),
        clamped=float((surprise >= LARGEST_LOSS).to(length.dtype).mean()),
    )
