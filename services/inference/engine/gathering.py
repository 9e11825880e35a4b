"""A leader that waits a moment for others to join it, where its version's settings say so."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from services.common.pools import WAITING
from services.inference.engine.requests import Ticket


class Gathering:
    """One leader of a lane gathers at a time; `leader` is it. Whoever reads or ends it holds the lane's lock."""

    __slots__ = ("_lock", "leader")

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self.leader: Ticket | None = None

    def begin(self, leader: Ticket, on_cancel: Callable[[], None]) -> None:
        """Have this leader gather; it is to `wait` then."""
        leader.wake.acquire()
        leader.request.on_cancel = on_cancel
        self.leader = leader

    def wait(self, leader: Ticket, until_ns: int) -> None:
        """Sleep until then, or until it is ended; the lock is not held."""
        if leader.start_by_ns:
            until_ns = min(until_ns, leader.start_by_ns)
        if not leader.request.cancelled:
            with WAITING:
                leader.wake.acquire(timeout=max(0.0, (until_ns - time.monotonic_ns()) / 1e9))
        with self._lock:
            leader.request.on_cancel = None
            if self.leader is leader:
                self.leader = None

    def end(self) -> None:
        """Wake the one that gathers: its batch is full, or nobody waits for it any more."""
        leader, self.leader = self.leader, None
        if leader is not None:
            leader.wake.release()
