"""The rows of schedules. Times are the database's alone: no statement takes one from whoever runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from math import inf
from typing import Final, LiteralString
from uuid import UUID

from psycopg.rows import DictRow

from services.common.errors import FailedPrecondition, NotFound
from services.common.jobs import Job, JobConnection, JobState
from services.common.postgres import Database, Listener
from services.fetcher.models import FetchSpec, Phase
from services.fetcher.schedules.models import LastJob, Look, NewSchedule, Schedule, ScheduleFilters, Trouble, When

CHANGED: Final = "fetcher_fetch_schedules_changed"
"""The channel that rings when a schedule may be due sooner than was known."""
REQUESTS_KEPT_DAYS = 7
MAX_MESSAGE_CHARS = 2_000

_STATE: LiteralString = (
    "(CASE WHEN jobs.state = 'QUEUED' AND jobs.due_time > clock_timestamp() THEN 'PENDING' ELSE jobs.state END)"
)
_SELECT: LiteralString = (
    "SELECT schedules.*, clock_timestamp() AS read_time, "
    + _STATE
    + """ AS job_state, jobs.phase AS job_phase
FROM fetcher.fetch_schedules schedules LEFT JOIN fetcher.fetch_jobs jobs ON jobs.job_id = schedules.last_job_id
"""
)
_LOCK_OWNER = "SELECT pg_advisory_xact_lock(hashtextextended('penstock.fetcher.schedules ' || %(created_by)s, 0))"
_NOW = "SELECT clock_timestamp() AS now"
_FORGET_REQUEST = """
UPDATE fetcher.fetch_schedules SET request_id = ''
WHERE created_by = %(created_by)s AND request_id = %(request_id)s AND request_id <> ''
  AND create_time <= clock_timestamp() - make_interval(days => %(kept_days)s)
"""
_FIND_REQUEST = """
SELECT schedule_id, body_sha256 FROM fetcher.fetch_schedules
WHERE created_by = %(created_by)s AND request_id = %(request_id)s AND request_id <> ''
"""
_COUNT = """
SELECT count(*) AS count FROM fetcher.fetch_schedules WHERE created_by = %(created_by)s AND end_time IS NULL
"""
_INSERT = """
INSERT INTO fetcher.fetch_schedules (schedule_id, created_by, request_id, body_sha256, source, reference, revision,
    variant, sha256, target, model, version, webhook, priority, max_attempts, at_time, cron, time_zone, auto_update,
    next_time)
VALUES (%(schedule_id)s, %(created_by)s, %(request_id)s, %(body_sha256)s, %(source)s, %(reference)s, %(revision)s,
    %(variant)s, %(sha256)s, %(target)s, %(model)s, %(version)s, %(webhook)s, %(priority)s, %(max_attempts)s,
    %(at_time)s, %(cron)s, %(time_zone)s, %(auto_update)s, %(next_time)s)
"""
_PAGE: LiteralString = (
    _SELECT
    + """
WHERE (%(model)s = '' OR schedules.model = %(model)s) AND (%(source)s = '' OR schedules.source = %(source)s)
  AND (%(enabled)s::boolean IS NULL OR enabled = %(enabled)s)
  AND (%(before)s::bigint IS NULL OR schedules.create_number < %(before)s)
ORDER BY schedules.create_number DESC LIMIT %(limit)s
"""
)
_ONE: LiteralString = _SELECT + "WHERE schedules.schedule_id = %(schedule_id)s"
_LOCK_ONE: LiteralString = _ONE + " FOR UPDATE OF schedules"
# A look that was begun is void with it: what it found would be of another time.
_ENABLE = """
UPDATE fetcher.fetch_schedules SET enabled = %(enabled)s, next_time = %(next_time)s, look_token = look_token + 1,
    look_expire_time = NULL, try_count = 0, try_time = NULL, retry_time = NULL
WHERE schedule_id = %(schedule_id)s
"""
_DELETE = "DELETE FROM fetcher.fetch_schedules WHERE schedule_id = %(schedule_id)s"

_DUE: LiteralString = (
    _SELECT
    + """
WHERE next_time <= clock_timestamp() AND (look_expire_time IS NULL OR look_expire_time <= clock_timestamp())
  AND (retry_time IS NULL OR retry_time <= clock_timestamp())
  AND (%(looks)s OR NOT auto_update)
