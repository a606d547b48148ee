"""What a head makes of each batch that goes through a net."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass
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
        >>> seen, fed = observer.take()
        >>> 0 <= seen.accuracy <= 1, len(fed)
        (True, 64)

    Args:
        net: the net.

    Raises:
        ValueError: the net has no layer with a margin.
    """

    def __init__(self, net: Net) -> None:
        heads = [layer for layer in net.layers.values() if isinstance(layer, MarginLayer)]
        if not heads:
            raise ValueError("the net has no layer with a margin to look at")
        self.net, self.head = net, heads[0]
        self._large = isinstance(self.head, LargeMarginInnerProduct)
        self._seen: list[Observation] = []
        self._digest = hashlib.sha256()
        self._kept: list[tuple[Tensor, Tensor]] | None = None
        net.register_forward_pre_hook(self._fed, with_kwargs=True)
        self.head.register_forward_hook(self._forward)

    def take(self) -> tuple[Observation, str]:
        """Return the mean of what was seen since the last time, and a digest of what was fed."""
        seen, self._seen = self._seen, []
        digest, self._digest = self._digest.hexdigest(), hashlib.sha256()
        return Observation(*np.mean([astuple(one) for one in seen], axis=0).tolist()), digest

    @torch.no_grad()
    def features(self, count: int) -> tuple[NDArray, NDArray]:
        """Feed the net by its sources, and return features, (n, K), and labels, (n,).

        Args:
            count: n, or what a batch has more.
        """
        kept: list[tuple[Tensor, Tensor]] = []
        self._kept = kept
        while sum(len(label) for _, label in kept) < count:
            self.net(**self.net.next_batches())
        self._kept = None
        x, label = (torch.cat(parts) for parts in zip(*kept, strict=True))
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
        for top in sorted(inputs.keys() & set(self.net.inputs)):
            self._digest.update(as_array(inputs[top]).tobytes())

    @torch.no_grad()
    def _forward(self, head: Any, args: tuple[Tensor, Tensor], output: Any) -> None:
        scores = output[0] if isinstance(output, tuple) else output
        label = args[1].flatten().long()
        x, scores = args[0].detach().reshape(len(label), -1), scores.reshape(len(label), -1)
        self._seen.append(observe(x, label, self.head.weight, scores, self._large))
        if self._kept is not None:
            self._kept.append((x.cpu(), label.cpu()))


def observe(
    x: Tensor, label: Tensor, weight: Tensor, scores: Tensor, large: bool = False
) -> Observation:
    """Return what there is to see of a Forward.

        >>> import torch
        >>> x, label, weight = torch.eye(2) * 3, torch.tensor([0, 0]), torch.eye(2)
        >>> seen = observe(x, label, weight, x @ weight.T)
        >>> seen.accuracy, seen.length, round(seen.own_angle, 4)  # 0 and 90 degrees
        (0.5, 3.0, 0.7854)

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
