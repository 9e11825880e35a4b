"""What an attempt keeps between its requests: connections that may be asked again, and where redirects led."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.common.addresses import Endpoint

if TYPE_CHECKING:
    from services.common.pinned import Pinned


@dataclass(frozen=True, slots=True)
class Led:
    """Where the redirects of a URL led; `bare`: credentials were dropped on the way."""

    url: str
    bare: bool


class KeptConnections:
    """Connections between two requests, and the last hops of redirects. Safe to use from many threads.

    A connection goes to an address that was checked when it was made, and is given again for the same scheme, host and
    port alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: defaultdict[tuple[str, str, int], list[Pinned]] = defaultdict(list)
        self._led: dict[str, Led] = {}
        self._closed = False

    def take(self, endpoint: Endpoint) -> Pinned | None:
        """Give a connection that its server has not closed; None where there is none."""
        while True:
            with self._lock:
                idle = self._idle[endpoint.scheme, endpoint.host, endpoint.port]
                if not idle:
                    return None
                connection = idle.pop()
            if connection.is_connected and not connection.overdue:
                return connection
            connection.let_go()

    def keep(self, endpoint: Endpoint, connection: Pinned) -> None:
        """Keep a connection whose last answer was read to its end."""
        with self._lock:
            if not self._closed:
                self._idle[endpoint.scheme, endpoint.host, endpoint.port].append(connection)
                return
        connection.let_go()

    def led(self, url: str) -> Led | None:
        """Give where a URL led; None where it is not known."""
        return self._led.get(url)

    def remember(self, url: str, led: Led) -> None:
        """Note where a URL led."""
        self._led[url] = led

    def forget(self, url: str) -> None:
        """Ask the URL itself next time."""
        self._led.pop(url, None)

    def close(self) -> None:
        """Close what is idle; what is in use is closed by whoever uses it."""
        with self._lock:
            self._closed = True
            connections = [each for idle in self._idle.values() for each in idle]
            self._idle.clear()
        for connection in connections:
            connection.let_go()
