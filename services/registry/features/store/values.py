"""The values of a view: written in one go, read as they are now, and as they were known at any time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from psycopg import Connection, sql
from psycopg.rows import DictRow, tuple_row

from services.common.errors import NotFound
from services.registry.features.models import Column, FeatureStatus, FeatureType, Rows, Selected, Times, View, Written
from services.registry.features.store import bounds
from services.registry.features.store.columns import SQL_TYPES, arrow_of, as_mapping, column_of, read_csv
from services.registry.features.store.literals import array_literal
from services.registry.features.store.views import column_names, latest_table, rows_table

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
# The row is locked to the commit, so that create times grow in the order of commits: who reads as of a time after
# having waited for this lock sees all that was known by then, and sees the same for ever.
_TURN = f"""
UPDATE features.views SET last_write_us = greatest({_NOW}, last_write_us + 1) WHERE view_id = %(view_id)s
RETURNING last_write_us
"""  # noqa: S608 - a constant of ours
_SETTLED = f"SELECT greatest({_NOW}, last_write_us) AS now FROM features.views WHERE view_id = %(view_id)s FOR SHARE"  # noqa: S608
# Rows come as an array a column, so that a write makes no table and no catalogue entries. Only what is not newer than
# the latest of its entity can be there already: what was known then and is said again, and what would have something
# else known at the very same time. What is written and does not become its entity's latest is late.
_WRITE = """
WITH staged AS MATERIALIZED (
    SELECT entity_key, event_time, create_time{read} FROM unnest({arrays})
        AS given (entity_key, event_time, create_time{names})
), fresh AS MATERIALIZED (
    SELECT * FROM staged WHERE NOT EXISTS (
        SELECT FROM {latest} latest WHERE latest.entity_key = staged.entity_key
            AND staged.event_time <= latest.event_time AND EXISTS (
                SELECT FROM (
                    SELECT * FROM {rows} rows WHERE rows.entity_key = staged.entity_key
                        AND rows.event_time = staged.event_time AND rows.create_time <= staged.create_time
                    ORDER BY rows.create_time DESC LIMIT 1
                ) known
                WHERE known.create_time = staged.create_time OR ROW({known}) IS NOT DISTINCT FROM ROW({staged})
            )
    )
), kept AS (
    INSERT INTO {rows} SELECT * FROM fresh ORDER BY entity_key, event_time RETURNING true
), newest AS (
    INSERT INTO {latest} AS latest SELECT DISTINCT ON (entity_key) * FROM fresh
    ORDER BY entity_key, event_time DESC, create_time DESC
    ON CONFLICT (entity_key) DO UPDATE SET event_time = excluded.event_time, create_time = excluded.create_time{values}
    WHERE (latest.event_time, latest.create_time) <= (excluded.event_time, excluded.create_time)
    RETURNING true
)
SELECT (SELECT count(*) FROM kept) AS written, (SELECT count(*) FROM newest) AS newest
"""
_LATEST = "SELECT entity_key, event_time{features} FROM {latest} WHERE entity_key = ANY(%(keys)s)"
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
_DELETE = "DELETE FROM {} WHERE entity_key = ANY(%(keys)s)"
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
        count = len(rows.keys)
        created = (
            np.full(count, turn["last_write_us"])
            if create_times is None
            else np.minimum(create_times, turn["last_write_us"])
        )
        arrays = _arrays(view, rows, created)
        statement = _write_statement(view.view_id, tuple(feature.type for feature in view.stored))
        (found,) = self._connection.execute(statement, arrays).fetchall()
        return Written(found["written"], found["written"] - found["newest"], count - found["written"])

    def latest(self, view: View, keys: Sequence[str], places: Sequence[int], *, now: int) -> Selected:
        """Give the latest values of entities; raises ResourceExhausted (TOO_LARGE)."""
        features, found = [view.stored[place] for place in places], dict[str, tuple[Any, ...]]()
        with self._connection.cursor(row_factory=tuple_row, binary=True) as cursor:
            statement = _latest_statement(view.view_id, tuple(places))
            for part in bounds.in_parts(keys, features):
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
        values = {"keys": list(keys)}
        self._connection.execute(sql.SQL(_DELETE).format(rows_table(view)), values)
        return self._connection.execute(sql.SQL(_DELETE).format(latest_table(view)), values).rowcount


@lru_cache(maxsize=1_024)
def _latest_statement(view_id: int, places: tuple[int, ...]) -> bytes:
    """Write the statement once: composing it takes longer than the database does."""
    table = sql.Identifier("features", f"latest_{view_id}")
    return sql.SQL(_LATEST).format(features=column_names(places), latest=table).as_bytes()


@lru_cache(maxsize=1_024)
def _write_statement(view_id: int, kinds: tuple[FeatureType, ...]) -> bytes:
    """Write the statement once. A list's values come as a text each: unnest would take lists of lists apart."""
    names = [sql.Identifier(f"f{place}") for place in range(len(kinds))]
    lists = [kind is FeatureType.FLOAT64_LIST for kind in kinds]
    arrays = ["text[]", "bigint[]", "bigint[]"]
    arrays += ["text[]" if is_list else f"{SQL_TYPES[kind]}[]" for is_list, kind in zip(lists, kinds, strict=True)]
    read = [
        sql.SQL(", {0}::double precision[] AS {0}" if is_list else ", {0}").format(name)
        for is_list, name in zip(lists, names, strict=True)
    ]
    statement = sql.SQL(_WRITE).format(
        read=sql.Composed(read),
        arrays=sql.SQL(", ").join([sql.SQL("%s::" + kind) for kind in arrays]),
        names=sql.Composed([sql.SQL(", {}").format(name) for name in names]),
        known=sql.SQL(", ").join([sql.Identifier("known", f"f{place}") for place in range(len(kinds))]),
        staged=sql.SQL(", ").join([sql.Identifier("staged", f"f{place}") for place in range(len(kinds))]),
        values=sql.Composed([sql.SQL(", {0} = excluded.{0}").format(name) for name in names]),
        latest=sql.Identifier("features", f"latest_{view_id}"),
        rows=sql.Identifier("features", f"rows_{view_id}"),
    )
    return statement.as_bytes()


