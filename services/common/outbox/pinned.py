"""Connections to the addresses of a receiver that were checked, and to no others."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from urllib3.connection import HTTPConnection, HTTPSConnection

from services.common.addresses import Endpoint


class Pinned(HTTPConnection):
    """A connection to one of the addresses that were checked, which another thread can shut."""

    def __init__(self, endpoint: Endpoint, addresses: Sequence[str], connect_s: float, until: float) -> None:
        HTTPConnection.__init__(self, endpoint.host, endpoint.port, timeout=max(0.001, until - time.monotonic()))
        self._pin(addresses, connect_s, until)

    def _pin(self, addresses: Sequence[str], connect_s: float, until: float) -> None:
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

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers, and to no other than those given."""
        failure: OSError = TimeoutError()
        for address in self._addresses:
            left_s = self._until - time.monotonic()
            if left_s <= 0:
                break
            try:
                found = socket.create_connection((address, self.port), min(self._connect_s, left_s))
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
