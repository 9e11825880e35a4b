"""The values of a view: written in one go, read as they are now, and as they were known at any time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from psycopg import Connection, sql
from psycopg.rows import DictRow, tuple_row

from services.common.errors import NotFound
from services.registry.features.models import Column, FeatureStatus, Rows, Selected, Times, View, Written
from services.registry.features.store.columns import arrow_of, as_mapping, column_of, read_csv, write_csv
from services.registry.features.store.views import column_names, latest_table, rows_table

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
# The row is locked to the commit, so that create times grow in the order of commits: who reads as of a time after
# having waited for this lock sees all that was known by then, and sees the same for ever.
_TURN = f"""
UPDATE features.views SET last_write_us = greatest({_NOW}, last_write_us + 1) WHERE view_id = %(view_id)s
RETURNING last_write_us
"""  # noqa: S608 - a constant of ours
_SETTLED = f"SELECT greatest({_NOW}, last_write_us) AS now FROM features.views WHERE view_id = %(view_id)s FOR SHARE"  # noqa: S608
_STAGE = "CREATE TEMPORARY TABLE staged (LIKE {} INCLUDING DEFAULTS) ON COMMIT DROP"
# Only what is not newer than the latest of its entity can be there already: what was known then and is said again, and
# what would have something else known at the very same time.
_DROP_KNOWN = """
DELETE FROM staged USING {latest} latest WHERE latest.entity_key = staged.entity_key
    AND staged.event_time <= latest.event_time AND EXISTS (
        SELECT FROM (
            SELECT * FROM {rows} rows WHERE rows.entity_key = staged.entity_key
                AND rows.event_time = staged.event_time AND rows.create_time <= staged.create_time
            ORDER BY rows.create_time DESC LIMIT 1
        ) known
        WHERE known.create_time = staged.create_time OR ROW({known}) IS NOT DISTINCT FROM ROW({staged})
    )
