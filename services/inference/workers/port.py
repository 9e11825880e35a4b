"""The port that the workers share: nobody else's, although each of them listens there by SO_REUSEPORT."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

from services.common.errors import FailedPrecondition

# Where a machine has no IPv6, or the address is another machine's.
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


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
        """Take the port, and say which it is (for 0 a free one).

        A host that means several addresses, such as localhost, is taken where this machine has them. Raises
        FailedPrecondition: the name is nobody's (HOST_UNKNOWN), no such address is this machine's (HOST_NOT_HERE), the
        port is not for this user (PORT_FORBIDDEN), or it is taken (ADDRESS_IN_USE).
        """
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            missing: OSError | None = None
            taken = False
            for family, kind, protocol, _, address in found:
                try:
                    self._port = self._bind(family, kind, protocol, (address[0], self._port, *address[2:]))
                    taken = True
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    missing = error
            if missing is not None and not taken:
                raise missing
            self._claim(f"penstock {self._host}:{self._port}")
        except OSError as error:
            self.close()
            reason, sentence = _why(error)
            raise FailedPrecondition(
                f"cannot listen on {self._host}:{self._port}: {sentence}", reason=reason
            ) from error
        return self._port

    def close(self) -> None:
        """Let go of it."""
        self._held.close()

    def _bind(self, family: int, kind: int, protocol: int, address: tuple[object, ...]) -> int:
        placeholder = socket.socket(family, kind, protocol)
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


def _why(error: OSError) -> tuple[str, str]:
    """Give the reason, and what to do."""
    if isinstance(error, socket.gaierror):
        return "HOST_UNKNOWN", "nobody has that name; PENSTOCK_HOST chooses another address"
    if error.errno in _NOT_HERE:
        return "HOST_NOT_HERE", "this machine has no such address; PENSTOCK_HOST chooses another"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "PORT_FORBIDDEN", "this user may not listen there; PENSTOCK_PORT chooses another port"
    return "ADDRESS_IN_USE", "is another server there? PENSTOCK_PORT chooses another port"
