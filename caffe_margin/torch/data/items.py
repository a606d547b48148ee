"""Sources of images, which are read one by one and put together to a batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from caffe_margin.files.load import naming
from caffe_margin.torch.data.rng import Twister
from caffe_margin.torch.data.source import Batch, Source
from caffe_margin.torch.data.transform import Transformer


class Unreadable(ValueError):
    """An image that cannot be read."""


class Plan(NamedTuple):
    """What a batch is made of.

    Attributes:
        items: what `ItemSource.read` takes.
        draws: (batch, draws of an image) random numbers.
    """

    items: Sequence[Any]
    draws: np.ndarray


class ItemSource(Source):
    """A source of images with labels.

    Raises:
        ValueError: ``batch_size`` is 0, or ``transform_param`` contradicts itself.
    """

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """How many images a batch has."""

    @abstractmethod
    def items(self, start: int, count: int) -> Sequence[Any]:
        """Return what stands for the images from a position on."""

    @abstractmethod
    def following(self, item: Any) -> Any:
        """Return the item that takes a broken one's place."""

    @abstractmethod
    def where(self, item: Any) -> str:
        """Say where an item is."""

    @abstractmethod
    def read(self, item: Any) -> tuple[np.ndarray, int]:
        """Return an image, (channels, height, width), and its label.

        Raises:
            Unreadable: it is missing or broken.
        """

    @cached_property
    def transformer(self) -> Transformer:
        """What is done to an image."""
        with naming(f"layer {self.layer.name!r}"):
            transformer = Transformer(self.layer.transform_param, self.train, self.root)
            transformer.mean  # noqa: B018
        return transformer

    @cached_property
    def _draws(self) -> Twister:
        return Twister(self.seeds.transform)

    def open(self) -> None:
        """Read the mean, and see whether there are images."""
        if not self.batch_size:
            raise ValueError(f"layer {self.layer.name!r}: batch_size must be positive")
        self.transformer  # noqa: B018

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tops, which are those of the next batch's first image."""
        self.open()
        item = self.items(self.iteration * self.batch_size, 1)[0]
        image, _ = self._read_whole(item)
        with naming(self.where(item)):
            shape = self.transformer.shape(image)
        shapes = [(self.batch_size, *shape), (self.batch_size,)]
        return dict(zip(self.tops, shapes, strict=False))

    def _plan(self, iteration: int) -> Plan:
        start = iteration * self.batch_size
        per_image = self.transformer.draws
        draws = self._draws.take(start * per_image, self.batch_size * per_image)
        items = self.items(start, self.batch_size)
        return Plan(items, draws.reshape(self.batch_size, per_image))

    def _load(self, plan: Plan) -> Batch:
        data = np.empty(0, np.float32)
        label = np.empty(self.batch_size, np.float32)
        for i, (item, draws) in enumerate(zip(plan.items, plan.draws, strict=True)):
            image, label[i] = self._read_whole(item)
            try:
                if i == 0:
                    shape = self.transformer.shape(image)
                    data = np.empty((self.batch_size, *shape), np.float32)
                self.transformer(image, data[i], draws)
            except ValueError as error:
                raise ValueError(f"{self.where(item)}: {error}") from None
        tops = (torch.from_numpy(data), torch.from_numpy(label))
        return dict(zip(self.tops, tops, strict=False))

    def _read_whole(self, item: Any) -> tuple[np.ndarray, int]:
        """Read an item, or, with ``skip_broken``, the next that is whole."""
        first = item
        while True:
            try:
                return self.read(item)
            except Unreadable as error:
                problem = f"{self.where(item)}: {error}"
                if not self.skip_broken:
                    raise ValueError(problem) from None
                self.broken.add(problem)
            item = self.following(item)
            if item == first:
                raise ValueError(f"{problem}; nor can any other image be read")
