"""Streams whose every wait is bounded.

A stream has no total deadline: one that suits a kilobyte would cut a large model off half-way, and one that suits a
large model would let a dead connection hang for hours. What is bounded is each wait for the other side; the time that
this side takes (reading a file, looking at a message) does not count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class Watchdog:
    """Cancels a call whose other side has been silent for too long, while it is waited for."""

    def __init__(self, cancel: Callable[[], object], idle_timeout_s: float) -> None:
        self._cancel = cancel
        self.idle_timeout_s = idle_timeout_s
        self._waiting_since: float | None = None
        self._closed = threading.Event()
        self.bit = False
        """Whether it cancelled the call."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="penstock-watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed.set()

    def waiting(self) -> None:
        """Begin to wait for the other side, or begin anew: it gave a sign of life."""
        self._waiting_since = time.monotonic()

    def busy(self) -> None:
        """It is this side's turn."""
        self._waiting_since = None

    def _watch(self) -> None:
        left_s = self.idle_timeout_s
        while not self._closed.wait(left_s):
            since = self._waiting_since
            left_s = self.idle_timeout_s if since is None else since + self.idle_timeout_s - time.monotonic()
            if left_s <= 0:
                self.bit = True
                self._cancel()
                return


class Turns:
    """Whose turn it is in an exchange, where both go on at once: the watchdog minds the server's alone."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._lock = threading.Lock()
        self._open_count = 0
        self._reading = False

    def asked(self) -> None:
        """A request, or the end of them, went out: the server owes an answer."""
        with self._lock:
            self._open_count += 1
            if self._reading:
                self._watchdog.waiting()

    def reading(self) -> None:
        """The caller wants the next answer."""
        with self._lock:
            self._reading = True
            if self._open_count:
                self._watchdog.waiting()

    def answered(self) -> None:
        """An answer came, and the caller looks at it."""
        with self._lock:
            self._reading = False
            self._open_count -= 1
            self._watchdog.busy()


class Feed(Generic[Item]):
    """The requests of an upload, as grpc's own thread takes them.

    An error of the source ends the call, and is kept for the caller: grpc would print it and report UNKNOWN.
    """

    def __init__(
        self, source: Iterator[Item], *, given: Callable[[], None], taken: Callable[[], None] = lambda: None
    ) -> None:
        self._source = source
        self._taken = taken
        self._given = given
        self._cancel: Callable[[], object] | None = None
        self._attached = threading.Event()
        self.error: BaseException | None = None
        """What the source raised."""

    def attach(self, cancel: Callable[[], object]) -> None:
        """Say how to give the call up, once there is one."""
        self._cancel = cancel
        self._attached.set()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        self._taken()
        try:
            return next(self._source)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            self._attached.wait()
            if self._cancel is not None:
                self._cancel()
            raise StopIteration from error
        finally:
            self._given()
