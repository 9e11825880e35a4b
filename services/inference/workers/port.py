"""The port that the workers share: nobody else's, although each of them listens there by SO_REUSEPORT."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from services.common.errors import FailedPrecondition


class PortReservation:
    """Keeps an address for the workers of this service, for as long as the supervisor lives.

    Two holds: a socket that is bound and never listens, which keeps out whoever does not ask to share the port; and a
    name in the abstract namespace, which keeps out a second supervisor. The kernel lets go of both when the process
    dies, however it dies. A foreign program of the same user could still share the port if it asked to.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._held = ExitStack()

    def open(self) -> int:
        """Take the port, and say which it is (for 0 a free one); raises FailedPrecondition(ADDRESS_IN_USE)."""
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, address in found:
                self._port = self._bind(socket.socket(family, kind, protocol), (address[0], self._port, *address[2:]))
            self._claim(f"penstock {self._host}:{self._port}")
        except OSError as error:
            self.close()
            raise FailedPrecondition(
                f"cannot listen on {self._host}:{self._port}: is another server there? "
                "PENSTOCK_PORT chooses another port",
                reason="ADDRESS_IN_USE",
            ) from error
        return self._port

    def close(self) -> None:
        """Let go of it."""
        self._held.close()

    def _bind(self, placeholder: socket.socket, address: tuple[object, ...]) -> int:
        self._held.callback(placeholder.close)
        if placeholder.family == socket.AF_INET6:
            placeholder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Bound alone, past the connections of a server before us that are ending; shared only from then on.
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        placeholder.bind(address)
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return int(placeholder.getsockname()[1])

    def _claim(self, name: str) -> None:
        claim = socket.socket(socket.AF_UNIX)
        self._held.callback(claim.close)
        claim.bind(f"\0{name}")
