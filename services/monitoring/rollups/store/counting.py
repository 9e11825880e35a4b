"""Counting events and feedback, by version and by spans of equal length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow

from services.monitoring.ids import first_id
from services.monitoring.models import Window
from services.monitoring.rollups.latency import BIN_WIDTH, ZERO_BIN, Latencies
from services.monitoring.rollups.models import EXACT, Counts, exact_sum, most_frequent
from services.monitoring.store.inferences import JUDGED

Place = tuple[str, datetime]
"""A version, and the beginning of a span."""
Whose = tuple[str, str]
"""A model, and a version of it."""

_EVENTS = """
monitoring.inferences
WHERE inference_id >= %(first_id)s AND inference_id < %(end_id)s
"""
_OF_MODEL = f"{_EVENTS} AND model = %(model)s AND (%(version)s::text IS NULL OR version = %(version)s)"
_PARTS = 2**52
_LONGEST_MS = 9e18
_START = "date_bin(%(step)s, event_time, '1970-01-01 00:00:00+00') AS start_time"

# Sums of doubles depend on their order, and exact numerics take ten times as long: so whole ms and 2^-52 of one are
# summed as integers, by which no double from 1 ms on is rounded. Nobody waits for longer than _LONGEST_MS.
# Without the OFFSET, which keeps the query within from being merged with the one around it, the planner takes every
# latency for a group of its own, and sorts them all.
_PREDICTIONS = f"""
WITH alike AS (
    SELECT
        {{place}}, error_code, latency_bin,
        count(*) AS inference_count,
        sum(row_count) AS row_count,
        sum(trunc(least(latency_ms, {_LONGEST_MS}))::bigint) AS latency_whole_ms,
        sum(((latency_ms - trunc(latency_ms)) * {_PARTS})::bigint) AS latency_parts,
        max(latency_ms) AS latency_max_ms,
        count(confidence) AS confidence_count,
        sum((confidence * {_PARTS})::bigint) AS confidence_parts
    FROM (
        SELECT
            {{reckoned}}, error_code, row_count, latency_ms, confidence,
            CASE
                WHEN error_code <> '' THEN NULL
                WHEN latency_ms = 0 THEN {ZERO_BIN}
                ELSE ceil(ln(latency_ms) / %(bin_width)s::double precision)::integer
            END AS latency_bin
        FROM {{events}}
        OFFSET 0
    ) AS event
    GROUP BY {{place}}, error_code, latency_bin
)
SELECT
    {{place}},
    sum(inference_count)::bigint AS inference_count,
    coalesce(sum(inference_count) FILTER (WHERE error_code <> ''), 0)::bigint AS error_count,
    sum(row_count)::bigint AS row_count,
    array_agg(error_code) FILTER (WHERE error_code <> '') AS error_codes,
    array_agg(inference_count) FILTER (WHERE error_code <> '') AS error_counts,
    array_agg(latency_bin ORDER BY latency_bin) FILTER (WHERE error_code = '') AS latency_bins,
    array_agg(inference_count ORDER BY latency_bin) FILTER (WHERE error_code = '') AS latency_counts,
    sum(latency_whole_ms) FILTER (WHERE error_code = '') AS latency_whole_ms,
    sum(latency_parts) FILTER (WHERE error_code = '') AS latency_parts,
    max(latency_max_ms) FILTER (WHERE error_code = '') AS latency_max_ms,
    sum(confidence_count)::bigint AS confidence_count,
    sum(confidence_parts) AS confidence_parts
FROM alike
GROUP BY {{place}}
"""  # noqa: S608 - the braces are constants of ours

# The latest feedback of each row stands. It may speak of a time before the prediction, which is no negative lag.
_FEEDBACK = f"""
WITH standing AS (
    SELECT DISTINCT ON (said.inference_id, said.row_index)
        inference.model, inference.version, inference.user_id, inference.event_time, said.feedback_time,
        {JUDGED} AS correct
    FROM {{joined}}
    WHERE said.inference_id >= %(first_id)s AND said.inference_id < %(end_id)s
      AND said.row_index < inference.row_count
    ORDER BY said.inference_id, said.row_index, said.feedback_time DESC, said.feedback_number DESC
)
SELECT
    {{reckoned}},
    count(*) AS feedback_count,
    count(correct) AS judged_count,
    count(*) FILTER (WHERE correct) AS correct_count,
    sum(greatest(extract(epoch FROM feedback_time - event_time), 0)) AS feedback_lag_s
