"""Many predictions over one stream: taken as fast as there is room for them, and answered in their order.

A stream has two threads: one reads and begins predictions, and its call's own writes the answers. The first goes no
further ahead of the second than `max_in_flight`, so a client that does not read its answers is not read from either.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeVar

from services.inference.prediction import Done, OnCancel, Outcome

Request = TypeVar("Request")
Response = TypeVar("Response")
Begin = Callable[[Request, Done], Callable[[], None]]
"""Begins a prediction and gives what cancels it. What it raises is the outcome."""
Write = Callable[[Request, Outcome], Response]
"""Writes the answer to a request."""


class _Taken(Generic[Request]):
    """A request that was taken; its outcome is None until it is there."""

    __slots__ = ("cancel", "outcome", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.outcome: Outcome | None = None
        self.cancel: Callable[[], None] | None = None


class PredictionStream(Generic[Request, Response]):
    """One stream, from its first request to its end."""

    def __init__(self, begin: Begin[Request], write: Write[Request, Response], *, max_in_flight: int) -> None:
        self._begin = begin
        self._write = write
        self._room = threading.Semaphore(max_in_flight)
        self._taken: deque[_Taken[Request]] = deque()
        # A token for each outcome, and one when the requests end: the writer sleeps while there is none.
        self._news: SimpleQueue[None] = SimpleQueue()
        self._ending = threading.Lock()
        self._ended = False
        self._error: Exception | None = None
        self._gone = False

    def answers(self, requests: Iterator[Request], *, on_cancel: OnCancel) -> Iterator[Response]:
        """Give the answers; raises what ended the requests once all that was taken before is answered.

        `on_cancel` takes a callback for when the client goes away; says False where it has gone already.
        """
        if not on_cancel(self.abandon):
            return
        # What is known of the call, its trace for one, goes along to the other thread.
        read = partial(copy_context().run, self._read, requests)
        threading.Thread(target=read, name="stream-reader", daemon=True).start()
        try:
            while not self._gone:
                self._news.get()
                while self._taken and (outcome := self._taken[0].outcome) is not None and not self._gone:
                    yield self._write(self._taken[0].request, outcome)
                    # Only now, when the client took it, is there room for another.
                    self._taken.popleft()
                    self._room.release()
                if self._ended and not self._taken:
                    break
            if self._error is not None:
                raise self._error
        finally:
            self.abandon()

    def end(self, error: Exception | None = None) -> None:
        """Take nothing more; what was taken is answered, and then `error` raised."""
        with self._ending:
            if self._ended:
                return
            self._ended, self._error = True, error
        self._room.release()
        self._news.put(None)

    def abandon(self) -> None:
        """Let go of everything: nobody waits for the answers any more."""
        self._gone = True
        self.end()
        for taken in tuple(self._taken):
            if taken.cancel is not None:
                taken.cancel()
        self._news.put(None)

    def _read(self, requests: Iterator[Request]) -> None:
        error: Exception | None = None
        try:
            while self._room.acquire() and not self._ended:
                request = next(requests, None)
                if request is None or not self._take(_Taken(request)):
                    break
        except Exception as raised:  # noqa: BLE001 - the writer raises it, in the thread that can say so
            error = raised
        self.end(error)

    def _take(self, taken: _Taken[Request]) -> bool:
        with self._ending:
            if self._ended:
                return False
            self._taken.append(taken)
        done = partial(self._done, taken)
        try:
            taken.cancel = self._begin(taken.request, done)
        except Exception as error:  # noqa: BLE001 - it is this request's, and the stream goes on
            done(error)
        if self._gone and taken.cancel is not None:  # while it was begun
            taken.cancel()
        return True

    def _done(self, taken: _Taken[Request], outcome: Outcome) -> None:
        taken.outcome = outcome
        self._news.put(None)
