"""Reading one window of all models at once: sums are made by the database, so that thousands of spans cost little."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import DictRow

from services.common.postgres import Database
from services.monitoring.models import Window
from services.monitoring.rollups.latency import Latencies
from services.monitoring.rollups.models import Counts, Granularity, most_frequent
from services.monitoring.rollups.plan import Kept, Plan, Starts, open_since
from services.monitoring.rollups.store.counting import Whose, count_every
from services.monitoring.rollups.store.drops import read_kept
from services.monitoring.rollups.store.rows import TABLES

Planner = Callable[[Starts, Kept], Plan]

# A span that waits for one version's recount is read finer for all of them: that is as right, and one plan.
_MARKED = """
SELECT DISTINCT granularity, start_time
FROM monitoring.rollup_marks
WHERE granularity IN (1, 2, 3) AND start_time >= %(from_time)s AND start_time < %(to_time)s
"""
_WANTED = """
FROM unnest(%(begins)s::timestamptz[], %(ends)s::timestamptz[]) AS wanted (begin_time, end_time)
JOIN monitoring.{table} ON start_time >= begin_time AND start_time < end_time
"""
_SUMS = f"""
SELECT
    model, version,
    sum(inference_count)::bigint AS inference_count,
    sum(error_count)::bigint AS error_count,
    sum(row_count)::bigint AS row_count,
    sum(latency_sum_ms) AS latency_sum_ms,
    max(latency_max_ms) AS latency_max_ms,
    sum(confidence_count)::bigint AS confidence_count,
    sum(confidence_sum) AS confidence_sum,
    sum(feedback_count)::bigint AS feedback_count,
    sum(judged_count)::bigint AS judged_count,
    sum(correct_count)::bigint AS correct_count,
    sum(feedback_lag_s) AS feedback_lag_s
{_WANTED}
GROUP BY model, version
"""
_ERRORS = f"""
SELECT model, version, code, sum(code_count)::bigint AS code_count
{_WANTED}
CROSS JOIN unnest(error_codes, error_counts) AS failed (code, code_count)
GROUP BY model, version, code
"""
_LATENCIES = f"""
SELECT model, version, array_agg(bin ORDER BY bin) AS bins, array_agg(bin_count ORDER BY bin) AS bin_counts
FROM (
    SELECT model, version, bin, sum(bin_count)::bigint AS bin_count
    {_WANTED}
    CROSS JOIN unnest(latency_bins, latency_counts) AS held (bin, bin_count)
    GROUP BY model, version, bin
) AS summed
GROUP BY model, version
"""  # noqa: S608 - the braces are constants of ours
_SEEN = """
SELECT model, version FROM monitoring.{table} WHERE start_time >= %(from_time)s AND start_time < %(to_time)s
UNION
SELECT model, version FROM monitoring.rollup_marks
WHERE granularity = 1 AND start_time >= %(from_bucket)s AND start_time < %(to_time)s
UNION
SELECT model, version FROM monitoring.rollup_marks
WHERE granularity = {granularity} AND start_time >= %(from_time)s AND start_time < %(to_time)s
"""


class TotalsStore:
    """Rollups of all models, and events where no rollup can tell."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def read(
        self, window: Window, kept: Kept, now: datetime, planner: Planner, *, latencies: bool
    ) -> tuple[Plan, Mapping[Whose, Sequence[Counts]]]:
        """Make a plan from what is there, and read what it says, in parts that add up; see `MetricsStore.read`.

        Without `latencies`, how they are spread is left out of what rollups say: it is most of them.
        """
        found: defaultdict[Whose, list[Counts]] = defaultdict(list)
        with self._db.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            plan = planner(_marked(connection, window, open_since(now)), read_kept(connection, kept))
            for granularity, windows in plan.rollups.items():
                for whose, counts in _summed(connection, granularity, windows, latencies=latencies).items():
                    found[whose].append(counts)
            for part in plan.events:
                for whose, counts in count_every(connection, part).items():
                    found[whose].append(counts)
        return plan, found

    def seen(self, window: Window, granularity: Granularity) -> set[Whose]:
        """List the versions that predicted in a window, to its spans of a granularity."""
        values = {
            "from_time": granularity.floor(window.from_time),
            "from_bucket": Granularity.FIVE_MINUTES.floor(window.from_time),
            "to_time": window.to_time,
        }
        statement = sql.SQL(_SEEN).format(
            table=sql.Identifier(TABLES[granularity]), granularity=sql.Literal(granularity.value)
        )
        with self._db.transaction() as connection:
            return {(row["model"], row["version"]) for row in connection.execute(statement, values)}


def _marked(connection: Connection[DictRow], window: Window, open_from: datetime) -> Starts:
    values = {"from_time": Granularity.DAY.floor(window.from_time), "to_time": min(window.to_time, open_from)}
    marked: defaultdict[Granularity, set[datetime]] = defaultdict(set)
    for row in connection.execute(_MARKED, values):
        marked[Granularity(row["granularity"])].add(row["start_time"])
    return {granularity: frozenset(starts) for granularity, starts in marked.items()}


def _summed(
    connection: Connection[DictRow], granularity: Granularity, windows: Sequence[Window], *, latencies: bool
) -> dict[Whose, Counts]:
    values = {"begins": [window.from_time for window in windows], "ends": [window.to_time for window in windows]}

    def rows(statement: str) -> list[dict[str, Any]]:
        composed = sql.SQL(statement).format(table=sql.Identifier(TABLES[granularity]))
        return connection.execute(composed, values).fetchall()

    found = {(row.pop("model"), row.pop("version")): Counts(**row) for row in rows(_SUMS)}
    errors: defaultdict[Whose, dict[str, int]] = defaultdict(dict)
    for row in rows(_ERRORS):
        errors[row["model"], row["version"]][row["code"]] = row["code_count"]
    for whose, codes in errors.items():
        found[whose] = replace(found[whose], errors=most_frequent(codes))
    for row in rows(_LATENCIES) if latencies else ():
        whose = row["model"], row["version"]
        found[whose] = replace(found[whose], latencies=Latencies(tuple(row["bins"]), tuple(row["bin_counts"])))
    return found
