"""Counting events and feedback, by version and by spans of equal length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from psycopg import Connection
from psycopg.rows import DictRow

from services.monitoring.ids import first_id
from services.monitoring.models import Window
from services.monitoring.rollups.latency import BIN_WIDTH, ZERO_BIN, Latencies
from services.monitoring.rollups.models import Counts, exact_sum, most_frequent
from services.monitoring.store.inferences import JUDGED

Place = tuple[str, datetime]
"""A version, and the beginning of a span."""

_EVENTS = """
monitoring.inferences
WHERE inference_id >= %(first_id)s AND inference_id < %(end_id)s
  AND model = %(model)s AND (%(version)s::text IS NULL OR version = %(version)s)
"""
_START = "date_bin(%(step)s, event_time, '1970-01-01 00:00:00+00') AS start_time"

# Sums are numeric, see the migration. The bins are those of `latency`.
_PREDICTIONS = f"""
SELECT
    version, {_START}, error_code,
    CASE
        WHEN error_code <> '' THEN NULL
        WHEN latency_ms = 0 THEN {ZERO_BIN}
        ELSE ceil(ln(latency_ms) / %(bin_width)s::double precision)::integer
    END AS latency_bin,
    count(*) AS inference_count,
    sum(row_count) AS row_count,
    sum(latency_ms::numeric) AS latency_sum_ms,
    max(latency_ms) AS latency_max_ms,
    count(confidence) AS confidence_count,
    coalesce(sum(confidence::numeric), 0) AS confidence_sum
FROM {_EVENTS}
GROUP BY 1, 2, 3, 4
"""  # noqa: S608 - the braces are constants of ours

# The latest feedback of each row stands. It may speak of a time before the prediction, which is no negative lag.
_FEEDBACK = f"""
WITH inference AS (
    SELECT inference_id, event_time, version, row_count, outcomes
    FROM {_EVENTS}
),
standing AS (
    SELECT DISTINCT ON (said.inference_id, said.row_index)
        inference.version, inference.event_time, said.feedback_time, {JUDGED} AS correct
    FROM inference
    JOIN monitoring.feedback AS said USING (inference_id)
    WHERE said.inference_id >= %(first_id)s AND said.inference_id < %(end_id)s
      AND said.row_index < inference.row_count
    ORDER BY said.inference_id, said.row_index, said.feedback_time DESC, said.feedback_number DESC
)
SELECT
    version, {_START},
    count(*) AS feedback_count,
    count(correct) AS judged_count,
    count(*) FILTER (WHERE correct) AS correct_count,
    sum(greatest(extract(epoch FROM feedback_time - event_time), 0)) AS feedback_lag_s
FROM standing
GROUP BY 1, 2
"""  # noqa: S608 - the braces are constants of ours


def count(
    connection: Connection[DictRow], model: str, version: str | None, window: Window, step: timedelta
) -> dict[Place, Counts]:
    """Count what is stored of a window, by version and step; no version: all of the model's."""
    values = {
        "model": model,
        "version": version,
        "first_id": first_id(window.from_time),
        "end_id": first_id(window.to_time),
        "step": step,
        "bin_width": BIN_WIDTH,
    }
    tallies: dict[Place, _Tally] = {}
    for row in connection.execute(_PREDICTIONS, values):
        tallies.setdefault((row["version"], row["start_time"]), _Tally()).add(row)
    found = {place: tally.counts() for place, tally in tallies.items()}
    if not found:
        return found
    for row in connection.execute(_FEEDBACK, values):
        place = row.pop("version"), row.pop("start_time")
        found[place] = replace(found[place], **row)
    return found


@dataclass(slots=True)
class _Tally:
    """The groups of one place, as they come."""

    inference_count: int = 0
    error_count: int = 0
    row_count: int = 0
    confidence_count: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    bins: dict[int, int] = field(default_factory=dict)
    latency_sums: list[Decimal] = field(default_factory=list)
    confidence_sums: list[Decimal] = field(default_factory=list)
    greatest: list[float] = field(default_factory=list)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a group in: predictions that failed alike, or that took alike long."""
        count = row["inference_count"]
        self.inference_count += count
        self.row_count += row["row_count"]
        self.confidence_count += row["confidence_count"]
        self.confidence_sums.append(row["confidence_sum"])
        if row["error_code"]:
            self.error_count += count
            self.errors[row["error_code"]] = count
            return
        self.bins[row["latency_bin"]] = count
        self.latency_sums.append(row["latency_sum_ms"])
        self.greatest.append(row["latency_max_ms"])

    def counts(self) -> Counts:
        """Give them all."""
        return Counts(
            inference_count=self.inference_count,
            error_count=self.error_count,
            row_count=self.row_count,
            errors=most_frequent(self.errors),
            latencies=Latencies.of(self.bins),
            latency_sum_ms=exact_sum(self.latency_sums),
            latency_max_ms=max(self.greatest, default=None),
            confidence_count=self.confidence_count,
            confidence_sum=exact_sum(self.confidence_sums),
        )
