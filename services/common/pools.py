"""Thread pools with a limit on what they hold, lean enough to stand before every request."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

Work = Callable[..., Any]


class _Here(threading.local):
    """What a thread knows of its call. With defaults: to look for what is missing costs ten times as much."""

    refused = False
    worker: _Worker | None = None


_here = _Here()


def refused() -> bool:
    """Whether the call that this thread works on came when its pool was full: it is to say so, and nothing else."""
    return _here.refused


PATIENCE_S = 0.01


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
        patience_s: while others are queued, a call that goes on for longer than this, and at most twice as long, is
            taken for one that waits, whether it says so or not.
    """

    def __init__(
        self,
        threads: int,
        backlog: int,
        name: str,
        overflow: BoundedPool | None = None,
        awake: int | None = None,
        patience_s: float = PATIENCE_S,
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
        self._turns = 0
        self._awake = 0
        self._asleep: list[_Worker] = []
        self._workers: list[_Worker] = []
        self._closed = False
        self._sentry = _Sentry(self._look_round, patience_s, f"{name}_sentry")

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
            if not self._rouse() and not self._sentry.awake:
                self._post_sentry()
        return call  # type: ignore[return-value] # all that grpc asks of a future, it has

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout_s: float | None = None) -> None:
        """End the threads once the calls that are queued are done; `cancel_futures` drops those that wait.

        `wait` for them, but no longer than `timeout_s`: a call may hang.
        """
        with self._lock:
            self._closed = True
            if cancel_futures:
                self._held -= len(self._calls)
                self._calls.clear()
            asleep, self._asleep = self._asleep, []
            self._awake += len(asleep)
            self._sentry.end()
        for worker in asleep:
            worker.wake()
        if wait:
            until_s = None if timeout_s is None else time.monotonic() + timeout_s
            for worker in self._workers:
                worker.thread.join(None if until_s is None else max(0.0, until_s - time.monotonic()))

    @property
    def held(self) -> int:
        """How many calls it holds, at work or queued."""
        return self._held

    def leave(self, worker: _Worker) -> None:
        """Let another thread work while this one waits."""
        with self._lock:
            worker.waits += 1
            if worker.waits > 1:
                return
            if worker.excused:
                worker.excused = False  # its place is another's already
            else:
                self._awake -= 1
            self._rouse()

    def come_back(self, worker: _Worker) -> None:
        """Work on; that there may now be one thread too many ends with the next call that is done."""
        with self._lock:
            worker.waits -= 1
            if not worker.waits:
                self._awake += 1

    def _rouse(self) -> bool:
        """Have one more thread work, if there is a call for it and it may; the lock is held. Say whether one does."""
        if not self._calls or self._awake >= self._most_awake:
            return False
        if self._asleep:
            self._awake += 1
            self._asleep.pop().wake()  # who slept last: its stack is still warm
            return True
        if len(self._workers) < self._most_threads:
            self._awake += 1
            worker = _Worker(self, f"{self._name}_{len(self._workers)}", self._work_off)
            self._workers.append(worker)
            worker.thread.start()
            return True
        return False

    def _post_sentry(self) -> None:
        """See that a call does not stay queued behind some that go on and on; the lock is held."""
        if self._most_awake < self._most_threads and not self._closed:
            for worker in self._workers:
                worker.seen = worker.turn
            self._sentry.wake()

    def _look_round(self) -> None:
        """Excuse the threads that work on what they worked on a while ago."""
        with self._lock:
            if not self._calls:
                self._sentry.doze()
            for worker in self._workers:
                if worker.turn and worker.turn == worker.seen and not worker.waits and not worker.excused:
                    worker.excused = True
                    self._awake -= 1
                    self._rouse()
                worker.seen = worker.turn

    def _work_off(self, worker: _Worker) -> None:
        _here.worker = worker
        while True:
            with self._lock:
                call = self._next_for(worker)
                if call is None and self._closed:
                    return
            if call is None:
                worker.sleep()
                continue
            # Whatever a call raises, SystemExit too, the thread and its place among those awake are for the next one.
            try:
                call.work(*call.arguments)
            except BaseException:  # grpc answers for what a behaviour raises; this would be a defect of its own
                log.exception("a call ended the hard way")
            with self._lock:
                self._held -= 1
            try:
                call.finish()
            except BaseException:
                log.exception("what was to follow a call ended the hard way")
            del call  # or its request would stay in memory until the next one comes

    def _next_for(self, worker: _Worker) -> _Call | None:
        """Give the thread its next call, or put it to sleep; the lock is held."""
        if worker.excused:
            worker.excused = False
            self._awake += 1
        if self._calls and (self._closed or self._awake <= self._most_awake):
            self._turns += 1
            worker.turn = self._turns
            return self._calls.popleft()
        worker.turn = 0
        self._awake -= 1
        if not self._closed:
            self._asleep.append(worker)
            if self._calls and not self._sentry.awake:
                self._post_sentry()
        return None


class Waiting:
    """A block in which a thread of a pool waits rather than works: another may take its place among those awake.

    Around anything that takes longer than a fraction of a millisecond without needing the interpreter: a lock, a
    network, a model's run. Elsewhere than on a pool's thread it does nothing. One object serves all threads.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        worker = _here.worker
        if worker is not None:
            worker.pool.leave(worker)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        worker = _here.worker
        if worker is not None:
            worker.pool.come_back(worker)


WAITING = Waiting()


class _Worker:
    """A thread of a pool, and what the pool's lock guards of it.

    Attributes:
        waits: how many blocks of `Waiting`, one within another, it is in.
        excused: whether another has its place, since its call goes on for too long.
        turn: the number of the call that it works on; 0: none.
        seen: what `turn` was when the sentry last looked.
    """

    __slots__ = ("_lock", "excused", "pool", "seen", "thread", "turn", "waits")

    def __init__(self, pool: BoundedPool, name: str, work: Callable[[_Worker], None]) -> None:
        self.pool = pool
        self.waits = 0
        self.excused = False
        self.turn = 0
        self.seen = 0
        # A daemon, as a call may hang: the server's end waits for it, and for no longer than it was told to.
        self.thread = threading.Thread(target=work, args=(self,), name=name, daemon=True)
        self._lock = threading.Lock()
        self._lock.acquire()

    def sleep(self) -> None:
        """Sleep until woken, once."""
        self._lock.acquire()

    def wake(self) -> None:
        self._lock.release()


class _Sentry:
    """Looks round at regular times while it is awake, which what it finds decides; its pool's lock guards it.

    Its thread starts when it is first woken. `awake` is a plain attribute, as every request reads it.
    """

    def __init__(self, look: Callable[[], None], interval_s: float, name: str) -> None:
        self.awake = False
        self._look = look
        self._interval_s = interval_s
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
        self._woken = threading.Event()
        self._ended = threading.Event()

    def wake(self) -> None:
        """Look round from now on."""
        self.awake = True
        self._woken.set()
        if self._thread.ident is None:
            self._thread.start()

    def doze(self) -> None:
        """Look round no more until woken."""
        self.awake = False
        if not self._ended.is_set():
            self._woken.clear()

    def end(self) -> None:
        """Look round no more."""
        self._ended.set()
        self._woken.set()

    def _watch(self) -> None:
        while self._woken.wait() and not self._ended.wait(self._interval_s):
            self._look()


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
