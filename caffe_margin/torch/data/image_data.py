"""ImageData: image files, by a list."""

from __future__ import annotations

import errno
import os
import re
import time
from functools import cached_property

import numpy as np

from caffe_margin.files.visible import visible
from caffe_margin.torch.data.decoding import read_image
from caffe_margin.torch.data.items import ItemSource, Unreadable
from caffe_margin.torch.data.order import Order
from caffe_margin.torch.data.source import read_list_file

LOOKING_SECONDS = 1.0
"""How long files are looked for before the first batch; a hundred thousand take about this."""


class ImageData(ItemSource):
    """The images of a list's files. Source: ImageDataLayer."""

    @property
    def batch_size(self) -> int:
        """How many images a batch has."""
        return self.layer.image_data_param.batch_size

    @cached_property
    def lines(self) -> list[tuple[str, int]]:
        """Name and label of each line.

        Raises:
            FileNotFoundError: there is no list.
            ValueError: it is empty.
        """
        source = self.layer.image_data_param.source
        lines = read_list(read_list_file(self.layer, source, self.root))
        if not lines:
            raise ValueError(f"{self._source}: the list is empty")
        return lines

    @property
    def count(self) -> int:
        """How many lines the list has."""
        return len(self.lines)

    @property
    def _source(self) -> str:
        return visible(os.path.join(self.root, self.layer.image_data_param.source))

    @cached_property
    def order(self) -> Order:
        """In which order the lines come.

        Raises:
            ValueError: ``rand_skip`` skips all of them.
        """
        param = self.layer.image_data_param
        skip = self.seeds.skip % param.rand_skip if param.rand_skip else 0
        if skip >= len(self.lines):
            raise ValueError(
                f"layer {self.layer.name!r}: rand_skip {param.rand_skip} would skip {skip} lines, "
                f"but {self._source} has {len(self.lines)}"
            )
        return Order(len(self.lines), self.seeds.shuffle if param.shuffle else None, skip)

    def open(self) -> None:
        """Read the list, and look whether its files are there, for a second at most.

        Raises:
            FileNotFoundError: there is no list, or no mean file.
            ValueError: it is empty, or a file is missing.
        """
        if "order" in vars(self):
            return
        super().open()
        param = self.layer.image_data_param
        if bool(param.new_height) != bool(param.new_width):
            raise ValueError(f"layer {self.layer.name!r}: new_height and new_width go together")
        if len(self.tops) != 2:
            raise ValueError(
                f"layer {self.layer.name!r}: ImageData has two tops, images and labels, not "
                f"{len(self.tops)}"
            )
        end = time.monotonic() + LOOKING_SECONDS
        for index in range(len(self.lines) if not self.skip_broken else 0):
            if not os.path.isfile(self.path(index)):
                raise ValueError(f"{self.where(index)}: {self._missing(index)}")
            if time.monotonic() > end:
                break
        self.order  # noqa: B018

    def path(self, index: int) -> str:
        """Return a line's file. ``root_folder`` stands before the name as it is."""
        folder = self.layer.image_data_param.root_folder
        return os.path.join(self.root, folder + self.lines[index][0])

    def items(self, start: int, count: int) -> list[int]:
        """Return indices of lines."""
        return self.order.take(start, count).tolist()

    def following(self, item: int) -> int:
        """Return the next line, the first after the last."""
        return (item + 1) % len(self.lines)

    def where(self, item: int) -> str:
        """Say in which line an image is."""
        return f"{self._source}, line {item + 1}"

    def read(self, item: int) -> tuple[np.ndarray, int]:
        """Return a line's image and its label.

        Raises:
            Unreadable: the file is missing or broken.
        """
        param = self.layer.image_data_param
        path = self.path(item)
        if not os.path.isfile(path):
            raise Unreadable(self._missing(item))
        size = (param.new_height, param.new_width) if param.new_height else None
        image = read_image(path, param.is_color, size)
        if image is None:
            raise Unreadable(f"{visible(path)} is no image that OpenCV reads, or is broken")
        return image, self.lines[item][1]

    def _missing(self, index: int) -> str:
        """Say that a file is missing, and what may be wrong with the line."""
        name = self.lines[index][0]
        if not name.strip():
            return "a blank line, which stands for an image without a name; delete it"
        hint = ""
        if name.startswith("\ufeff") or name.encode(errors="replace").startswith(b"\xef\xbb\xbf"):
            hint = "; the list starts with a byte order mark: save it without"
        elif "\t" in name:
            hint = "; the name has a tab: the label stands behind the last blank"
        elif name != name.strip():
            hint = "; the name starts or ends in a blank: the label stands behind the last one"
        elif re.search(r" [-+]?\d+$", name):
            hint = "; the name ends in a number: the label stands behind the line's last blank"
        return f"{os.strerror(errno.ENOENT)}: {visible(self.path(index), 200)!r}{hint}"


def read_list(data: bytes) -> list[tuple[str, int]]:
    r"""Return the names and labels of a list.

        >>> read_list(b"an image.png 3\na.png\t7\n12.png")
        [('an image.png', 3), ('a.png\t7', 0), ('12.png', 12)]

    A line is cut at its last blank, and the label read by `atoi`. Without a blank the line is the
    name, and its number the label. Names are decoded as those of files.
    """
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    parts = [line.rpartition(b" ") for line in lines]
    return [(os.fsdecode(name if blank else text), atoi(text)) for name, blank, text in parts]


def atoi(text: bytes) -> int:
    r"""Return what C's ``atoi`` returns on 64-bit Linux.

    >>> [atoi(text) for text in (b"3\r", b"\t-4x", b"1e3", b"abc", b"2147483648")]
    [3, -4, 1, 0, -2147483648]
    """
    match = re.match(rb"[ \t\n\v\f\r]*([-+]?[0-9]+)", text)
    # A long is cut to an int; beyond a long strtol stops at its ends.
    value = max(-(2**63), min(2**63 - 1, int(match[1]))) if match else 0
    return (value + 2**31) % 2**32 - 2**31
