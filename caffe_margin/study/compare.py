"""Paper against exact: what each departure of the authors' gradient does, in numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.layer import FloatArray
from caffe_margin.layers.margin_inner_product import MarginInnerProduct, row_lengths
from caffe_margin.layers.softmax_with_loss import SoftmaxWithLoss
from caffe_margin.maths.gradient import EXACT, PAPER, GradientRule

RULES = (
    EXACT,
    PAPER,
    GradientRule(normalized_coefficients=True, margin_in_weight=True, projection=True),
    GradientRule(normalized_coefficients=False, margin_in_weight=False, projection=True),
    GradientRule(normalized_coefficients=False, margin_in_weight=True, projection=False),
)
"""The exact gradient, the paper's, and the exact one with each departure alone."""


@dataclass(frozen=True)
class Difference:
    """One gradient held against the exact one.

    Attributes:
        norm: Frobenius norm of the gradient.
        ratio: its norm over the exact one's.
        cosine: cosine of the angle between the two, as vectors of all their elements.
        difference: norm of their difference over the exact one's norm.
    """

    norm: float
    ratio: float
    cosine: float
    difference: float

    @property
    def angle(self) -> float:
        """The angle of `cosine`, in radians."""
        return math.acos(min(1.0, max(-1.0, self.cosine))) if self.norm else math.nan

    @classmethod
    def between(cls, gradient: FloatArray, exact: FloatArray) -> Difference:
        """Measure a gradient against the exact one of the same shape, in float64."""
        a, b = gradient.ravel().astype(np.float64), exact.ravel().astype(np.float64)
        norm, exact_norm = float(np.linalg.norm(a)), float(np.linalg.norm(b))
        if norm == 0 or exact_norm == 0:
            return cls(norm, math.nan, math.nan, math.nan)
        return cls(
            norm=norm,
            ratio=norm / exact_norm,
            cosine=float(a @ b) / (norm * exact_norm),
            difference=float(np.linalg.norm(a - b)) / exact_norm,
        )


@dataclass(frozen=True)
class RuleMeasures:
    """What one rule gives on the batch."""

    rule: GradientRule
    bottom_diff: Difference
    weight_diff: Difference


@dataclass(frozen=True)
class Comparison:
    """Every rule of `RULES` on one batch.

    Attributes:
        m: the margin.
        shape: (M, N, K).
        dtype: name of the dtype.
        iteration: which Forward lambda is of.
        lambda_: lambda there.
        loss: SoftmaxWithLoss over the layer's output, the same under every rule.
        theta: angle between each sample and its own class, in radians, (M,).
        measures: one for each of `RULES`, in their order.
    """

    m: int
    shape: tuple[int, int, int]
    dtype: str
    iteration: int
    lambda_: float
    loss: float
    theta: FloatArray
    measures: tuple[RuleMeasures, ...]

    def as_dict(self) -> dict[str, object]:
        """Return everything as JSON has it; NaN, which JSON lacks, as None."""

        def plain(difference: Difference) -> dict[str, float | None]:
            shown = asdict(difference) | {"angle": difference.angle}
            return {k: v if math.isfinite(v) else None for k, v in shown.items()}

        M, N, K = self.shape
        return {
            "m": self.m,
            "M": M,
            "N": N,
            "K": K,
            "dtype": self.dtype,
            "iteration": self.iteration,
            "lambda": self.lambda_,
            "loss": self.loss,
            "theta": [float(theta) for theta in self.theta],
            "rules": [
                {
                    "name": measure.rule.name,
                    **asdict(measure.rule),
                    "bottom_diff": plain(measure.bottom_diff),
                    "weight_diff": plain(measure.weight_diff),
                }
                for measure in self.measures
            ],
        }


def compare(
    layer_param: pb.LayerParameter,
    x: FloatArray,
    label: NDArray,
    weight: FloatArray,
    iteration: int,
    track: Callable[[Iterable[GradientRule]], Iterable[GradientRule]] = iter,
) -> Comparison:
    """Run Forward and Backward under each of `RULES`, below SoftmaxWithLoss.

    Args:
        layer_param: the MarginInnerProduct layer.
        x: features, of the layer's bottom shape.
        label: their labels.
        weight: (N, K), in the dtype of x.
        iteration: which Forward it is, for lambda; the prototxt's first is its ``iteration`` + 1.
        track: wraps the rules as they are gone through, for a progress bar.

    Raises:
        ValueError: as `MarginInnerProduct`.
    """
    exact: tuple[FloatArray, FloatArray] | None = None
    measures = []
    for rule in track(RULES):
        layer = MarginInnerProduct(layer_param, gradient=rule)
        layer.param_propagate_down = [True]
        layer.weight = weight
        layer.iteration = iteration - 1
        loss_layer = SoftmaxWithLoss(
            pb.LayerParameter(type="SoftmaxWithLoss", softmax_param=pb.SoftmaxParameter(axis=-1))
        )
        loss = loss_layer.forward(layer.forward(x, label), label)
        bottom_diff = layer.backward(loss_layer.backward())
        weight_diff = layer.blobs[0].diff
        if exact is None:
            exact = bottom_diff, weight_diff
        measures.append(
            RuleMeasures(
                rule,
                Difference.between(bottom_diff, exact[0]),
                Difference.between(weight_diff, exact[1]),
            )
        )
    features = x.reshape(-1, weight.shape[1])
    return Comparison(
        m=layer.m,
        shape=(len(features), *weight.shape),
        dtype=str(x.dtype),
        iteration=iteration,
        lambda_=float(layer.lambda_),
        loss=float(loss),
        theta=own_class_angles(features, np.asarray(label).reshape(-1), weight),
        measures=tuple(measures),
    )


def own_class_angles(x: FloatArray, label: NDArray, weight: FloatArray) -> FloatArray:
    """Return the angle between each sample and its own class, in radians, (M,)."""
    own = weight[label.astype(np.intp)]
    cos_theta = np.einsum("ik,ik->i", x, own) / (
        row_lengths(x, "the features") * row_lengths(own, "the weight")
    )
    return np.arccos(np.clip(cos_theta, -1, 1))
