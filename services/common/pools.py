"""Thread pools with a limit on what they hold, lean enough to stand before every request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any

log = logging.getLogger(__name__)

Work = Callable[..., Any]
_here = threading.local()


def refused() -> bool:
    """Whether the call that this thread works on came when its pool was full: it is to say so, and nothing else."""
    return getattr(_here, "refused", False)


class BoundedPool(ThreadPoolExecutor):
    """A thread pool that knows how many calls it holds, waiting ones included.

    A ThreadPoolExecutor by name, since grpc insists on one, and leaner: its calls take a future, a condition and a
    semaphore each, which cost as much as all else that stands around a small model.

    Args:
        threads: the most calls worked on at once. Each starts with the first call that needs it.
        backlog: the most calls that wait for a thread.
        name: of the threads.
        overflow: works on the calls that come while this one is full; there `refused` is true.
    """

    def __init__(self, threads: int, backlog: int, name: str, overflow: BoundedPool | None = None) -> None:
        super().__init__(max_workers=threads)
        self._most_threads = threads
        self._name = name
        self._limit = threads + backlog
        self._overflow = overflow
        self._held = 0
        self._held_lock = threading.Lock()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._running: list[threading.Thread] = []

    @property
    def limit(self) -> int:
        """The most calls it may hold."""
        return self._limit

    @property
    def full(self) -> bool:
        """Whether the next call is one too many."""
        return self._held >= self._limit

    def submit(self, work: Work, /, *args: Any, **_: Any) -> Future[Any]:
        """Queue a call. grpc calls this on its one polling thread, which an exception here would end."""
        if self._overflow is not None and self.full:
            return self._overflow.submit(_refuse, work, *args)
        call = _Call(work, args)
        with self._held_lock:
            self._held += 1
            # A call takes one thread at the most: with as many threads as calls, one of them is free.
            if len(self._running) < min(self._held, self._most_threads):
                self._start_thread()
        self._calls.put(call)
        return call  # type: ignore[return-value] # all that grpc asks of a future, it has

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once the calls that are queued are done; `cancel_futures` drops those that wait."""
        with self._held_lock:
            threads = list(self._running)
        if cancel_futures:
            self._drop_waiting()
        for _ in threads:
            self._calls.put(None)
        if wait:
            for thread in threads:
                thread.join()

    def _drop_waiting(self) -> None:
        while not self._calls.empty():
            try:
                self._calls.get_nowait()
            except Empty:
                return

    def _start_thread(self) -> None:
        name = f"{self._name}_{len(self._running)}"
        # Daemons, as a call may hang: the server's end waits for them, and for no longer than it was told to.
        thread = threading.Thread(target=self._work_off, name=name, daemon=True)
        self._running.append(thread)
        thread.start()

    def _work_off(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call.work(*call.arguments)
            except Exception:  # grpc answers for what a behaviour raises; this would be a defect of its own
                log.exception("a call ended the hard way")
            finally:
                with self._held_lock:
                    self._held -= 1
                call.finish()
                del call  # or its request would stay in memory until the next one comes


class _Call:
    """A call that a pool holds. Of a future it has the one thing that grpc asks for."""

    __slots__ = ("_callback", "_done", "arguments", "work")

    def __init__(self, work: Work, arguments: tuple[Any, ...]) -> None:
        self.work = work
        self.arguments = arguments
        self._done = False
        self._callback: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back once, when the call is done, or at once where it is."""
        self._callback.append(callback)
        if self._done:
            self._call_back()

    def finish(self) -> None:
        """Say that the call is done."""
        self._done = True
        self._call_back()

    def _call_back(self) -> None:
        # Two threads may come here at once; taking from a list is one step, so one of them gets the callback.
        while self._callback:
            try:
                callback = self._callback.pop()
            except IndexError:
                return
            callback(self)


def _refuse(work: Work, *args: Any) -> None:
    _here.refused = True
    try:
        work(*args)
    finally:
        _here.refused = False
