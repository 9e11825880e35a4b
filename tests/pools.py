"""Pools of threads, and work that is held up in them: what their tests share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.pools import BoundedPool

TIMEOUT_S = 60.0
ENDLESS_S = 600.0
"""A patience that no test outlasts: what begins did not begin because of it."""


@contextmanager
def pool(
    threads: int,
    backlog: int,
    overflow: BoundedPool | None = None,
    *,
    awake: int | None = None,
    patience_s: float = ENDLESS_S,
) -> Iterator[BoundedPool]:
    made = BoundedPool(threads, backlog, "test", overflow, awake, patience_s)
    try:
        yield made
    finally:
        made.shutdown(wait=True, cancel_futures=True, timeout_s=TIMEOUT_S)
        assert not any(worker.thread.is_alive() for worker in made._workers)


def settled(made: BoundedPool) -> bool:
    """Whether every thread sleeps, and every place among those awake was given back."""
    return made._awake == 0 and len(made._asleep) == len(made._workers)


class Gate:
    """Work that begins, and ends when it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def work(self) -> None:
        self.begun.set()
        assert self.open.wait(2 * TIMEOUT_S)  # whoever waits for what it holds up gives up first


def done(call: object) -> threading.Event:
    event = threading.Event()
    call.add_done_callback(lambda _: event.set())  # type: ignore[attr-defined]
    return event