ORDER BY next_time FOR UPDATE OF schedules SKIP LOCKED LIMIT 1
"""
)
_BEGIN_LOOK = """
UPDATE fetcher.fetch_schedules SET look_token = look_token + 1,
    look_expire_time = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE schedule_id = %(schedule_id)s RETURNING look_token
"""
_LOCK_LOOK: LiteralString = _LOCK_ONE.replace(
    "FOR UPDATE", "AND look_token = %(token)s AND look_expire_time > clock_timestamp() FOR UPDATE"
)
_END_LOOK = """
UPDATE fetcher.fetch_schedules SET last_check_time = clock_timestamp() WHERE schedule_id = %(schedule_id)s
"""
_GIVE_BACK = """
UPDATE fetcher.fetch_schedules SET look_expire_time = NULL
WHERE schedule_id = %(schedule_id)s AND look_token = %(token)s
"""
_MADE = """
UPDATE fetcher.fetch_schedules SET last_job_id = %(job_id)s, last_job_failed = false, last_revision = %(revision)s
WHERE schedule_id = %(schedule_id)s
"""
_ENDED = """
UPDATE fetcher.fetch_schedules SET last_job_failed = %(failed)s
WHERE schedule_id = %(schedule_id)s AND last_job_id = %(job_id)s
"""
_PUT_OFF = """
UPDATE fetcher.fetch_schedules SET look_expire_time = NULL, try_count = try_count + %(counted)s::integer,
    try_time = coalesce(try_time, clock_timestamp()),
    retry_time = clock_timestamp() + make_interval(secs => %(delay_s)s),
    error_reason = %(reason)s, error_message = %(message)s, error_time = clock_timestamp()
WHERE schedule_id = %(schedule_id)s
"""
_ADVANCE = """
UPDATE fetcher.fetch_schedules SET last_time = next_time, next_time = %(next_time)s, look_expire_time = NULL,
    try_count = 0, try_time = NULL, retry_time = NULL,
    end_time = CASE WHEN at_time IS NULL THEN NULL ELSE clock_timestamp() END,
    error_reason = %(reason)s, error_message = %(message)s,
    error_time = CASE WHEN %(reason)s = '' THEN NULL ELSE clock_timestamp() END
WHERE schedule_id = %(schedule_id)s
"""
_JOB = "SELECT 1 FROM fetcher.fetch_jobs WHERE job_id = %(job_id)s"
_EXPIRE = """
DELETE FROM fetcher.fetch_schedules
WHERE end_time <= (SELECT clock_timestamp() - make_interval(secs => %(kept_s)s))
"""
_NEXT = """
SELECT extract(epoch FROM min(greatest(next_time, retry_time, look_expire_time)) - clock_timestamp())::float8 AS wait_s
FROM fetcher.fetch_schedules WHERE next_time IS NOT NULL
"""
_FAILING = """
SELECT count(*) AS count FROM fetcher.fetch_schedules
WHERE enabled AND (end_time IS NULL OR end_time > clock_timestamp() - interval '1 day')
  AND (last_job_failed OR error_reason NOT IN ('', 'STILL_RUNNING'))
