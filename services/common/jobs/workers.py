"""The workers of one process: they claim jobs, run them, keep their leases, and pass on when one is to end."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from services.common.errors import DomainError, Unavailable
from services.common.jobs.backoff import Backoff
from services.common.jobs.job import Failure, Lease, LeaseLost, Stopped, StopReason
from services.common.jobs.run import JobRun
from services.common.jobs.store import Concurrency, JobStore

_log = structlog.get_logger(__name__)
POLL_INTERVAL_S = 0.5
ENDING_TRIES_S = 0.2
STUCK = 70

Work = Callable[[JobRun], Mapping[str, Any] | None]
"""Does a job, and gives its result; None: it has ended the job itself, in `holding`, together with what it wrote.

A DomainError that is retryable has the job tried again later; any other, or a defect, fails it.
"""


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """How many jobs at once, here and over all replicas, and how patiently.

    Attributes:
        slots: jobs that this process works on at once.
        lease_s: how long after a worker's death another takes its job over.
        poll_s: how often jobs are looked for and leases looked after, should a notification be lost; never more rarely
            than six times a lease.
        stuck_after_s: how long a run that was told to end may go on before `on_stuck` is called.
        concurrency: limits over all replicas.
        backoff: the waits between attempts.
    """

    slots: int = 1
    lease_s: float = 30.0
    poll_s: float = POLL_INTERVAL_S
    stuck_after_s: float = 30.0
    concurrency: Concurrency = field(default_factory=Concurrency)
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def wake_s(self) -> float:
        """How often at least the workers look about."""
        return min(self.poll_s, self.lease_s / 6)


class JobWorkers:
    """Threads that work on jobs, and one that watches over them.

    A run that has lost its lease, by a hard limit for one, is told so; a thread cannot be killed, so one that goes on
    for `stuck_after_s` is reported to `on_stuck`, which is expected to end the process: its other jobs are taken over
    where they stand.
    """

    def __init__(
        self,
        store: JobStore,
        work: Work,
        limits: WorkerLimits | None = None,
        *,
        on_stuck: Callable[[JobRun], None] = lambda _: None,
    ) -> None:
        self.worker_id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._store = store
        self._work = work
        self._limits = limits or WorkerLimits()
        self._on_stuck = on_stuck
        self._stopping = threading.Event()
        self._wakes = [threading.Event() for _ in range(self._limits.slots)]
        self._runs: dict[Lease, JobRun] = {}
        self._told: dict[Lease, float] = {}
        self._lock = threading.Lock()
        self._listener = store.listen([store.queued, store.cancelled], poll_interval_s=self._limits.wake_s)
        self._threads = [
            threading.Thread(target=self._serve, args=(wake,), name=f"job-{number}", daemon=True)
            for number, wake in enumerate(self._wakes)
        ]
        self._watch = threading.Thread(target=self._watch_over, name="job-leases", daemon=True)
        self._renewed_at = 0.0

    def open(self) -> None:
        """Start."""
        self._listener.__enter__()
        for thread in (*self._threads, self._watch):
            thread.start()

    def close(self, grace_s: float = 5.0) -> None:
        """Take no more, ask what runs to end, and wait for it; what does not end in time is rescued elsewhere."""
        self._stopping.set()
        for run in self._running():
            run.stop(StopReason.DRAINING)
        for wake in self._wakes:
            wake.set()
        deadline = time.monotonic() + grace_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._listener.close()
        self._watch.join(grace_s)
        self._listener.__exit__(None, None, None)
        try:
            self._store.gone(self.worker_id)
        except DomainError as error:
            _log.info("worker's end not noted", reason=error.reason)

    def check(self) -> None:
        """For the health answer: raises Unavailable once no thread here works any more, or none renews its leases."""
        if self._stopping.is_set() or not self._threads:
            return
        if not self._watch.is_alive() or not any(thread.is_alive() for thread in self._threads):
            sentence = "no worker of this process lives; jobs wait for other replicas: start it again"
            raise Unavailable(sentence, reason="NO_LIVE_WORKER")

    @property
    def busy_count(self) -> int:
        """How many jobs are worked on here."""
        return len(self._runs)

    def _serve(self, wake: threading.Event) -> None:
        while not self._stopping.is_set():
            wake.clear()
            try:
                while not self._stopping.is_set() and self._do_next():
                    pass
            except DomainError as error:
                _log.warning("no job claimed", reason=error.reason, message=error.message)
            except Exception:  # noqa: BLE001 - a defect must not end the thread; the lease runs out by itself
                _log.exception("the worker broke")
            if not self._stopping.is_set():
                wake.wait()

    def _do_next(self) -> bool:
        """Do one job; False where none waits."""
        asked_at = time.monotonic()
        claimed = self._store.claim(self.worker_id, self._limits.lease_s, self._limits.concurrency)
        if claimed is None:
            return False
        lease, job = claimed
        run = JobRun(self._store, lease, job, self._limits.lease_s - (time.monotonic() - asked_at))
        with self._lock:
            self._runs[lease] = run
        if self._stopping.is_set():
            run.stop(StopReason.DRAINING)
        try:
            self._conclude(run)
        finally:
            with self._lock:
                self._runs.pop(lease, None)
                self._told.pop(lease, None)
        return True

    def _conclude(self, run: JobRun) -> None:
        """Run the work, and write down how it ended; a database that is away is waited for while the lease lasts."""
        ending = self._outcome_of(run)
        while run.reason is not StopReason.LEASE_LOST:
            try:
                ending()
                return
            except LeaseLost:
                break
            except DomainError as error:
                _log.warning("the job's end is not written yet", job=str(run.job.job_id), reason=error.reason)
                time.sleep(ENDING_TRIES_S)
        _log.warning("lease lost", job=str(run.job.job_id), attempt=run.job.attempt)

    def _outcome_of(self, run: JobRun) -> Callable[[], None]:
        try:
            run.check()
            result = self._work(run)
        except Stopped as stopped:
            reason = stopped.reason
            return lambda: self._stopped(run, reason)
        except LeaseLost:
            run.stop(StopReason.LEASE_LOST)
            return lambda: None
        except DomainError as raised:
            error = raised
            if run.reason is not None:  # what it stumbled over is its own end
                return lambda: self._stopped(run, run.reason or StopReason.LEASE_LOST)
            return lambda: self._faulted(run, error)
        except Exception:  # noqa: BLE001 - whatever the work does, the job ends and the worker goes on
            failure = _defect(run)
            return lambda: self._failed(run, failure)
        return lambda: self._completed(run, result)

    def _completed(self, run: JobRun, result: Mapping[str, Any] | None) -> None:
        if result is not None:
            with run.holding() as connection:
                self._store.complete(connection, run.lease, result)

    def _failed(self, run: JobRun, failure: Failure) -> None:
        with run.holding() as connection:
            self._store.fail(connection, run.lease, failure)

    def _faulted(self, run: JobRun, error: DomainError) -> None:
        """Try again later where that may help, and where an attempt is left."""
        detail = "".join(traceback.format_exception(error))
        failure = Failure(error.reason, error.message, detail)
        if not error.retryable or run.job.attempt >= run.job.max_attempts:
            self._failed(run, failure)
            return
        delay_s = self._limits.backoff.delay_s(run.job.attempt, error.retry_after_s)
        _log.info("job put back", job=str(run.job.job_id), reason=error.reason, delay_s=round(delay_s, 3))
        with run.holding() as connection:
            self._store.put_back(connection, run.lease, delay_s=delay_s, failure=failure)

    def _stopped(self, run: JobRun, reason: StopReason) -> None:
        if reason is StopReason.SOFT_LIMIT:
            sentence = f"it took longer than its soft limit of {run.job.soft_limit_ms} ms; what was done is kept"
            self._failed(run, Failure("SOFT_LIMIT", sentence))
        elif reason is StopReason.CANCELLED:
            with run.holding() as connection:
                self._store.end_cancelled(connection, run.lease)
        elif reason is StopReason.DRAINING:
            with run.holding() as connection:
                self._store.put_back(connection, run.lease, counted=False)

    def _watch_over(self) -> None:
        for _ in self._listener:
            try:
                self._tend()
            except DomainError as error:
                _log.warning("leases not looked after", reason=error.reason, message=error.message)
            except Exception:  # noqa: BLE001 - without this thread every lease here would run out
                _log.exception("the watch over leases broke")
            self._report_stuck()  # whether or not the database answers
            for wake in self._wakes:
                wake.set()

    def _tend(self) -> None:
        """Renew what is due, tell the runs how they stand, and take down what other processes left behind."""
        runs = {run.lease: run for run in self._running()}
        asked_at = time.monotonic()
        renewed: frozenset[UUID] = frozenset()
        if asked_at - self._renewed_at >= self._limits.lease_s / 3:
            if runs:
                renewed = self._store.renew(list(runs), self._limits.lease_s)
            self._store.seen(self.worker_id, slot_count=self._limits.slots, busy_count=len(runs))
            if len(renewed) == len(runs):  # else again at the next turn
                self._renewed_at = asked_at
        if runs:
            standings = self._store.standings(list(runs))
            for lease, run in runs.items():
                standing = standings.get(lease.job_id)
                if standing is None:
                    run.stop(StopReason.LEASE_LOST)
                    continue
                if lease.job_id in renewed:
                    run.renewed(asked_at)
                if standing.cancelled:
                    run.stop(StopReason.CANCELLED)
                elif standing.soft_limit_passed:
                    run.stop(StopReason.SOFT_LIMIT)
        self._store.sweep()

    def _report_stuck(self) -> None:
        now = time.monotonic()
        for run in self._running():
            if run.reason in (StopReason.LEASE_LOST, StopReason.CANCELLED):
                told = self._told.setdefault(run.lease, now)
                if now - told > self._limits.stuck_after_s:
                    self._on_stuck(run)

    def _running(self) -> list[JobRun]:
        with self._lock:
            return list(self._runs.values())


def end_process(stuck: JobRun) -> None:
    """End this process at once, for `on_stuck`: a thread that goes on without its lease can be ended in no other way.

    Whoever runs the process starts it again, and its other jobs go on where they stood.
    """
    _log.critical("a job goes on after its end; the process is given up", job=str(stuck.job.job_id))
    os._exit(STUCK)


def _defect(run: JobRun) -> Failure:
    error_id = uuid.uuid4().hex
    _log.exception("the job broke", job=str(run.job.job_id), error_id=error_id)
    return Failure("INTERNAL", f"internal error; its id in the log is {error_id}", traceback.format_exc())
