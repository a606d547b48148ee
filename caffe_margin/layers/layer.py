"""Blob and Layer: Caffe's layer protocol, and the same layer over plain arrays.

As in C++, a subclass writes `layer_setup`, `reshape`, `forward_cpu` and `backward_cpu` over blobs,
and the base class's `forward` and `backward` wrap them, here for arrays. C++ dies where its input
is wrong; here `check` finds that out first, while nothing has changed. Whatever has ``data``,
``diff`` and ``reshape`` will do for a blob, so pycaffe's own may be handed to these methods.

Source: Layer and Blob of BVLC/caffe, include/caffe/layer.hpp and blob.hpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caffe_margin import caffe_margin_pb2 as pb

FloatArray = NDArray[np.floating]

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


class BlobLike(Protocol):
    """What a layer asks of a blob: pycaffe's Blob has it, and so has `Blob`."""

    @property
    def data(self) -> FloatArray:
        """The values."""

    @property
    def diff(self) -> FloatArray:
        """The gradient, of the shape of ``data``."""

    def reshape(self, *shape: int) -> None:
        """Make both of a shape."""


class Blob:
    """An array and its gradient. ``diff`` takes no memory until it is asked for."""

    def __init__(self, data: FloatArray, diff: FloatArray | None = None) -> None:
        self.data = data
        self._diff = diff

    @property
    def diff(self) -> FloatArray:
        """The gradient: zeros until somebody writes to it."""
        if self._diff is None:
            self._diff = np.zeros(self.data.shape, self.data.dtype)  # C order, whatever data has
        return self._diff

    def reshape(self, *shape: int) -> None:
        """Make both arrays of a shape; their values are lost where it differs."""
        if shape != self.data.shape:
            self.data = np.empty(shape, self.data.dtype)
            self._diff = None


class BlobVec(list[Blob]):
    """A layer's parameters; `add_blob` as in pycaffe."""

    dtype = DTYPES[0]

    def add_blob(self, *shape: int) -> None:
        """Append a blob of zeros."""
        self.append(Blob(np.zeros(shape, self.dtype)))


