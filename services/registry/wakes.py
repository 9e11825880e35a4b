"""The one connection of this process that listens to the database, for everyone who waits for news."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from services.common.postgres import Listener


class Wakes:
    """Calls whoever waits on a channel when it rings; all of them at each poll, for a ring may be lost."""

    def __init__(self, listener: Listener, sleepers: Mapping[str, Callable[[], None]]) -> None:
        self._listener = listener
        self._sleepers = sleepers
        self._thread = threading.Thread(target=self._listen, name="wakes", daemon=True)

    def open(self) -> None:
        """Start listening."""
        self._listener.__enter__()
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
        self._thread.join()
        self._listener.__exit__(None, None, None)

    def _listen(self) -> None:
        for channels in self._listener:
            for channel in channels or self._sleepers:
                self._sleepers[channel]()
