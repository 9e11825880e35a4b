"""Drift checks of vectors alone: false alarms of users who are alike or not, and shifts that are found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.drift_streams import SCHEDULED_LEVEL
from services.monitoring.drift.comparison import compare
from services.monitoring.drift.concept import wilson
from services.monitoring.drift.models import DriftStatus, Rules
from services.monitoring.profiles.frames import ColumnBuilder, Frame
from services.monitoring.profiles.models import GROUPS, QUALITY_COUNTS, LiveFeature, LiveWindow, Reference, VectorSample
from services.monitoring.profiles.overdispersion import groups_of, user_number
from services.monitoring.profiles.reference import SAMPLE_SIZE, Columns, build_reference

DIMENSIONS = 64
BUCKETS = 288
REFERENCE_ROWS = 10_000
SHIFT = 1.0
_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Vectors:
    """Rows [n, DIMENSIONS], and the name of each one's user."""

    rows: NDArray[np.float64]
    users: NDArray[np.int64]


STREAMS = (
    ("independent", 1, 0.0),
    ("users of 20 rows, ICC 0.2", 20, 0.2),
    ("users of 20 rows, ICC 0.5", 20, 0.5),
)


def show_vectors(console: Console, sizes: list[int], runs: int, seed: int) -> None:
    """Draw, check, and show the table."""
    table = Table(
        "stream", "rows", "alarms at 0.05", f"at {SCHEDULED_LEVEL:.3g}", "too little data", "shift found", "at 0.003"
    )
    for name, rows_per_user, icc in STREAMS:
        for size in sizes:
            told: list[tuple[DriftStatus, DriftStatus, DriftStatus, DriftStatus]] = []
            for run in range(runs):
                generator = np.random.default_rng([seed, size, run, rows_per_user])
                reference = reference_of(drawn(REFERENCE_ROWS, rows_per_user, icc, generator, first=10**6))
                calm = drawn(size, rows_per_user, icc, generator)
                moved = replace(calm, rows=calm.rows + SHIFT * (np.arange(DIMENSIONS) == 0))
                a, b, c, d = (
                    compare(reference, window_of(rows, generator), Rules(alpha=alpha)).status
                    for rows in (calm, moved)
                    for alpha in (0.05, SCHEDULED_LEVEL)
                )
                told.append((a, b, c, d))
            alarms, strict, found, strictly = (
                _said(sum(each[n] is DriftStatus.DRIFTED for each in told), runs) for n in range(4)
            )
            few = sum(each[0] is DriftStatus.INSUFFICIENT_DATA for each in told)
            cells = (name, f"{size:,}", alarms, strict, f"{few / runs:.0%}", found, strictly)
            table.add_row(*cells)
            console.print("[dim]" + " | ".join(cells))
    console.print(table)


def _said(hits: int, checks: int) -> str:
    low, high = wilson(hits, checks, 0.05)
    return f"{hits} of {checks} ({low:.1%} to {high:.1%})"


def drawn(count: int, rows_per_user: int, icc: float, generator: np.random.Generator, first: int = 0) -> Vectors:
    """Draw rows, in any order, of users that no other stream has."""
    users = generator.permutation(np.arange(count) // rows_per_user)
    own = generator.standard_normal((-(-count // rows_per_user), DIMENSIONS))[users]
    rows = np.sqrt(icc) * own + np.sqrt(1 - icc) * generator.standard_normal((count, DIMENSIONS))
    return Vectors(rows, users + first)


def reference_of(vectors: Vectors) -> Reference:
    """Make a reference as the service makes it of a file, its column of users named as the group."""
    values, users = ColumnBuilder(len(vectors.rows)), ColumnBuilder(len(vectors.rows))
    values.put_vectors(np.arange(len(vectors.rows)), vectors.rows)
    users.put_texts(np.arange(len(vectors.rows)), map(str, vectors.users.tolist()))
    frame = Frame(len(vectors.rows), {"vector": values.build(), "user": users.build()})
    found = build_reference(frame, Columns(group="user"))
    return Reference(
        UUID(int=1), "model", "1", 1, found.row_count, found.features, None, 0, found.duplicate_share, _START, "", ""
    )


def window_of(vectors: Vectors, generator: np.random.Generator) -> LiveWindow:
    """Count a day of rows that come evenly, and sample their vectors as the service does: uniformly."""
    count = len(vectors.rows)
    numbers = np.array([user_number(str(user)) for user in vectors.users.tolist()], np.uint32)
    kept = generator.permutation(count)[:SAMPLE_SIZE]
    per_bucket = np.bincount(np.arange(count) * BUCKETS // count, minlength=BUCKETS)
    per_bucket = per_bucket[per_bucket > 0]
    steps = len(per_bucket)
    live = LiveFeature(
        counts=np.zeros((steps, 2), np.int64),
        groups=np.zeros((GROUPS, 2), np.int64),
        quality=np.zeros((steps, len(QUALITY_COUNTS)), np.int64),
        min=np.nan,
        max=np.nan,
        last_time=_START,
        sample=VectorSample(vectors.rows[kept].astype(np.float32), numbers[kept]),
    )
    return LiveWindow(
        from_time=_START,
        to_time=_START + timedelta(days=1),
        bucket_times=[_START + timedelta(minutes=5 * number) for number in range(steps)],
        row_counts=per_bucket,
        duplicate_count=0,
        group_row_counts=np.bincount(groups_of(numbers), minlength=GROUPS)[:GROUPS].astype(np.int64),
        features={"vector": live},
        unknown_features={},
    )
