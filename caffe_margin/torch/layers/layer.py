"""What every layer of a net is: a module from bottoms to tops, with Caffe's blobs by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.fillers import check_type, fill
from caffe_margin.nets.shapes import LayerShapes


class Layer(nn.Module):
    """Base of the layers.

    A layer is made from its message and the shapes around it. ``forward`` takes the bottoms, and
    returns the top, or a tuple of the tops. It never writes into a bottom: that a top has a
    bottom's name is the net's concern. Blobs' batch sizes, and heights and widths where the type
    allows it, may differ from those it was made with.

    Whether the net is Caffe's TRAIN or TEST is ``training``, as everywhere in PyTorch.

    Attributes:
        fillers: the names of Caffe's ``blobs``, in Caffe's order, and what fills each.
        unasked: the bottoms whose gradient Caffe computes though nothing below needs it.
        views: the blobs that are another layer's, in a shape of this layer's own, and that shape.
    """

    fillers: Mapping[str, pb.FillerParameter] = {}
    unasked: Collection[int] = ()
    views: Mapping[str, tuple[int, ...]] = {}

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        """Make a layer without blobs; the types that have some, or a parameter, add them.

        Args:
            layer: the layer's message.
            shapes: the shapes around it.
        """
        super().__init__()

    def add_blob(
        self,
        name: str,
        shape: Sequence[int | None],
        filler: pb.FillerParameter | None = None,
        *,
        learned: bool = True,
    ) -> None:
        """Add one of Caffe's blobs: a parameter, or a buffer where no solver changes it.

        Args:
            name: the attribute that will hold it.
            shape: the blob's, from `LayerShapes.params`.
            filler: what fills it; zeros if None.
            learned: whether it is a parameter.

        Raises:
            ValueError: a dimension is unknown, or Caffe has no such filler.
        """
        if None in shape:
            raise ValueError(f"the shape of {name} is not known: {tuple(shape)}")
        blob = torch.empty([dim or 0 for dim in shape])
        if learned:
            self.register_parameter(name, nn.Parameter(blob))
        else:
            self.register_buffer(name, blob)
        filler = filler or pb.FillerParameter()
        check_type(filler)
        self.fillers = {**self.fillers, name: filler}

    def add_weight_and_bias(self, param: Any, shapes: LayerShapes) -> None:
        """Add ``weight`` and, where the layer has one, ``bias``, else None.

        Args:
            param: the type's own message, which has the fillers.
            shapes: the shapes around the layer.
        """
        weight, *bias = shapes.params
        self.add_blob("weight", weight, param.weight_filler)
        if bias:
            self.add_blob("bias", bias[0], param.bias_filler)
        else:
            self.register_parameter("bias", None)

    def extra_repr(self) -> str:
        """Return the blobs' shapes."""
        return ", ".join(f"{name}={tuple(getattr(self, name).shape)}" for name in self.fillers)

    @property
    def blobs(self) -> list[Tensor]:
        """Caffe's ``blobs``, in Caffe's order."""
        viewed = self.viewed()
        return [viewed[name] if name in viewed else getattr(self, name) for name in self.fillers]

    def share(self, name: str, blob: Tensor) -> None:
        """Take another layer's blob in the place of an own one, whose shape it keeps here.

        Where the shapes differ, the module holds the other layer's parameter as that layer does,
        and `viewed` has it in this one's shape. Source: Blob::ShareData.
        """
        shape = self.views.get(name) or tuple(getattr(self, name).shape)
        setattr(self, name, blob)
        if shape != blob.shape:
            blob.data = blob.data.contiguous()  # a view needs the values in Caffe's order
            self.views = {**self.views, name: shape}

    def viewed(self) -> dict[str, Tensor]:
        """Return the blobs of `views` in this layer's shapes."""
        return {name: getattr(self, name).view(shape) for name, shape in self.views.items()}

    @torch.no_grad()
    def fill(self, rng: np.random.Generator) -> None:
        """Fill the blobs as Caffe does before training."""
        for name, filler in self.fillers.items():
            blob = getattr(self, name)
            blob.copy_(torch.from_numpy(fill(filler, tuple(blob.shape), rng)))


def owner_of(blob: Tensor) -> Tensor:
    """Return the parameter that one of `Layer.blobs` is, or is a view of."""
    return blob if blob._base is None else blob._base


def diff_of(blob: Tensor) -> Tensor | None:
    """Return Caffe's ``diff`` of one of `Layer.blobs`; None where no gradient has come."""
    grad = owner_of(blob).grad
    return None if grad is None else grad.reshape(blob.shape)
