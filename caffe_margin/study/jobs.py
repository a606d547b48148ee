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

    Where this is stopped or killed, so are they; where one fails, the others are stopped.

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
    done, taken = context.Value("q", 0), context.Value("q", 0)
    alive: list[tuple[Any, Connection]] = []
    try:
        for _ in range(min(jobs, len(runs))):
            receive, send = context.Pipe(duplex=False)
            arguments = (plan, runs, prepare, done, taken, send)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            send.close()
            alive.append((process, receive))
        while alive:
            wait([process.sentinel for process, _ in alive], LOOK)
            seen(done.value)
            for process, receive in [pair for pair in alive if not pair[0].is_alive()]:
                alive.remove((process, receive))
                _raise_problem(process.exitcode, receive)
    finally:
        for process, _ in alive:
            process.terminate()
            process.join()


def _raise_problem(status: int, receive: Connection) -> None:
    try:
        problem = receive.recv()
    except EOFError:
        problem = f"a process of the training ended with status {status}" if status else ""
    if problem:
        raise ValueError(problem)


def _work(
    plan: Plan,
    runs: Sequence[Run],
    prepare: Callable[[], object],
    done: Any,
    taken: Any,
    send: Connection,
) -> None:
    """Train one run after another that nobody has taken; what is wrong goes through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent sees to it

    parent = multiprocessing.parent_process()

    def one_of(counter: Any) -> int:
        if parent is None or not parent.is_alive():
            raise SystemExit  # nobody waits for it any more, and another may begin with the same
        with counter.get_lock():
            counter.value += 1
            return int(counter.value) - 1

    prepare()
    while (number := one_of(taken)) < len(runs):
        try:
            train_run(plan, runs[number], lambda: one_of(done))
        except (ValueError, OSError) as error:
            send.send(f"{runs[number].name}: {error}")
            return
