"""The values of a view: written in one go, read as they are now, and as they were known at any time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from psycopg import Connection, sql
from psycopg.rows import DictRow, tuple_row

from services.common.errors import NotFound
from services.registry.features.models import Column, FeatureStatus, Rows, Selected, Times, View, Written
from services.registry.features.store import bounds, writing
from services.registry.features.store.columns import as_mapping, column_of, read_csv
from services.registry.features.store.literals import array_literal
from services.registry.features.store.views import column_names, rows_table

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
# The row is locked to the commit, so that create times grow in the order of commits: who reads as of a time after
# having waited for this lock sees all that was known by then, and sees the same for ever.
_TURN = f"""
UPDATE features.views SET last_write_us = greatest({_NOW}, last_write_us + 1) WHERE view_id = %(view_id)s
RETURNING last_write_us
"""  # noqa: S608 - a constant of ours
_SETTLED = f"SELECT greatest({_NOW}, last_write_us) AS now FROM features.views WHERE view_id = %(view_id)s FOR SHARE"  # noqa: S608
_LATEST = """
SELECT asked.entity_key, latest.event_time{features} FROM unnest(%(keys)b::text[]) AS asked (entity_key)
CROSS JOIN LATERAL (
    SELECT * FROM {rows} rows WHERE rows.entity_key = asked.entity_key
    ORDER BY rows.event_time DESC, rows.create_time DESC LIMIT 1
) latest
"""
# COPY takes no parameters: what is asked for stands in the statement.
_AS_OF = """
COPY (
    SELECT asked.number, found.event_time{features}
    FROM unnest({keys}::text[], {as_of}::bigint[], {known}::bigint[]) WITH ORDINALITY
        AS asked (entity_key, as_of, known, number)
    LEFT JOIN LATERAL (
        SELECT * FROM {rows} rows WHERE rows.entity_key = asked.entity_key AND rows.event_time <= asked.as_of
            AND rows.create_time <= asked.known
        ORDER BY rows.event_time DESC, rows.create_time DESC LIMIT 1
    ) found ON true
) TO STDOUT (FORMAT csv)
"""
_DELETE = """
WITH deleted AS (DELETE FROM {rows} WHERE entity_key = ANY(%(keys)s) RETURNING entity_key)
SELECT count(DISTINCT entity_key) AS deleted FROM deleted
"""
_HISTORY = """
SELECT event_time, create_time{features} FROM {rows} WHERE entity_key = %(key)s
    AND (event_time, create_time) < (%(event_time)s, %(create_time)s)
