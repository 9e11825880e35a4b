"""What all transfers of one job share: connections, memory for parts, and threads that store them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from mmap import mmap
from types import TracebackType
from typing import Final, Protocol, Self

from services.fetcher.sources.kept import KeptConnections
from services.fetcher.sources.source import Stopping

SPARE_PARTS: Final = 2
"""Parts in memory beside one for each connection, so that who reads does not wait for who stores."""
_LOOK_S: Final = 0.5


class GivesWay(Protocol):
    """Who has parts in memory that it can do without."""

    def give_way(self) -> mmap | None:
        """Give up the memory of a part that can be read again; None where none can. Called in `Lines.changed`."""
        ...


class Lines:
    """So many connections at once, and memory for two parts more than these; a context manager.

    All waiting is on `changed`, and what is shared changes while that is held: by a part, and not by a chunk.
    """

    def __init__(self, connections: int) -> None:
        self.connections = connections
        self.changed = threading.Condition()
        self.kept = KeptConnections()
        self.pool = ThreadPoolExecutor(max(SPARE_PARTS, connections), thread_name_prefix="fetch-store")
        self._idle = connections
        self._parts_left = connections + SPARE_PARTS
        self._unused: list[mmap] = []
        self._holders: list[GivesWay] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown()
        self.kept.close()

    @contextmanager
    def connection(self, stopping: Stopping) -> Iterator[None]:
        """Lend one of the connections, as soon as one is free."""
        with self.changed:
            self.wait(lambda: self._idle > 0, stopping)
            self._idle -= 1
        try:
            yield
        finally:
            with self.changed:
                self._idle += 1
                self.changed.notify_all()

    @contextmanager
    def holder(self, holder: GivesWay) -> Iterator[None]:
        """Ask somebody for memory, too, when there is none left."""
        with self.changed:
            self._holders.append(holder)
        try:
            yield
        finally:
            with self.changed:
                self._holders.remove(holder)

    def take(self, size_bytes: int, stopping: Stopping) -> mmap:
        """Give memory for a part, as soon as there is some; whoever takes it gives it back.

        It begins with a page, as a disk wants it that takes bytes from there itself.
        """
        with self.changed:
            self.wait(self._has_room, stopping)
            self._parts_left -= 1
            fitting = next((each for each in self._unused if len(each) == size_bytes), None)
            if fitting is not None:
                self._unused.remove(fitting)
            else:
                self._unused.clear()  # of another size: of no use, and they would stand beside the new one
        return mmap(-1, size_bytes) if fitting is None else fitting

    def give_back(self, buffer: mmap) -> None:
        """Take memory back."""
        with self.changed:
            self._parts_left += 1
            self._unused.append(buffer)
            self.changed.notify_all()

    def wait(self, ready: Callable[[], bool], stopping: Stopping) -> None:
        """Wait in `changed` until something is so; raises what `stopping` does."""
        while not ready():
            stopping.check()
            self.changed.wait(_LOOK_S)

    def wake(self) -> None:
        """Have all who wait look again."""
        with self.changed:
            self.changed.notify_all()

    def _has_room(self) -> bool:
        if self._parts_left == 0:
            for holder in self._holders:
                if (buffer := holder.give_way()) is not None:
                    self.give_back(buffer)
                    break
        return self._parts_left > 0
