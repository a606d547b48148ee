"""What the formulas ask of an array beyond plain operators.

numpy's and PyTorch's arrays answer to the same operators, and the formulas of this room are written
with those, so that each stands once for both: eager, under autograd, ``vmap`` and ``compile``. The
few functions that the two libraries name differently are here.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

Array: TypeAlias = Any
"""A numpy array or a torch.Tensor; what comes back is of the same kind."""


def sign(x: Array) -> Array:
    """Return -1, 0 or 1; 0 where x is 0."""
    return x.sign() if _is_tensor(x) else np.sign(x)


def hypot(a: Array, b: Array) -> Array:
    """Return sqrt(a^2 + b^2), without overflow."""
    return a.hypot(b) if _is_tensor(a) else np.hypot(a, b)


def at_least(x: Array, least: float) -> Array:
    """Return the greater of the two, and NaN where x is."""
    return x.clamp(min=least) if _is_tensor(x) else np.maximum(x, least)


def ones_like(x: Array) -> Array:
    """Return ones of the shape and dtype of x."""
    return x.new_ones(x.shape) if _is_tensor(x) else np.ones_like(x)


def _is_tensor(x: Any) -> bool:
    return hasattr(x, "new_ones")
