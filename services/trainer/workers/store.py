"""Tasks of outside workers, and what they told, in their tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb

from penstock.ids import uuid7
from services.common.jobs import JobConnection, LeaseLost
from services.common.postgres import Database, Listener
from services.trainer.task import CheckpointWritten, Epoch, Event, Log, Task
from services.trainer.workers.models import InvalidRunToken, OutsideTask, RemoteFile, RunTokenVoid, TaskState
from services.trainer.workers.tokens import TOKEN_CHARS, digest_of, is_token_of

CHANNEL = "trainer_outside"
EVENTS_AT_ONCE = 64
_NO_TOKEN = "no run has this token: see that all of it was passed on"  # noqa: S105 - a sentence
_VOID = "this token is void: the run has ended, was completed, or is another worker's by now; stop, and send no more"

_COLUMNS: LiteralString = """
SELECT tasks.task_id, tasks.run_id, tasks.number, tasks.executor, tasks.state, tasks.labels, tasks.worker,
    tasks.token_sha256, tasks.spec, tasks.sequence, tasks.end_sha256, tasks.outcome, tasks.artifacts, tasks.reason,
    tasks.message, extract(epoch FROM clock_timestamp() - tasks.heard_time)::float8 AS silent_s,
    runs.end_time IS NOT NULL AS run_over, runs.cancel_time IS NOT NULL AS cancelled
FROM trainer.outside_tasks AS tasks JOIN trainer.training_runs AS runs ON runs.job_id = tasks.run_id
"""
_BY_TOKEN: LiteralString = _COLUMNS + "WHERE tasks.token_sha256 = %(digest)s FOR UPDATE OF tasks"
_BY_ID: LiteralString = _COLUMNS + "WHERE tasks.task_id = %(task_id)s"
_LATEST: LiteralString = _COLUMNS + "WHERE tasks.run_id = %(run_id)s ORDER BY tasks.number DESC LIMIT 1"
_WAITS: LiteralString = """
WHERE tasks.state = 'WAITING' AND tasks.executor = 'REMOTE' AND tasks.labels <@ %(labels)s::text[]
    AND runs.end_time IS NULL AND runs.cancel_time IS NULL
"""
_WAITING: LiteralString = (
    _COLUMNS + _WAITS + "ORDER BY tasks.create_time, tasks.task_id LIMIT 1 FOR UPDATE OF tasks SKIP LOCKED"
)
# Whoever was called for a run comes once: it waits for whom a trainer's look holds up.
_WAITING_RUN: LiteralString = _COLUMNS + _WAITS + "AND tasks.run_id = %(run_id)s FOR UPDATE OF tasks"
_HOLD_RUN = """
SELECT 1 FROM trainer.training_runs WHERE job_id = %(run_id)s AND state = 'RUNNING' AND attempt = %(attempt)s FOR UPDATE
"""
_ADD = """
INSERT INTO trainer.outside_tasks (task_id, run_id, number, attempt, executor, labels, token_sha256, spec)
SELECT %(task_id)s, %(run_id)s, coalesce(max(number), 0) + 1, %(attempt)s, %(executor)s, %(labels)s, %(digest)s,
    %(spec)s
FROM trainer.outside_tasks WHERE run_id = %(run_id)s
"""
# Whoever was called for a task that waits was told until when: that stays as it is.
_ADOPT = """
UPDATE trainer.outside_tasks
SET attempt = %(attempt)s, heard_time = CASE state WHEN 'WAITING' THEN heard_time ELSE clock_timestamp() END
WHERE task_id = %(task_id)s
"""
_READY = """
UPDATE trainer.outside_tasks SET state = 'WAITING', heard_time = clock_timestamp()
WHERE task_id = %(task_id)s AND state = 'PREPARING' RETURNING heard_time
"""
_CLAIM = """
UPDATE trainer.outside_tasks
SET state = 'RUNNING', worker = %(worker)s, token_sha256 = %(digest)s, heard_time = clock_timestamp()
WHERE task_id = %(task_id)s
"""
_HEARD = """
UPDATE trainer.outside_tasks SET heard_time = clock_timestamp(), state = 'RUNNING', sequence = %(sequence)s
WHERE task_id = %(task_id)s
"""
_END = """
UPDATE trainer.outside_tasks SET state = %(state)s, end_time = clock_timestamp(), heard_time = clock_timestamp(),
    end_sha256 = %(end_sha256)s, outcome = %(outcome)s, artifacts = %(artifacts)s, reason = %(reason)s,
    message = %(message)s
