"""The mathematics of A-Softmax: psi_m, its derivative, and the schedule of lambda.

For theta in [k pi/m, (k+1) pi/m],

    psi_m(theta) = (-1)^k cos(m theta) - 2k,

which falls from 1 at theta = 0 to 1 - 2m at theta = pi, and is continuous with a continuous
derivative. As a function of c = cos(theta) it is a polynomial on each piece, and the signs below
choose the piece. A sign is 0 where two pieces meet, and the formulas hold there as they stand.

Source: SphereFace (Liu et al., CVPR 2017), equation 7 and the text below it; the signs are those
of ``MarginInnerProductLayer::Forward_cpu``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _chebyshev(
    c: NDArray[np.floating], m: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return cos(m theta) as a polynomial in c = cos(theta), and its derivative in c."""
    if m == 1:
        return c, np.ones_like(c)
    if m == 2:
        return 2 * c**2 - 1, 4 * c
    if m == 3:
        return 4 * c**3 - 3 * c, 12 * c**2 - 3
    if m == 4:
        return 8 * c**4 - 8 * c**2 + 1, 32 * c**3 - 16 * c
    raise ValueError(f"m must be 1, 2, 3 or 4, not {m!r}")


def _piece(c: NDArray[np.floating], m: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return (-1)^k, which is 0 where two pieces meet, and -2k."""
    if m == 1:
        return np.ones_like(c), np.zeros_like(c)
    sign_0 = np.sign(c)
    if m == 2:
        return sign_0, sign_0 - 1
    if m == 3:
        sign_1 = np.sign(np.abs(c) - 0.5)
        return sign_1, sign_0 * (1 + sign_1) - 2
    sign_3 = sign_0 * np.sign(2 * c**2 - 1)
    return sign_3, 2 * sign_0 + sign_3 - 3


def psi(cos_theta: ArrayLike, m: int) -> NDArray[np.floating]:
    """Return psi_m(theta) for an array of cos(theta), in the array's shape and dtype.

    Raises:
        ValueError: m is not 1, 2, 3 or 4.
    """
    c = np.asarray(cos_theta)
    cos_m_theta, _ = _chebyshev(c, m)
    sign, offset = _piece(c, m)
    return sign * cos_m_theta + offset


def psi_derivative(cos_theta: ArrayLike, m: int) -> NDArray[np.floating]:
    """Return d psi_m / d cos(theta), in the array's shape and dtype; it is never negative.

    Raises:
        ValueError: m is not 1, 2, 3 or 4.
    """
    c = np.asarray(cos_theta)
    _, derivative = _chebyshev(c, m)
    sign, _ = _piece(c, m)
    return sign * derivative


def annealed_lambda(
    iteration: ArrayLike,
    base: float,
    gamma: float,
    power: float,
    lambda_min: float,
    dtype: type[np.floating] = np.float32,
) -> NDArray[np.floating]:
    """Return lambda = max(base (1 + gamma iteration)^-power, lambda_min) at each iteration.

    Every step is taken in ``dtype``, as ``Forward_cpu`` takes it in ``Dtype``. ``iteration`` is the
    layer's count after it was raised: the first Forward of a net that starts at 0 sees 1.
    """
    iteration = np.asarray(iteration, dtype)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        annealed = dtype(base) * (dtype(1) + dtype(gamma) * iteration) ** -dtype(power)
        # std::max(a, b) is `a < b ? b : a`, which keeps a NaN; so does np.maximum.
        return np.maximum(annealed, dtype(lambda_min))
