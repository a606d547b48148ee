"""The mathematics of both margins: psi_m, its derivative, and the label's score.

For theta in [k pi/m, (k+1) pi/m],

    psi_m(theta) = (-1)^k cos(m theta) - 2k,

which falls from 1 at theta = 0 to 1 - 2m at theta = pi, and is continuous with a continuous
derivative. As a function of c = cos(theta) it is a polynomial on each piece: cos(m theta) is
Chebyshev's T_m(c). k is how many of the m - 1 places where pieces meet, c = cos(j pi/m), lie above
c. So with s_j = sign(c - cos(j pi/m))

    (-1)^k = s_1 s_2 ... s_(m-1),   -2k = (s_1 - 1) + (s_2 - 1) + ... + (s_(m-1) - 1).

A sign is 0 where two pieces meet, and the formulas hold there as they stand.

Source: SphereFace (Liu et al., CVPR 2017), equation 7 and the text below it. For m up to 4 these
are the signs of ``MarginInnerProductLayer::Forward_cpu``, and of L-Softmax's (Liu et al., ICML
2016, equation 6) before it.
"""

from __future__ import annotations

import math
import operator

from caffe_margin.maths.arrays import Array, ones_like, sign

LENGTH_FLOOR = 1e-9
"""What L-Softmax's C++ adds to lengths that it divides by: |w_y| |x| in Forward, |w_y| after."""


def psi(cos_theta: Array, m: int) -> Array:
    """Return psi_m(theta) for an array of cos(theta), in the array's shape and dtype.

    Raises:
        ValueError: m is no whole number from 1 on.
    """
    up, down = _piece(cos_theta, check_margin(m))
    return up * _chebyshev(cos_theta, m) + down


def psi_derivative(cos_theta: Array, m: int) -> Array:
    """Return d psi_m / d cos(theta), in the array's shape and dtype; it is never negative.

    Raises:
        ValueError: m is no whole number from 1 on.
    """
    up, _ = _piece(cos_theta, check_margin(m))
    # T_m' = m U_(m-1), Chebyshev's polynomial of the second kind.
    return up * (m * _chebyshev(cos_theta, m - 1, first=2))


def label_score(plain: Array, length: Array | float, m: int, lambda_: Array | float) -> Array:
    """Return p (psi_m + lambda cos(theta)) / (1 + lambda), the label's column of the output.

    At m = 1 there is no margin and lambda has no effect.

    Args:
        plain: p cos(theta), the inner product with the weight of the own class: with its unit
            vector in A-Softmax, with itself in L-Softmax.
        length: p, of the same shape: |x| in A-Softmax, `large_margin_length` in L-Softmax.
        m: the margin.
        lambda_: the weight of the plain inner product.
    """
    if m == 1:
        return plain
    return (length * psi(plain / length, m) + lambda_ * plain) / (1 + lambda_)


def large_margin_length(x_norm: Array, weight_norm: Array) -> Array:
    """Return |w_y| |x|, which is what L-Softmax's psi_m is multiplied by, and not 0.

    Source: ``LargeMarginInnerProductLayer::Forward_cpu``.
    """
    return x_norm * weight_norm + LENGTH_FLOOR


def check_margin(m: int) -> int:
    """Return m.

    Raises:
        ValueError: it is no whole number from 1 on.
    """
    try:
        if (whole := int(operator.index(m))) >= 1:
            return whole
    except TypeError:
        pass
    raise ValueError(f"m must be a whole number from 1 on, not {m!r}")


def _chebyshev(c: Array, n: int, first: int = 1) -> Array:
    """Return T_n(c), or U_n(c) where ``first`` is 2, by p_(n+1) = 2 c p_n - p_(n-1)."""
    before, now = ones_like(c), first * c
    for _ in range(n):
        before, now = now, 2 * c * now - before
    return before


def _piece(c: Array, m: int) -> tuple[Array, Array]:
    """Return (-1)^k, which is 0 where two pieces meet, and -2k."""
    up, down = ones_like(c), 0 * ones_like(c)
    for j in range(1, m):
        # To 15 digits, so that the cosines of 60 and 90 degrees are 0.5 and 0.
        above = sign(c - round(math.cos(j * math.pi / m), 15))
        up, down = up * above, down + (above - 1)
    return up, down