WHERE task_id = %(task_id)s
"""
_VOID_ALL = """
UPDATE trainer.outside_tasks SET state = 'VOID', artifacts = '[]', end_time = coalesce(end_time, clock_timestamp())
WHERE run_id = %(run_id)s AND state <> 'VOID'
"""
_TELL = """
INSERT INTO trainer.outside_events (task_id, kind, body, chunk) VALUES (%(task_id)s, %(kind)s, %(body)s, %(chunk)s)
"""
_TOLD = """
SELECT number, kind, body, chunk FROM trainer.outside_events WHERE task_id = %(task_id)s ORDER BY number LIMIT %(limit)s
"""
_UNREAD = "SELECT count(*) AS count FROM trainer.outside_events WHERE task_id = %(task_id)s"
_READ = "DELETE FROM trainer.outside_events WHERE task_id = %(task_id)s AND number <= %(number)s"
_READ_ALL = """
DELETE FROM trainer.outside_events USING trainer.outside_tasks AS tasks
WHERE tasks.run_id = %(run_id)s AND outside_events.task_id = tasks.task_id
"""
_NOTIFY = "SELECT pg_notify(%(channel)s, '')"


class OutsideStore:
    """The tables `outside_tasks` and `outside_events`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def listen(self, *, poll_interval_s: float) -> Listener:
        """Listen to what workers tell."""
        return self._database.listen([CHANNEL], poll_interval_s=poll_interval_s)

    @contextmanager
    def transaction(self) -> Iterator[JobConnection]:
        """Lend a transaction, for what changes together."""
        with self._database.transaction() as connection:
            yield connection

    @contextmanager
    def held(self, token: str) -> Iterator[tuple[JobConnection, OutsideTask]]:
        """Lend a transaction in which a token's task stays as it is, whatever that is.

        Raises:
            InvalidRunToken: no run has it.
            RunTokenVoid: its run has ended, or another worker has been given it.
        """
        if len(token) != TOKEN_CHARS or not token.isascii():
            raise InvalidRunToken(_NO_TOKEN)
        with self._database.transaction() as connection:
            row = connection.execute(_BY_TOKEN, {"digest": digest_of(token)}).fetchone()
            if row is None or not is_token_of(token, row["token_sha256"]):
                raise InvalidRunToken(_NO_TOKEN)
            task = OutsideTask.from_row(row)
            if task.state is TaskState.VOID or task.run_over:
                raise RunTokenVoid(_VOID)
            yield connection, task

    @contextmanager
    def living(self, token: str, *, cancelled: bool = False) -> Iterator[tuple[JobConnection, OutsideTask]]:
        """Lend a transaction in which a token's task stays live; see `held` for what is raised.

        `cancelled`: also where somebody has asked for its end.
        """
        with self.held(token) as (connection, task):
            if not task.live or (task.cancelled and not cancelled):
                raise RunTokenVoid(_VOID)
            yield connection, task

    def latest(self, run_id: UUID) -> OutsideTask | None:
        """Give a run's last task; None where it has had none."""
        with self._database.transaction() as connection:
            row = connection.execute(_LATEST, {"run_id": run_id}).fetchone()
        return OutsideTask.from_row(row) if row else None

    def get(self, task_id: UUID) -> OutsideTask:
        """Give a task; raises LeaseLost where its run has been deleted."""
        with self._database.transaction() as connection:
            return self._get(connection, task_id)

    def add(self, task: Task, executor: str, labels: Sequence[str], token: str) -> OutsideTask:
        """Have a run's attempt begin a task, in the place of those before it, whose tokens are void from then on.

        `token` '': whoever claims it gets one. Raises LeaseLost where the attempt is over.
        """
        task_id, run_id = UUID(uuid7()), UUID(task.run_id)
        values: dict[str, Any] = {
            "task_id": task_id, "run_id": run_id, "attempt": task.attempt, "executor": executor,
            "labels": list(labels), "digest": digest_of(token) if token else "", "spec": Jsonb(asdict(task)),
        }  # fmt: skip
        with self._database.transaction() as connection:
            self._hold_run(connection, run_id, task.attempt)
            connection.execute(_VOID_ALL, values)
            connection.execute(_ADD, values)
            return self._get(connection, task_id)

    def ready(self, connection: JobConnection, outside: OutsideTask, task: Task) -> datetime:
        """Note that a task's files can be brought, so that a worker may begin; gives since when that is so.

        Raises LeaseLost where the attempt that begins it is over.
        """
        self._hold_run(connection, outside.run_id, task.attempt)
        row = connection.execute(_READY, {"task_id": outside.task_id}).fetchone()
        if row is None:
            raise LeaseLost(f"another has begun run {outside.run_id} anew")
        since: datetime = row["heard_time"]
        return since

    def adopt(self, task_id: UUID, task: Task) -> None:
        """Have a run's later attempt follow a task that was begun before; its worker has time to be heard again.

        One that waits for a worker waits as long as it would have.
        """
        with self._database.transaction() as connection:
            self._hold_run(connection, UUID(task.run_id), task.attempt)
            connection.execute(_ADOPT, {"task_id": task_id, "attempt": task.attempt})

    def waits(self, task_id: UUID) -> bool:
        """Say whether a task waits for a worker still."""
        with self._database.transaction() as connection:
            row = connection.execute(_BY_ID, {"task_id": task_id}).fetchone()
        task = OutsideTask.from_row(row) if row else None
        return task is not None and task.state is TaskState.WAITING and task.live and not task.cancelled

    def claim(self, worker: str, labels: Sequence[str], token: str, run_id: UUID | None = None) -> OutsideTask | None:
        """Give the task that has waited longest to a worker with such labels, or that of a run; None: none waits."""
        with self._database.transaction() as connection:
            waiting = _WAITING if run_id is None else _WAITING_RUN
            row = connection.execute(waiting, {"labels": list(labels), "run_id": run_id}).fetchone()
            if row is None:
                return None
            values = {"task_id": row["task_id"], "worker": worker, "digest": digest_of(token)}
            connection.execute(_CLAIM, values)
            self.notify(connection)
            return self._get(connection, row["task_id"])

    def heard(self, connection: JobConnection, task: OutsideTask, *, sequence: int | None = None) -> None:
        """Note that a task's worker lives, and which report it was."""
        values = {"task_id": task.task_id, "sequence": task.sequence if sequence is None else sequence}
        connection.execute(_HEARD, values)

    def tell(self, connection: JobConnection, task_id: UUID, epochs: Sequence[Epoch], log: bytes) -> None:
        """Keep what a worker told until it is read."""
        if epochs:
            self._tell(connection, task_id, "EPOCHS", {"epochs": [asdict(epoch) for epoch in epochs]})
        if log:
            self._tell(connection, task_id, "LOG", {}, log)
        self.notify(connection)

    def checkpointed(self, connection: JobConnection, task_id: UUID, epoch: int) -> None:
        """Keep that a checkpoint was handed in."""
        self._tell(connection, task_id, "CHECKPOINT", {"epoch": epoch})
        self.notify(connection)

    def unread(self, connection: JobConnection, task_id: UUID) -> int:
        """Count what was told and is not read."""
        row = connection.execute(_UNREAD, {"task_id": task_id}).fetchone()
        return int(row["count"]) if row else 0

    def told(self, task_id: UUID) -> list[tuple[int, list[Event]]]:
        """Give what was told next, in order, each with the number to `read` it by."""
        with self._database.transaction() as connection:
            rows = connection.execute(_TOLD, {"task_id": task_id, "limit": EVENTS_AT_ONCE}).fetchall()
        return [(row["number"], _events(row)) for row in rows]

    def read(self, task_id: UUID, number: int) -> None:
        """Forget what was told up to a number: it is kept elsewhere."""
        with self._database.transaction() as connection:
            connection.execute(_READ, {"task_id": task_id, "number": number})

    def complete(
        self,
        connection: JobConnection,
        task_id: UUID,
        end_sha256: str,
        outcome: dict[str, Any],
        artifacts: Sequence[RemoteFile],
    ) -> None:
        """End a task well."""
        remote = Jsonb([asdict(each) for each in artifacts])
        self._end(connection, task_id, TaskState.COMPLETED, end_sha256, outcome=Jsonb(outcome), artifacts=remote)

    def fail(self, connection: JobConnection, task_id: UUID, end_sha256: str, reason: str, message: str) -> None:
        """End a task badly."""
        self._end(connection, task_id, TaskState.FAILED, end_sha256, reason=reason, message=message.replace("\0", " "))

    def give_up(self, run_id: UUID, attempt: int) -> None:
        """Have no token of a run be good any more; raises LeaseLost where the attempt that says so is over."""
        with self._database.transaction() as connection:
            self._hold_run(connection, run_id, attempt)
            connection.execute(_VOID_ALL, {"run_id": run_id})

    def end(self, connection: JobConnection, run_id: UUID) -> None:
        """Have a run that ends leave nothing: no token that is good, and nothing told that nobody will read."""
        connection.execute(_VOID_ALL, {"run_id": run_id})
        connection.execute(_READ_ALL, {"run_id": run_id})

    def notify(self, connection: JobConnection) -> None:
        """Wake whoever follows a task."""
        connection.execute(_NOTIFY, {"channel": CHANNEL})

    def _end(self, connection: JobConnection, task_id: UUID, state: TaskState, end_sha256: str, **more: Any) -> None:
        nothing = {"outcome": None, "artifacts": Jsonb([]), "reason": "", "message": ""}
        ended = {"task_id": task_id, "state": state.value, "end_sha256": end_sha256}
        connection.execute(_END, {**nothing, **more, **ended})
        self.notify(connection)

    def _tell(
        self, connection: JobConnection, task_id: UUID, kind: str, body: dict[str, Any], chunk: bytes = b""
    ) -> None:
        connection.execute(_TELL, {"task_id": task_id, "kind": kind, "body": Jsonb(body), "chunk": chunk})

    def _get(self, connection: JobConnection, task_id: UUID) -> OutsideTask:
        row = connection.execute(_BY_ID, {"task_id": task_id}).fetchone()
        if row is None:
            raise LeaseLost("the run has been deleted")
        return OutsideTask.from_row(row)

    def _hold_run(self, connection: JobConnection, run_id: UUID, attempt: int) -> None:
        if connection.execute(_HOLD_RUN, {"run_id": run_id, "attempt": attempt}).fetchone() is None:
            raise LeaseLost(f"attempt {attempt} of run {run_id} is over")


def _events(row: dict[str, Any]) -> list[Event]:
    match row["kind"]:
        case "EPOCHS":
            return [Epoch(**epoch) for epoch in row["body"]["epochs"]]
        case "LOG":
            return [Log(bytes(row["chunk"]))]
        case _:
            return [CheckpointWritten(row["body"]["epoch"])]


def body_sha256(body: Any) -> str:
    """Digest a request, so that the same again is known."""
    return digest_of(json.dumps(body, sort_keys=True, default=str))
