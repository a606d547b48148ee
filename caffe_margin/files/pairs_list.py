"""Lists of pairs of images, in the form of LFW's ``pairs.txt``."""

from __future__ import annotations

from typing import NamedTuple

from caffe_margin.files.load import StrPath
from caffe_margin.files.prototxt import read_text

PAIRS_A_FOLD = 600


class ListedPair(NamedTuple):
    """Two images, and whether they are of one person.

    Attributes:
        left, right: files, below the folder of the images.
        same: whether the list says so.
        fold: from 1; by position, 600 after another, whatever the header says.
    """

    left: str
    right: str
    same: bool
    fold: int


def read_pairs(path: StrPath) -> list[ListedPair]:
    """Read a list of pairs.

    A line ``NAME i j`` is a pair of one person, ``NAME i OTHER j`` one of two, the fields divided
    by tabs; any other line, as the header is one, is passed over. The file of a name's image is
    ``NAME/NAME_000i.jpg``. Source: parseList of evaluation.m in wy1iu/sphereface.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a number is none, or no line holds a pair.
    """
    pairs: list[ListedPair] = []
    for i, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split("\t")
        if len(fields) not in (3, 4):
            continue
        name, number, *_ = fields
        other = fields[2] if len(fields) == 4 else name
        try:
            files = _image(name, number), _image(other, fields[-1])
        except ValueError:
            raise ValueError(f"{path}:{i}: {line!r} does not end its names by numbers") from None
        pairs.append(ListedPair(*files, len(fields) == 3, len(pairs) // PAIRS_A_FOLD + 1))
    if not pairs:
        raise ValueError(f"{path}: no pairs; a line is NAME, i, j or NAME, i, OTHER, j, with tabs")
    return pairs


def _image(name: str, number: str) -> str:
    # Where a tab ends the line there is no number, and the authors' name breaks off.
    return f"{name}/{name}_{int(number):04d}.jpg" if number.strip() else f"{name}/{name}"
