"""What every source is: batches by number, read ahead by threads."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.regular import check_regular
from caffe_margin.files.visible import visible
from caffe_margin.torch.data.rng import Seeds

Batch = dict[str, Tensor]


def read_list_file(layer: pb.LayerParameter, source: str, root: str) -> bytes:
    """Return the bytes of the list that a layer's ``source`` names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no file is named.
    """
    if not source:
        raise ValueError(f"layer {layer.name!r} ({layer.type}): there is no source")
    path = os.path.join(root, source)
    try:
        check_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"layer {layer.name!r} ({layer.type}): there is no list {visible(path)!r}"
        ) from None
    with open(path, "rb") as file:
        return file.read()


class Source(ABC):
    """The batches of a data layer, in order, without end.

    Nothing is opened before it is needed. Batch I is a function of the files, the seeds and I, so
    that setting ``iteration`` goes to any batch without reading those before. Threads read ahead,
    as many batches as ``data_param { prefetch }`` says, of any data layer that Caffe reads ahead;
    decoding releases Python's lock. In what thread a batch is read changes nothing in it.

    Args:
        layer: the data layer's message.
        seeds: what it has drawn.
        train: whether the net is Caffe's TRAIN.
        root: the folder from which paths in ``layer`` start.

    Attributes:
        iteration: the batch that comes next, from 0.
        workers: how many threads read ahead; 0 reads each batch when it is asked for.
        skip_broken: whether an image that cannot be read gives its place to the next one in the
            list, instead of raising.
        broken: where they are, those met so far.
        turn: this process's number and how many there are, where several share the batches, as
            the solvers of Caffe on several GPUs do: batch I is then the process's own I-th.
    """

    def __init__(
        self,
        layer: pb.LayerParameter,
        seeds: Seeds = Seeds(),  # noqa: B008
        *,
        train: bool = False,
        root: str = "",
    ) -> None:
        self.layer = layer
        self.tops = tuple(layer.top)
        self.seeds = seeds
        self.train = train
        self.root = root
        self.iteration = 0
        self.workers = min(4, os.cpu_count() or 1)
        self.skip_broken = False
        self.broken: set[str] = set()
        self.turn = (0, 1)
        self._ahead: deque[tuple[int, Future[Batch]]] = deque()

    @abstractmethod
    def open(self) -> None:
        """Open what is read, and check what costs little; a second call does nothing."""

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tops of the next batch, by name."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many rows or images there are, before they come again."""

    @abstractmethod
    def _load(self, plan: Any) -> Batch:
        """Read a batch, in any thread."""

    def _plan(self, iteration: int) -> Any:
        """Return what `_load` has to know of a batch."""
        return iteration

    def _plan_own(self, iteration: int) -> Any:
        """Return the plan of this process's batch."""
        rank, size = self.turn
        return self._plan(iteration * size + rank)

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Batch:
        """Return the tops of the next batch by name; where it fails, it is next again."""
        batch = self.peek()
        self.iteration += 1
        return batch

    def peek(self) -> Batch:
        """Return the next batch, which stays the next."""
        self.open()
        if not self.workers:
            return self._load(self._plan_own(self.iteration))
        ahead = self._ahead
        while ahead and ahead[0][0] < self.iteration:
            ahead.popleft()
        if ahead and ahead[0][0] > self.iteration:
            ahead.clear()
        while len(ahead) <= self.layer.data_param.prefetch:
            iteration = self.iteration + len(ahead)
            ahead.append((iteration, self._pool.submit(self._load, self._plan_own(iteration))))
        try:
            return ahead[0][1].result()
        except Exception:
            ahead.clear()  # read again, should somebody mend the file
            raise

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.workers, thread_name_prefix=f"source {self.layer.name}")

    def close(self) -> None:
        """Close what is open. The next batch opens it again."""
        self._ahead.clear()
        for name in self._opened():
            if name == "_pool":
                self._pool.shutdown(cancel_futures=True)
            del self.__dict__[name]

    def _opened(self) -> list[str]:
        """The attributes that were made when they were needed."""
        kind = type(self)
        return [name for name in vars(self) if isinstance(getattr(kind, name, 0), cached_property)]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is open, for a copy of a net."""
        kept = {name: value for name, value in vars(self).items() if name not in self._opened()}
        return {**kept, "_ahead": deque()}
