"""Rollups as rows: one table a granularity, all alike."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import Connection, sql
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.postgres import types
from psycopg.pq import Format
from psycopg.rows import DictRow

from services.monitoring.models import Window
from services.monitoring.rollups.latency import Latencies
from services.monitoring.rollups.models import Counts, Granularity, Mark
from services.monitoring.rollups.store.counting import Place

TABLES: Mapping[Granularity, str] = {
    Granularity.FIVE_MINUTES: "rollups_five_minutes",
    Granularity.HOUR: "rollups_hours",
    Granularity.DAY: "rollups_days",
}
_COLUMNS = (
    "inference_count",
    "error_count",
    "row_count",
    "error_codes",
    "error_counts",
    "latency_bins",
    "latency_counts",
    "latency_sum_ms",
    "latency_max_ms",
    "confidence_count",
    "confidence_sum",
    "feedback_count",
    "judged_count",
    "correct_count",
    "feedback_lag_s",
)

_AT_ONCE = 100
_HEADER_BYTES = 20
_SPREAD = ("latency_bins", "latency_counts")
_COLUMNS_READ = (f"CASE WHEN %(latencies)s THEN {name} END AS {name}" if name in _SPREAD else name for name in _COLUMNS)

_READ = f"""
SELECT version, start_time, {", ".join(_COLUMNS_READ)}
FROM unnest(%(begins)s::timestamptz[], %(ends)s::timestamptz[]) AS wanted (begin_time, end_time)
JOIN monitoring.{{table}} ON start_time >= begin_time AND start_time < end_time
WHERE model = %(model)s AND (%(version)s::text IS NULL OR version = %(version)s)
"""  # noqa: S608 - the braces are constants of ours

_WRITE = f"""
INSERT INTO monitoring.{{table}} (model, version, start_time, {", ".join(_COLUMNS)})
VALUES (%(model)s, %(version)s, %(start_time)s, {", ".join(f"%({column})s" for column in _COLUMNS)})
ON CONFLICT (model, start_time, version) DO UPDATE
SET ({", ".join(_COLUMNS)}) = ROW ({", ".join(f"excluded.{column}" for column in _COLUMNS)})
"""  # noqa: S608 - the braces are constants of ours


class _Integers(Loader):
    """Reads an array whole: a histogram has hundreds of numbers, of which none needs an object of its own.

    The format is that of PostgreSQL's array_send: 20 bytes, and then each element's length and value; an array of
    nothing has 12. There are no nulls in ours.
    """

    format = Format.BINARY
    _elements = np.dtype([("length", ">i4"), ("value", ">i4")])

    def load(self, data: Buffer) -> NDArray[np.integer[Any]]:
        """Give the values."""
        elements = memoryview(data)[_HEADER_BYTES:]
        values: NDArray[np.integer[Any]] = np.frombuffer(elements, self._elements)["value"]
        return values


class _LongIntegers(_Integers):
    _elements = np.dtype([("length", ">i4"), ("value", ">i8")])


def read(
    connection: Connection[DictRow],
    granularity: Granularity,
    model: str,
    version: str | None,
    windows: Sequence[Window],
    *,
    latencies: bool = True,
) -> Generator[tuple[Place, Counts]]:
    """Read the rollups that begin in these windows, some at a time; no version: those of all.

    Without `latencies`, how they are spread is left out: it is most of a rollup.
    """
    values = {
        "model": model,
        "version": version,
        "begins": [window.from_time for window in windows],
        "ends": [window.to_time for window in windows],
        "latencies": latencies,
    }
    # Binary: of arrays, half the time that text takes. Who stops on the way closes this, or the connection stays busy.
    with connection.cursor(binary=True) as cursor:
        cursor.adapters.register_loader(types["int4"].array_oid, _Integers)
        cursor.adapters.register_loader(types["int8"].array_oid, _LongIntegers)
        for row in cursor.stream(_statement(_READ, granularity), values, size=_AT_ONCE):
            yield (row["version"], row["start_time"]), _counts(row)


def write(connection: Connection[DictRow], mark: Mark, counts: Counts) -> None:
    """Put a span's counts in the place of those before."""
    values = {
        "model": mark.model,
        "version": mark.version,
        "start_time": mark.start_time,
        **{column: getattr(counts, column) for column in _COLUMNS if hasattr(counts, column)},
        "error_codes": list(counts.errors),
        "error_counts": list(counts.errors.values()),
        "latency_bins": counts.latencies.bins.tolist(),
        "latency_counts": counts.latencies.counts.tolist(),
    }
    connection.execute(_statement(_WRITE, mark.granularity), values)


def _statement(text: str, granularity: Granularity) -> sql.Composed:
    return sql.SQL(text).format(table=sql.Identifier(TABLES[granularity]))


def _counts(row: Mapping[str, Any]) -> Counts:
    return Counts(
        inference_count=row["inference_count"],
        error_count=row["error_count"],
        row_count=row["row_count"],
        errors=dict(zip(row["error_codes"], row["error_counts"].tolist(), strict=True)),
        latencies=Latencies(*(() if row[name] is None else row[name] for name in _SPREAD)),
        latency_sum_ms=row["latency_sum_ms"],
        latency_max_ms=row["latency_max_ms"],
        confidence_count=row["confidence_count"],
        confidence_sum=row["confidence_sum"],
        feedback_count=row["feedback_count"],
        judged_count=row["judged_count"],
        correct_count=row["correct_count"],
        feedback_lag_s=row["feedback_lag_s"],
    )