class Layer:
    """Base of the layers.

    Attributes:
        layer_param: the message the layer was made from.
        blobs: the parameters, `Blob` objects (or pycaffe's).
        param_propagate_down: for each parameter, whether Backward computes its diff. As in Caffe's
            Net, it starts false where the prototxt gives the parameter an ``lr_mult`` of 0.
        loss_weight: what Caffe's Net puts into the diff of a top that is a loss; 0 for others.
    """

    type: str
    default_loss_weight = 0.0

    def __init__(self, layer_param: pb.LayerParameter) -> None:
        if layer_param.type != self.type:
            raise ValueError(
                f"layer {layer_param.name!r} is of type {layer_param.type!r}, not {self.type!r}"
            )
        self.layer_param = layer_param
        self.blobs = BlobVec()
        self.loss_weight = (*layer_param.loss_weight, self.default_loss_weight)[0]
        self.param_propagate_down = [spec.lr_mult != 0 for spec in layer_param.param]
        self._bottom: list[Blob] | None = None
        self._top: list[Blob] = []

    def check(self, bottom: Sequence[BlobLike]) -> None:
        """Raise ValueError unless the bottoms' shapes, dtypes and values will do."""
        raise NotImplementedError

    def layer_setup(self, bottom: Sequence[BlobLike], top: Sequence[BlobLike]) -> None:
        """Make the parameters unless there are some: before the first `reshape`."""

    def reshape(self, bottom: Sequence[BlobLike], top: Sequence[BlobLike]) -> None:
        """Give the tops their shapes."""
        raise NotImplementedError

    def forward_cpu(self, bottom: Sequence[BlobLike], top: Sequence[BlobLike]) -> None:
        """Write the tops' data; the bottoms have passed `check`."""
        raise NotImplementedError

    def backward_cpu(
        self, top: Sequence[BlobLike], propagate_down: Sequence[bool], bottom: Sequence[BlobLike]
    ) -> None:
        """Set the bottoms' diff, add to the parameters'."""
        raise NotImplementedError

    def forward(self, *bottom: ArrayLike) -> FloatArray:
        """Run the layer on arrays and return the first top, a new array.

        The arrays are not copied if they are C-contiguous; Backward reads them again.

        Raises:
            ValueError: as the layer says; its state is then as it was.
        """
        blobs = [Blob(as_native(array)) for array in bottom]
        self.check(blobs)
        tops = range(len(self.layer_param.top) or 1)
        top = [Blob(np.empty(0, blobs[0].data.dtype)) for _ in tops]
        parameters = len(self.blobs)
        try:
            self.layer_setup(blobs, top)
            self.reshape(blobs, top)
            self.forward_cpu(blobs, top)
        except ValueError:
            del self.blobs[parameters:]
            raise
        self._bottom, self._top = blobs, top
        return top[0].data

    def backward(self, top_diff: ArrayLike | None = None) -> FloatArray:
        """Return the gradient with respect to the first bottom; add the parameters' to their diff.

        Args:
            top_diff: gradient with respect to the first top, of its shape and dtype; a Python
                number for a scalar top. None stands for `loss_weight`, which is all that a layer
                with a loss for its top needs.

        Raises:
            ValueError: ``top_diff`` has another shape or dtype, or is None for a layer whose top
                is no loss.
            RuntimeError: there was no `forward`.
        """
        name = self.layer_param.name or self.type
        if self._bottom is None:
            raise RuntimeError(f"layer {name!r}: backward needs a forward before it")
        top = self._top[0].data
        if top_diff is None:
            if not (self.layer_param.loss_weight or self.default_loss_weight):
                raise ValueError(f"the top of layer {name!r} is no loss: backward needs its diff")
            diff = np.full_like(top, self.loss_weight)
        elif isinstance(top_diff, int | float):
            diff = np.asarray(top_diff, top.dtype)
        else:
            diff = as_native(top_diff)
        if diff.shape != top.shape or diff.dtype != top.dtype:
            raise ValueError(
                f"top_diff is {describe(diff)}, but the top of layer {name!r} is {describe(top)}"
            )
        bottom = [Blob(blob.data) for blob in self._bottom]
        given = Blob(top, np.ascontiguousarray(diff))
        self.backward_cpu([given, *self._top[1:]], [True, False], bottom)
        return bottom[0].diff


def as_native(array: ArrayLike) -> NDArray:
    """Return an array in the machine's byte order, itself if it is."""
    array = np.asarray(array)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def describe(array: NDArray) -> str:
    """Return an array's shape and dtype in words."""
    return f"{array.shape} {array.dtype}"


def canonical_axis(axis: int, shape: tuple[int, ...], layer: str) -> int:
    """Return ``axis`` counted from the front. Source: Blob::CanonicalAxisIndex.

    Raises:
        ValueError: there is no such axis.
    """
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"layer {layer!r}: axis {axis} is out of range for a bottom of {shape}")
    return axis % len(shape)


def check_dtype(array: NDArray, what: str) -> None:
    """Raise ValueError unless the array is float32 or float64."""
    if array.dtype not in DTYPES:
        raise ValueError(f"{what} is {describe(array)}; it must be float32 or float64")


def as_labels(
    label: NDArray, num_classes: int, what: str, ignore_label: int | None = None
) -> NDArray[np.intp]:
    """Return labels as Caffe reads them, cast to int by truncation, in one dimension.

    Raises:
        ValueError: a label is NaN, infinite or outside [0, num_classes), and is not
            ``ignore_label``; names the first such row.
    """
    if label.dtype.kind not in "iuf":
        raise ValueError(f"{what} is {describe(label)}; labels are integers or floats")
    flat = label.reshape(-1)
    # NaN fails every comparison. Caffe compares ignore_label with the truncated label.
    good = (flat >= 0) & (flat < num_classes)
    if ignore_label is not None:
        good |= np.trunc(flat) == ignore_label
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"row {row} of {what} is label {flat[row]}; labels must lie in [0, {num_classes})"
        )
    return flat.astype(np.intp)
