"""A Redis client whose calls end in time and within a size, whatever answers them and however slowly it drips in.

redis-py bounds each read of a socket; an answer takes as many reads as its sender likes. So here each call has a limit
of its own, which every read and write of its connection keeps to.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

MAX_CONNECTIONS: Final = 1_024


class Unanswered(Exception):
    """No answer, none in time, or one that makes no sense. It says which kind of error, and nothing of the address."""


class BoundedClient:
    """Calls of up to `timeout_s` each, connecting included, whose answers are of up to `max_bytes`."""

    def __init__(self, url: str, *, timeout_s: float, max_bytes: int) -> None:
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._redis: Any = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),  # one try: whoever waits has a model to go to
            max_connections=MAX_CONNECTIONS,
            client_name="penstock",
            protocol=2,
        )
        pool = self._redis.connection_pool
        pool.connection_class = type("BoundedConnection", (_Bounded, pool.connection_class), {})

    @contextmanager
    def call(self) -> Iterator[Any]:
        """Give the client for one call and what is read out of its answer; raises Unanswered and nothing else."""
        until = time.monotonic() + self._timeout_s
        _call.until, _call.bytes_left = until, self._max_bytes
        try:
            yield self._redis
        except Exception as error:
            # Broad, for to a malformed answer redis-py raises whatever it stumbles over: ValueError, TypeError,
            # RecursionError. None of them is a caller's affair, and all of them mean that nothing was found.
            raise Unanswered(type(error).__name__) from error
        if time.monotonic() > until:
            raise Unanswered(f"it took longer than {self._timeout_s} s")

    def close(self) -> None:
        """Hang up."""
        self._redis.close()


_call = threading.local()
"""The limit of the call that this thread makes: `until` on the monotonic clock, and `bytes_left`."""


class _Bounded:
    """Mixed into a connection of any kind: its socket keeps to the limit of the call."""

    def _connect(self) -> _BoundedSocket:
        return _BoundedSocket(super()._connect())  # type: ignore[misc]


class _BoundedSocket:
    def __init__(self, plain: socket.socket) -> None:
        self._socket = plain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def recv(self, size: int) -> bytes:
        with self._in_time():
            received = self._socket.recv(size)
        _call.bytes_left -= len(received)
        if _call.bytes_left < 0:
            raise redis.InvalidResponse("an answer larger than any that is kept")
        return received

    def sendall(self, sent: bytes) -> None:
        with self._in_time():
            self._socket.sendall(sent)

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        own_s = self._socket.gettimeout()
        if own_s == 0:  # it looks whether there is something to read, and waits for nothing
            yield
            return
        left_s: float = _call.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the call took too long")
        self._socket.settimeout(left_s)
        try:
            yield
        finally:
            self._socket.settimeout(own_s)
