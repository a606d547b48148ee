"""What the layers with a margin share: all but what Forward makes of the weight and its length.

Source: LayerSetUp and Reshape of wy1iu/sphereface and wy1iu/LargeMargin_Softmax_Loss, which agree
(MIT, Weiyang Liu, Yandong Wen and others).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.blobs import blob_to_array
from caffe_margin.kernels.call import Call
from caffe_margin.layers.checks import (
    DTYPES,
    as_labels,
    as_matrix,
    as_native,
    as_whole_number,
    canonical_axis,
    check_dtype,
    check_lambda,
    describe,
    row_lengths,
)
from caffe_margin.layers.layer import Blob, BlobLike, Layer
from caffe_margin.maths.angular import check_margin
from caffe_margin.maths.annealing import Annealing
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import GradientRule
from caffe_margin.nets import fillers
from caffe_margin.nets.margin import gradient_name, margin_param
from caffe_margin.nets.select import filter_net, find_layer
from caffe_margin.nets.shapes import shapes_of

if TYPE_CHECKING:
    from typing_extensions import Self

ENGINES = ("fused", "line_by_line")


class MarginLayer(Layer):
    """Base of `MarginInnerProduct`, whose arguments and attributes it has, and its predecessor."""

    @staticmethod
    def kernels(engine: str) -> Any:
        """Return the module that has ``forward`` and ``backward``, by `ENGINES`' name."""
        raise NotImplementedError

    def writes_weight(self) -> bool:
        """Whether Forward changes the stored weight."""
        raise NotImplementedError

    def needs_numba(self) -> bool:
        """Whether the fused engine runs compiled passes."""
        return False

    def score_lengths(
        self, x_norm: FloatArray, weight_norm: FloatArray, label: NDArray[np.intp]
    ) -> tuple[FloatArray, str]:
        """Return what multiplies psi_m, (M,), and what the greatest of them is in words."""
        raise NotImplementedError

    def __init__(
        self,
        num_output: int,
        *,
        m: int,
        base: float,
        gamma: float,
        power: float,
        lambda_min: float,
        iteration: int,
        gradient: str | GradientRule,
        axis: int,
        weight_filler: str | pb.FillerParameter,
        name: str,
        engine: str,
        dtype: DTypeLike | None,
        rng: np.random.Generator | int | None,
    ) -> None:
        super().__init__(name)
        self.num_output = as_whole_number(num_output, "num_output", type(self))
        if self.num_output < 1:
            raise ValueError(f"layer {self.name!r}: num_output must be positive")
        if dtype is not None and np.dtype(dtype) not in DTYPES:
            raise ValueError(f"dtype must be float32 or float64, not {np.dtype(dtype)}")
        if engine not in ENGINES:
            raise ValueError(f"engine must be {' or '.join(map(repr, ENGINES))}, not {engine!r}")
        self.m = check_margin(m)
        if engine == "line_by_line" and m > 4:
            raise ValueError(f"the C++, line by line, has an m of 1 to 4, not {m}")
        self.engine = engine
        self.gradient = gradient
        self.axis = as_whole_number(axis, "axis", type(self))
        self.iteration = as_whole_number(iteration, "iteration", type(self))
        self.annealing = Annealing(base, gamma, power, lambda_min, self.iteration)
        self.lambda_: np.floating = np.float32(0)
        self.param_propagate_down = [True]
        self.dtype: np.dtype[Any] | None = None if dtype is None else np.dtype(dtype)
        if isinstance(weight_filler, str):
            weight_filler = pb.FillerParameter(type=weight_filler)
        fillers.check_type(weight_filler)
        self.weight_filler = weight_filler
        self._rng = np.random.default_rng(rng)
        self._K_in_net: int | None = None
        self.saved: Any = None

    @classmethod
    def from_param(
        cls,
        layer_param: pb.LayerParameter,
        *,
        gradient: str | GradientRule | None = None,
        engine: str = "fused",
        dtype: DTypeLike | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> Self:
        """Make the layer that a message describes; blobs in it are the weight.

            >>> from google.protobuf import text_format
            >>> from caffe_margin import MarginInnerProduct
            >>> from caffe_margin.caffe_margin_pb2 import LayerParameter
            >>> text = '''name: "fc6" type: "MarginInnerProduct"
            ...           margin_inner_product_param { num_output: 10572 type: QUADRUPLE }'''
            >>> MarginInnerProduct.from_param(text_format.Parse(text, LayerParameter()))
            MarginInnerProduct(10572, name='fc6', m=4, gradient='paper', iteration=0)

        As in Caffe's Net, the weight's diff is not computed where the message gives it an
        ``lr_mult`` of 0.

        Args:
            layer_param: the message.
            gradient: None for what the message's own ``gradient`` field says; where it is absent,
                that is what the layer's C++ computes: PAPER for a MarginInnerProduct, EXACT for a
                LargeMarginInnerProduct.
            engine: as the class.
            dtype: as the class.
            rng: as the class.

        Raises:
            TypeError: ``layer_param`` is no LayerParameter.
            ValueError: the layer is of another type; or as the class.
        """
        param = margin_param(cls.check_message(layer_param))
        layer = cls(
            param.num_output,
            m=param.type + 1,
            **vars(Annealing.of(param)),
            gradient=gradient_name(param) if gradient is None else gradient,
            axis=param.axis,
            weight_filler=param.weight_filler,
            name=layer_param.name,
            engine=engine,
            dtype=dtype,
            rng=rng,
        )
        if layer_param.param:
            layer.param_propagate_down = [layer_param.param[0].lr_mult != 0]
        if layer_param.blobs:
            what = f"the weight in layer {layer.name!r}"
            layer.weight = as_matrix(blob_to_array(layer_param.blobs[0]), what)
        return layer

    @classmethod
    def from_net(cls, net: pb.NetParameter, name: str | None = None, **options: Any) -> Self:
        """Make the layer called ``name``, or the net's only one; K comes from the layers below.

            >>> import caffe_margin as cm
            >>> net = cm.read_net("models/sphereface_model.prototxt")
            >>> cm.MarginInnerProduct.from_net(net, "fc6", gradient="exact")
            MarginInnerProduct(10572, name='fc6', m=4, gradient='exact', K=512, iteration=0)

        Where the net does not say K (the size of its images is unknown, say), the first forward
        does.

        Args:
            net: the message, as `read_net` returns it.
            name: the layer's.
            options: ``gradient``, ``engine``, ``dtype`` and ``rng`` as in `from_param`.

        Raises:
            TypeError: ``net`` is no NetParameter.
            ValueError: there is no such layer, or several where no name was given; as the class.
        """
        if not isinstance(net, pb.NetParameter):
            raise TypeError(
                f"{cls.__name__}.from_net takes a net, as read_net returns it, not a "
                f"{type(net).__name__}"
            )
        train = filter_net(net, "TRAIN")
        layer_param = find_layer(train, name, cls.type)
        layer = cls.from_param(layer_param, **options)
        params = shapes_of(train, layer_param).params
        layer._K_in_net = params[0][1] if params else None
        return layer

    def __repr__(self) -> str:
        name = "" if self.name == self.type else f", name={self.name!r}"
        K = "" if self.K is None else f", K={self.K}"
        seen = f", lambda_={self.lambda_:.6g}" if self.saved is not None else ""
        return (
            f"{type(self).__name__}({self.num_output}{name}, m={self.m}, "
            f"gradient={self.gradient.name!r}{K}, iteration={self.iteration}{seen})"
        )

    @property
    def gradient(self) -> GradientRule:
        """The rule of Backward, from the next Forward on; set to a rule or its name."""
        return self._gradient

    @gradient.setter
    def gradient(self, gradient: str | GradientRule) -> None:
        self._gradient = GradientRule.of(gradient)

    @property
    def K(self) -> int | None:
        """How many features a sample has, by the weight or the net; None where neither says."""
        return self.blobs[0].data.shape[1] if self.blobs else self._K_in_net

    @property
    def weight(self) -> FloatArray:
        """The stored weight itself, (N, K). Setting it checks and copies.

        Raises:
            ValueError: on reading, there is none yet; on setting, the shape is not (N, K), the
                dtype not float32 or float64, or a row is zero or not finite.
        """
        if not self.blobs:
            raise ValueError(
                f"layer {self.name!r} has no weight yet: its first forward draws it, unless it is "
                f"set"
            )
        return self.blobs[0].data

    @weight.setter
    def weight(self, value: ArrayLike) -> None:
        weight = as_native(value)
        check_dtype(weight, "the weight")
        weight = np.array(weight, self.dtype, order="C")
        K = self.K
        if weight.ndim != 2 or len(weight) != self.num_output or K not in (None, weight.shape[1]):
            raise ValueError(
                f"the weight is {weight.shape}, but layer {self.name!r} needs "
                f"({self.num_output}, {'K' if K is None else K})"
            )
        row_lengths(weight, "the weight")
        if self.blobs and self.blobs[0].data.dtype == weight.dtype:
            self.blobs[0].data[...] = weight
        else:
            self.blobs[:] = [Blob(weight)]

    def check(self, bottom: Sequence[BlobLike]) -> None:
        """Check features and labels.

        Raises:
            ValueError: shapes that disagree; K other than the weight's; a dtype other than the
                layer's; a label that is NaN, infinite or outside [0, N); a feature row that is zero
                or not finite (Caffe goes on with NaN, or writes out of bounds).
        """
        x, label = bottom[0].data, bottom[1].data
        check_dtype(x, f"bottom[0] of layer {self.name!r}")
        dtype = self.dtype or (self.blobs[0].data.dtype if self.blobs else x.dtype)
        if x.dtype != dtype:
            raise ValueError(
                f"bottom[0] is {describe(x)}, but layer {self.name!r} computes in {dtype}: convert "
                f"it, or make the layer with dtype={x.dtype}"
            )
        axis, M, K = self._dimensions(x.shape)
        if self.K not in (None, K):
            raise ValueError(
                f"bottom[0] is {x.shape}, which makes K {K}, but the weight of layer {self.name!r} "
                f"is ({self.num_output}, {self.K})"
            )
        if label.size != M or label.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"bottom[0] of layer {self.name!r} is {x.shape}, {M} samples before axis {axis}, "
                f"but bottom[1], the labels, is {label.shape}"
            )
        as_labels(label, self.num_output, f"bottom[1] of layer {self.name!r}")
        row_lengths(x.reshape(M, K), f"bottom[0] of layer {self.name!r}")

    def _dimensions(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the axis counted from the front, M and K, for a bottom[0] of a shape."""
        axis = canonical_axis(self.axis, shape, self.name)
        return axis, math.prod(shape[:axis]), math.prod(shape[axis:])

    def layer_setup(self, bottom: Sequence[BlobLike], top: Sequence[BlobLike]) -> None:
        """Learn K, and fill the weight unless there is one. Source: ``LayerSetUp``."""
        x = bottom[0].data
        _, _, K = self._dimensions(x.shape)
        shape = (self.num_output, K)
        if not self.blobs:
            filled = fillers.fill(self.weight_filler, shape, self._rng, x.dtype)
            self.blobs.dtype = x.dtype
            self.blobs.add_blob(*shape)
            self.blobs[0].data[...] = filled
        elif self.blobs[0].data.shape != shape:
            raise ValueError(
                f"bottom[0] is {x.shape}, which makes K {K}, but the weight of layer "
                f"{self.name!r} is {self.blobs[0].data.shape}"
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
            ValueError: a row of the weight is zero or not finite, or the annealing gives no usable
                lambda.
        """
        iteration, weight = self.iteration + 1, self.blobs[0].data
        x, label = self._bottom_data(bottom)
        x_norm = row_lengths(x, f"bottom[0] of layer {self.name!r}")
        unit = self._memory_for_unit_rows(weight)
        weight_norm = row_lengths(weight, f"the weight of layer {self.name!r}", unit)
        call = Call(
            m=self.m,
            rule=self.gradient,
            lambda_=self._lambda_at(iteration, *self.score_lengths(x_norm, weight_norm, label)),
            x=x,
            label=label,
            weight=weight,
            x_norm=x_norm,
            weight_norm=weight_norm,
            unit=unit,
        )
        top_data = top[0].data.reshape(len(x), self.num_output)
        # An interrupted Forward may leave what the former one saved overwritten.
        self.saved = None
        self.saved = self.kernels(self.engine).forward(call, top_data)
        self.iteration, self.lambda_ = iteration, call.lambda_
        if len(top) == 2:
            top[1].data[0] = call.lambda_

    def _bottom_data(self, bottom: Sequence[BlobLike]) -> tuple[FloatArray, NDArray[np.intp]]:
        """Return the features as a contiguous (M, K) and the labels as (M,)."""
        x, label = bottom[0].data, bottom[1].data
        _, M, K = self._dimensions(x.shape)
        x = np.ascontiguousarray(x).reshape(M, K)
        if self.writes_weight() and np.may_share_memory(x, self.blobs[0].data):
            x = x.copy()  # Backward needs it as it was before the weight was written
        return x, label.reshape(-1).astype(np.intp)

    def _memory_for_unit_rows(self, weight: FloatArray) -> FloatArray | None:
        """Return an array like the weight, or None if the engine has no use for unit rows.

        It is the former Forward's, where that left one; its Backward cannot run any more.
        """
        if self.engine != "fused" or not self.needs_numba():
            return None
        self.saved, former = None, self.saved
        unit = former.call.unit if former is not None else None
        if unit is None or unit.shape != weight.shape or unit.dtype != weight.dtype:
            unit = np.empty_like(weight)
        return unit

    def _lambda_at(self, iteration: int, lengths: FloatArray, longest: str) -> np.floating:
        lambda_ = float(self.annealing.lambda_at(iteration, lengths.dtype.type))
        a = self.annealing
        where = (
            f" at iteration {iteration} (base {a.base:g}, gamma {a.gamma:g}, power {a.power:g}, "
            f"lambda_min {a.lambda_min:g})"
        )
        what = f"layer {self.name!r}: lambda"
        return check_lambda(lambda_, self.m, lengths, what, where, longest)

    def backward_cpu(
        self, top: Sequence[BlobLike], propagate_down: Sequence[bool], bottom: Sequence[BlobLike]
    ) -> None:
        """Source: ``Backward_cpu``, and the rules beside it.

        Raises:
            RuntimeError: the last Forward was interrupted, or met a bad weight.
        """
        if self.saved is None:
            raise RuntimeError(f"layer {self.name!r}: backward needs a forward before it")
        _, M, K = self._dimensions(bottom[0].data.shape)
        self.kernels(self.engine).backward(
            self.saved,
            top[0].diff.reshape(M, self.num_output),
            self.blobs[0].diff if self.param_propagate_down[0] else None,
            bottom[0].diff.reshape(M, K) if propagate_down[0] else None,
        )
