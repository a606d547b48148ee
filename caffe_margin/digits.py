"""Handwritten digits as features: real ones, out of the box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LENGTH = 15.0
"""Mean length of the features, about that of a trained SphereFace net's."""

DESCRIPTION = (
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
