"""Ends together what belongs together: the connections of a file, the files of a job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.fetcher.sources.source import Stopping


class Ended(Exception):
    """Another thread of the same transfer has failed, and says why; this one ends with it."""


class Ending:
    """What many threads are part of: it is over when whom it is part of ends, or when the first of them fails."""

    def __init__(self, outer: Stopping) -> None:
        self._outer = outer
        self._lock = threading.Lock()
        self._over = False
        self._callbacks: list[Callable[[], None]] = []
        self.error: BaseException | None = None
        self.stopping = Stopping(self.check, self.on_stop, self.forget, outer.kept)

    def check(self) -> None:
        """Go on, or raise `Ended`, or what whom it is part of raises."""
        self._outer.check()
        if self._over:
            raise Ended

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Have a callback called when it is over; at once where it is."""
        with self._lock:
            over = self._over
            if not over:
                self._callbacks.append(callback)
        if over:
            callback()
        else:
            self._outer.on_stop(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        """Take a callback back."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)
        self._outer.forget(callback)

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Have those who wait look again when it is over."""
        self.on_stop(wake)
        try:
            yield
        finally:
            self.forget(wake)

    def stop(self) -> None:
        """End all of it."""
        with self._lock:
            self._over = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def guarded(self, work: Callable[[], None]) -> None:
        """Do some of it in a thread; what it raises ends the rest, and is kept in `error` unless all was over before:
        who is ended stumbles over that.
        """
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whoever waits for all of it raises it again
            with self._lock:
                if not self._over and not isinstance(error, Ended):
                    self.error = error
            self.stop()
