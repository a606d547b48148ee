"""The processes that ``torchrun`` starts: how they meet, and what those that end leave behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from caffe_margin.torch.checks import check_device
from caffe_margin.torch.processes import Processes

PATIENCE = timedelta(minutes=30)
"""How long a process waits for another, which may verify or write a snapshot meanwhile."""
STATUS, SAID = "caffe_margin/status", "caffe_margin/said"
"""What the store of the processes holds of those that have ended."""


class Launched:
    """A process among those that ``torchrun`` has started.

    Args:
        device: what each computes on: ``"cuda"``, where each has a GPU of its own and tensors there
            are exchanged by NCCL, or another, where all is exchanged by gloo.

    Attributes:
        processes: all of them.

    Raises:
        ValueError: they do not meet.
    """

    def __init__(self, device: str) -> None:
        on_gpus = device.startswith("cuda") and torch.cuda.is_available()
        try:
            self._store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
                store=self._store,
                rank=rank,
                world_size=size,
                timeout=PATIENCE,
            )
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"the processes do not meet: {reason}") from None
        self.processes = Processes.of(None)

    def take_device(self, name: str) -> str:
        """Return the device of this process, which is there.

        Raises:
            ValueError: there is none, or the name is of one GPU.
        """
        if name.startswith("cuda"):
            if name != "cuda":
                raise ValueError(f"device {name} is one GPU, and every process has its own: cuda")
            name = f"cuda:{os.environ.get('LOCAL_RANK', os.environ['RANK'])}"
        check_device(name)
        if name.startswith("cuda"):
            torch.cuda.set_device(name)
        return name

    def tell(self, status: int) -> None:
        """Leave the status that this process ends with, having said why."""
        self._ask(lambda: self._store.set(STATUS, str(status)), None)

    def told(self) -> int | None:
        """Return the status that another has left; None where it left none."""
        if self._ask(lambda: self._store.check([STATUS]), False):
            return int(self._store.get(STATUS))
        return None

    def is_first_to_say(self) -> bool:
        """Return whether no other has asked this before, as far as can be known."""
        return self._ask(lambda: self._store.add(SAID, 1), 1) == 1

    @staticmethod
    def _ask(question: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return question()
        except RuntimeError:  # the store was a process's that has ended
            return otherwise