ORDER BY event_time DESC, create_time DESC LIMIT %(limit)s
"""

_TEXT_TO_VALUES = 3
"""A double is 8 bytes, and up to 24 as text."""
_STATUSES = (FeatureStatus.ABSENT, FeatureStatus.PRESENT, FeatureStatus.EXPIRED)


class Asked:
    """Rows that are asked for as of a time.

    Attributes:
        as_of: the time of each.
        literals: keys, times, and by when each was to be known, as the statement has them.
    """

    def __init__(self, keys: Sequence[str], as_of: Times, known: Times) -> None:
        import pyarrow

        self.as_of = as_of
        arrays = {
            "keys": pyarrow.array(keys, pyarrow.string()),
            "as_of": pyarrow.array(as_of),
            "known": pyarrow.array(known),
        }
        self.literals = {name: sql.Literal(array_literal(array)) for name, array in arrays.items()}


class ValueTable:
    """The values of views, inside a transaction that is lent."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def write(self, view: View, rows: Rows, create_times: Times | None) -> Written:
        """Write rows; of rows with the same key and event time the last one counts. `create_times`: None: now.

        Raises:
            NotFound: the view was deleted in between (VIEW_VERSION_NOT_FOUND).
        """
        turn = self._connection.execute(_TURN, {"view_id": view.view_id}).fetchone()
        if turn is None:
            raise NotFound(f"view {view.name!r} has no version {view.version}", reason="VIEW_VERSION_NOT_FOUND")
        now = np.full(len(rows.keys), turn["last_write_us"])
        created = now if create_times is None else np.minimum(create_times, now)
        return writing.write(self._connection, view, rows, created)

    def latest(self, view: View, keys: Sequence[str], places: Sequence[int], *, now: int) -> Selected:
        """Give the latest values of entities; raises ResourceExhausted (TOO_LARGE)."""
        features, found = [view.stored[place] for place in places], dict[str, tuple[Any, ...]]()
        with self._connection.cursor(row_factory=tuple_row, binary=True) as cursor:
            statement = _latest_statement(view.view_id, tuple(places))
            for part in bounds.in_parts(list(dict.fromkeys(keys)), features):
                found |= {row[0]: row for row in cursor.execute(statement, {"keys": part}).fetchall()}
                if found and len(part) < len(keys):
                    bounds.check_rows(features, list(zip(*found.values(), strict=True))[2:])
        nothing = (None,) * (2 + len(places))
        by_column = list(zip(*(found.get(key, nothing) for key in keys), strict=True))
        times = np.fromiter((time or 0 for time in by_column[1]), np.int64, len(keys))
        known = np.fromiter((time is not None for time in by_column[1]), np.bool_, len(keys))
        bounds.check_rows(features, by_column[2:])
        columns = [column_of(feature, values) for feature, values in zip(features, by_column[2:], strict=True)]
        return _selected(view, features, times, known, columns, np.full(len(keys), now))

    def settled(self, view: View) -> int:
        """Wait for who writes now; gives a time by which all that is known can be read."""
        row = self._connection.execute(_SETTLED, {"view_id": view.view_id}).fetchone()
        if row is None:
            raise NotFound(f"view {view.name!r} has no version {view.version}", reason="VIEW_VERSION_NOT_FOUND")
        return int(row["now"])

    def as_of(self, view: View, places: Sequence[int], asked: Asked) -> Selected:
        """Give the values of rows as they were known; raises ResourceExhausted (TOO_LARGE)."""
        statement = sql.SQL(_AS_OF).format(
            features=column_names(places, "found"), rows=rows_table(view), **asked.literals
        )
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            text = bytearray()
            for row in copy:
                text += row
                bounds.check_bytes(len(text) // _TEXT_TO_VALUES)
        features = [view.stored[place] for place in places]
        numbers, times, known, columns = read_csv(bytes(text), features)
        bounds.check_rows(features, [column.values for column in columns])
        order = np.argsort(numbers, kind="stable")
        ordered = [Column(column.values[order], column.missing[order]) for column in columns]
        return _selected(view, features, times[order], known[order], ordered, asked.as_of)

    def history(self, view: View, key: str, *, before: tuple[int, int], limit: int) -> list[tuple[Any, ...]]:
        """List what was written of an entity: event time, create time, values in the view's order."""
        statement = sql.SQL(_HISTORY).format(features=column_names(range(len(view.stored))), rows=rows_table(view))
        values = {"key": key, "event_time": before[0], "create_time": before[1], "limit": limit}
        with self._connection.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(statement, values).fetchall()

    def delete(self, view: View, keys: Sequence[str]) -> int:
        """Delete all that is known of entities; gives how many had values."""
        statement = sql.SQL(_DELETE).format(rows=rows_table(view))
        (found,) = self._connection.execute(statement, {"keys": list(keys)}).fetchall()
        return int(found["deleted"])


@lru_cache(maxsize=1_024)
def _latest_statement(view_id: int, places: tuple[int, ...]) -> bytes:
    """Write the statement once: composing it takes longer than the database does."""
    table = sql.Identifier("features", f"rows_{view_id}")
    return sql.SQL(_LATEST).format(features=column_names(places, "latest"), rows=table).as_bytes()


def _selected(
    view: View, features: Sequence[Any], times: Times, known: Any, columns: Sequence[Column], as_of: Times
) -> Selected:
    """Say what became of each row; what is older than the TTL is known, and not given."""
    expired = known & (times < as_of - view.ttl_ms * 1000) if view.ttl_ms else np.zeros(len(times), np.bool_)
    if expired.any():
        columns = [Column(column.values, column.missing | expired) for column in columns]
    statuses = [_STATUSES[number] for number in (known.astype(np.int8) + expired).tolist()]
    return Selected(view, statuses, times, as_mapping(features, columns))
