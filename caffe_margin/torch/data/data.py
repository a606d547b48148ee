"""Data: images as records of an LMDB or LevelDB."""

from __future__ import annotations

import os
from functools import cached_property

import numpy as np
from google.protobuf.message import DecodeError

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.visible import visible
from caffe_margin.torch.data.databases import Database, Keys, open_database
from caffe_margin.torch.data.decoding import decode_image
from caffe_margin.torch.data.items import ItemSource, Unreadable


class Data(ItemSource):
    """The records of a database, in the order of their keys. Source: DataLayer."""

    @property
    def batch_size(self) -> int:
        """How many images a batch has."""
        return self.layer.data_param.batch_size

    @cached_property
    def database(self) -> Database:
        """The database.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is none of the kind that ``backend`` says, or is empty.
        """
        param = self.layer.data_param
        if not param.source:
            raise ValueError(f"layer {self.layer.name!r}: data_param has no source")
        return open_database(os.path.join(self.root, param.source), param.backend)

    @property
    def count(self) -> int:
        """How many records there are."""
        return len(list(self.database.keys()))

    @cached_property
    def keys(self) -> Keys:
        """Its keys."""
        if next(self.database.keys(), None) is None:
            raise ValueError(f"{visible(self.database.path)}: the database is empty")
        return Keys(self.database)

    def open(self) -> None:
        """Open the database.

        Raises:
            FileNotFoundError: there is none, or no mean file.
            ValueError: it is empty, or of another kind.
        """
        super().open()
        self.keys  # noqa: B018

    def items(self, start: int, count: int) -> list[bytes]:
        """Return keys."""
        return self.keys.take(start, count)

    def following(self, item: bytes) -> bytes:
        """Return the next key."""
        return self.database.after(item)

    def where(self, item: bytes) -> str:
        """Say which record an image is."""
        return f"{visible(self.database.path)}, record {visible(item.decode(errors='replace'))!r}"

    def read(self, item: bytes) -> tuple[np.ndarray, int]:
        """Return a record's image and its label.

        Raises:
            Unreadable: the record is no image.
        """
        try:
            datum = pb.Datum.FromString(self.database.get(item))
        except DecodeError:
            raise Unreadable("the record is no Datum") from None
        if not datum.encoded:
            return _pixels(datum), datum.label
        transform = self.layer.transform_param
        forced = transform.force_color or transform.force_gray
        image = decode_image(datum.data, transform.force_color if forced else None)
        if image is None:
            raise Unreadable("an encoded image that OpenCV does not decode")
        if image.dtype != np.uint8:
            raise Unreadable(
                f"an encoded image of {8 * image.itemsize} bits; force_color or force_gray makes "
                f"8 of them"
            )
        return image, datum.label


def _pixels(datum: pb.Datum) -> np.ndarray:
    """Return a raw datum's image: its bytes, or its floats where it has no bytes."""
    shape = datum.channels, datum.height, datum.width
    if min(shape) <= 0:
        raise Unreadable(f"the Datum is {' x '.join(map(str, shape))}")
    if datum.data:
        values = np.frombuffer(datum.data, np.uint8)
    else:
        values = np.array(datum.float_data, np.float32)
    if len(values) != np.prod(shape):
        raise Unreadable(f"the Datum has {len(values)} values for {' x '.join(map(str, shape))}")
    return values.reshape(shape)
