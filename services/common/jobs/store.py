"""A table of jobs: every move of a job is one statement here, and each is fenced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString
from uuid import UUID

from psycopg import Connection, Cursor, sql
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.common.errors import Aborted, FailedPrecondition, NotFound
from services.common.jobs import statements
from services.common.jobs.job import (
    Failure,
    Job,
    JobState,
    JobWorker,
    Lease,
    LeaseLost,
    NewJob,
    Progress,
    Standing,
)
from services.common.postgres import Database, Listener

JobConnection = Connection[DictRow]
"""A transaction that a job changes in, lent for what changes with it."""
OnEnd = Callable[[JobConnection, Job], None]
"""Hears of a job that ends, however it ends, in the transaction that ends it: what it writes is there if that is.

It is quick, and raises nothing that would stay: whoever ends the job would try in vain.
"""
REQUESTS_KEPT_DAYS = 7
WORKERS_SHOWN_S = 3_600.0
MAX_MESSAGE_CHARS = 2_000
MAX_DETAIL_CHARS = 20_000
_PLAIN = frozenset(statements.COMMON.replace("\n", " ").replace(" ", "").split(","))
_ROW_STATES = {JobState.PENDING: JobState.QUEUED}
_READ = frozenset({"seen_state", "read_time", "state"})
_RENAMED = frozenset({"done_count", "failed_count", "total_count", "error_reason", "error_message", "error_detail"})


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many jobs run at once over all replicas, in all and of one `limit_key`; None: as many as the workers take."""

    total: int | None = None
    per_key: int | None = None

    @property
    def limited(self) -> bool:
        """Whether claims must count."""
        return self.total is not None or self.per_key is not None


@dataclass(frozen=True, slots=True)
class JobFilters:
    """Which jobs are listed: `created_by` None is everyone's; `columns` are the service's own, held to be equal.

    `running_columns` are held to be equal of jobs that run alone.
    """

    states: frozenset[JobState] = frozenset()
    created_by: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    running_columns: Mapping[str, Any] = field(default_factory=dict)


