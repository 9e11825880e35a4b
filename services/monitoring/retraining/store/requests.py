"""Requests and their steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.common.errors import FailedPrecondition
from services.common.postgres import Database
from services.monitoring.retraining.models import Past, Reason, Request, RequestFilters, State, Step
from services.monitoring.retraining.safety import already_open
from services.monitoring.retraining.states import OPEN, check_move
from services.monitoring.store.durability import make_durable

_ONE_OPEN = {"retraining_requests_open": already_open, "retraining_requests_request": already_open}
_OPEN = [state.name for state in OPEN]
COLUMNS = """
retraining_id, model, version, state, reason, details, alert_id, check_id, label_count, requested_by, create_time,
expire_time, decided_by, decide_time, decision_note, training_run_id, train_time, new_version, message
"""

_ADD = """
INSERT INTO monitoring.retraining_requests (
    retraining_id, model, version, state, reason, details, alert_id, check_id, label_count, requested_by, create_time,
    expire_time, request_id, body_sha256
)
VALUES (
    %(retraining_id)s, %(model)s, %(version)s, %(state)s, %(reason)s, %(details)s, %(alert_id)s, %(check_id)s,
    %(label_count)s, %(requested_by)s, %(create_time)s, %(expire_time)s, %(request_id)s, %(body_sha256)s
)
"""

_CHANGE = """
UPDATE monitoring.retraining_requests
SET state = %(state)s, alert_id = %(alert_id)s, check_id = %(check_id)s, decided_by = %(decided_by)s,
    decide_time = %(decide_time)s, decision_note = %(decision_note)s, expire_time = %(expire_time)s,
    training_run_id = %(training_run_id)s, train_time = %(train_time)s, new_version = %(new_version)s,
    message = %(message)s
WHERE retraining_id = %(retraining_id)s
"""

_STEP = """
INSERT INTO monitoring.retraining_steps (retraining_id, step_time, state, actor, note)
VALUES (%(retraining_id)s, %(time)s, %(state)s, %(actor)s, %(note)s)
"""

_LINK = """
INSERT INTO monitoring.retraining_alerts (retraining_id, alert_id) VALUES (%(retraining_id)s, %(alert_id)s)
ON CONFLICT ON CONSTRAINT retraining_alerts_pkey DO NOTHING
"""

_STEPS = """
SELECT step_time, state, actor, note
FROM monitoring.retraining_steps
WHERE retraining_id = %(retraining_id)s
ORDER BY step_number
"""

_GET = f"SELECT {COLUMNS} FROM monitoring.retraining_requests WHERE retraining_id = %(retraining_id)s"  # noqa: S608 - a constant of ours

_FIRST = """
SELECT retraining_id, body_sha256
FROM monitoring.retraining_requests
WHERE requested_by = %(requested_by)s AND request_id = %(request_id)s AND request_id <> ''
"""

_LIST = f"""
SELECT {COLUMNS}
FROM monitoring.retraining_requests
WHERE (%(model)s = '' OR model = %(model)s)
  AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s))
  AND (%(before)s::uuid IS NULL OR retraining_id < %(before)s)
ORDER BY retraining_id DESC
LIMIT %(limit)s
"""  # noqa: S608 - the braces are a constant of ours

_STANDING = f"""
SELECT {COLUMNS}
FROM monitoring.retraining_requests
WHERE state = %(state)s AND (%(after)s::uuid IS NULL OR retraining_id > %(after)s)
ORDER BY retraining_id
LIMIT %(limit)s
"""  # noqa: S608 - as above

_OF_MODEL = f"""
SELECT {COLUMNS} FROM monitoring.retraining_requests WHERE model = %(model)s AND state = ANY (%(open)s)
"""  # noqa: S608 - as above

_PAST = """
SELECT
    max(train_time) AS train_time,
    max(CASE state WHEN 'REJECTED' THEN decide_time WHEN 'EXPIRED' THEN expire_time END) AS decline_time,
    max(create_time) FILTER (WHERE reason = 'SCHEDULED') AS schedule_time
