"""MemoryData: arrays of the caller's."""

from __future__ import annotations

import numpy as np
import torch

from caffe_margin.torch.data.source import Batch, Source


class MemoryData(Source):
    """The rows of arrays that the caller hands over. Source: MemoryDataLayer.

    The tops are views of the arrays: what is written into these the next batch has, and
    ``transform_param`` does nothing.

    Attributes:
        arrays: images and labels, as `set_input_arrays` took them.
    """

    arrays: tuple[np.ndarray, np.ndarray] | None = None

    def set_input_arrays(self, data: np.ndarray, label: np.ndarray) -> None:
        """Hand over images and labels, and start with the first batch.

        Args:
            data: (N, channels, height, width) float32, C-contiguous; N is a multiple of
                ``batch_size``.
            label: (N,) or (N, 1, 1, 1) float32, C-contiguous.

        Raises:
            ValueError: they are not that.
        """
        param = self.layer.memory_data_param
        name = f"layer {self.layer.name!r}"
        shape = param.channels, param.height, param.width
        if not (param.batch_size and min(shape)):
            raise ValueError(
                f"{name}: batch_size, channels, height and width of memory_data_param must be "
                f"positive"
            )
        if data.ndim != 4 or data.shape[1:] != shape:
            raise ValueError(f"{name}: data is {data.shape}; it must be (N, {str(shape)[1:]}")
        if label.shape not in ((len(data),), (len(data), 1, 1, 1)):
            raise ValueError(f"{name}: label is {label.shape}; it must be ({len(data)},)")
        for what, array in (("data", data), ("label", label)):
            if array.dtype != np.float32 or not array.flags.c_contiguous:
                raise ValueError(f"{name}: {what} must be float32 and C-contiguous")
        if not len(data) or len(data) % param.batch_size:
            raise ValueError(
                f"{name}: {len(data)} images are no multiple of batch_size {param.batch_size}"
            )
        self.arrays = data, label
        self.iteration = 0
        # A view costs nothing, and one ahead would be of the arrays before.
        self.workers = 0

    def open(self) -> None:
        """See whether there are arrays.

        Raises:
            ValueError: there are none.
        """
        if self.arrays is None:
            raise ValueError(
                f"layer {self.layer.name!r}: MemoryData has no arrays; hand them to "
                f"set_input_arrays of its source first"
            )

    @property
    def count(self) -> int:
        """How many images there are; none before they are handed over."""
        return 0 if self.arrays is None else len(self.arrays[0])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tops, which need no arrays; the labels' as a batch has them."""
        param = self.layer.memory_data_param
        data = param.batch_size, param.channels, param.height, param.width
        return dict(zip(self.tops, (data, (param.batch_size, 1, 1, 1)), strict=True))

    def _load(self, plan: int) -> Batch:
        assert self.arrays is not None
        size = self.layer.memory_data_param.batch_size
        data, label = self.arrays
        start = plan * size % len(data)
        rows = slice(start, start + size)
        tops = data[rows], label[rows].reshape(-1, 1, 1, 1)
        return dict(zip(self.tops, map(torch.from_numpy, tops), strict=True))
