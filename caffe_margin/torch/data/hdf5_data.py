"""HDF5Data: rows of HDF5 files, by a list."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from typing import Any

import numpy as np
import torch

from caffe_margin.files.regular import check_regular
from caffe_margin.files.visible import visible
from caffe_margin.torch.data.source import Batch, Source, read_list_file


class HDF5Data(Source):
    """The rows of the datasets that the tops name, from file to file, round and round.

    ``shuffle`` draws an order of the files, and of the rows in each, for every round; it follows
    the seed, where Caffe's follows C's ``rand``.

    Source: HDF5DataLayer.
    """

    @cached_property
    def paths(self) -> list[str]:
        """The files of the list.

        Raises:
            FileNotFoundError: there is no list.
            ValueError: it is empty.
        """
        source = self.layer.hdf5_data_param.source
        names = read_list_file(self.layer, source, self.root).split()
        if not names:
            raise ValueError(f"{visible(source)}: the list names no HDF5 file")
        return [os.path.join(self.root, os.fsdecode(name)) for name in names]

    @cached_property
    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of a row of each top: the first file's."""
        with _file(self.paths[0]) as file:
            return {top: _dataset(file, self.paths[0], top).shape[1:] for top in self.tops}

    @cached_property
    def ends(self) -> np.ndarray:
        """How many rows there are up to the end of each file: (files,).

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file lacks a dataset, its datasets differ in length, or their rows do
                not have as many values as the first file's.
        """
        lengths = []
        for path in self.paths:
            with _file(path) as file:
                datasets = [_dataset(file, path, top) for top in self.tops]
                lengths.append(len(datasets[0]))
                for top, dataset in zip(self.tops, datasets, strict=True):
                    self._check(path, top, dataset.shape, lengths[-1])
        if not sum(lengths):
            raise ValueError(f"{visible(self.paths[0])}: the datasets have no rows")
        return np.cumsum(lengths)

    def _check(self, path: str, top: str, shape: tuple[int, ...], length: int) -> None:
        if shape[0] != length:
            raise ValueError(
                f"{visible(path)}: {shape[0]} rows of {top!r}, but {length} of {self.tops[0]!r}"
            )
        if np.prod(shape[1:]) != np.prod(self.row_shapes[top]):
            raise ValueError(
                f"{visible(path)}: the rows of {top!r} are {shape[1:]}, but those of the first "
                f"file {self.row_shapes[top]}"
            )

    def open(self) -> None:
        """Open every file, to see what it holds."""
        if "ends" in vars(self):
            return
        if self.layer.HasField("transform_param"):
            raise ValueError(f"layer {self.layer.name!r}: HDF5Data takes no transform_param")
        if not self.layer.hdf5_data_param.batch_size:
            raise ValueError(f"layer {self.layer.name!r}: batch_size must be positive")
        self.ends  # noqa: B018

    @property
    def count(self) -> int:
        """How many rows the files have together."""
        return int(self.ends[-1])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tops: the first file's rows."""
        self.open()
        batch_size = self.layer.hdf5_data_param.batch_size
        return {top: (batch_size, *shape) for top, shape in self.row_shapes.items()}

    def _plan(self, iteration: int) -> np.ndarray:
        """Return the rows of a batch, counted over all files."""
        batch_size = self.layer.hdf5_data_param.batch_size
        count = int(self.ends[-1])
        positions = np.arange(iteration * batch_size, (iteration + 1) * batch_size)
        if not self.layer.hdf5_data_param.shuffle:
            return positions % count
        rounds, places = np.divmod(positions, count)
        orders = {number: self._shuffled(number) for number in set(rounds.tolist())}
        return np.array(
            [orders[number][place] for number, place in zip(rounds, places, strict=True)]
        )

    def _shuffled(self, number: int) -> np.ndarray:
        """Return the rows in the order of one round."""
        rng = np.random.default_rng([self.seeds.shuffle, number])
        rows = np.split(np.arange(self.ends[-1]), self.ends[:-1])
        return np.concatenate([rng.permutation(rows[i]) for i in rng.permutation(len(rows))])

    def _load(self, plan: np.ndarray) -> Batch:
        tops = {
            top: np.empty((len(plan), *shape), np.float32) for top, shape in self.row_shapes.items()
        }
        files = np.searchsorted(self.ends, plan, side="right")
        starts = np.concatenate([[0], self.ends])
        for number in np.unique(files):
            at = files == number
            for top, rows in self._read(int(number)).items():
                tops[top][at] = rows[plan[at] - starts[number]]
        return {top: torch.from_numpy(array) for top, array in tops.items()}

    @cached_property
    def _last_read(self) -> dict[int, dict[str, np.ndarray]]:
        return {}

    @cached_property
    def _lock(self) -> Any:
        return threading.Lock()

    def _read(self, number: int) -> dict[str, np.ndarray]:
        """Return a file's datasets, as float32 in the shapes of the first file's; two are kept."""
        with self._lock:
            kept = self._last_read
            if number not in kept:
                path = self.paths[number]
                with _file(path) as file:
                    rows = {top: _dataset(file, path, top)[...] for top in self.tops}
                while len(kept) > 1:
                    del kept[next(iter(kept))]
                kept[number] = {
                    top: array.astype(np.float32, copy=False).reshape(-1, *self.row_shapes[top])
                    for top, array in rows.items()
                }
            return kept[number]


def _file(path: str) -> Any:
    """Open an HDF5 file."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "HDF5 files are read by h5py: pip install 'caffe_margin[torch]'", name="h5py"
        ) from None
    try:
        check_regular(path)
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no HDF5 file {visible(path)!r}") from None
    except OSError as error:
        raise ValueError(f"{visible(path)} is no HDF5 file that can be read: {error}") from None


def _dataset(file: Any, path: str, top: str) -> Any:
    """Return a top's dataset. Source: hdf5_load_nd_dataset_helper."""
    dataset = file.get(top)
    if dataset is None or not hasattr(dataset, "shape"):
        has = ", ".join(visible(name) for name in file) or "none"
        raise ValueError(f"{visible(path)} has no dataset {top!r}; it has {has}")
    if dataset.dtype.kind not in "iuf" or not dataset.ndim:
        raise ValueError(
            f"{visible(path)}: the dataset {top!r} holds {dataset.dtype} in the shape "
            f"{dataset.shape}; it takes numbers, in rows"
        )
    return dataset
