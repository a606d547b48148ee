"""Blobs of which a process holds some rows: out to a file by blocks, and its own rows in again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np


@dataclass(frozen=True)
class Rows:
    """A blob to write, which comes a block of rows at a time.

    Attributes:
        shape: of the whole.
        dtype: float32 or float64.
        blocks: all rows, in order; gone through once.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Iterable[np.ndarray]

    @property
    def nbytes(self) -> int:
        """How many bytes the values take."""
        return math.prod(self.shape) * self.dtype.itemsize


Stored: TypeAlias = "np.ndarray | Rows"
"""A blob as files hold it."""


class MisfitError(ValueError):
    """A blob in a file has another shape than is wanted."""


class Share(NamedTuple):
    """Which part of a blob to read.

    Attributes:
        shape: what the whole must be.
        rows: those to read.
    """

    shape: tuple[int, ...]
    rows: range

    def of(self, blob: Any, name: str) -> np.ndarray:
        """Return the rows of a blob: an array, memory-mapped or not, or a dataset of HDF5's.

        Ones in front of the shape are passed over, as old files of four dimensions have them.

        Args:
            blob: the whole.
            name: its name, for the message.

        Raises:
            MisfitError: the blob is of another shape.
        """
        shape = tuple(blob.shape)
        ones = len(shape) - len(self.shape)
        if shape != (1,) * ones + self.shape:
            raise MisfitError(f"{name}: {shape} in the file and {self.shape} in the net")
        dtype = np.float32 if blob.dtype.kind == "f" and blob.dtype.itemsize <= 4 else np.float64
        part = blob[(0,) * ones + (slice(self.rows.start, self.rows.stop),)]
        return np.array(part, dtype)


Shares: TypeAlias = Mapping[Any, Share]
"""By the name of the layer, whose first blob it is, or by the place in a history."""


def blocks_of(blob: Stored) -> Iterator[np.ndarray]:
    """Yield a blob's values, a block at a time."""
    if isinstance(blob, Rows):
        yield from blob.blocks
    else:
        yield blob
