"""Reads ahead on a thread of its own, so that who waits for rows notices within a second that they are not wanted."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
BLOCKS_AHEAD = 2
BEAT_S = 0.5


class Ahead(Generic[Item]):
    """Iterates over `items` on a thread; as an iterator gives them, and None while there is nothing yet.

    `stop` makes `items` end where they wait for something; it is called when this is closed.
    """

    def __init__(self, items: Callable[[], Iterator[Item]], stop: Callable[[], None]) -> None:
        self._items = items
        self._stop = stop
        self._ready: queue.Queue[Item | BaseException | None] = queue.Queue(BLOCKS_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="feature-import", daemon=True)

    def __enter__(self) -> Ahead[Item]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._stop()
        self._thread.join()

    def __iter__(self) -> Iterator[Item | None]:
        while True:
            try:
                found = self._ready.get(timeout=BEAT_S)
            except queue.Empty:
                yield None
                continue
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found

    def _read(self) -> None:
        try:
            for item in self._items():
                if not self._put(item):
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - raised where the items are taken
            self._put(error)

    def _put(self, item: Item | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=BEAT_S)
            except queue.Full:
                continue
            return True
        return False
