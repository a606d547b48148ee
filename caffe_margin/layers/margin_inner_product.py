"""MarginInnerProduct: the A-Softmax layer of SphereFace.

Source: MarginInnerProductLayer of wy1iu/sphereface (MIT, Weiyang Liu and Yandong Wen); the
arithmetic is in `caffe_margin.kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files import prototxt
from caffe_margin.kernels.fused import Fused
from caffe_margin.layers.layer import (
    DTYPES,
    Blob,
    BlobLike,
    FloatArray,
    Layer,
    as_labels,
    as_native,
    canonical_axis,
    check_dtype,
    describe,
)
from caffe_margin.maths import angular
from caffe_margin.maths.gradient import GradientRule
from caffe_margin.nets import fillers
from caffe_margin.nets.shapes import shapes_of

if TYPE_CHECKING:
    from caffe_margin.kernels.margin_inner_product import LineByLine

ENGINES = ("fused", "line_by_line")


def _make_engine(name: str, m: int, rule: GradientRule) -> Fused | LineByLine:
    if name == "fused":
        return Fused(m, rule)
    if name == "line_by_line":
        # Here, because numba takes a second to import and only this engine needs it.
        from caffe_margin.kernels.margin_inner_product import LineByLine

        return LineByLine(m, rule)
    raise ValueError(f"engine must be {' or '.join(map(repr, ENGINES))}, not {name!r}")


class MarginInnerProduct(Layer):
    """The layer ``type: "MarginInnerProduct"``, over float32 or float64.

    The dtype is that of the first array the layer sees, features or weight, unless ``dtype`` says.

    Args:
        layer_param: the layer's message. Blobs in it are the weight.
        gradient: ``"paper"``, ``"exact"`` or a `GradientRule`; None for what the message's own
            ``gradient`` field says, which is PAPER where it is absent.
        engine: ``"fused"`` (three matrix products) or ``"line_by_line"`` (the C++, statement by
            statement); the same numbers.
        dtype: float32 or float64, to have no other.
        rng: a numpy Generator, or a seed for one; draws the weight where none is given.

    Attributes:
        iteration: how many Forwards lambda has seen. It starts at the message's ``iteration``,
            every `forward` raises it by one, in TEST too, and it is in no snapshot.
        lambda_: lambda of the last Forward; 0 before the first.
        gradient: the `GradientRule`.
        m: the margin, 1 to 4.

    Raises:
        ValueError: the layer is of another type, ``num_output`` is not positive, or an argument is
            none of the above.
    """

    type = "MarginInnerProduct"

    def __init__(
        self,
        layer_param: pb.LayerParameter,
        *,
        gradient: str | GradientRule | None = None,
        engine: str = "fused",
        dtype: DTypeLike | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(layer_param)
        param = layer_param.margin_inner_product_param
        if param.num_output < 1:
            raise ValueError(f"layer {layer_param.name!r}: num_output must be positive")
        if dtype is not None and np.dtype(dtype) not in DTYPES:
            raise ValueError(f"dtype must be float32 or float64, not {np.dtype(dtype)}")
        self.param = param
        self.gradient = GradientRule.of(
            pb.MarginInnerProductParameter.Gradient.Name(param.gradient)
            if gradient is None
            else gradient
        )
        self.m = param.type + 1
        self.param_propagate_down = self.param_propagate_down[:1] or [True]
        self.iteration = param.iteration
        self.lambda_: np.floating = np.float32(0)
        self.engine = _make_engine(engine, self.m, self.gradient)
        self.dtype: np.dtype[Any] | None = None if dtype is None else np.dtype(dtype)
        self._rng = np.random.default_rng(rng)
        self._K_in_net: int | None = None
        if layer_param.blobs:
            what = f"the weight in layer {layer_param.name!r}"
            self.weight = as_matrix(prototxt.blob_to_array(layer_param.blobs[0]), what)

    @classmethod
    def from_net(
        cls,
        net: pb.NetParameter,
        name: str | None = None,
        *,
        gradient: str | GradientRule | None = None,
        engine: str = "fused",
        dtype: DTypeLike | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> MarginInnerProduct:
        """Make the layer called ``name``, or the net's only one; K comes from the layers below.

        Where the net does not say K (the size of its images is unknown, say), the first forward
        does.

        Raises:
            ValueError: there is no such layer, or several where no name was given; as the class.
        """
        train = prototxt.filter_net(net, "TRAIN")
        layer_param = prototxt.find_layer(train, name, cls.type)
        layer = cls(layer_param, gradient=gradient, engine=engine, dtype=dtype, rng=rng)
        params = shapes_of(train, layer_param).params
        layer._K_in_net = params[0][1] if params else None
        return layer

    @property
    def num_output(self) -> int:
        """N, the number of classes."""
        return self.param.num_output

    @property
    def _K(self) -> int | None:
        """K of the weight, or the one the net says; None where neither is known."""
        return self.blobs[0].data.shape[1] if self.blobs else self._K_in_net

    @property
    def weight(self) -> FloatArray:
        """The stored weight itself, (N, K). Setting it checks and copies.

        Raises:
            ValueError: on reading, K is not known yet; on setting, the shape is not (N, K), the
                dtype not float32 or float64, or a row is zero or not finite.
        """
        if not self.blobs:
            if self._K is None:
                raise ValueError(
                    f"layer {self.layer_param.name!r} learns K from its first forward, or from a "
                    f"weight that is set; it has seen neither"
                )
            self._fill_weight(self.dtype or DTYPES[0], self._K)
        return self.blobs[0].data

    @weight.setter
    def weight(self, value: ArrayLike) -> None:
        weight = as_native(value)
        check_dtype(weight, "the weight")
        weight = np.array(weight, self.dtype, order="C")
        K = self._K
        if weight.ndim != 2 or len(weight) != self.num_output or K not in (None, weight.shape[1]):
            raise ValueError(
                f"the weight is {weight.shape}, but layer {self.layer_param.name!r} needs "
                f"({self.num_output}, {'K' if K is None else K})"
            )
        row_lengths(weight, "the weight")
        if self.blobs and self.blobs[0].data.dtype == weight.dtype:
            self.blobs[0].data[...] = weight
        else:
            self.blobs[:] = [Blob(weight)]

    def _fill_weight(self, dtype: np.dtype[np.floating], K: int) -> None:
        shape = (self.num_output, K)
        filled = fillers.fill(self.param.weight_filler, shape, self._rng, dtype.type)
        self.blobs.dtype = dtype
        self.blobs.add_blob(*shape)
        self.blobs[0].data[...] = filled

    def check(self, bottom: Sequence[BlobLike]) -> None:
        """Check features and labels.

        Raises:
            ValueError: shapes that disagree; K other than the weight's; a dtype other than the
                layer's; a label that is NaN, infinite or outside [0, N); a feature row that is zero
                or not finite (Caffe goes on with NaN, or writes out of bounds).
        """
        name = self.layer_param.name
        if len(bottom) != 2:
            raise ValueError(f"layer {name!r} needs features and labels, not {len(bottom)} bottoms")
        x, label = bottom[0].data, bottom[1].data
        check_dtype(x, f"bottom[0] of layer {name!r}")
        dtype = self.dtype or (self.blobs[0].data.dtype if self.blobs else x.dtype)
        if x.dtype != dtype:
            raise ValueError(
                f"bottom[0] is {describe(x)}, but layer {name!r} computes in {dtype}: convert it, "
                f"or make the layer with dtype={x.dtype}"
            )
        axis, M, K = self._dimensions(x.shape)
        if self._K not in (None, K):
            raise ValueError(
                f"bottom[0] is {x.shape}, which makes K {K}, but the weight of layer {name!r} is "
                f"({self.num_output}, {self._K})"
            )
        if label.size != M or label.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"bottom[0] of layer {name!r} is {x.shape}, {M} samples before axis {axis}, but "
                f"bottom[1], the labels, is {label.shape}"
            )
        as_labels(label, self.num_output, f"bottom[1] of layer {name!r}")
        row_lengths(x.reshape(M, K), f"bottom[0] of layer {name!r}")

    def _dimensions(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the axis counted from the front, M and K, for a bottom[0] of a shape."""
        axis = canonical_axis(self.param.axis, shape, self.layer_param.name)
        return axis, math.prod(shape[:axis]), math.prod(shape[axis:])

    def layer_setup(self, bottom: Sequence[BlobLike], top: Sequence[BlobLike]) -> None:
        """Learn K, and fill the weight unless there is one. Source: ``LayerSetUp``."""
        x = bottom[0].data
        _, _, K = self._dimensions(x.shape)
        if not self.blobs:
            self._fill_weight(x.dtype, K)
        elif (shape := self.blobs[0].data.shape) != (self.num_output, K):
            raise ValueError(
                f"bottom[0] is {x.shape}, which makes K {K}, but the weight of layer "
                f"{self.layer_param.name!r} is {shape}"
            )

    def reshape(self, bottom: Sequence[BlobLike], top: Sequence[BlobLike]) -> None:
        """Shape the tops. Source: ``Reshape``."""
        shape = bottom[0].data.shape
        axis, _, _ = self._dimensions(shape)
        top[0].reshape(*shape[:axis], self.num_output)
        if len(top) == 2:
            top[1].reshape(1)

    def forward_cpu(self, bottom: Sequence[BlobLike], top: Sequence[BlobLike]) -> None:
        """Source: ``Forward_cpu``.

        Raises:
            ValueError: a row of the weight is zero or not finite, or the schedule gives no usable
                lambda.
        """
        name, weight = self.layer_param.name, self.blobs[0].data
        x, label = self._bottom_data(bottom)
        x_norm = row_lengths(x, f"bottom[0] of layer {name!r}")
        weight_norm = row_lengths(weight, f"the weight of layer {name!r}")
        lambda_ = self._lambda_at(self.iteration + 1, x.dtype)

        self.iteration += 1
        self.lambda_ = lambda_
        if len(top) == 2:
            top[1].data[0] = lambda_
        self.engine.forward(
            lambda_, x, label, weight, x_norm, weight_norm, top[0].data.reshape(len(x), len(weight))
        )

    def _bottom_data(self, bottom: Sequence[BlobLike]) -> tuple[FloatArray, NDArray[np.intp]]:
        """Return the features as a contiguous (M, K) and the labels as (M,)."""
        x, label = bottom[0].data, bottom[1].data
        _, M, K = self._dimensions(x.shape)
        return np.ascontiguousarray(x).reshape(M, K), label.reshape(-1).astype(np.intp)

    def _lambda_at(self, iteration: int, dtype: np.dtype[np.floating]) -> np.floating:
        p = self.param
        (lambda_,) = angular.annealed_lambda(
            [iteration], p.base, p.gamma, p.power, p.lambda_min, dtype.type
        )
        if not np.isfinite(lambda_) or lambda_ <= -1:
            raise ValueError(
                f"layer {self.layer_param.name!r}: lambda is {lambda_} at iteration {iteration} "
                f"(base {p.base:g}, gamma {p.gamma:g}, power {p.power:g}, lambda_min "
                f"{p.lambda_min:g}); it must be finite and above -1"
            )
        return lambda_

    def backward_cpu(
        self, top: Sequence[BlobLike], propagate_down: Sequence[bool], bottom: Sequence[BlobLike]
    ) -> None:
        """Source: ``Backward_cpu``, and the rules beside it."""
        x = bottom[0].data
        _, M, K = self._dimensions(x.shape)
        self.engine.backward(
            top[0].diff.reshape(M, self.num_output),
            self.blobs[0].diff if self.param_propagate_down[0] else None,
            bottom[0].diff.reshape(M, K) if propagate_down[0] else None,
        )


def as_matrix(blob: FloatArray, what: str) -> FloatArray:
    """Return a blob as (N, K): old files write it as (1, 1, N, K).

    Raises:
        ValueError: it is no matrix with ones before it.
    """
    if blob.ndim < 2 or any(dim != 1 for dim in blob.shape[:-2]):
        raise ValueError(f"{what} is {blob.shape}; it must be (N, K)")
    return blob.reshape(blob.shape[-2:])


def row_lengths(rows: FloatArray, what: str) -> FloatArray:
    """Return the length of each row of an (n, K) array.

    Raises:
        ValueError: the square of a length is zero, infinite or NaN; names the first such row.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ik,ik->i", rows, rows)
    good = (squares > 0) & (squares < np.inf)
    if not good.all():
        row = int(np.argmin(good))
        if not np.isfinite(rows[row]).all():
            reason = "has a value that is not finite"
        elif squares[row] == 0:
            reason = "is zero" if not rows[row].any() else "is so short that its square is zero"
        else:
            reason = "is so long that its square overflows"
        raise ValueError(f"row {row} of {what} {reason}; it has no direction")
    return np.sqrt(squares)
