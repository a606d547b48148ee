"""Runs of a whole net in processes of their own, some at a time."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from caffe_margin.study.whole_net import Plan, Run, train_run

LOOK = 0.3
"""Seconds between looks at how far they are."""


def train_all(
    plan: Plan,
    runs: Sequence[Run],
    jobs: int,
    prepare: Callable[[], object],
    seen: Callable[[int], object],
) -> None:
    """Train all of them, from where former calls were stopped.

    Where this is stopped, so are they; where one fails, the others are stopped.

    Args:
        plan: what they have in common.
        runs: which.
        jobs: how many at a time.
        prepare: called in each process before it starts; a function of a module.
        seen: called now and then with how many iterations are done of all.

    Raises:
        ValueError: a run failed, or its process ended.
    """
    context = multiprocessing.get_context("spawn")
    done, waiting = context.Value("q", 0), list(runs)
    alive: dict[str, tuple[Any, Connection]] = {}
    try:
        while waiting or alive:
            while waiting and len(alive) < jobs:
                run, (receive, send) = waiting.pop(0), context.Pipe(duplex=False)
                process = context.Process(
                    target=_work, args=(plan, run, prepare, done, send), daemon=True
                )
                process.start()
                send.close()
                alive[run.name] = process, receive
            wait([process.sentinel for process, _ in alive.values()], LOOK)
            seen(done.value)
            for name, (process, receive) in list(alive.items()):
                if not process.is_alive():
                    del alive[name]
                    _raise_problem(name, process.exitcode, receive)
    finally:
        for process, _ in alive.values():
            process.terminate()
            process.join()


def _raise_problem(name: str, status: int, receive: Connection) -> None:
    try:
        problem = receive.recv()
    except EOFError:
        problem = f"its process ended with status {status}" if status else ""
    if problem:
        raise ValueError(f"{name}: {problem}")


def _work(plan: Plan, run: Run, prepare: Callable[[], object], done: Any, send: Connection) -> None:
    """Train one; what is wrong with it goes through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent sees to it

    def count() -> None:
        with done.get_lock():
            done.value += 1

    prepare()
    try:
        train_run(plan, run, count)
    except (ValueError, OSError) as error:
        send.send(str(error))
