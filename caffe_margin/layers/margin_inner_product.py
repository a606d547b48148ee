"""MarginInnerProduct: the A-Softmax layer of SphereFace.

Source: MarginInnerProductLayer of wy1iu/sphereface (MIT, Weiyang Liu and Yandong Wen); the
arithmetic is in `caffe_margin.kernels`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.kernels import fused
from caffe_margin.layers.margin_layer import MarginLayer
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import GradientRule


class MarginInnerProduct(MarginLayer):
    """The layer ``type: "MarginInnerProduct"``, over float32 or float64.

        >>> import numpy as np
        >>> layer = MarginInnerProduct(10, m=4, base=1000, gamma=0.12, lambda_min=5, rng=0)
        >>> x = np.random.default_rng(0).standard_normal((2, 3))
        >>> top = layer.forward(x, [7, 1])              # (M, K) features, M labels -> (M, N)
        >>> dx = layer.backward(np.ones_like(top))      # and adds to layer.blobs[0].diff
        >>> top.shape, dx.shape, layer.blobs[0].diff.shape
        ((2, 10), (2, 3), (10, 3))
        >>> layer
        MarginInnerProduct(10, m=4, gradient='paper', K=3, iteration=1, lambda_=892.857)

    For a net's own layer see `from_net`. The defaults of the margin and its annealing are those of
    the authors' ``sphereface_model.prototxt``; Caffe's message has others. The dtype is that of the
    first array the layer sees, features or weight, unless ``dtype`` says.

    Args:
        num_output: N, the number of classes.
        m: the margin: 1 to 4 are SINGLE, DOUBLE, TRIPLE, QUADRUPLE.
        base: with the next three, lambda over the iterations: see
            `caffe_margin.maths.annealing.Annealing`.
        gamma: see there.
        power: see there.
        lambda_min: see there.
        iteration: how many Forwards came before.
        gradient: ``"paper"``, ``"exact"``, ``"detached"`` or a `GradientRule`.
        axis: of the bottom, the first that belongs to a sample's features.
        weight_filler: the name of one of Caffe's fillers, or its message.
        name: what errors call the layer.
        engine: ``"fused"`` (three matrix products) or ``"line_by_line"`` (the C++, statement by
            statement, m up to 4); the same numbers.
        dtype: float32 or float64, to have no other.
        rng: a numpy Generator, or a seed for one; draws the weight where none is given.

    Attributes:
        iteration: how many Forwards lambda has seen. Every `forward` raises it by one, in TEST too,
            and it is in no snapshot.
        lambda_: lambda of the last Forward; 0 before the first.
        gradient: the `GradientRule`.
        m: the margin.
        annealing: the `Annealing`.
        saved: what the engine keeps of the last Forward for Backward; None before the first.

    Raises:
        TypeError: ``num_output`` is no whole number, but a net or a message, say.
        ValueError: ``num_output`` is not positive, or an argument is none of the above.
    """

    type = "MarginInnerProduct"

    def __init__(
        self,
        num_output: int,
        *,
        m: int = 4,
        base: float = 1000,
        gamma: float = 0.12,
        power: float = 1,
        lambda_min: float = 5,
        iteration: int = 0,
        gradient: str | GradientRule = "paper",
        axis: int = 1,
        weight_filler: str | pb.FillerParameter = "xavier",
        name: str = "",
        engine: str = "fused",
        dtype: DTypeLike | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(
            num_output,
            m=m,
            base=base,
            gamma=gamma,
            power=power,
            lambda_min=lambda_min,
            iteration=iteration,
            gradient=gradient,
            axis=axis,
            weight_filler=weight_filler,
            name=name,
            engine=engine,
            dtype=dtype,
            rng=rng,
        )

    @staticmethod
    def kernels(engine: str) -> Any:
        """Return the module of an engine."""
        if engine == "fused":
            return fused
        # Here, because numba takes a second to import and only this engine needs it.
        from caffe_margin.kernels import margin_inner_product

        return margin_inner_product

    def writes_weight(self) -> bool:
        """Whether the rule stores the normalised weight."""
        return self.gradient.no_projection

    def needs_numba(self) -> bool:
        """Whether the fused engine runs compiled passes."""
        return not self.gradient.no_projection

    def score_lengths(
        self, x_norm: FloatArray, weight_norm: FloatArray, label: NDArray[np.intp]
    ) -> tuple[FloatArray, str]:
        """Return |x|."""
        return x_norm, "longest feature, of length"