"""
_NOTIFY = "SELECT pg_notify(%(channel)s, '')"


class ScheduleStore:
    """Reads and writes schedules; what a job changes with stands in a transaction that is lent."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def listen(self, *, poll_interval_s: float) -> Listener:
        """Listen for changes; see `Listener`."""
        return self._database.listen([CHANGED], poll_interval_s=poll_interval_s)

    @contextmanager
    def transaction(self) -> Iterator[JobConnection]:
        """Lend a transaction."""
        with self._database.transaction() as connection:
            yield connection

    def now(self, connection: JobConnection) -> datetime:
        """Say what time it is."""
        row = connection.execute(_NOW).fetchone()
        assert row is not None  # noqa: S101 - it has no WHERE
        return row["now"]  # type: ignore[no-any-return] # a timestamptz

    def requested(self, connection: JobConnection, new: NewSchedule, created_by: str) -> Schedule | None:
        """Give the schedule that the same request created within 7 days; None: there is none.

        Whoever creates schedules under the same name waits until the transaction is over.

        Raises:
            FailedPrecondition: the request_id came with another body (REQUEST_ID_REUSED).
        """
        values = {"created_by": created_by, "request_id": new.request_id, "kept_days": REQUESTS_KEPT_DAYS}
        connection.execute(_LOCK_OWNER, values)
        connection.execute(_FORGET_REQUEST, values)
        row = connection.execute(_FIND_REQUEST, values).fetchone()
        if row is None:
            return None
        if row["body_sha256"] != new.body_sha256:
            sentence = (
                f"the request_id {new.request_id!r} came with another request before; choose a new one for a new "
                "request, and send exactly the same to repeat one"
            )
            raise FailedPrecondition(sentence, reason="REQUEST_ID_REUSED")
        return self._one(connection, _ONE, row["schedule_id"])

    def count(self, connection: JobConnection, created_by: str) -> int:
        """Count a caller's schedules, those left out whose only time is over."""
        row = connection.execute(_COUNT, {"created_by": created_by}).fetchone()
        return int(row["count"]) if row else 0

    def insert(
        self, connection: JobConnection, schedule_id: UUID, new: NewSchedule, created_by: str, next_time: datetime
    ) -> Schedule:
        """Create a schedule."""
        values = {
            **new.spec.columns(), "schedule_id": schedule_id, "created_by": created_by, "request_id": new.request_id,
            "body_sha256": new.body_sha256, "priority": new.priority, "max_attempts": new.max_attempts,
            "at_time": new.when.at_time, "cron": new.when.cron, "time_zone": new.when.time_zone,
            "auto_update": new.auto_update, "next_time": next_time,
        }  # fmt: skip
        connection.execute(_INSERT, values)
        self._ring(connection)
        return self._one(connection, _ONE, schedule_id)

    def get(self, schedule_id: UUID) -> Schedule:
        """Read a schedule; raises NotFound (SCHEDULE_NOT_FOUND)."""
        with self._database.transaction() as connection:
            return self._one(connection, _ONE, schedule_id)

    def lock(self, connection: JobConnection, schedule_id: UUID) -> Schedule:
        """Read a schedule that nobody else changes before the transaction ends; raises NotFound."""
        return self._one(connection, _LOCK_ONE, schedule_id)

    def page(self, filters: ScheduleFilters, *, before: int | None, limit: int) -> list[Schedule]:
        """List schedules, the newest first: up to `limit` of those created before a number."""
        values = {
            "model": filters.model, "source": filters.source, "enabled": filters.enabled, "before": before,
            "limit": limit,
        }  # fmt: skip
        with self._database.transaction() as connection:
            return [_schedule(row) for row in connection.execute(_PAGE, values).fetchall()]

    def enable(
        self, connection: JobConnection, schedule_id: UUID, *, enabled: bool, next_time: datetime | None
    ) -> Schedule:
        """Switch a schedule on or off, with the time that comes next."""
        values = {"schedule_id": schedule_id, "enabled": enabled, "next_time": next_time}
        connection.execute(_ENABLE, values)
        self._ring(connection)
        return self._one(connection, _ONE, schedule_id)

    def delete(self, schedule_id: UUID) -> None:
        """Delete a schedule; raises NotFound (SCHEDULE_NOT_FOUND)."""
        with self._database.transaction() as connection:
            if connection.execute(_DELETE, {"schedule_id": schedule_id}).rowcount == 0:
                raise _not_found(schedule_id)

    def due(self, connection: JobConnection, *, looks: bool) -> Schedule | None:
        """Take the schedule that has been due longest, and that nobody else has; `looks`: with auto_update, too.

        It is locked until the transaction ends, by when it must have been advanced or put off, or its look begun.
        """
        row = connection.execute(_DUE, {"looks": looks}).fetchone()
        return _schedule(row) if row else None

    def begin_look(self, connection: JobConnection, schedule: Schedule, lease_s: float) -> Look:
        """Have a schedule to oneself for so long, without its row."""
        values = {"schedule_id": schedule.schedule_id, "lease_s": lease_s}
        row = connection.execute(_BEGIN_LOOK, values).fetchone()
        assert row is not None  # noqa: S101 - its row is locked
        return Look(schedule, row["look_token"])

    def looked(self, connection: JobConnection, look: Look) -> Schedule | None:
        """Take a schedule's row again after a look.

        Gives the schedule as it was before; None where the look is void: it took too long, or the schedule was
        switched, or deleted. It is locked until the transaction ends, by when it must have been advanced or put off.
        """
        values = {"schedule_id": look.schedule.schedule_id, "token": look.token}
        row = connection.execute(_LOCK_LOOK, values).fetchone()
        if row is None:
            return None
        connection.execute(_END_LOOK, values)
        return _schedule(row)

    def give_back(self, look: Look) -> None:
        """Let others look at once."""
        with self._database.transaction() as connection:
            connection.execute(_GIVE_BACK, {"schedule_id": look.schedule.schedule_id, "token": look.token})
            self._ring(connection)

    def made(self, connection: JobConnection, schedule_id: UUID, job_id: UUID, revision: str) -> None:
        """Note which job was created, and for what: `revision_of` what a look saw; '': none was needed."""
        connection.execute(_MADE, {"schedule_id": schedule_id, "job_id": job_id, "revision": revision})

    def ended(self, connection: JobConnection, job: Job) -> None:
        """Note how a schedule's last job ended, in the transaction that ends it; see `OnEnd`."""
        schedule_id = FetchSpec.of(job.payload).schedule_id
        if schedule_id is not None:
            failed = job.state is JobState.FAILED
            connection.execute(_ENDED, {"schedule_id": schedule_id, "job_id": job.job_id, "failed": failed})

    def advance(
        self,
        connection: JobConnection,
        schedule_id: UUID,
        next_time: datetime | None,
        *,
        trouble: Trouble | None = None,
    ) -> None:
        """Go on to the next time: this one has made a job, or nothing, or could not be heeded."""
        said = _said(trouble) if trouble else {"reason": "", "message": ""}
        connection.execute(_ADVANCE, {"schedule_id": schedule_id, "next_time": next_time, **said})

    def put_off(
        self, connection: JobConnection, schedule_id: UUID, trouble: Trouble, *, delay_s: float, counted: bool
    ) -> None:
        """Have the time that is due tried again after a while; `counted`: as one that was tried in vain."""
        values = {"schedule_id": schedule_id, "delay_s": delay_s, "counted": counted}
        connection.execute(_PUT_OFF, {**values, **_said(trouble)})

    def is_job(self, connection: JobConnection, job_id: UUID) -> bool:
        """Say whether a job of this id is there."""
        return connection.execute(_JOB, {"job_id": job_id}).fetchone() is not None

    def expire(self, kept_s: float) -> int:
        """Delete schedules whose only time was heeded so long ago; gives how many."""
        with self._database.transaction() as connection:
            return connection.execute(_EXPIRE, {"kept_s": kept_s}).rowcount

    def failing(self) -> int:
        """Count the schedules whose last try or last job failed, those whose only time is over for a day."""
        with self._database.transaction() as connection:
            row = connection.execute(_FAILING).fetchone()
        return int(row["count"]) if row else 0

    def next_s(self) -> float:
        """Say how long it is until the next time of any schedule; infinity where none comes."""
        with self._database.transaction() as connection:
            row = connection.execute(_NEXT).fetchone()
        return inf if row is None or row["wait_s"] is None else float(row["wait_s"])

    def _one(self, connection: JobConnection, statement: LiteralString, schedule_id: UUID) -> Schedule:
        row = connection.execute(statement, {"schedule_id": schedule_id}).fetchone()
        if row is None:
            raise _not_found(schedule_id)
        return _schedule(row)

    def _ring(self, connection: JobConnection) -> None:
        connection.execute(_NOTIFY, {"channel": CHANGED})