class JobStore:
    """The jobs of one table, `schema.table`; see columns.sql for what it looks like.

    Three channels ring: `queued` when a worker may find something, `cancelled` when a running job is asked to end,
    `changed` whenever a job's readers may see something new.
    """

    def __init__(
        self, database: Database, schema: str, table: str, *, on_end: OnEnd = lambda _connection, _job: None
    ) -> None:
        self._database = database
        self._on_end = on_end
        self._name = f"{schema}.{table}"
        self._identifiers = {
            "table": sql.Identifier(schema, table),
            "workers": sql.Identifier(schema, f"{table}_workers"),
        }
        self.queued, self.cancelled, self.changed = (
            f"{schema}_{table}_{what}" for what in ("queued", "cancelled", "changed")
        )

    def listen(self, channels: Sequence[str], *, poll_interval_s: float) -> Listener:
        """Listen to some of the channels; see `Listener`."""
        return self._database.listen(channels, poll_interval_s=poll_interval_s)

    @contextmanager
    def transaction(self) -> Iterator[JobConnection]:
        """Lend a transaction, for what changes together with a job."""
        with self._database.transaction() as connection:
            yield connection

    def create(self, new: NewJob) -> Job:
        """Create a job in a transaction of its own; see `insert`."""
        with self._database.transaction() as connection:
            return self.insert(connection, new)

    def insert(self, connection: JobConnection, new: NewJob) -> Job:
        """Queue a job, or give the one that the same request created within 7 days.

        Raises:
            FailedPrecondition: the request_id came with another body (REQUEST_ID_REUSED).
        """
        names = list(new.payload)
        values = {
            "job_id": new.job_id, "created_by": new.created_by, "request_id": new.request_id,
            "body_sha256": new.body_sha256, "priority": new.priority, "limit_key": new.limit_key,
            "due_time": new.due_time, "max_attempts": new.max_attempts, "soft_limit_ms": new.soft_limit_ms,
            "hard_limit_ms": new.hard_limit_ms,
        }  # fmt: skip
        self._run(connection, statements.FORGET_REQUEST, {**values, "kept_days": REQUESTS_KEPT_DAYS})
        statement = sql.SQL(statements.INSERT).format(
            **self._identifiers,
            names=sql.SQL("").join(sql.SQL(", {}").format(sql.Identifier(name)) for name in names),
            values=sql.SQL("").join(sql.SQL(", {}").format(sql.Placeholder(name)) for name in names),
        )
        if connection.execute(statement, {**values, **new.payload}).rowcount == 0:
            if known := self.known(connection, new.created_by, new.request_id, new.body_sha256):
                return known
            raise Aborted("the job that this request created was just deleted; ask again", reason="JOB_DELETED")
        self._notify(connection, self.queued, self.changed)
        return self._get(connection, new.job_id)

    def known(self, connection: JobConnection, created_by: str, request_id: str, body_sha256: str) -> Job | None:
        """Give what a request created within 7 days; raises FailedPrecondition (REQUEST_ID_REUSED) of another body."""
        values = {"created_by": created_by, "request_id": request_id}
        row = self._run(connection, statements.FIND_REQUEST, values).fetchone() if request_id else None
        if row is not None and row["body_sha256"] != body_sha256:
            sentence = f"the request_id {request_id!r} came with another request before; choose a new one for a new"
            raise FailedPrecondition(f"{sentence} request, and repeat one exactly", reason="REQUEST_ID_REUSED")
        return self._get(connection, row["job_id"]) if row is not None else None

    def get(self, job_id: UUID) -> Job:
        """Read a job; raises NotFound (JOB_NOT_FOUND)."""
        with self._database.transaction() as connection:
            return self._get(connection, job_id)

    def page(self, filters: JobFilters, *, before: int | None, limit: int) -> list[Job]:
        """List jobs, the newest first: up to `limit` of those created before a number."""
        conditions: list[sql.Composable] = [sql.SQL("true")]
        values: dict[str, Any] = {"limit": limit}
        if filters.states:
            # The second is the row's own, which has an index.
            conditions.append(sql.SQL(statements.STATE + " = ANY(%(states)s) AND state = ANY(%(row_states)s)"))
            values["states"] = sorted(filters.states)
            values["row_states"] = sorted({_ROW_STATES.get(state, state) for state in filters.states})
        if filters.created_by is not None:
            conditions.append(sql.SQL("created_by = %(created_by)s"))
            values["created_by"] = filters.created_by
        for form, columns in (("{} = {}", filters.columns), (statements.IF_RUNNING, filters.running_columns)):
            for name, value in columns.items():
                conditions.append(sql.SQL(form).format(sql.Identifier(name), sql.Placeholder(f"own_{name}")))
                values[f"own_{name}"] = value
        if before is not None:
            conditions.append(sql.SQL("create_number < %(before)s"))
            values["before"] = before
        statement = sql.SQL("{} WHERE {} ORDER BY create_number DESC LIMIT %(limit)s").format(
            self._sql(statements.SELECT), sql.SQL(" AND ").join(conditions)
        )
        with self._database.transaction() as connection:
            return [_job(row) for row in connection.execute(statement, values).fetchall()]

    def sweep(self) -> int:
        """Take down what nobody told: leases that ran out, hard limits that passed. Any replica may; gives how many."""
        with self._database.transaction() as connection:
            rows = self._run(connection, statements.SWEEP, {}).fetchall()
            if rows:
                self._ended(connection, rows)
                self._notify(connection, self.queued, self.changed)
            return len(rows)

    def claim(self, worker_id: str, lease_s: float, concurrency: Concurrency) -> tuple[Lease, Job] | None:
        """Take the job that is next: the lowest priority number, then the one created first. None: there is none."""
        with self._database.transaction() as connection:
            if concurrency.limited:
                connection.execute(statements.LOCK_CLAIMS, {"name": f"penstock.jobs.{self._name}"})
            values = {
                "worker_id": worker_id, "lease_s": lease_s, "total": concurrency.total, "per_key": concurrency.per_key
            }  # fmt: skip
            row = self._run(connection, statements.CLAIM, values).fetchone()
            if row is None:
                return None
            self._notify(connection, self.changed)
            job = _job(row)
            return Lease(job.job_id, job.token, worker_id), job

    @contextmanager
    def holding(self, lease: Lease) -> Iterator[JobConnection]:
        """Lend a transaction in which the lease holds to the end: what is written there, its holder has written.

        Raises:
            LeaseLost: the lease is over, by its time or because another has the job; nothing is written.
        """
        with self._database.transaction() as connection:
            if self._run(connection, statements.HOLD, _key(lease)).fetchone() is None:
                raise LeaseLost(f"job {lease.job_id} is not this worker's any more")
            yield connection

    def report(self, connection: JobConnection, lease: Lease, progress: Progress) -> None:
        """Write how far the work has come, inside `holding`."""
        values = {"done": progress.done, "failed": progress.failed, "total": progress.total}
        self._run(connection, statements.REPORT, {**_key(lease), **values})
        self._notify(connection, self.changed)

    def complete(self, connection: JobConnection, lease: Lease, result: Mapping[str, Any]) -> None:
        """End a job well, inside `holding`."""
        self._end(connection, lease, JobState.COMPLETED, Failure(), Jsonb(dict(result)))

    def fail(self, connection: JobConnection, lease: Lease, failure: Failure) -> None:
        """End a job badly, inside `holding`."""
        self._end(connection, lease, JobState.FAILED, failure, None)

    def end_cancelled(self, connection: JobConnection, lease: Lease) -> None:
        """End a job because somebody wished so, inside `holding`."""
        self._end(connection, lease, JobState.CANCELLED, Failure(), None)

    def put_back(
        self,
        connection: JobConnection,
        lease: Lease,
        *,
        delay_s: float = 0.0,
        failure: Failure | None = None,
        counted: bool = True,
    ) -> None:
        """Queue a job again, inside `holding`: after a fault that may pass; or, not `counted`, as a worker ends.

        One that somebody asked to end is CANCELLED instead.
        """
        values = {**_key(lease), **_said(failure or Failure()), "delay_s": delay_s, "uncounted": 0 if counted else 1}
        self._ended(connection, self._run(connection, statements.PUT_BACK, values).fetchall())
        self._notify(connection, self.queued, self.changed)

    def renew(self, leases: Sequence[Lease], lease_s: float) -> frozenset[UUID]:
        """Prolong the leases that still hold, and name their jobs; a row that is locked is left for the next time."""
        with self._database.transaction() as connection:
            rows = self._run(connection, statements.RENEW, {**_keys(leases), "lease_s": lease_s}).fetchall()
        return frozenset(row["job_id"] for row in rows)

    def standings(self, leases: Sequence[Lease]) -> Mapping[UUID, Standing]:
        """Say how leases stand, by job id; one that is not there is lost, or its job is past its hard limit."""
        with self._database.transaction() as connection:
            rows = self._run(connection, statements.STANDINGS, _keys(leases)).fetchall()
        return {row["job_id"]: Standing(row["cancelled"], row["soft_limit_passed"]) for row in rows}

    def cancel(self, job_id: UUID) -> Job:
        """End a job that waits, or ask the one that runs to end; asking twice is asking once.

        Raises:
            NotFound: JOB_NOT_FOUND.
            FailedPrecondition: it has ended, and not by this (JOB_ENDED).
        """
        with self._database.transaction() as connection:
            changed = self._run(connection, statements.CANCEL, {"job_id": job_id}).rowcount
            job = self._get(connection, job_id)
            if changed:
                if job.ended:
                    self._on_end(connection, job)
                self._notify(connection, self.cancelled, self.changed)
            elif job.state is not JobState.CANCELLED:
                raise FailedPrecondition(f"the job is {job.state} already", reason="JOB_ENDED")
            return job

    def retry(self, connection: JobConnection, job_id: UUID, *, anew: bool = False) -> Job:
        """Queue a job that FAILED or was CANCELLED again, its attempts and limits counted anew.

        `anew`: nothing of what was done is kept, and so its progress is none.

        Raises:
            NotFound: JOB_NOT_FOUND.
            FailedPrecondition: it is in another state (WRONG_STATE).
        """
        changed = self._run(connection, statements.RETRY, {"job_id": job_id, "anew": anew}).rowcount
        job = self._get(connection, job_id)
        if not changed:
            sentence = f"the job is {job.state}; only one that is FAILED or CANCELLED can be tried again"
            raise FailedPrecondition(sentence, reason="WRONG_STATE")
        self._notify(connection, self.queued, self.changed)
        return job

    def delete(self, job_id: UUID) -> None:
        """Delete a job that has ended.

        Raises:
            NotFound: JOB_NOT_FOUND.
            FailedPrecondition: it has not ended; cancel it first (WRONG_STATE).
        """
        with self._database.transaction() as connection:
            job = self._get(connection, job_id)
            if self._run(connection, statements.DELETE, {"job_id": job_id}).rowcount == 0:
                sentence = f"the job is {job.state}; cancel it, and delete it once it has ended"
                raise FailedPrecondition(sentence, reason="WRONG_STATE")
            self._notify(connection, self.changed)

    def expire(self, kept_s: float, *, limit: int = 1_000) -> int:
        """Delete jobs that ended so long ago, up to a limit; gives how many."""
        with self._database.transaction() as connection:
            return self._run(connection, statements.EXPIRE, {"kept_s": kept_s, "limit": limit}).rowcount

    def counts(self) -> Mapping[JobState, int]:
        """Count the jobs by state; every state is there."""
        with self._database.transaction() as connection:
            rows = connection.execute(self._sql(statements.COUNTS)).fetchall()
        found = {row["state"]: row["count"] for row in rows}
        return {state: found.get(state.value, 0) for state in JobState}

    def queue_age_s(self) -> float:
        """Say for how long the job that has been due longest waits; 0 where none does."""
        with self._database.transaction() as connection:
            row = self._run(connection, statements.OLDEST, {}).fetchone()
        return float(row["age_s"]) if row else 0.0

    def seen(self, worker_id: str, *, slot_count: int, busy_count: int) -> None:
        """Say that a worker lives."""
        with self._database.transaction() as connection:
            values = {"worker_id": worker_id, "slot_count": slot_count, "busy_count": busy_count}
            self._run(connection, statements.SEEN, values)
            self._run(connection, statements.FORGET_WORKERS, {"shown_s": WORKERS_SHOWN_S})

    def gone(self, worker_id: str) -> None:
        """Say that a worker has ended in order."""
        with self._database.transaction() as connection:
            self._run(connection, statements.GONE, {"worker_id": worker_id})

    def workers(self, *, live_s: float) -> list[JobWorker]:
        """List the workers of the last hour; `live` are those that were seen within so many seconds."""
        with self._database.transaction() as connection:
            values = {"live_s": live_s, "shown_s": WORKERS_SHOWN_S}
            return [JobWorker(**row) for row in self._run(connection, statements.WORKERS, values).fetchall()]

    def _end(
        self, connection: JobConnection, lease: Lease, state: JobState, failure: Failure, result: Jsonb | None
    ) -> None:
        values = {**_key(lease), **_said(failure), "state": state.value, "result": result}
        self._ended(connection, self._run(connection, statements.END, values).fetchall())
        # Whoever waits behind a limit may be next.
        self._notify(connection, self.queued, self.changed)

    def _ended(self, connection: JobConnection, rows: Sequence[DictRow]) -> None:
        """Tell of those rows that have ended."""
        for job in map(_job, rows):
            if job.ended:
                self._on_end(connection, job)

    def _get(self, connection: JobConnection, job_id: UUID) -> Job:
        statement = sql.SQL("{} WHERE job_id = %(job_id)s").format(self._sql(statements.SELECT))
        row = connection.execute(statement, {"job_id": job_id}).fetchone()
        if row is None:
            raise NotFound(f"there is no job {job_id}; it may have been deleted", reason="JOB_NOT_FOUND")
        return _job(row)

    def _notify(self, connection: JobConnection, *channels: str) -> None:
        for channel in channels:
            connection.execute(statements.NOTIFY, {"channel": channel})

    def _run(self, connection: JobConnection, statement: LiteralString, values: Mapping[str, Any]) -> Cursor[DictRow]:
        return connection.execute(self._sql(statement), values)

    def _sql(self, statement: LiteralString) -> sql.Composed:
        return sql.SQL(statement).format(**self._identifiers)


def _key(lease: Lease) -> dict[str, Any]:
    return {"job_id": lease.job_id, "token": lease.token}


def _keys(leases: Sequence[Lease]) -> dict[str, Any]:
    return {"job_ids": [lease.job_id for lease in leases], "tokens": [lease.token for lease in leases]}


def _said(failure: Failure) -> dict[str, str]:
    # No text of PostgreSQL's has a NUL or half a surrogate pair; a file's name may bring both into a sentence.
    message, detail = (
        text.encode("utf-8", "replace").decode().replace("\0", " ") for text in (failure.message, failure.detail)
    )
    return {"reason": failure.reason, "message": message[:MAX_MESSAGE_CHARS], "detail": detail[-MAX_DETAIL_CHARS:]}


def _job(row: DictRow) -> Job:
    plain = {name: row[name] for name in _PLAIN - _RENAMED}
    return Job(
        **plain,
        state=JobState(row["seen_state"]),
        progress=Progress(row["done_count"], row["failed_count"], row["total_count"]),
        error=Failure(row["error_reason"], row["error_message"], row["error_detail"]),
        read_time=row["read_time"],
        payload={name: value for name, value in row.items() if name not in _PLAIN and name not in _READ},
    )
