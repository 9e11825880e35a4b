"""The channels' rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.common.outbox import OutboxConnection
from services.common.postgres import Database
from services.monitoring.notifications.models import Change, Said, StoredChannel
from services.monitoring.store.durability import make_durable

_COLUMNS = (
    "name, kind, shown_url, signed, sealed, plain, update_time, updated_by, test_time, test_error, test_arrival_time"
)
# One who adds a channel waits for another who does: the limit is exact.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('penstock.monitoring.channels', 0))"
_FIND = f"SELECT {_COLUMNS} FROM monitoring.channels WHERE name = %(name)s"  # noqa: S608 - a constant of ours
_LIST = f"SELECT {_COLUMNS} FROM monitoring.channels ORDER BY name LIMIT %(limit)s"  # noqa: S608 - as above
_COUNT_OTHERS = "SELECT count(*) AS count FROM monitoring.channels WHERE name <> %(name)s"
_SET = f"""
INSERT INTO monitoring.channels (name, kind, shown_url, signed, sealed, plain, updated_by)
VALUES (%(name)s, %(kind)s, %(shown_url)s, %(signed)s, %(sealed)s, %(plain)s, %(updated_by)s)
ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, shown_url = excluded.shown_url, signed = excluded.signed,
    sealed = excluded.sealed, plain = excluded.plain, updated_by = excluded.updated_by, update_time = clock_timestamp(),
    test_time = NULL, test_error = '', test_arrival_time = NULL
RETURNING {_COLUMNS}
"""  # noqa: S608 - as above
_KEEP = "SELECT name FROM monitoring.channels WHERE name = ANY(%(names)s) ORDER BY name FOR KEY SHARE"
_HOLD = f"SELECT {_COLUMNS} FROM monitoring.channels WHERE name = %(name)s FOR UPDATE"  # noqa: S608 - as above
# As it was tested: a channel that was set again meanwhile is another.
_TESTED = """
UPDATE monitoring.channels SET test_time = clock_timestamp(), test_error = %(error)s,
    test_arrival_time = CASE %(error)s WHEN '' THEN clock_timestamp() ELSE test_arrival_time END
WHERE name = %(name)s AND update_time = %(update_time)s
"""
_DELETE = "DELETE FROM monitoring.channels WHERE name = %(name)s"
_LOG = """
INSERT INTO monitoring.channel_changes (name, before, after, changed_by)
VALUES (%(name)s, %(before)s, %(after)s, %(changed_by)s)
"""
_CHANGES = """
SELECT change_number, change_time, name, before, after, changed_by FROM monitoring.channel_changes
WHERE (%(name)s = '' OR name = %(name)s) AND (%(before)s::bigint IS NULL OR change_number < %(before)s)
ORDER BY change_number DESC LIMIT %(limit)s
"""


class ChannelStore:
    """Reads and writes rows; each write is inside a transaction of the caller's."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def find(self, name: str) -> StoredChannel | None:
        """Find a channel."""
        with self._db.transaction() as connection:
            row = connection.execute(_FIND, {"name": name}).fetchone()
        return None if row is None else _from_row(row)

    def listed(self, limit: int) -> list[StoredChannel]:
        """List channels by name, up to a limit."""
        with self._db.transaction() as connection:
            return [_from_row(row) for row in connection.execute(_LIST, {"limit": limit}).fetchall()]

    def find_locked(self, connection: OutboxConnection, name: str) -> tuple[StoredChannel | None, int]:
        """Find a channel while nobody else may set one; gives how many others there are, too."""
        connection.execute(_LOCK)
        row = connection.execute(_FIND, {"name": name}).fetchone()
        others = connection.execute(_COUNT_OTHERS, {"name": name}).fetchone()
        return None if row is None else _from_row(row), int(others["count"]) if others else 0

    def set(self, connection: OutboxConnection, channel: StoredChannel) -> StoredChannel:
        """Make or replace a channel."""
        values = {
            "name": channel.name, "kind": channel.kind, "shown_url": channel.shown_url, "signed": channel.signed,
            "sealed": channel.sealed, "plain": channel.plain, "updated_by": channel.updated_by,
        }  # fmt: skip
        row = connection.execute(_SET, values).fetchone()
        if row is None:
            raise AssertionError("it is inserted or updated")
        return _from_row(row)

    def tested(self, channel: StoredChannel, error: str) -> None:
        """Write down what came of a test; '' where it arrived."""
        values = {"name": channel.name, "update_time": channel.update_time, "error": error.replace("\0", " ")}
        with self._db.transaction() as connection:
            connection.execute(_TESTED, values)

    def keep(self, connection: OutboxConnection, names: Sequence[str]) -> frozenset[str]:
        """Name those that there are; they are not deleted before the transaction ends."""
        rows = connection.execute(_KEEP, {"names": list(names)}).fetchall()
        return frozenset(row["name"] for row in rows)

    def hold(self, connection: OutboxConnection, name: str) -> StoredChannel | None:
        """Keep everybody from relying on a channel until the transaction ends; None where there is none."""
        row = connection.execute(_HOLD, {"name": name}).fetchone()
        return None if row is None else _from_row(row)

    def delete(self, connection: OutboxConnection, name: str) -> None:
        """Delete a channel that is held."""
        connection.execute(_DELETE, {"name": name})

    def log(
        self, connection: OutboxConnection, before: StoredChannel | None, after: StoredChannel | None, changed_by: str
    ) -> None:
        """Write down what became of a channel; one of the two is there."""
        make_durable(connection)
        name = "".join({each.name for each in (before, after) if each is not None})
        values = {"name": name, "before": _said(before), "after": _said(after), "changed_by": changed_by}
        connection.execute(_LOG, values)

    def changes(self, name: str, *, before: int | None, limit: int) -> list[Change]:
        """List changes, the newest first: those before a number, where one is given."""
        with self._db.transaction() as connection:
            rows = connection.execute(_CHANGES, {"name": name, "before": before, "limit": limit}).fetchall()
        return [_change(row) for row in rows]


def _from_row(row: DictRow) -> StoredChannel:
    return StoredChannel(**row)


def _said(channel: StoredChannel | None) -> Jsonb | None:
    return None if channel is None else Jsonb(asdict(Said(channel.kind, channel.shown_url, channel.signed)))


def _change(row: DictRow) -> Change:
    return Change(
        number=row["change_number"],
        time=row["change_time"],
        name=row["name"],
        before=None if row["before"] is None else Said(**row["before"]),
        after=None if row["after"] is None else Said(**row["after"]),
        changed_by=row["changed_by"],
    )
