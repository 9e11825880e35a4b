"""Thread pools with a limit on what they hold, lean enough to stand before every request."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
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
        awake: the most threads that work at once, those aside that `Waiting` excuses; None: all of them. A few are
            quicker than many where the interpreter lets one go on at a time: each more is another that it switches to.
    """

    def __init__(
        self, threads: int, backlog: int, name: str, overflow: BoundedPool | None = None, awake: int | None = None
    ) -> None:
        super().__init__(max_workers=threads)
        self._most_threads = threads
        self._most_awake = min(awake or threads, threads)
        self._name = name
        self._limit = threads + backlog
        self._overflow = overflow
        self._lock = threading.Lock()
        self._calls: deque[_Call] = deque()
        self._held = 0
        self._awake = 0
        self._asleep: list[_Sleeper] = []
        self._threads_started: list[threading.Thread] = []
        self._closed = False

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
        with self._lock:
            self._held += 1
            self._calls.append(call)
            self._rouse()
        return call  # type: ignore[return-value] # all that grpc asks of a future, it has

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once the calls that are queued are done; `cancel_futures` drops those that wait."""
        with self._lock:
            self._closed = True
            if cancel_futures:
                self._held -= len(self._calls)
                self._calls.clear()
            asleep, self._asleep = self._asleep, []
            self._awake += len(asleep)
        for sleeper in asleep:
            sleeper.wake()
        if wait:
            for thread in self._threads_started:
                thread.join()

    def leave(self) -> None:
        """Let another thread work while this one waits."""
        with self._lock:
            self._awake -= 1
            self._rouse()

    def come_back(self) -> None:
        """Work on; that there may now be one thread too many ends with the next call that is done."""
        with self._lock:
            self._awake += 1

    def _rouse(self) -> None:
        """Have one more thread work, if there is a call for it and it may; the lock is held."""
        if not self._calls or self._awake >= self._most_awake:
            return
        if self._asleep:
            self._awake += 1
            self._asleep.pop().wake()  # who slept last: its stack is still warm
        elif len(self._threads_started) < self._most_threads:
            self._awake += 1
            name = f"{self._name}_{len(self._threads_started)}"
            # Daemons, as a call may hang: the server's end waits for them, and for no longer than it was told to.
            thread = threading.Thread(target=self._work_off, name=name, daemon=True)
            self._threads_started.append(thread)
            thread.start()

    def _work_off(self) -> None:
        _here.pool = self
        sleeper = _Sleeper()
        while True:
            with self._lock:
                call = self._calls.popleft() if self._calls and self._awake <= self._most_awake else None
                if call is None:
                    self._awake -= 1
                    if self._closed and not self._calls:
                        return
                    self._asleep.append(sleeper)
            if call is None:
                sleeper.sleep()
                continue
            try:
                call.work(*call.arguments)
            except Exception:  # grpc answers for what a behaviour raises; this would be a defect of its own
                log.exception("a call ended the hard way")
            finally:
                self._held -= 1
                call.finish()
                del call  # or its request would stay in memory until the next one comes


class Waiting:
    """A block in which a thread of a pool waits rather than works: another may take its place among those awake.

    Around anything that takes longer than a fraction of a millisecond without needing the interpreter: a lock, a
    network, a model's run. Elsewhere than on a pool's thread it does nothing. One object serves all threads.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        pool = getattr(_here, "pool", None)
        if pool is not None:
            pool.leave()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pool = getattr(_here, "pool", None)
        if pool is not None:
            pool.come_back()


WAITING = Waiting()


class _Sleeper:
    """Where a thread sleeps until it is woken, once."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def sleep(self) -> None:
        self._lock.acquire()

    def wake(self) -> None:
        self._lock.release()


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
