"""Calls with a stream in either direction, watched from outside: the thread of each may be waiting for its client.

A stream ends early when the server drains, when its key is no longer in force, and when its client has been silent
for too long. Its status goes out at once, from the thread that noticed; the call's own thread finds out as it moves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc

from services.common import errors
from services.common.budgets import MAX_PAUSE_S, Budget
from services.common.status import set_status

DRAINING = errors.Unavailable(
    "this server is shutting down; connect again to reach another", reason="DRAINING", retry_after_s=0.1
)


@dataclass(frozen=True, slots=True)
class StreamKind:
    """What a stream's RPC says of it.

    Attributes:
        endless: it has no end of its own, may be silent while there is room, and ends when the server drains.
        takes_all: its requests come whole before its one answer: once they are here, only the deadline ends it.
        counts_messages: each of its requests counts as one against the key's limit.
    """

    endless: bool = False
    takes_all: bool = False
    counts_messages: bool = False


class Stream:
    """A stream that is open. Its status goes out once, from whichever thread comes first.

    Args:
        context: the call.
        send: puts a response on the wire, or, given None, the status.
        kind: what its RPC says of it.
        check_key: raises where the caller would no longer be let in.
    """

    def __init__(
        self,
        context: grpc.ServicerContext,
        send: Callable[[Any], None],
        kind: StreamKind,
        check_key: Callable[[], None] = lambda: None,
    ) -> None:
        self.kind = kind
        self.check_key = check_key
        self.budget: Budget | None = None
        self._context = context
        self._send = send
        self._lock = threading.Lock()
        self._ended: errors.DomainError | None = None
        self._open = True
        self._taken_in = False
        self._closed = threading.Event()
        self._reading_since: float | None = None
        self._sending_since: float | None = None
        self._sent_at = 0.0
        self._draining = False
        self._on_drain: Callable[[], None] | None = None

    @property
    def open(self) -> bool:
        """Whether there is still someone to send to."""
        return self._open and self._context.is_active()

    @property
    def ended(self) -> bool:
        """Whether its status is out."""
        return not self._open

    def silent_s(self) -> float:
        """Say how long its client has been waited for: to send its next request, or to take a response."""
        sending, reading = self._sending_since, self._reading_since
        if sending is not None:
            return time.monotonic() - sending
        if reading is not None:
            return time.monotonic() - max(reading, self._sent_at)
        return 0.0

    def requests(self, source: Iterator[Any]) -> Iterator[Any]:
        """Give the client's requests. Where it goes away, or this stream is ended, that is an error and no end."""
        try:
            while True:
                self._keep_to_budget(takes_request=self.kind.counts_messages)
                self._reading_since = time.monotonic()
                try:
                    request = next(source)
                except StopIteration:
                    break
                finally:
                    self._reading_since = None
                self._spend(request)
                yield request
        except grpc.RpcError as error:
            raise self._ended or errors.Cancelled("the client went away before its stream was complete") from error
        # grpc ends the requests of a stream whose status is out as if they were complete.
        with self._lock:
            self._taken_in = self._open
        if self._ended is not None:
            raise self._ended

    def send(self, response: Any) -> None:
        """Send a message; the call waits for the client's flow control, and for the caller's budget."""
        self._keep_to_budget(takes_request=False)
        self._sending_since = time.monotonic()
        try:
            self._send(response)
        finally:
            self._sending_since = None
            self._sent_at = time.monotonic()
        self._spend(response)

    def end(self, error: errors.DomainError | None = None) -> errors.DomainError | None:
        """Send the status, unless it is out already, and say which one it was."""
        with self._lock:
            return self._end(error)

    def cut(self, error: errors.DomainError) -> None:
        """End it from outside, unless all that it takes is here already."""
        with self._lock:
            if not (self.kind.takes_all and self._taken_in):
                self._end(error)

    def finish_on_drain(self, finish: Callable[[], None]) -> None:
        """Have an endless stream told of the server's drain in place of being ended by it.

        `finish` is called once, from another thread or from here, and sees to it that the call takes nothing more,
        answers what it has, and raises DRAINING.
        """
        with self._lock:
            self._on_drain = finish
            if not self._draining:
                return
        finish()

    def drain(self) -> None:
        """End it with DRAINING, or let its call finish what it has taken where it asked for that."""
        with self._lock:
            self._draining = True
            finish = self._on_drain
            if finish is None:
                self._end(DRAINING)
        if finish is not None:
            finish()

    def abandon(self) -> None:
        """Free the thread of a stream that has ended, and whose client takes nothing more."""
        self._context.cancel()

    def _end(self, error: errors.DomainError | None) -> errors.DomainError | None:
        if self._open:
            self._open = False
            self._ended = error
            if error is not None:
                set_status(self._context, error)
            self._send(None)
            self._closed.set()
        return self._ended

    def _spend(self, message: Any) -> None:
        if self.budget is not None:
            self.budget.spend(size_of(message))

    def _keep_to_budget(self, *, takes_request: bool) -> None:
        """Slow the stream down to what its key may spend: the client's flow control passes the wait on."""
        if self.budget is None:
            return
        reason, wait_s = self.budget.pause_s(takes_request=takes_request)
        while wait_s > 0:
            if wait_s > MAX_PAUSE_S:
                raise self.budget.refusal(reason, wait_s)
            begun = time.monotonic()
            closed = self._closed.wait(min(wait_s, 1.0))
            self.budget.paused(time.monotonic() - begun)
            if closed or not self._context.is_active():
                return
            reason, wait_s = self.budget.pause_s(takes_request=takes_request)