"""
_KEEP = "INSERT INTO {rows} SELECT * FROM staged"
_KEEP_LATEST = """
INSERT INTO {latest} AS latest SELECT DISTINCT ON (entity_key) * FROM staged
ORDER BY entity_key, event_time DESC, create_time DESC
ON CONFLICT (entity_key) DO UPDATE SET event_time = excluded.event_time, create_time = excluded.create_time{values}
WHERE (latest.event_time, latest.create_time) <= (excluded.event_time, excluded.create_time)
"""
_COUNT_LATE = """
SELECT count(*) AS count FROM staged JOIN {latest} latest USING (entity_key)
WHERE (staged.event_time, staged.create_time) < (latest.event_time, latest.create_time)
"""
_LATEST = "SELECT entity_key, event_time{features} FROM {latest} WHERE entity_key = ANY(%(keys)s)"
_ASKED = "CREATE TEMPORARY TABLE asked (number bigint, entity_key text, as_of bigint, known bigint) ON COMMIT DROP"
_AS_OF = """
COPY (
    SELECT asked.number, found.event_time{features} FROM asked LEFT JOIN LATERAL (
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
        distinct = _last_of_each(rows, created)
        self._stage(view, rows, created, distinct)
        names = {"latest": latest_table(view), "rows": rows_table(view)}
        places = range(len(view.stored))
        self._connection.execute(
            sql.SQL(_DROP_KNOWN).format(known=_listed(places, "known"), staged=_listed(places, "staged"), **names)
        )
        written = self._connection.execute(sql.SQL(_KEEP).format(**names)).rowcount
        values = sql.Composed([sql.SQL(", {0} = excluded.{0}").format(sql.Identifier(f"f{place}")) for place in places])
        self._connection.execute(sql.SQL(_KEEP_LATEST).format(values=values, **names))
        late = self._connection.execute(sql.SQL(_COUNT_LATE).format(**names)).fetchone()
        self._connection.execute("DROP TABLE staged")
        return Written(written, late["count"] if late else 0, count - written)

    def latest(self, view: View, keys: Sequence[str], places: Sequence[int], *, now: int) -> Selected:
        """Give the latest values of entities."""
        statement = sql.SQL(_LATEST).format(features=column_names(places), latest=latest_table(view))
        with self._connection.cursor(row_factory=tuple_row, binary=True) as cursor:
            found = {row[0]: row for row in cursor.execute(statement, {"keys": list(keys)})}
        nothing = (None,) * (2 + len(places))
        by_column = list(zip(*(found.get(key, nothing) for key in keys), strict=True))
        times = np.fromiter((time or 0 for time in by_column[1]), np.int64, len(keys))
        known = np.fromiter((time is not None for time in by_column[1]), np.bool_, len(keys))
        features = [view.stored[place] for place in places]
        columns = [column_of(feature, values) for feature, values in zip(features, by_column[2:], strict=True)]
        return _selected(view, features, times, known, columns, np.full(len(keys), now))

    def settled(self, view: View) -> int:
        """Wait for who writes now; gives a time by which all that is known can be read."""
        row = self._connection.execute(_SETTLED, {"view_id": view.view_id}).fetchone()
        if row is None:
            raise NotFound(f"view {view.name!r} has no version {view.version}", reason="VIEW_VERSION_NOT_FOUND")
        return int(row["now"])

    def ask(self, keys: Sequence[str], as_of: Times, known: Times) -> None:
        """Stage what `as_of` is asked for."""
        import pyarrow

        self._connection.execute(_ASKED)
        columns = [pyarrow.array(np.arange(len(keys))), pyarrow.array(keys), pyarrow.array(as_of), pyarrow.array(known)]
        with self._connection.cursor() as cursor, cursor.copy("COPY asked FROM STDIN (FORMAT csv)") as copy:
            copy.write(write_csv(columns))

    def as_of(self, view: View, places: Sequence[int], as_of: Times) -> Selected:
        """Give the values of the rows that were asked for, as they were known."""
        statement = sql.SQL(_AS_OF).format(features=column_names(places, "found"), rows=rows_table(view))
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            text = b"".join(copy)
        features = [view.stored[place] for place in places]
        numbers, times, known, columns = read_csv(text, features)
        order = np.argsort(numbers, kind="stable")
        ordered = [Column(column.values[order], column.missing[order]) for column in columns]
        return _selected(view, features, times[order], known[order], ordered, as_of)

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

    def _stage(self, view: View, rows: Rows, created: Times, distinct: Any) -> None:
        import pyarrow

        count = len(rows.keys)
        columns = [pyarrow.array(rows.keys, pyarrow.string()), pyarrow.array(rows.event_times), pyarrow.array(created)]
        columns += [arrow_of(feature, rows.columns.get(feature.name), count) for feature in view.stored]
        if len(distinct) < count:
            columns = [column.take(pyarrow.array(distinct)) for column in columns]
        self._connection.execute(sql.SQL(_STAGE).format(rows_table(view)))
        with self._connection.cursor() as cursor, cursor.copy("COPY staged FROM STDIN (FORMAT csv)") as copy:
            copy.write(write_csv(columns))


def _last_of_each(rows: Rows, created: Times) -> Any:
    """Give the places of the rows that count, in order."""
    last = {
        (key, time, made): place
        for place, (key, time, made) in enumerate(
            zip(rows.keys, rows.event_times.tolist(), created.tolist(), strict=True)
        )
    }
    return np.fromiter(last.values(), np.int64, len(last))


def _listed(places: Sequence[int], table: str) -> sql.Composed:
    return sql.SQL(", ").join([sql.Identifier(table, f"f{place}") for place in places])


def _selected(
    view: View, features: Sequence[Any], times: Times, known: Any, columns: Sequence[Column], as_of: Times
) -> Selected:
    """Say what became of each row; what is older than the TTL is known, and not given."""
    expired = known & (times < as_of - view.ttl_ms * 1000) if view.ttl_ms else np.zeros(len(times), np.bool_)
    statuses = np.where(known, np.where(expired, FeatureStatus.EXPIRED, FeatureStatus.PRESENT), FeatureStatus.ABSENT)
    if expired.any():
        columns = [Column(column.values, column.missing | expired) for column in columns]
    return Selected(view, [FeatureStatus(each) for each in statuses.tolist()], times, as_mapping(features, columns))
