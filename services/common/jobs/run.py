"""One attempt at one job, as the work sees it: how it stands, what it may still do, and whom to tell."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from services.common.errors import DomainError
from services.common.jobs.job import Job, Lease, Progress, Stopped, StopReason
from services.common.jobs.store import JobConnection, JobStore

_log = structlog.get_logger(__name__)
REPORT_INTERVAL_S = 0.5


class JobRun:
    """What the work is given. It calls `check` between its steps, and writes through `holding` alone.

    Whoever watches over the run calls `stop`; the work hears of it at its next `check` or `wait`, or by `on_stop`.
    """

    def __init__(self, store: JobStore, lease: Lease, job: Job, lease_s: float) -> None:
        self.job = job
        self.lease = lease
        self._store = store
        self._lease_s = lease_s
        # By this process' own steady clock, from before the claim was sent: it ends no later than the database's.
        self._good_until = time.monotonic() + lease_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._reason: StopReason | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._reported = 0.0

    @property
    def reason(self) -> StopReason | None:
        """Why the run is asked to end; None while it is not."""
        if self._reason is None and time.monotonic() >= self._good_until:
            self.stop(StopReason.LEASE_LOST)
        return self._reason

    def check(self) -> None:
        """Go on, or raise Stopped: the work lets it through, and the job is ended as the reason says."""
        reason = self.reason
        if reason is not None:
            raise Stopped(reason)

    def wait(self, seconds: float) -> None:
        """Sleep, and raise Stopped as soon as the run is asked to end."""
        self._stopping.wait(min(seconds, max(0.0, self._good_until - time.monotonic())))
        self.check()

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Have a callback called once when the run is asked to end; at once where it has been already."""
        with self._lock:
            if self._reason is None:
                self._callbacks.append(callback)
                return
        callback()

    def forget(self, callback: Callable[[], None]) -> None:
        """Take a callback back: what it would have ended is over."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def stop(self, reason: StopReason) -> None:
        """Ask the run to end; the first reason stands, save that a lost lease goes before all."""
        with self._lock:
            if self._reason is None or reason is StopReason.LEASE_LOST:
                self._reason = reason
            callbacks, self._callbacks = self._callbacks, []
        self._stopping.set()
        for callback in callbacks:
            callback()

    def renewed(self, asked_at: float) -> None:
        """Note that the lease was seen to hold, by a statement sent at a time of the monotonic clock."""
        self._good_until = max(self._good_until, asked_at + self._lease_s)

    @contextmanager
    def holding(self) -> Iterator[JobConnection]:
        """Lend a transaction in which the lease holds to the end; see `JobStore.holding`."""
        with self._store.holding(self.lease) as connection:
            yield connection

    def report(self, progress: Progress) -> None:
        """Say how far the work has come; twice a second at most is written. Raises Stopped as `check` does."""
        self.check()
        now = time.monotonic()
        if now - self._reported < REPORT_INTERVAL_S:
            return
        self._reported = now
        try:
            with self.holding() as connection:
                self._store.report(connection, self.lease, progress)
        except DomainError as error:
            # Progress is news, no result: the database may be back before it matters.
            _log.info("progress not reported", job=str(self.job.job_id), reason=error.reason)
