"""A command over the processes that ``torchrun`` starts.

The first prints for all. What is wrong on one process all of them learn of where they agree, and
end alike; a process that ends for another reason leaves its status where the others find it.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from typing import TYPE_CHECKING, NoReturn

from caffe_margin.cli.common import complain

if TYPE_CHECKING:
    from caffe_margin.torch.launched import Launched
    from caffe_margin.torch.processes import Processes

LOST = 1
"""The exit status of a process that has lost another."""


def is_started() -> bool:
    """Return whether ``torchrun`` has started this process, or whatever sets what it sets."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def command() -> list[str]:
    """Return the words that start as many processes again."""
    env = os.environ
    here = env.get("LOCAL_WORLD_SIZE", env["WORLD_SIZE"])
    nodes = env.get("GROUP_WORLD_SIZE", "1")
    words = ["torchrun", *(["--nnodes", nodes] if nodes != "1" else []), "--nproc-per-node", here]
    return [*words, "-m", "caffe_margin"]


def run(
    main: Callable[[argparse.Namespace, Processes], int], options: argparse.Namespace
) -> NoReturn:
    """Run a command on this process, as one of all, and end the process.

    Args:
        main: what takes the options and the processes, and returns the exit status.
        options: ``device`` is replaced by this process's.

    Raises:
        ValueError: the processes do not meet.
    """
    # Where a process ends its sockets do, of which PyTorch warns by the page.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from caffe_margin.torch.launched import Launched

    status = _status(main, options, Launched(options.device))
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    # Not by Python's own way out, on which the threads of a backend can end it in an abort.
    os._exit(status)


def _status(
    main: Callable[[argparse.Namespace, Processes], int],
    options: argparse.Namespace,
    launched: Launched,
) -> int:
    """Run the command, and return how the process is to end, having said why."""
    from caffe_margin.torch.processes import AgreedError, LostError, reason_of

    processes = launched.processes
    try:
        with _first_prints(processes.rank):
            with processes.agreeing():
                options.device = launched.take_device(options.device)
            status = main(options, processes)
            processes.total(0)  # none ends while another still waits for what it sent
            return status
    except AgreedError as error:
        if processes.rank == 0:
            complain(error)
        return 2
    except LostError as error:
        told = launched.told()
        if told is None and launched.is_first_to_say():
            complain(f"{error}; go on from the last snapshot, on any number of processes")
        return LOST if told is None else told
    except BaseException as error:
        status = _own_status(error)
        launched.tell(status)
        if status == 2:
            complain(f"process {processes.rank}: {reason_of(error)}")
        elif status == 1 and not isinstance(error, BrokenPipeError):
            traceback.print_exc()
        return status


def _own_status(error: BaseException) -> int:
    """Return how a process ends alone by an error, as the command does."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    is_input = isinstance(error, ValueError | OSError | MemoryError)
    return 2 if is_input and not isinstance(error, BrokenPipeError) else 1


def _first_prints(rank: int) -> ExitStack:
    """Return a context in which the other processes are silent."""
    stack = ExitStack()
    if rank:
        nowhere = stack.enter_context(open(os.devnull, "w"))  # noqa: SIM115
        stack.enter_context(redirect_stdout(nowhere))
        stack.enter_context(redirect_stderr(nowhere))
    return stack
