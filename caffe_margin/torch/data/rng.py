"""Caffe's random numbers, and which of them a data layer draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffe_margin import caffe_margin_pb2 as pb


class Twister:
    """The 32-bit numbers of a Mersenne Twister, from any place of their sequence.

        >>> twister = Twister(5489)
        >>> twister.draw()
        3499211612
        >>> twister.take(9999, 1)  # what the C++ standard asks of std::mt19937
        array([4123659995], dtype=uint64)

    Source: boost's mt19937, which is Caffe's ``rng_t``.

    Attributes:
        seed: what Caffe would have been given; taken modulo 2**32.
        position: how many numbers have been drawn.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed % 2**32
        self._restart()

    def _restart(self) -> None:
        self._bits = np.random.MT19937()
        np.random.RandomState(self._bits).seed(self.seed)
        self.position = 0

    def draw(self) -> int:
        """Return the next number."""
        return int(self.take(self.position, 1)[0])

    def take(self, start: int, count: int) -> np.ndarray:
        """Return numbers of the sequence, and go on behind them.

        Args:
            start: how many there are before the first.
            count: how many to return.

        Returns:
            (count,) uint64, each below 2**32.
        """
        if start < self.position:
            self._restart()
        if start > self.position:
            self._bits.random_raw(start - self.position, output=False)
        self.position = start + count
        return self._bits.random_raw(count)

    def shuffle(self, order: list[int]) -> None:
        """Shuffle a list in place.

        Source: shuffle of util/rng.hpp, with boost's uniform_int.
        """
        last = np.arange(len(order) - 1, 0, -1, dtype=np.uint64)
        width = np.uint64(2**32) // (last + np.uint64(1))
        draws = self.take(self.position, len(last))
        other = draws // width
        # A number above the last whole interval is drawn again, and moves those behind it up.
        while (beyond := other > last).any():
            place = int(beyond.argmax())
            draws = np.append(np.delete(draws, place), np.uint64(self.draw()))
            other[place:] = draws[place:] // width[place:]
        for i, j in zip(last.tolist(), other.tolist(), strict=True):
            order[i], order[j] = order[j], order[i]


@dataclass(frozen=True)
class Seeds:
    """What a data layer draws when it is set up.

    Attributes:
        transform: the seed of the crops and mirrors.
        shuffle: the seed of the order.
        skip: the number of which ``rand_skip`` takes the remainder.
    """

    transform: int = 0
    shuffle: int = 0
    skip: int = 0


_PREFETCHED = {"ImageData", "Data", "WindowData"}


def draw_seeds(layer: pb.LayerParameter, train: bool, rng: Twister) -> Seeds:
    """Draw what a data layer draws when it is set up, in Caffe's order.

    HDF5Data draws nothing: Caffe shuffles its rows by C's ``rand``, whatever ``random_seed`` says.
    Here they follow the seed of the same twister without a draw.

    Source: BaseDataLayer::LayerSetUp, ImageDataLayer::DataLayerSetUp,
    BasePrefetchingDataLayer::LayerSetUp, DataTransformer::InitRand.

    Args:
        layer: the data layer's message.
        train: whether the net is Caffe's TRAIN.
        rng: where all layers of the net draw from, one after the other.
    """
    if layer.type not in {*_PREFETCHED, "MemoryData"}:
        return Seeds(shuffle=rng.seed)
    transform = layer.transform_param
    is_random = transform.mirror or (train and transform.crop_size > 0)
    if is_random:
        rng.draw()  # the transformer is seeded twice
    if layer.type not in _PREFETCHED:
        return Seeds()
    param = layer.image_data_param
    shuffle = rng.draw() if param.shuffle else 0
    skip = rng.draw() if param.rand_skip else 0
    seeds = Seeds(rng.draw() if is_random else 0, shuffle, skip)
    rng.draw()  # the thread's
    return seeds
