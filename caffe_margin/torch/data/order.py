"""In which order a source's items come."""

from __future__ import annotations

import numpy as np

from caffe_margin.torch.data.rng import Twister


class Order:
    """The items of a list, round and round, shuffled anew in each round or not.

        >>> Order(3).take(2, 5)
        array([2, 0, 1, 2, 0])
        >>> Order(3, shuffle=7).take(0, 6)
        array([1, 2, 0, 2, 1, 0])

    Any stretch can be asked for; those that follow each other cost the least.

    Source: ImageDataLayer::ShuffleImages, which shuffles the order of the round before.

    Args:
        count: how many items there are.
        shuffle: the seed of the shuffles; None keeps the list's order.
        skip: how many items of the first round are left out.
    """

    def __init__(self, count: int, shuffle: int | None = None, skip: int = 0) -> None:
        self.count = count
        self.skip = skip
        self._twister = None if shuffle is None else Twister(shuffle)
        self._restart()

    def _restart(self) -> None:
        self._rounds = 0
        self._items = list(range(self.count))
        if self._twister is not None:
            self._twister = Twister(self._twister.seed)
            self._twister.shuffle(self._items)
        self._array = np.array(self._items)

    def take(self, start: int, count: int) -> np.ndarray:
        """Return the items from a position on: (count,) indices."""
        positions = np.arange(start, start + count) + self.skip
        if self._twister is None:
            return positions % self.count
        taken = np.empty(count, np.int64)
        rounds, places = np.divmod(positions, self.count)
        for number in np.unique(rounds).tolist():
            taken[rounds == number] = self._round(number)[places[rounds == number]]
        return taken

    def _round(self, number: int) -> np.ndarray:
        """Return the order of one round."""
        assert self._twister is not None
        if number < self._rounds:
            self._restart()
        while self._rounds < number:
            self._twister.shuffle(self._items)
            self._rounds += 1
            self._array = np.array(self._items)
        return self._array
