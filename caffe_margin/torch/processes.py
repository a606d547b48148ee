"""A group of processes, and what they exchange."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

# The names since PyTorch 2.13, and those before.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class AgreedError(ValueError):
    """What is wrong on one process, raised on all of them at the same place."""


class LostError(RuntimeError):
    """Another process does not answer any more."""


class Processes(NamedTuple):
    """A group of processes, and what they exchange.

    Attributes:
        group: None for all.
        rank: this process's number in it.
        size: how many there are.
    """

    group: dist.ProcessGroup | None
    rank: int
    size: int

    @classmethod
    def of(cls, group: dist.ProcessGroup | None) -> Processes:
        """Return a group that this process is in.

        Raises:
            ValueError: it is not, or there are no processes yet.
        """
        if dist.get_rank(group) < 0:
            raise ValueError("this process is not in the group; it can have no rows there")
        return cls(group, dist.get_rank(group), dist.get_world_size(group))

    def share(self, count: int, rank: int | None = None) -> range:
        """Return a process's part of ``count`` things; the first ones have one more than others."""
        rank = self.rank if rank is None else rank
        least, more = divmod(count, self.size)
        start = rank * least + min(rank, more)
        return range(start, start + least + (rank < more))

    @property
    def device(self) -> torch.device:
        """Where the backend takes small tensors: NCCL alone takes none on a CPU."""
        if dist.get_backend(self.group) == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    @contextmanager
    def agreeing(self, facts: Callable[[], str] = str) -> Iterator[None]:
        """Raise on all what a block, in which nothing is exchanged, raises on one.

        Args:
            facts: says, after the block, what must be the same on all.

        Raises:
            AgreedError: the block raises on one, or they differ in the facts.
        """
        problem, said = None, ""
        try:
            yield
            said = facts()
        except Exception as error:  # whatever it is, the others wait to hear of it
            problem = error
        self.agree(1, said, problem, self.device)

    def agree(
        self, count: int, facts: str, problem: Exception | None, device: torch.device
    ) -> list[int]:
        """Return the counts of all.

        Args:
            count: this process's number of samples.
            facts: what must be the same on all.
            problem: what is wrong on this one.
            device: where the backend wants its tensors.

        Raises:
            AgreedError: there is a problem on one, they differ in a fact, or there are no samples.
        """
        own = [count, problem is not None, zlib.crc32(facts.encode())]
        table = self.gather(torch.tensor([own], device=device), [1] * self.size).tolist()
        counts, failed, sums = zip(*table, strict=True)
        if any(failed) or len(set(sums)) > 1:
            texts: list[Any] = [None] * self.size
            with self._together():
                text = facts if problem is None else reason_of(problem)
                dist.all_gather_object(texts, text, self.group)
            if all(failed) and len(set(texts)) == 1:
                raise AgreedError(texts[0]) from problem
            if any(failed):
                rank = failed.index(True)
                raise AgreedError(f"process {rank}: {texts[rank]}") from problem
            other = next(i for i, text in enumerate(texts) if text != texts[0])
            raise AgreedError(
                f"the processes must agree: process 0 has {texts[0]}, and process {other} "
                f"{texts[other]}"
            )
        if not sum(counts):
            raise AgreedError("there are no samples on any process; the mean over none is none")
        return list(counts)

    def gather(self, part: Tensor, counts: list[int]) -> Tensor:
        """Return the parts of all in one, of ``counts`` rows each."""
        most = max(counts)
        whole = part.new_empty(self.size * most, *part.shape[1:])
        with self._together():
            _all_gather(whole, _padded(part, most), self.group)
        return _without_padding(whole, counts)

    def scatter(self, whole: Tensor, counts: list[int]) -> Tensor:
        """Return this process's part, of ``counts`` rows, of the sum of all's."""
        most = max(counts)
        if min(counts) < most:
            whole = torch.cat([_padded(part, most) for part in whole.split(counts)])
        part = whole.new_empty(most, *whole.shape[1:])
        with self._together():
            _reduce_scatter(part, whole, group=self.group)
        return part[: counts[self.rank]]

    def reduce(self, tensor: Tensor, op: Any) -> Tensor:
        """Return the sum or the maximum over all; the tensor is overwritten with it."""
        with self._together():
            dist.all_reduce(tensor, op, self.group)
        return tensor

    def send_first(self, tensor: Tensor) -> None:
        """Send to the first process."""
        with self._together():
            dist.send(tensor, group=self.group, group_dst=0)

    def receive(self, tensor: Tensor, rank: int) -> Tensor:
        """Return what a process sends, in the tensor."""
        with self._together():
            dist.recv(tensor, group=self.group, group_src=rank)
        return tensor

    def highest(self, number: int) -> int:
        """Return the highest of the numbers of all."""
        return int(self.reduce(torch.tensor(number, device=self.device), dist.ReduceOp.MAX))

    def total(self, number: int) -> int:
        """Return the sum of the numbers of all."""
        return int(self.reduce(torch.tensor(number, device=self.device), dist.ReduceOp.SUM))

    def union(self, items: set[str]) -> set[str]:
        """Return what any of them has."""
        parts: list[Any] = [None] * self.size
        with self._together():
            dist.all_gather_object(parts, items, self.group)
        return set().union(*parts)

    def from_first(self, value: Any) -> Any:
        """Return what the first process gives."""
        values = [value]
        with self._together():
            dist.broadcast_object_list(values, group=self.group, group_src=0)
        return values[0]

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Say what it means where the backend fails."""
        try:
            yield
        except RuntimeError as error:
            raise self.lost(error) from error

    def lost(self, error: RuntimeError) -> LostError:
        """Return what it means that the backend failed."""
        # Without where in its source it was, and what gloo makes of it.
        reason = re.sub(r"^\[\S+\] |\. This is typically .*", "", str(error).partition("\n")[0])
        return LostError(
            f"process {self.rank} of {self.size} has lost another, which may have ended: {reason}"
        )


def reason_of(error: BaseException) -> str:
    """Return an error in words, a file's with its name first."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename!r}: {error.strerror or error}"
    return str(error) or type(error).__name__


def _padded(part: Tensor, count: int) -> Tensor:
    """Return the rows, contiguous, with zeros after them up to a count."""
    if len(part) == count:
        return part.contiguous()
    return torch.cat([part, part.new_zeros(count - len(part), *part.shape[1:])])


def _without_padding(whole: Tensor, counts: list[int]) -> Tensor:
    """Return the first rows of each part, of ``counts``, all parts being of the same length."""
    most = max(counts)
    if min(counts) == most:
        return whole
    parts = whole.split(most)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
