"""What happens when a schedule's time comes: a job, or a look at the source that may lead to one.

Any number of replicas may do it at once. A row is locked while its job is created and it goes on to its next time, in
one transaction, so that a time makes one job or none. One that comes in vain is tried again where that may help, until
the next; where none comes after it, the schedule's webhook is told. A look takes long and holds no row: it has a lease,
and what it found counts only while that holds.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from penstock.api.fetcher.v1.fetch_jobs_pb2 import FetchTarget
from services.common.errors import DomainError
from services.common.jobs import Backoff, JobConnection, JobStore, NewJob
from services.fetcher.faults import HostBusy
from services.fetcher.layouts import carried, check_layout
from services.fetcher.notifications.webhooks import FetchWebhooks
from services.fetcher.registering import check_framework
from services.fetcher.schedules.models import Again, Look, Schedule, Trouble, job_id_of, revision_of
from services.fetcher.schedules.store import ScheduleStore
from services.fetcher.sources.catalogue import Sources
from services.fetcher.sources.source import Stopping
from services.fetcher.store.fetches import FetchStore

_log = structlog.get_logger(__name__)
MOST_WAITED = timedelta(days=1)
"""For how long a time is tried again that lacks room or leave."""
ROOM_S = 60.0
"""How often room and leave are looked for."""
LEASE_S = 180.0
"""How long after a replica's death another looks; longer than any look may take."""
UNREADABLE = timedelta(hours=1)
"""When an expression or a time zone that this release does not know is tried again."""


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """What jobs of schedules may have: the longest, in ms; those of a key that have not ended.

    `backoff`: the waits between tries, of jobs and of looks.
    """

    hard_limit_ms: int
    max_unended: int
    backoff: Backoff = field(default_factory=Backoff)


