"""The threads that wait for schedules' times: one that waits, and one for each look at a source."""

from __future__ import annotations

import threading
import time

import structlog

from services.common.errors import DomainError, Unavailable
from services.common.jobs.news import JobNews
from services.fetcher.downloading.ending import Ending
from services.fetcher.faults import NetworkError
from services.fetcher.schedules.models import Look
from services.fetcher.schedules.store import ScheduleStore
from services.fetcher.schedules.turning import LEASE_S, Turning
from services.fetcher.sources.source import Stopping

_log = structlog.get_logger(__name__)
LEAST_WAIT_S = 0.1
"""What is due and not taken is another's, or waits for room."""
LOOKS = 4
"""Looks at once: one that hangs holds up no other schedule, and all of them none without auto_update."""
LOOK_S = 2 / 3 * LEASE_S
"""How long one may take."""


class ScheduleLoop:
    """Heeds the times of schedules as they come: woken by a notification, by the next time, and now and then."""

    def __init__(self, store: ScheduleStore, turning: Turning, *, poll_s: float, kept_s: float) -> None:
        """`poll_s`: how often it looks, should a notification be lost; `kept_s`: how long ended schedules stay."""
        self._store = store
        self._turning = turning
        self._poll_s = poll_s
        self._kept_s = kept_s
        self._news = JobNews(store.listen(poll_interval_s=poll_s))
        self._stopping = threading.Event()
        self._room = threading.BoundedSemaphore(LOOKS)
        self._lock = threading.Lock()
        self._looks: dict[threading.Thread, Ending] = {}
        # Daemons: a source that does not answer must not hold up the end of the process.
        self._thread = threading.Thread(target=self._repeat, name="schedules", daemon=True)

    def open(self) -> None:
        """Start."""
        self._news.open()
        self._thread.start()

    def close(self, grace_s: float = 5.0) -> None:
        """Begin nothing more, and end the looks that are under way; others take them over."""
        self._stopping.set()
        self._news.close()
        deadline = time.monotonic() + grace_s
        self._thread.join(grace_s)
        with self._lock:
            looks = list(self._looks.items())
        for _, ending in looks:
            ending.stop()
        for thread, _ in looks:
            thread.join(max(0.0, deadline - time.monotonic()))

    def check(self) -> None:
        """For the health answer: raises Unavailable once nobody here waits for schedules any more."""
        if not self._stopping.is_set() and not self._thread.is_alive():
            sentence = "the thread that waits for schedules has ended; start this process again"
            raise Unavailable(sentence, reason="NO_LIVE_WORKER")

    def _repeat(self) -> None:
        while not self._stopping.is_set():
            rings, wait_s = self._news.count, self._poll_s
            try:
                self._store.expire(self._kept_s)
                while not self._stopping.is_set() and self._turn():
                    pass
                wait_s = min(self._poll_s, max(LEAST_WAIT_S, self._store.next_s()))
            except DomainError as error:
                _log.warning("schedules not looked after", reason=error.reason, message=error.message)
            except Exception:  # noqa: BLE001 - without this thread no schedule would come due any more
                _log.exception("the watch over schedules broke")
            until = time.monotonic() + wait_s
            while not self._stopping.is_set() and self._news.count == rings and time.monotonic() < until:
                self._news.wait(rings, until - time.monotonic())

    def _turn(self) -> bool:
        """Heed what has been due longest, and give a look a thread of its own; False: nothing is due."""
        room = self._room.acquire(blocking=False)
        turned: Look | bool = False
        try:
            turned = self._turning.turn(looks=room)
            if isinstance(turned, Look):
                self._start(turned)
        finally:
            if room and not isinstance(turned, Look):
                self._room.release()
        return turned is not False

    def _start(self, look: Look) -> None:
        thread = threading.Thread(target=self._look_on, args=(look,), name="schedule-look", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads just now: its lease runs out by itself
            self._room.release()
            raise

    def _look_on(self, first: Look) -> None:
        """Look, and heed what is next, until nothing is due."""
        turned: Look | bool = first
        try:
            while turned is not False:
                if isinstance(turned, Look):
                    self._look(turned)
                turned = False if self._stopping.is_set() else self._turning.turn(looks=True)
        except DomainError as error:  # the lease runs out, and the source is looked at again
            _log.warning("look not written down", reason=error.reason, message=error.message)
        except Exception:  # noqa: BLE001 - a defect must not end in silence; the lease runs out by itself
            _log.exception("a look broke")
        finally:
            self._room.release()

    def _look(self, look: Look) -> None:
        late = threading.Event()

        def check() -> None:
            if late.is_set():
                raise NetworkError(f"the source had not answered after {LOOK_S:.0f} s")

        ending = Ending(Stopping(check))

        def end() -> None:
            late.set()
            ending.stop()

        timer = threading.Timer(LOOK_S, end)
        timer.daemon = True
        timer.start()
        with self._lock:
            self._looks[threading.current_thread()] = ending
        try:
            if self._stopping.is_set():
                ending.stop()
            seen = self._turning.see(look, ending.stopping)
        finally:
            timer.cancel()
            with self._lock:
                del self._looks[threading.current_thread()]
        if self._stopping.is_set():
            self._turning.give_back(look)
        else:
            self._turning.conclude(look, seen)
