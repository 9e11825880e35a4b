"""Connections that know which call they serve, so that a thread that does not read can shut its own, and no other's."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    from services.inference.runtimes.ollama.call import Call


class Calling(threading.local):
    """The call that this thread opens."""

    call: Call | None = None


class OwnedConnection(HTTPConnection):
    """A connection that is its latest call's: once an answer is read, the pool hands it to another call at once."""

    def __init__(self, *arguments: Any, calling: Calling, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._calling = calling
        self._owning = threading.Lock()
        self._owner: Call | None = None

    def request(self, *arguments: Any, **options: Any) -> None:
        """Send a request for the call that this thread opens; raises what that was ended with."""
        call = self._calling.call
        with self._owning:
            self._owner = call
        super().request(*arguments, **options)
        if call is not None:
            call.attach(self)

    def shut(self, call: Call) -> None:
        """Shut it if it still is the call's: whoever reads from it finds its end."""
        with self._owning:
            if self._owner is call and self.sock is not None:
                with suppress(OSError):
                    # Past TLS: its own goodbye is not for a thread that does not read.
                    socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class PlainConnection(OwnedConnection):
    """In plain text."""


class SecureConnection(OwnedConnection, HTTPSConnection):
    """Over TLS."""