def _arrays(view: View, rows: Rows, created: Times) -> list[str]:
    """Write a literal a column; of rows with the same key, event time and create time the last one counts."""
    import pyarrow

    distinct, count = _last_of_each(rows, created), len(rows.keys)
    columns = [pyarrow.array(rows.keys, pyarrow.string()), pyarrow.array(rows.event_times), pyarrow.array(created)]
    columns += [arrow_of(feature, rows.columns.get(feature.name), count) for feature in view.stored]
    if len(distinct) < count:
        columns = [column.take(pyarrow.array(distinct)) for column in columns]
    return [array_literal(column) for column in columns]


def _last_of_each(rows: Rows, created: Times) -> Any:
    """Give the places of the rows that count, in order."""
    last = {
        (key, time, made): place
        for place, (key, time, made) in enumerate(
            zip(rows.keys, rows.event_times.tolist(), created.tolist(), strict=True)
        )
    }
    return np.fromiter(last.values(), np.int64, len(last))


def _selected(
    view: View, features: Sequence[Any], times: Times, known: Any, columns: Sequence[Column], as_of: Times
) -> Selected:
    """Say what became of each row; what is older than the TTL is known, and not given."""
    expired = known & (times < as_of - view.ttl_ms * 1000) if view.ttl_ms else np.zeros(len(times), np.bool_)
    if expired.any():
        columns = [Column(column.values, column.missing | expired) for column in columns]
    statuses = [_STATUSES[number] for number in (known.astype(np.int8) + expired).tolist()]
    return Selected(view, statuses, times, as_mapping(features, columns))
