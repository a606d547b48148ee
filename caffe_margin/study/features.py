"""Features out of the box: drawn ones, and real ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from caffe_margin.layers.checks import row_lengths
from caffe_margin.maths.arrays import FloatArray

LENGTH = 15.0
"""Mean length of the features, about that of a trained SphereFace net's."""

DIGITS = (
    "scikit-learn's 1797 handwritten digits, 8 x 8 pixels, less the mean image, scaled to a mean "
    f"length of {LENGTH:g}"
)


def read_digits() -> dict[str, NDArray]:
    """Return ``x``, (1797, 64) float32, and ``label``, (1797,), 0 to 9.

    The pixels lie between 0 and 16, so all images lie within a narrow cone; less their mean they
    spread over all directions, as features before a head without a bias do.

    Raises:
        ValueError: scikit-learn, whose package ships the images, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ValueError(
            "the digits come with scikit-learn, which is not installed: "
            "pip install 'caffe_margin[report]'"
        ) from error
    pixels, label = load_digits(return_X_y=True)
    centred = pixels - pixels.mean(axis=0)
    x = centred * (LENGTH / np.linalg.norm(centred, axis=1).mean())
    return {"x": x.astype(np.float32), "label": label.astype(np.intp)}


def draw_features(
    weight: FloatArray, batch: int, rng: np.random.Generator
) -> tuple[FloatArray, NDArray[np.intp]]:
    """Draw features that cover the angles from 0 to pi about their own class.

    The labels are uniform; the angles are spread evenly over [0, pi], one in each of ``batch``
    equal parts; the direction around the class is uniform, and the lengths lie in [5, 30), as
    those of trained features do.

    Returns:
        x, (batch, K) in the weight's dtype, and the labels, (batch,).

    Raises:
        ValueError: K is 1, where angles other than 0 and pi do not exist.
    """
    N, K = weight.shape
    if K < 2:
        raise ValueError("to draw angles takes at least 2 features; the weight has 1")
    label = rng.integers(N, size=batch)
    theta = (rng.permutation(batch) + rng.random(batch)) * (np.pi / batch)
    own = weight[label].astype(np.float64)
    own /= row_lengths(own, "the weight")[:, None]
    across = rng.normal(size=(batch, K))
    across -= np.einsum("ik,ik->i", across, own)[:, None] * own
    across /= row_lengths(across, "the drawn directions")[:, None]
    x = np.cos(theta)[:, None] * own + np.sin(theta)[:, None] * across
    x *= rng.uniform(5, 30, size=(batch, 1))
    return x.astype(weight.dtype), label
