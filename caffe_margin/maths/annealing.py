"""Lambda over a run: how the margin is phased in.

The label's score is |x| (psi_m + lambda cos(theta)) / (1 + lambda). Lambda starts large, which is
the plain inner product, and falls with every Forward.

Source: ``MarginInnerProductLayer::Forward_cpu``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caffe_margin.maths.arrays import Array, at_least


@dataclass(frozen=True)
class Annealing:
    """lambda = max(base (1 + gamma i)^-power, lambda_min) at the layer's i-th Forward.

        >>> Annealing(base=1000, gamma=0.12, lambda_min=5).lambda_at([1, 100, 10_000])
        array([892.8571 ,  76.92308,   5.     ], dtype=float32)

    The defaults are those of Caffe's message. The four numbers are rounded to float32, which the
    message holds, also where lambda is computed in double.

    Attributes:
        base: lambda at i = 0.
        gamma: how fast it falls.
        power: how steeply.
        lambda_min: where it stops.
        iteration: how many Forwards came before: the first is at ``iteration`` + 1.
    """

    base: float = 1.0
    gamma: float = 0.0
    power: float = 1.0
    lambda_min: float = 0.0
    iteration: int = 0

    def __post_init__(self) -> None:
        """Round to what the message holds."""
        for name in ("base", "gamma", "power", "lambda_min"):
            with np.errstate(over="ignore"):
                object.__setattr__(self, name, float(np.float32(getattr(self, name))))

    @classmethod
    def of(cls, param: Any) -> Annealing:
        """Return what a message says that has the five fields."""
        return cls(**{field.name: getattr(param, field.name) for field in fields(cls)})

    def __call__(self, i: Array) -> Array:
        """Return lambda, every step in the dtype of i, as ``Forward_cpu`` takes it in ``Dtype``.

        Args:
            i: floating-point counts of Forwards, numpy's or PyTorch's.
        """
        # numpy 1 would take a Python number times an array of no dimensions for a double.
        real = getattr(i.dtype, "type", float)
        falling = real(self.base) * (real(1) + real(self.gamma) * i) ** real(-self.power)
        # std::max(a, b) is `a < b ? b : a`, which keeps a NaN.
        return at_least(falling, real(self.lambda_min))

    def lambda_at(
        self, i: ArrayLike, dtype: type[np.floating] = np.float32
    ) -> NDArray[np.floating]:
        """Return lambda for counts of Forwards, as numpy arrays of ``dtype``, whatever it is."""
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            return np.asarray(self(np.asarray(i, dtype)))


def share_of_margin(lambda_: Array) -> Array:
    """Return 1 / (1 + lambda): how much of the margin is in force."""
    return 1 / (1 + lambda_)