def _not_found(schedule_id: UUID) -> NotFound:
    return NotFound(f"there is no schedule {schedule_id}; it may have been deleted", reason="SCHEDULE_NOT_FOUND")


def _said(trouble: Trouble) -> dict[str, str]:
    # A NUL is in no text of PostgreSQL's, and a source may bring one into a sentence.
    return {"reason": trouble.reason, "message": trouble.message.replace("\0", " ")[:MAX_MESSAGE_CHARS]}


def _schedule(row: DictRow) -> Schedule:
    names = (
        "schedule_id", "create_number", "created_by", "create_time", "priority", "max_attempts", "auto_update",
        "enabled", "next_time", "try_count", "try_time", "retry_time", "last_time", "last_job_id", "last_job_failed",
        "last_revision", "last_check_time", "read_time",
    )  # fmt: skip
    own = {"webhook_message_id": None, "phase": Phase.DOWNLOADING, "plan": None, "reused_bytes": 0, "done_files": 0}
    own["bytes_per_second"] = 0
    return Schedule(
        **{name: row[name] for name in names},
        spec=FetchSpec.of({**row, **own}),
        when=When(row["at_time"], row["cron"], row["time_zone"]),
        last_job=LastJob(row["last_job_id"], JobState(row["job_state"]), Phase(row["job_phase"]))
        if row["job_state"]
        else None,
        trouble=Trouble(row["error_reason"], row["error_message"]) if row["error_reason"] else None,
        trouble_time=row["error_time"],
    )