_current: ContextVar[Stream] = ContextVar("stream")


def current() -> Stream:
    """Give the stream whose call this thread works on."""
    return _current.get()


@dataclass(slots=True)
class OpenStreams:
    """The streams that are open, so that they can be ended from outside."""

    streams: set[Stream] = field(default_factory=set)
    draining: bool = False

    def end(self) -> None:
        """End each endless one with UNAVAILABLE, and from now on those that begin."""
        self.draining = True
        for stream in list(self.streams):
            if stream.kind.endless:
                stream.drain()

    def sweep(self, *, idle_limit_s: float, full: Callable[[], bool]) -> None:
        """End the streams whose key is no longer in force and those of silent clients.

        Args:
            idle_limit_s: how long a client may be silent. That of an endless stream may be so for longer, and one,
                the most silent, is ended
            full: where this says that the places are all taken.
        """
        patient: list[Stream] = []
        for stream in list(self.streams):
            if stream.ended:
                stream.abandon()  # it had since the last sweep to take its status
            elif error := _lost_key(stream):
                stream.cut(error)
            elif stream.silent_s() > idle_limit_s:
                if stream.kind.endless:
                    patient.append(stream)
                else:
                    stream.cut(_idle(stream, idle_limit_s))
        if patient and full():
            longest = max(patient, key=Stream.silent_s)
            longest.cut(_idle(longest, idle_limit_s))

    @contextmanager
    def keep(self, stream: Stream) -> Iterator[None]:
        """Hold a stream while it is open."""
        self.streams.add(stream)
        token = _current.set(stream)
        try:
            if self.draining and stream.kind.endless:
                raise DRAINING
            yield
        finally:
            _current.reset(token)
            self.streams.discard(stream)


def _lost_key(stream: Stream) -> errors.DomainError | None:
    try:
        stream.check_key()
    except errors.DomainError as error:
        return error
    return None


def _idle(stream: Stream, limit_s: float) -> errors.DomainError:
    return errors.DeadlineExceeded(
        f"the client neither sent nor took anything for {stream.silent_s():.0f} s; a stream may be silent for "
        f"{limit_s:g} s (PENSTOCK_STREAM_IDLE_TIMEOUT_MS)",
        reason="STREAM_IDLE",
    )


def size_of(message: Any) -> int:
    """Give a message's size on the wire; 0 for one that could not be parsed."""
    return int(message.ByteSize()) if hasattr(message, "ByteSize") else 0


def single(behaviour: Callable[..., Any], argument: Any, context: Any) -> Iterable[Any]:
    """Give the one response of a behaviour as a stream of one, so that its call can be ended from outside as well."""
    yield behaviour(argument, context)
