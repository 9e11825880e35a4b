"""Connections to the addresses of a receiver that were checked, and to no others."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection

from services.common.addresses import Endpoint
from services.common.errors import FailedPrecondition

_SLICE_MS = 50
_UNDER_WAY = {errno.EINPROGRESS, errno.EAGAIN}


class Received(HTTPResponse):
    """An answer whose body is read into its reader's own memory."""

    def readinto1(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read what is there, by one call to the system at most; 0 at the end. Raises IncompleteRead before it."""
        if self.isclosed():
            return 0
        if self.chunked:
            piece = self.read1(len(buffer))
            buffer[: len(piece)] = piece
            return len(piece)
        count = self.fp.readinto1(buffer if self.length is None else buffer[: self.length])
        if self.length is not None:
            self.length -= count
        if not count:
            self.close()
            if self.length:
                raise IncompleteRead(b"", self.length)
        return count


class Pinned(HTTPConnection):
    """A connection to one of the addresses that were checked, which another thread can shut."""

    def __init__(self, endpoint: Endpoint, addresses: Sequence[str], connect_s: float, until: float) -> None:
        HTTPConnection.__init__(self, endpoint.host, endpoint.port, timeout=max(0.001, until - time.monotonic()))
        self._pin(addresses, connect_s, until)

    def _pin(self, addresses: Sequence[str], connect_s: float, until: float) -> None:
        self.response_class = self._receive  # type: ignore[assignment] # it makes answers
        self.received: Received | None = None
        self._addresses = addresses
        self._connect_s = connect_s
        self._until = until
        self._handle: socket.socket | None = None
        self._lock = threading.Lock()
        self.overdue = False

    def shut(self) -> None:
        """End it, whatever is under way: whoever waits for it finds its end."""
        with self._lock:
            self.overdue = True
            if self._handle is not None:
                with suppress(OSError):
                    self._handle.shutdown(socket.SHUT_RDWR)

    def let_go(self) -> None:
        """Close it for good. http.client closes it itself as soon as it has read the head of the last answer."""
        self.close()
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def _receive(self, *args: Any, **more: Any) -> Received:
        self.received = Received(*args, **more)
        return self.received

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers, and to no other than those given."""
        failure: OSError = TimeoutError()
        for address in self._addresses:
            left_s = self._until - time.monotonic()
            if left_s <= 0:
                break
            try:
                found = self._connected(address, min(self._connect_s, left_s))
            except OSError as error:
                failure = error
                continue
            found.settimeout(max(0.001, self._until - time.monotonic()))
            with self._lock:
                # Of its own number: TLS takes the socket over before its handshake is done.
                self._handle = found.dup()
            if self.overdue:
                self.shut()
            return found
        raise failure

    def _connected(self, address: str, connect_s: float) -> socket.socket:
        """Connect in slices: what is not connected yet cannot be shut, so it looks for its end itself."""
        until = time.monotonic() + connect_s
        found = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            found.setblocking(False)
            code = found.connect_ex((address, self.port))
            ready = select.poll()
            ready.register(found, select.POLLOUT)
            while code in _UNDER_WAY:
                if self.overdue or time.monotonic() >= until:
                    raise TimeoutError
                if ready.poll(_SLICE_MS):
                    code = found.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    break
            if code:
                raise OSError(code, os.strerror(code))
        except BaseException:
            found.close()
            raise
        return found


class PinnedSecure(Pinned, HTTPSConnection):
    """Over TLS: the certificate must be for the host's name, whatever the address."""

    def __init__(
        self,
        endpoint: Endpoint,
        addresses: Sequence[str],
        connect_s: float,
        until: float,
        context: ssl.SSLContext,
    ) -> None:
        timeout = max(0.001, until - time.monotonic())
        HTTPSConnection.__init__(self, endpoint.host, endpoint.port, timeout=timeout, ssl_context=context)
        self._pin(addresses, connect_s, until)


def connection_to(
    endpoint: Endpoint, addresses: Sequence[str], connect_s: float, until: float, ca_file: Path | None, whose: str
) -> Pinned:
    """Give a connection to an endpoint, over TLS where its scheme says so; it connects when it is first asked.

    `until`: when what is waited for it is over, by the monotonic clock. `ca_file`: the certificates that vouch for
    whoever `whose` names, PEM, in place of the system's, read each time.

    Raises:
        FailedPrecondition: they cannot be read (CA_UNREADABLE).
    """
    if endpoint.scheme == "http":
        return Pinned(endpoint, addresses, connect_s, until)
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        sentence = f"the certificates that vouch for {whose} cannot be read ({error.strerror})"
        raise FailedPrecondition(sentence, reason="CA_UNREADABLE") from error
    return PinnedSecure(endpoint, addresses, connect_s, until, context)
