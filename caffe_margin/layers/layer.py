"""Blob and Layer: Caffe's layer protocol, and the same layer over plain arrays.

As in C++, a subclass writes `layer_setup`, `reshape`, `forward_cpu` and `backward_cpu` over blobs,
and the base class's `forward` and `backward` wrap them, here for arrays. C++ dies where its input
is wrong; here `check` finds that out first, while nothing has changed. Whatever has ``data``,
``diff`` and ``reshape`` will do for a blob, so pycaffe's own may be handed to these methods.

A layer's state is changed last, when all that can fail has been done: a call that raises, or that
Ctrl-C interrupts, has not happened. One layer serves one thread.

Source: Layer and Blob of BVLC/caffe, include/caffe/layer.hpp and blob.hpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.checks import DTYPES, as_native, describe
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.nets.shape_rules import check_counts


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
        name: what errors call it.
        blobs: the parameters, `Blob` objects (or pycaffe's).
        param_propagate_down: for each parameter, whether Backward computes its diff.
        loss_weight: what Caffe's Net puts into the diff of a top that is a loss; None where the top
            is none.
    """

    type: str

    def __init__(self, name: str = "", loss_weight: float | None = None) -> None:
        self.name = name or self.type
        self.blobs = BlobVec()
        self.loss_weight = loss_weight
        self.param_propagate_down: list[bool] = []
        self._bottom: list[Blob] | None = None
        self._top: list[Blob] = []

    @classmethod
    def check_message(cls, layer_param: object) -> pb.LayerParameter:
        """Return the message of a layer of this type.

        Raises:
            TypeError: it is something else.
            ValueError: it is a layer of another type.
        """
        if not isinstance(layer_param, pb.LayerParameter):
            raise TypeError(
                f"{cls.__name__}.from_param takes a layer's message, "
                f"not a {type(layer_param).__name__}"
            )
        if layer_param.type != cls.type:
            raise ValueError(
                f"layer {layer_param.name!r} is of type {layer_param.type!r}, not {cls.type!r}"
            )
        return layer_param

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

    def check_counts(self, bottoms: int, tops: int) -> None:
        """Raise ValueError unless the layer takes so many bottoms and tops."""
        try:
            check_counts(self.type, bottoms, tops)
        except ValueError as error:
            raise ValueError(f"layer {self.name!r}: {error}") from None

    def forward(self, *bottom: ArrayLike) -> FloatArray:
        """Run the layer on arrays and return the first top, a new array.

        The arrays are not copied if they are C-contiguous; Backward reads them again.

        Raises:
            ValueError: as the layer says; its state is then as it was.
        """
        self.check_counts(len(bottom), 1)
        blobs = [Blob(as_native(array)) for array in bottom]
        self.check(blobs)
        top = [Blob(np.empty(0, blobs[0].data.dtype))]
        parameters = len(self.blobs)
        try:
            self.layer_setup(blobs, top)
            self.reshape(blobs, top)
            self.forward_cpu(blobs, top)
        except BaseException:
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
        if self._bottom is None:
            raise RuntimeError(f"layer {self.name!r}: backward needs a forward before it")
        top = self._top[0].data
        if top_diff is None:
            if self.loss_weight is None:
                raise ValueError(
                    f"the top of layer {self.name!r} is no loss: backward needs its diff"
                )
            diff = np.full_like(top, self.loss_weight)
        elif isinstance(top_diff, int | float):
            diff = np.asarray(top_diff, top.dtype)
        else:
            diff = as_native(top_diff)
        if diff.shape != top.shape or diff.dtype != top.dtype:
            raise ValueError(
                f"top_diff is {describe(diff)}, but the top of layer {self.name!r} is "
                f"{describe(top)}"
            )
        bottom = [Blob(blob.data) for blob in self._bottom]
        given = Blob(top, np.ascontiguousarray(diff))
        self.backward_cpu([given, *self._top[1:]], [True, False], bottom)
        return bottom[0].diff