class Turning:
    """Heeds the times of schedules."""

    def __init__(
        self,
        store: ScheduleStore,
        jobs: JobStore,
        fetches: FetchStore,
        sources: Sources,
        webhooks: FetchWebhooks,
        limits: TurnLimits,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._fetches = fetches
        self._sources = sources
        self._webhooks = webhooks
        self._limits = limits

    def turn(self, *, looks: bool) -> Look | bool:
        """Heed the time that has been due longest; False: none is. A look is for the caller to `see`.

        `looks`: whether the caller has room for one; else schedules with auto_update are left to others, or to later.
        """
        with self._store.transaction() as connection:
            schedule = self._store.due(connection, looks=looks)
            if schedule is None:
                return False
            if schedule.busy:
                sentence = f"job {schedule.last_job_id} had not ended when the next was due; that time was left out"
                self._advance(connection, schedule, trouble=Trouble("STILL_RUNNING", sentence))
            elif trouble := self._hindrance(connection, schedule):
                self._missed(connection, schedule, trouble)
            elif schedule.auto_update:
                return self._store.begin_look(connection, schedule, LEASE_S)
            else:
                self._make(connection, schedule)
            return True

    def see(self, look: Look, stopping: Stopping) -> str | Trouble:
        """Ask the source what it has, over the network and in no transaction; gives `revision_of`, or what failed.

        What a job could only refuse fails here already: else each change there would make one more that does.
        """
        schedule, reference = look.schedule, look.schedule.spec.reference
        target = FetchTarget.FromString(schedule.spec.target)
        try:
            found = self._sources.of(reference).find(reference, stopping)
            plan, _ = carried(found.plan, target)
            found.check(framework_named=bool(target.framework))
            check_framework(plan, target)
            check_layout(plan, target)
            return revision_of(found.plan)
        except DomainError as error:
            _log.info("source not looked at", schedule=str(schedule.schedule_id), reason=error.reason)
            again = Again.AFTER_A_FAULT if error.retryable else Again.NOT
            if isinstance(error, HostBusy):  # it was not even asked
                again = Again.AFTER_A_WAIT
            return Trouble(error.reason, error.message, again, error.retry_after_s)
        except Exception:  # noqa: BLE001 - whatever one source does, the schedule goes on, and so do the others
            error_id = uuid.uuid4().hex
            _log.exception("a look broke", schedule=str(schedule.schedule_id), error_id=error_id)
            return Trouble("INTERNAL", f"internal error; its id in the log is {error_id}")

    def conclude(self, look: Look, seen: str | Trouble) -> None:
        """Create a job where a look saw something new; where the look is void by now, nothing is written."""
        with self._store.transaction() as connection:
            schedule = self._store.looked(connection, look)
            if schedule is None:
                _log.info("look is void", schedule=str(look.schedule.schedule_id))
            elif isinstance(seen, Trouble):
                self._missed(connection, schedule, seen)
            elif not schedule.wants(seen):
                self._advance(connection, schedule)
            elif trouble := self._hindrance(connection, schedule):  # meanwhile
                self._missed(connection, schedule, trouble)
            else:
                self._make(connection, schedule, seen)

    def give_back(self, look: Look) -> None:
        """Leave a look to others."""
        self._store.give_back(look)

    def _make(self, connection: JobConnection, schedule: Schedule, revision: str = "") -> None:
        """Create the job of the time that is due, for what a look saw, and go on to the next."""
        due_time = schedule.next_time
        if due_time is None:
            raise AssertionError(f"{schedule.schedule_id} was taken although no time of it comes")
        job_id = job_id_of(schedule.schedule_id, due_time)
        if not self._store.is_job(connection, job_id):  # it is where the database's clock went back
            job = NewJob(
                job_id=job_id,
                created_by=schedule.created_by,
                payload=schedule.spec.columns(),
                priority=schedule.priority,
                limit_key=self._sources.of(schedule.spec.reference).host(schedule.spec.reference),
                max_attempts=schedule.max_attempts,
                hard_limit_ms=self._limits.hard_limit_ms,
            )
            self._jobs.insert(connection, job)
            self._store.made(connection, schedule.schedule_id, job_id, revision)
        self._advance(connection, schedule)
        _log.info("schedule came due", schedule=str(schedule.schedule_id), job=str(job_id))

    def _hindrance(self, connection: JobConnection, schedule: Schedule) -> Trouble | None:
        """Say why no job may be created just now; None: one may."""
        try:
            self._sources.of(schedule.spec.reference).host(schedule.spec.reference)
        except DomainError as error:  # a setting was changed since it was created
            return Trouble(error.reason, error.message, Again.AFTER_A_WAIT)
        if self._fetches.unended(connection, schedule.created_by) >= self._limits.max_unended:
            sentence = f"{self._limits.max_unended:,} jobs of {schedule.created_by} have not ended"
            return Trouble("TOO_MANY_JOBS", sentence, Again.AFTER_A_WAIT)
        return None

    def _missed(self, connection: JobConnection, schedule: Schedule, trouble: Trouble) -> None:
        """Have a time that came in vain tried again soon, where that may help and the next does not come before."""
        following, delay_s = _following(schedule), self._delay_s(schedule, trouble)
        if delay_s is None or (following is not None and following <= schedule.read_time + timedelta(seconds=delay_s)):
            self._advance(connection, schedule, trouble=trouble)
            return
        counted = trouble.again is Again.AFTER_A_FAULT
        self._store.put_off(connection, schedule.schedule_id, trouble, delay_s=delay_s, counted=counted)

    def _delay_s(self, schedule: Schedule, trouble: Trouble) -> float | None:
        """Draw the wait before the next try; None: there is none."""
        tries = schedule.try_count + 1
        if trouble.again is Again.AFTER_A_FAULT and tries < schedule.max_attempts:
            return self._limits.backoff.delay_s(tries, trouble.retry_after_s)
        waited = schedule.read_time - (schedule.try_time or schedule.read_time)
        if trouble.again is Again.AFTER_A_WAIT and waited < MOST_WAITED:
            return self._limits.backoff.delay_s(1, trouble.retry_after_s or ROOM_S)
        return None

    def _advance(self, connection: JobConnection, schedule: Schedule, trouble: Trouble | None = None) -> None:
        following = _following(schedule)
        self._store.advance(connection, schedule.schedule_id, following, trouble=trouble)
        if trouble is not None and following is None:
            self._webhooks.tell_of_schedule(connection, schedule, trouble)


def _following(schedule: Schedule) -> datetime | None:
    """Give the next time that is still to come: those that passed meanwhile are made up for by this one."""
    now = max(schedule.read_time, schedule.next_time or schedule.read_time)
    try:
        return schedule.when.after(now)
    except DomainError as error:
        _log.warning("schedule not understood", schedule=str(schedule.schedule_id), message=error.message)
        return now + UNREADABLE
