"""Counting feedback anew where nothing else came: a label leaves the predictions of its span as they were counted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from psycopg import Connection, sql
from psycopg.rows import DictRow

from services.monitoring.models import Window
from services.monitoring.rollups.models import FINEST_FIRST, Granularity
from services.monitoring.rollups.store.counting import count_feedback
from services.monitoring.rollups.store.rows import TABLES

COLUMNS = ("feedback_count", "judged_count", "correct_count", "feedback_lag_s")
_SET = ", ".join(f"{column} = %({column})s" for column in COLUMNS)
_UPDATE = f"""
UPDATE monitoring.{{table}}
SET {_SET}
WHERE model = %(model)s AND version = %(version)s AND start_time = %(start_time)s
"""  # noqa: S608 - the braces are constants of ours
_SUM = f"""
SELECT {", ".join(f"coalesce(sum({column}), 0) AS {column}" for column in COLUMNS)}
FROM monitoring.{{table}}
WHERE model = %(model)s AND version = %(version)s AND start_time >= %(start_time)s AND start_time < %(end_time)s
"""  # noqa: S608 - the braces are constants of ours
_CHUNK = timedelta(hours=1)

# A span that is not rolled up is marked already, or is being rolled up just now from a snapshot without this feedback:
# then a mark is due that outlives that. Of spans that nobody can roll up yet, nothing is to be feared.
_MARK = """
INSERT INTO monitoring.rollup_marks (granularity, start_time, model, version)
SELECT %(granularity)s, %(start_time)s, %(model)s, %(version)s
WHERE %(end_time)s < now() + interval '1 hour'
"""


class Span(NamedTuple):
    """A span of a version."""

    granularity: Granularity
    model: str
    version: str
    start_time: datetime

    @property
    def end_time(self) -> datetime:
        """Where it ends."""
        return self.start_time + self.granularity.span


def recount_feedback(
    connection: Connection[DictRow], finest: Granularity, model: str, version: str, at: datetime
) -> None:
    """Count the feedback of the finest rollup that holds a time, and sum that of the longer ones that hold it."""
    for granularity in FINEST_FIRST[FINEST_FIRST.index(finest) :]:
        span = Span(granularity, model, version, granularity.floor(at))
        counts = _counted(connection, span) if granularity is finest else _summed(connection, span)
        values = {**span._asdict(), **counts}
        if connection.execute(_statement(_UPDATE, granularity), values).rowcount:
            continue
        # What holds no rollup yet is counted whole: a bucket from its events, a longer one from what is finer.
        marked = Granularity.FIVE_MINUTES if granularity is finest else granularity
        values = {**values, "granularity": marked.value, "start_time": marked.floor(at), "end_time": span.end_time}
        connection.execute(_MARK, values)
        if granularity is finest:
            return


def _counted(connection: Connection[DictRow], span: Span) -> Mapping[str, Any]:
    counts: dict[str, Any] = dict.fromkeys(COLUMNS, Decimal())
    time = span.start_time
    while time < span.end_time:
        until = min(time + _CHUNK, span.end_time)
        for row in count_feedback(connection, span.model, span.version, Window(time, until)):
            counts = {column: counts[column] + row[column] for column in COLUMNS}
        time = until
    return counts


def _summed(connection: Connection[DictRow], span: Span) -> Mapping[str, Any]:
    finer = FINEST_FIRST[FINEST_FIRST.index(span.granularity) - 1]
    values = {**span._asdict(), "end_time": span.end_time}
    row = connection.execute(_statement(_SUM, finer), values).fetchone()
    if row is None:
        raise AssertionError("an aggregate without GROUP BY has one row")
    return row


def _statement(text: str, granularity: Granularity) -> sql.Composed:
    return sql.SQL(text).format(table=sql.Identifier(TABLES[granularity]))
