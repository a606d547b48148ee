"""From a list of pairs and a file of features to the features of both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from caffe_margin.files.pairs_list import ListedPair
from caffe_margin.study.pairs import Bools, Floats, Ints

IMAGES, MIRRORED = "images", "_mirrored"
"""Where ``caffe-margin run`` keeps the images' names, and how it ends the mirrored ones' blobs."""


@dataclass(frozen=True)
class PairFeatures:
    """The features of N pairs, as `evaluate` takes them.

    Attributes:
        blob: the blob that they are.
        left, right: (N, D).
        left_mirror, right_mirror: those of the mirrored images, (N, D), or None.
        same: what the list says, (N,).
        images: how many there are in the pairs.
    """

    blob: str
    left: Floats
    right: Floats
    left_mirror: Floats | None
    right_mirror: Floats | None
    same: Bools
    images: int


def pair_features(
    pairs: Sequence[ListedPair],
    arrays: Mapping[str, NDArray],
    blob: str | None = None,
    mirrored: Mapping[str, NDArray] | None = None,
) -> PairFeatures:
    """Return the features of both sides of each pair.

    Images are found by folder and name, whatever stands before them and whatever their ending.

    >>> import numpy as np
    >>> pairs = [ListedPair("A/A_0001.jpg", "B/B_0001.jpg", False, 1)]
    >>> arrays = {"images": np.array(["faces/B/B_0001.png", "faces/A/A_0001.png"]),
    ...           "fc5": np.array([[3.0, 4.0], [0.0, 1.0]])}
    >>> pair_features(pairs, arrays).left
    array([[0., 1.]])

    Args:
        pairs: what `read_pairs` returns.
        arrays: what ``caffe-margin run`` writes: ``images``, and a row for each in the blob, and
            in BLOB_mirrored where there is one.
        blob: which one; None for the only one.
        mirrored: such a file of its own for the mirrored images.

    Raises:
        ValueError: there are no names or no such blob, an image is missing, or a feature is zero
            or not finite.
    """
    blob = blob or _only_blob(arrays)
    names, left, right = _rows(pairs, arrays)
    features = _features(arrays, blob, names)
    mirror, (left_too, right_too) = None, (left, right)
    if mirrored is not None:
        names_too, left_too, right_too = _rows(pairs, mirrored)
        key = blob if blob in mirrored else f"{blob}{MIRRORED}"
        mirror = _features(mirrored, key, names_too)
        _check(mirror, names_too, np.union1d(left_too, right_too), " mirrored")
    elif f"{blob}{MIRRORED}" in arrays:
        mirror = _features(arrays, f"{blob}{MIRRORED}", names)
        _check(mirror, names, np.union1d(left, right), " mirrored")
    used = np.union1d(left, right)
    _check(features, names, used, "")
    if mirror is not None and mirror.shape[1] != features.shape[1]:
        raise ValueError(
            f"features of {features.shape[1]} numbers, and of {mirror.shape[1]} mirrored"
        )
    return PairFeatures(
        blob,
        features[left],
        features[right],
        None if mirror is None else mirror[left_too],
        None if mirror is None else mirror[right_too],
        np.array([pair.same for pair in pairs]),
        len(used),
    )


def _only_blob(arrays: Mapping[str, NDArray]) -> str:
    blobs = [name for name in arrays if name != IMAGES and not name.endswith(MIRRORED)]
    if len(blobs) != 1:
        named = ", ".join(map(repr, blobs)) or "none"
        raise ValueError(f"the features are one blob, and there are {named}: name it")
    return blobs[0]


def _features(arrays: Mapping[str, NDArray], blob: str, names: Sequence[str]) -> Floats:
    """Return a blob, a row an image."""
    if blob not in arrays:
        raise ValueError(f"there is no blob {blob!r}; there are {', '.join(map(repr, arrays))}")
    features = arrays[blob]
    if features.dtype.kind not in "fiu" or not features.size or len(features) != len(names):
        raise ValueError(
            f"{blob!r} is {features.shape} {features.dtype}; for {len(names)} images it has as "
            "many rows of numbers"
        )
    return features.reshape(len(names), -1)


def _rows(
    pairs: Sequence[ListedPair], arrays: Mapping[str, NDArray]
) -> tuple[list[str], Ints, Ints]:
    """Return the names of the images, and for each pair the rows of both of its images."""
    if IMAGES not in arrays:
        raise ValueError(f"there are no names of images under {IMAGES!r}")
    names = arrays[IMAGES].tolist()
    rows: dict[tuple[str, ...], int] = {}
    twice: dict[tuple[str, ...], int] = {}
    for row, name in enumerate(names):
        if row != rows.setdefault(_key(name), row):
            twice[_key(name)] = row

    def find(name: str) -> int:
        key = _key(name)
        if key not in rows:
            raise ValueError(f"image {name!r} of the list has no feature")
        if key in twice:
            one, other = names[rows[key]], names[twice[key]]
            raise ValueError(f"image {name!r} of the list may be {one!r} or {other!r}")
        return rows[key]

    left, right = [find(pair.left) for pair in pairs], [find(pair.right) for pair in pairs]
    return names, np.array(left), np.array(right)


def _key(name: str) -> tuple[str, ...]:
    path = PurePath(name)
    return path.parent.name, path.stem


def _check(features: Floats, names: Sequence[str], used: Ints, kind: str) -> None:
    """Raise ValueError, naming the first image whose feature has no direction."""
    norms = np.linalg.norm(features[used].astype(np.float64), axis=1)
    for bad, what in ((~np.isfinite(norms), "not finite"), (norms == 0, "zero")):
        if bad.any():
            name = names[used[np.argmax(bad)]]
            raise ValueError(
                f"the feature of image {name!r}{kind} is {what}"
                + (f"; so are {bad.sum() - 1} more" if bad.sum() > 1 else "")
            )