FROM standing
GROUP BY 1, 2
"""  # noqa: S608 - the braces are constants of ours
_SAID = """
SELECT count(*) AS number
FROM (
    SELECT
    FROM monitoring.feedback
    WHERE inference_id >= %(first_id)s AND inference_id < %(end_id)s
    LIMIT %(few)s + 1
) AS said
"""
FEW = 1_000
"""So much feedback looks for its events one by one; more of it is met by all the events of its span."""
_NAMES = "model, version, user_id, event_time, row_count, outcomes"
_EACH = f"""
monitoring.feedback AS said
CROSS JOIN LATERAL (
    SELECT {_NAMES} FROM {{events}} AND inference_id = said.inference_id OFFSET 0
) AS inference
"""  # noqa: S608 - the braces are constants of ours
_ALL = f"""
monitoring.feedback AS said
JOIN (SELECT inference_id, {_NAMES} FROM {{events}}) AS inference USING (inference_id)
"""  # noqa: S608 - the braces are constants of ours

# Of the newest events the planner has no statistics yet: it takes 35,000 for one, sorts them by text where hashing
# takes a fifth of the time, and looks for the feedback of each.
_HASH = "SET LOCAL enable_sort = off; SET LOCAL enable_nestloop = off"
_AS_USUAL = "SET LOCAL enable_sort TO DEFAULT; SET LOCAL enable_nestloop TO DEFAULT"

_BY_STEP = {"place": "version, start_time", "reckoned": f"version, {_START}", "events": _OF_MODEL}
# A group is a random one: what a user is called has nothing to do with who is in it.
_GROUP = "CASE user_id WHEN '' THEN -1 ELSE get_byte(sha256(convert_to(user_id, 'UTF8')), 0) %% %(groups)s END"
_BY_USERS = {**_BY_STEP, "reckoned": f"version, {_GROUP} AS user_group"}
_BY_VERSION = {"place": "model, version", "reckoned": "model, version", "events": _EVENTS}


def count(
    connection: Connection[DictRow], model: str, version: str | None, window: Window, step: timedelta
) -> dict[Place, Counts]:
    """Count what is stored of a window, by version and step; no version: all of the model's."""
    values = {"model": model, "version": version, "step": step}
    return _found(connection, _BY_STEP, ("version", "start_time"), window, values)


def count_every(connection: Connection[DictRow], window: Window) -> dict[Whose, Counts]:
    """Count what is stored of a window for all models at once, by model and version."""
    return _found(connection, _BY_VERSION, ("model", "version"), window, {})


def count_feedback(
    connection: Connection[DictRow], model: str, version: str, window: Window
) -> Sequence[Mapping[str, Any]]:
    """Count the feedback of a version's window alone, in parts that add up; its predictions cost nothing."""
    values = {"model": model, "version": version, "step": window.to_time - window.from_time, **_ids(window)}
    return _feedback(connection, _BY_STEP, values)


def count_feedback_of_users(
    connection: Connection[DictRow], model: str, version: str, window: Window, *, groups: int, few: int
) -> Sequence[Mapping[str, Any]]:
    """Count likewise by groups that users are put into by hash, up to 256: `user_group`, -1 of rows that name none.

    Up to `few` rows of feedback in the window, of whatever model, look for their events one by one; see FEW.
    """
    values = {"model": model, "version": version, "groups": groups, **_ids(window)}
    return _feedback(connection, _BY_USERS, values, limit=few)


def _ids(window: Window) -> dict[str, UUID]:
    return {"first_id": first_id(window.from_time), "end_id": first_id(window.to_time)}


def _found(
    connection: Connection[DictRow],
    by: Mapping[str, str],
    names: tuple[str, str],
    window: Window,
    values: Mapping[str, Any],
) -> dict[tuple[str, Any], Counts]:
    values = {**values, **_ids(window), "bin_width": BIN_WIDTH}
    with _hashing(connection), connection.cursor(binary=True) as cursor:
        rows = cursor.execute(_PREDICTIONS.format(**by).encode(), values).fetchall()
    found = {(row[names[0]], row[names[1]]): _counts(row) for row in rows}
    for row in _feedback(connection, by, values) if found else ():
        place = row.pop(names[0]), row.pop(names[1])
        found[place] = replace(found[place], **row)
    return found


def _feedback(
    connection: Connection[DictRow], by: Mapping[str, str], values: Mapping[str, Any], *, limit: int = FEW
) -> list[DictRow]:
    said = connection.execute(_SAID, {**values, "few": limit}).fetchone()
    if said is None or not said["number"]:
        return []
    few = said["number"] <= limit
    statement = _FEEDBACK.format(joined=(_EACH if few else _ALL).format(**by), **by).encode()
    with nullcontext() if few else _hashing(connection):
        return connection.execute(statement, values).fetchall()


@contextmanager
def _hashing(connection: Connection[DictRow]) -> Iterator[None]:
    """Have the planner hash; after an error the transaction is over, and the settings with it."""
    connection.execute(_HASH)
    yield
    connection.execute(_AS_USUAL)


def _counts(row: Mapping[str, Any]) -> Counts:
    errors = dict(zip(row["error_codes"] or (), row["error_counts"] or (), strict=True))
    return Counts(
        inference_count=row["inference_count"],
        error_count=row["error_count"],
        row_count=row["row_count"],
        errors=most_frequent(errors),
        latencies=Latencies(tuple(row["latency_bins"] or ()), tuple(row["latency_counts"] or ())),
        latency_sum_ms=exact_sum([row["latency_whole_ms"] or Decimal(), _of_parts(row["latency_parts"])]),
        latency_max_ms=row["latency_max_ms"],
        confidence_count=row["confidence_count"],
        confidence_sum=_of_parts(row["confidence_parts"]),
    )


def _of_parts(parts: Decimal | None) -> Decimal:
    """Give what so many parts of one are."""
    return EXACT.divide(parts, _PARTS) if parts else Decimal()
