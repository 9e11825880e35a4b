"""Thread pools with a limit on what they hold."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class BoundedPool(ThreadPoolExecutor):
    """A thread pool that knows how many calls it holds, waiting ones included."""

    def __init__(self, threads: int, backlog: int, name: str) -> None:
        super().__init__(max_workers=threads, thread_name_prefix=name)
        self._limit = threads + backlog
        self._held = 0
        self._held_lock = threading.Lock()

    @property
    def limit(self) -> int:
        """The most calls it may hold."""
        return self._limit

    @property
    def full(self) -> bool:
        """Whether the next call is one too many."""
        return self._held >= self._limit

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a call. grpc calls this on its one polling thread, which an exception here would end."""
        with self._held_lock:
            self._held += 1
        return super().submit(self._run, work, args, kwargs)

    def _run(self, work: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return work(*args, **kwargs)
        finally:
            with self._held_lock:
                self._held -= 1
