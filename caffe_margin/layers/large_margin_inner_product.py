"""LargeMarginInnerProduct: the L-Softmax layer, A-Softmax's predecessor by the same authors.

Source: LargeMarginInnerProductLayer of wy1iu/LargeMargin_Softmax_Loss (MIT, Weiyang Liu, Yandong
Wen and others); the arithmetic is in `caffe_margin.kernels`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.kernels import fused_large_margin
from caffe_margin.layers.margin_layer import MarginLayer
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import GradientRule


class LargeMarginInnerProduct(MarginLayer):
    """The layer ``type: "LargeMarginInnerProduct"``, L-Softmax, over float32 or float64.

        >>> import numpy as np
        >>> layer = LargeMarginInnerProduct(10, m=4, base=1000, lambda_min=5, rng=0)
        >>> x = np.random.default_rng(0).standard_normal((2, 3))
        >>> top = layer.forward(x, [7, 1])              # (M, K) features, M labels -> (M, N)
        >>> dx = layer.backward(np.ones_like(top))      # and adds to layer.blobs[0].diff
        >>> top.shape, dx.shape, layer.blobs[0].diff.shape
        ((2, 10), (2, 3), (10, 3))
        >>> layer
        LargeMarginInnerProduct(10, m=4, gradient='exact', K=3, iteration=1, lambda_=999.125)

    It is `MarginInnerProduct` without the normalised weight: Forward leaves the weight alone under
    every rule, psi_m is multiplied by |w_y| |x|, and the gradient is the exact one unless
    ``gradient`` says otherwise, as in its authors' C++. That adds 1e-9 to lengths that it divides
    by, and so does this. Backward reads the weight again; where it runs twice after one Forward it
    computes the same twice, while the C++ adds another 1e-9 to its stored |w| each time.

    Arguments and attributes are those of `MarginInnerProduct`. The defaults of the annealing are
    those of the authors' net for MNIST; Caffe's message has others.

    Raises:
        TypeError: as `MarginInnerProduct`.
        ValueError: as `MarginInnerProduct`; a row of zeros is refused here too.
    """

    type = "LargeMarginInnerProduct"

    def __init__(
        self,
        num_output: int,
        *,
        m: int = 4,
        base: float = 1000,
        gamma: float = 2.5e-05,
        power: float = 35,
        lambda_min: float = 0,
        iteration: int = 0,
        gradient: str | GradientRule = "exact",
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
            return fused_large_margin
        # Here, because numba takes a second to import and only this engine needs it.
        from caffe_margin.kernels import large_margin_inner_product

        return large_margin_inner_product

    def writes_weight(self) -> bool:
        """No rule does."""
        return False

    def score_lengths(
        self, x_norm: FloatArray, weight_norm: FloatArray, label: NDArray[np.intp]
    ) -> tuple[FloatArray, str]:
        """Return |w_y| |x|."""
        with np.errstate(over="ignore"):
            return x_norm * weight_norm[label], "greatest |w| |x|,"
