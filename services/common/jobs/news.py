"""Whoever waits for a job to change, woken by the one connection that listens."""

from __future__ import annotations

import threading

from services.common.postgres import Listener

LOOK_INTERVAL_S = 1.0


class JobNews:
    """Rings whenever some job may have changed. A ring is a hint: who hears it reads the job."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._changed = threading.Condition()
        self._count = 0
        self._thread = threading.Thread(target=self._listen, name="job-news", daemon=True)

    def open(self) -> None:
        """Start listening."""
        self._listener.__enter__()
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
        self._thread.join()
        self._listener.__exit__(None, None, None)

    @property
    def count(self) -> int:
        """How often it has rung; read it before the job, so that no ring is missed."""
        return self._count

    def wait(self, seen_count: int, timeout_s: float) -> None:
        """Wait until it has rung since it had rung so often, for a second at most: the caller looks about."""
        with self._changed:
            self._changed.wait_for(lambda: self._count != seen_count, min(timeout_s, LOOK_INTERVAL_S))

    def _listen(self) -> None:
        for _ in self._listener:
            with self._changed:
                self._count += 1
                self._changed.notify_all()