FROM monitoring.retraining_requests
WHERE model = %(model)s
"""


class RequestStore:
    """What was asked for."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, request: Request, *, request_id: str = "", body_sha256: str = "", note: str = "") -> None:
        """Keep a new request.

        Raises:
            FailedPrecondition: another of the model's is open (RETRAINING_OPEN), or this very one came twice at once.
        """
        values = {**_values(request), "request_id": request_id, "body_sha256": body_sha256}
        with self._db.transaction(_ONE_OPEN) as connection:
            make_durable(connection)
            connection.execute(_ADD, values)
            _append(connection, request.id, Step(request.create_time, request.state, request.requested_by, note))
            _link(connection, request.id, request.alert_id)

    def find(self, retraining_id: UUID) -> Request | None:
        """Find a request."""
        with self._db.transaction() as connection:
            return _find(connection, retraining_id)

    def find_first(self, requested_by: str, request_id: str, body_sha256: str) -> Request | None:
        """Find what came of the same request before; None where it is the first.

        Raises:
            FailedPrecondition: the id came with another request (REQUEST_ID_REUSED).
        """
        values = {"requested_by": requested_by, "request_id": request_id}
        with self._db.transaction() as connection:
            row = connection.execute(_FIRST, values).fetchone()
            if row is None:
                return None
            if row["body_sha256"] != body_sha256:
                raise FailedPrecondition(
                    f"the request_id {request_id!r} came with another request before; choose a new one for a new "
                    "request",
                    reason="REQUEST_ID_REUSED",
                )
            return _find(connection, row["retraining_id"])

    def history(self, retraining_id: UUID) -> list[Step]:
        """Give the steps of a request, the oldest first: it takes a handful at the most."""
        with self._db.transaction() as connection:
            return [
                Step(row["step_time"], State[row["state"]], row["actor"], row["note"])
                for row in connection.execute(_STEPS, {"retraining_id": retraining_id})
            ]

    def page(self, filters: RequestFilters, *, before: UUID | None, limit: int) -> list[Request]:
        """List requests, the newest first."""
        states = [state.name for state in filters.states] or None
        values = {"model": filters.model, "states": states, "before": before, "limit": limit}
        with self._db.transaction() as connection:
            return [request_from(row) for row in connection.execute(_LIST, values)]

    def standing(self, state: State, *, after: UUID | None, limit: int) -> list[Request]:
        """List the requests in a state, the oldest first."""
        with self._db.transaction() as connection:
            rows = connection.execute(_STANDING, {"state": state.name, "after": after, "limit": limit})
            return [request_from(row) for row in rows]

    def past(self, model: str) -> Past:
        """Say what a model's retrainings so far mean for another."""
        with self._db.transaction() as connection:
            times = connection.execute(_PAST, {"model": model}).fetchone() or {}
            row = connection.execute(_OF_MODEL, {"model": model, "open": _OPEN}).fetchone()
        return Past(open_request=None if row is None else request_from(row), **times)

    @contextmanager
    def changing(self, retraining_id: UUID) -> Iterator[Change | None]:
        """Lend a request to change, committed at the end of the block; None where there is no such request."""
        with self._db.transaction() as connection:
            make_durable(connection)
            found = _find(connection, retraining_id, lock=True)
            yield None if found is None else Change(connection, found)


class Change:
    """A request that nobody else can change meanwhile."""

    def __init__(self, connection: Connection[DictRow], request: Request) -> None:
        self._connection = connection
        self.request = request

    def write(self, changed: Request, step: Step | None = None) -> Request:
        """Write what has changed, and the step that it took.

        Raises:
            FailedPrecondition: the states' table has no such move (WRONG_STATE).
        """
        if changed.state is not self.request.state:
            check_move(self.request.state, changed.state)
        self._connection.execute(_CHANGE, _values(changed))
        if step is not None:
            _append(self._connection, changed.id, step)
        return changed

    def link(self, alert_id: UUID | None) -> None:
        """Have the request answer an alert too."""
        _link(self._connection, self.request.id, alert_id)


def _link(connection: Connection[DictRow], retraining_id: UUID, alert_id: UUID | None) -> None:
    if alert_id is not None:
        connection.execute(_LINK, {"retraining_id": retraining_id, "alert_id": alert_id})


def _find(connection: Connection[DictRow], retraining_id: UUID, *, lock: bool = False) -> Request | None:
    statement = f"{_GET} FOR UPDATE" if lock else _GET
    row = connection.execute(statement, {"retraining_id": retraining_id}).fetchone()
    return None if row is None else request_from(row)


def _append(connection: Connection[DictRow], retraining_id: UUID, step: Step) -> None:
    values = {"time": step.time, "state": step.state.name, "actor": step.actor, "note": step.note}
    connection.execute(_STEP, {"retraining_id": retraining_id, **values})


def _values(request: Request) -> dict[str, Any]:
    values = {name: getattr(request, name) for name in Request.__dataclass_fields__ if name != "id"}
    return {
        **values,
        "retraining_id": request.id,
        "state": request.state.name,
        "reason": request.reason.name,
        "details": Jsonb(dict(request.details)),
    }


def request_from(row: Mapping[str, Any]) -> Request:
    """Read a row."""
    values = {name: row[name] for name in Request.__dataclass_fields__ if name != "id"}
    return Request(
        **{
            **values,
            "id": row["retraining_id"],
            "state": State[row["state"]],
            "reason": Reason[row["reason"]],
        }
    )
