"""Images from files and bytes, by OpenCV as Caffe does it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


def _cv2() -> Any:
    try:
        import cv2
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise
        raise ModuleNotFoundError(
            "images are read by OpenCV: pip install 'caffe_margin[torch]'", name="cv2"
        ) from None
    return cv2


def read_image(
    path: str, is_color: bool = True, size: tuple[int, int] | None = None
) -> np.ndarray | None:
    """Return a file's image, turned as its EXIF says, and resized.

    Source: ReadImageToCVMat.

    Args:
        path: the file; what it holds decides the format, not its name.
        is_color: whether there are three channels, B, G, R, or one.
        size: height and width to resize to.

    Returns:
        (channels, height, width) uint8; None if it cannot be read.
    """
    cv2 = _cv2()
    flag = cv2.IMREAD_COLOR if is_color else cv2.IMREAD_GRAYSCALE
    try:
        # As bytes: OpenCV does not survive a name that is no UTF-8.
        image = cv2.imread(os.fsencode(path), flag)
    except cv2.error:
        return None
    if image is not None and size is not None:
        image = cv2.resize(image, size[::-1])
    return _channels_first(image)


def decode_image(data: bytes, is_color: bool | None = None) -> np.ndarray | None:
    """Return the image that bytes hold.

    Source: DecodeDatumToCVMat, DecodeDatumToCVMatNative.

    Args:
        data: a file's bytes.
        is_color: whether there are three channels or one; None keeps what is stored, alpha too,
            and does not turn the image.

    Returns:
        (channels, height, width) uint8, or another dtype where one is stored; None if it cannot
        be decoded.
    """
    cv2 = _cv2()
    flags = {True: cv2.IMREAD_COLOR, False: cv2.IMREAD_GRAYSCALE, None: cv2.IMREAD_UNCHANGED}
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags[is_color])
    except cv2.error:
        return None
    return _channels_first(image)


def _channels_first(image: np.ndarray | None) -> np.ndarray | None:
    """Return (channels, height, width), a view."""
    if image is None:
        return None
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
