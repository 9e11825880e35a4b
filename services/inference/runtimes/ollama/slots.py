"""How many calls of one session are under way at once, whichever predictions they are for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.common.errors import DomainError


class CallSlots:
    """So many slots. Whoever waits for one can be called off."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, ended: Callable[[], DomainError | None]) -> Iterator[None]:
        """Hold a slot, and wait for one; raises what `ended` says, which is asked whenever somebody calls `wake`."""
        with self._changed:
            while (error := ended()) is None and not self._free:
                self._changed.wait()
            if error is not None:
                raise error
            self._free -= 1
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()  # one alone may be one that was called off

    def wake(self) -> None:
        """Let all who wait see whether they were called off."""
        with self._changed:
            self._changed.notify_all()
