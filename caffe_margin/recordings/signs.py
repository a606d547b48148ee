"""The C++ layer's sign blobs, at the places where rounding decides a sign.

A cosine that is zero but for rounding has the sign that the order of its sum gives it, and every
BLAS sums in another; likewise |cos| - 1/2 and 2 cos^2 - 1. psi_m and its slope are the same on
both sides there, so either sign is right, and so is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray

from caffe_margin.maths.arrays import FloatArray

SIGNS = {f"internal_sign_{i}": i for i in range(5)}
"""The sign blobs' keys in a recording."""


def settle_signs(
    computed: Mapping[str, FloatArray],
    recorded: Mapping[str, NDArray],
    cos_theta: NDArray[np.float64],
    tolerance: float,
) -> dict[str, FloatArray]:
    """Return the computed signs, but what is recorded where that is as right.

    At each place the recorded blobs must agree with one another: all of them come from the signs
    of cos, |cos| - 1/2 and 2 cos^2 - 1, of which only those within tolerance of zero are free.

    Args:
        computed: blobs by their key in a recording.
        recorded: the same of the recording; only signs that are in both are looked at.
        cos_theta: (M, N), from the recorded inputs.
        tolerance: how far from zero an argument may be for any sign of it to be right.
    """
    cos = cos_theta.reshape(-1)
    keys = [
        key
        for key in SIGNS.keys() & computed.keys() & recorded.keys()
        if recorded[key].size == computed[key].size == cos.size
    ]
    settled = {key: computed[key].copy() for key in keys}
    (close,) = np.nonzero((np.abs(_arguments(cos)) <= tolerance).any(axis=0))
    arguments = _arguments(cos[close])
    free, signs = np.abs(arguments) <= tolerance, np.sign(arguments)
    theirs = {key: recorded[key].reshape(-1)[close] for key in keys}
    for choice in product((-1, 0, 1), repeat=3):
        possible = _combine(*np.where(free, np.array(choice)[:, None], signs))
        agree = np.all([theirs[key] == possible[SIGNS[key]] for key in keys], axis=0)
        for key in keys:
            settled[key][close[agree]] = theirs[key][agree]
    return settled


def _arguments(cos: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([cos, np.abs(cos) - 0.5, 2 * cos**2 - 1])


def _combine(sign_0: NDArray, sign_1: NDArray, sign: NDArray) -> tuple[NDArray, ...]:
    """Return sign_0 to sign_4, from the signs of cos, |cos| - 1/2 and 2 cos^2 - 1."""
    sign_3 = sign_0 * sign
    return sign_0, sign_1, sign_0 * (1 + sign_1) - 2, sign_3, 2 * sign_0 + sign_3 - 3
