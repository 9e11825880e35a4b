"""Steps that cost the same for one as for many, done for all who wait for one at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class _Wish(Generic[Item]):
    """What one thread waits for; `error` is why it did not come about."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.done = False
        self.error: BaseException | None = None


class Grouped(Generic[Item]):
    """Does a step for many items at once: those that came while the one before was under way. For many threads."""

    def __init__(self, step: Callable[[Sequence[Item]], None]) -> None:
        self._step = step
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._wishes: list[_Wish[Item]] = []

    def do(self, item: Item) -> None:
        """Have the step done for an item, by whichever thread; what it raises, all raise that it was done for."""
        wish = _Wish(item)
        with self._lock:
            self._wishes.append(wish)
        with self._turn:
            if not wish.done:
                self._do_all()
        if wish.error is not None:
            raise wish.error

    def _do_all(self) -> None:
        with self._lock:
            wishes, self._wishes = self._wishes, []
        try:
            self._step([wish.item for wish in wishes])
        except BaseException as error:  # noqa: BLE001 - each of them raises it
            for wish in wishes:
                wish.error = error
        for wish in wishes:
            wish.done = True
