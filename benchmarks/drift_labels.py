"""Concept drift on made-up labels: false alarms where the model is as right as it was, and drops that are found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.signal import lfilter
from scipy.special import ndtri

from benchmarks.drift_streams import BUCKETS, DAY_MINUTES, ROWS_PER_USER, SCHEDULED_LEVEL
from services.monitoring.drift.comparison import compare
from services.monitoring.drift.concept import wilson
from services.monitoring.drift.models import DriftStatus, Labels, Rules
from services.monitoring.profiles.models import GROUPS, LiveWindow, Reference

ACCURACY = 0.9
DROPPED = 0.8
CHECKS_A_REFERENCE = 20
_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Judged:
    """How being right depends on being right before.

    `icc`: of a user's rows, each user's accuracy drawn from a beta distribution; `uneven`: users have geometrically
    many rows, 20 on average. `carry`, `cycle`: of a latent value that is above a threshold where the model is right:
    its correlation from row to row, and the share of its variance that goes up and down with the hour.
    """

    name: str
    icc: float = 0.0
    uneven: bool = False
    carry: float = 0.0
    cycle: float = 0.0

    def draw(
        self, rows: int, accuracy: float, generator: np.random.Generator
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Give which rows of a day, in the order of time, are right, and whose they are; -1: of nobody."""
        users = np.full(rows, -1, dtype=np.int64)
        if self.icc:
            many = rows if self.uneven else -(-rows // ROWS_PER_USER)
            sizes = generator.geometric(1 / ROWS_PER_USER, many) if self.uneven else np.full(many, ROWS_PER_USER)
            users = generator.permutation(np.repeat(np.arange(many), sizes)[:rows])
            spread = 1 / self.icc - 1
            own = generator.beta(accuracy * spread, (1 - accuracy) * spread, many)
            return generator.random(rows) < own[users], users
        latent = generator.standard_normal(rows)
        if self.carry:
            latent, _ = lfilter(
                [np.sqrt(1 - self.carry**2)], [1.0, -self.carry], latent, zi=[self.carry * generator.standard_normal()]
            )
        elif self.cycle:
            phase = 2 * np.pi * np.arange(rows) / rows
            latent = np.sqrt(2 * self.cycle) * np.sin(phase) + np.sqrt(1 - self.cycle) * latent
        return latent < ndtri(accuracy), users


STREAMS = (
    Judged("independent"),
    Judged("users, ICC 0.2", icc=0.2),
    Judged("users, ICC 0.5", icc=0.5),
    Judged("uneven users, ICC 0.5", icc=0.5, uneven=True),
    Judged("autocorrelated, 0.5", carry=0.5),
    Judged("autocorrelated, 0.9", carry=0.9),
    Judged("daily cycle", cycle=0.3),
)


def show_labels(console: Console, sizes: Sequence[int], runs: int, seed: int, reference_rows: int) -> None:
    """Check windows of so many labelled rows."""
    title = f"accuracy {ACCURACY}, {reference_rows:,} rows of reference, {runs} checks each"
    table = Table("stream", "labels", "accuracy", "α = 0.05", f"{SCHEDULED_LEVEL:.3g}", "too little data", title=title)
    for stream in STREAMS:
        for size in sizes:
            levels = (Rules(alpha=0.05), Rules(alpha=SCHEDULED_LEVEL))
            for accuracy in (ACCURACY, DROPPED):
                told = list(_checks(stream, size, accuracy, levels, runs, seed, reference_rows))
                few = sum(usual is DriftStatus.INSUFFICIENT_DATA for usual, _ in told)
                hits = [sum(each[level] is DriftStatus.DRIFTED for each in told) for level in range(2)]
                cells = (
                    stream.name,
                    f"{size:,}",
                    f"{accuracy}",
                    *(_said(each, runs) for each in hits),
                    f"{few / runs:.0%}",
                )
                table.add_row(*cells)
                console.print("[dim]" + " | ".join(cells))
    console.print(table)


def _checks(
    stream: Judged, size: int, accuracy: float, levels: Sequence[Rules], runs: int, seed: int, reference_rows: int
) -> Iterator[tuple[DriftStatus, ...]]:
    for run in range(runs):
        if run % CHECKS_A_REFERENCE == 0:
            generator = np.random.default_rng([seed, size, run])
            right, _ = stream.draw(reference_rows, ACCURACY, generator)
            reference = Reference(
                UUID(int=1), "model", "1", 1, reference_rows, {}, float(right.mean()), reference_rows, 0.0, _START,
                "benchmark", "",
            )  # fmt: skip
        right, users = stream.draw(size, accuracy, generator)
        minutes = np.sort(DAY_MINUTES * generator.random(size))
        labels = labels_of(right, users, minutes, generator)
        yield tuple(compare(reference, _NOTHING, rules, labels).status for rules in levels)


def _said(hits: int, runs: int) -> str:
    low, high = wilson(hits, runs, 0.05)
    return f"{hits} of {runs} ({low:.2%} to {high:.2%})"


def labels_of(
    right: NDArray[np.bool_],
    users: NDArray[np.int64],
    minutes: NDArray[np.float64],
    generator: np.random.Generator,
) -> Labels:
    """Count labels as the service does: by bucket, and by random groups of users."""
    bucket, named = (minutes // 5).astype(np.int64), users >= 0
    group = generator.integers(0, GROUPS, int(users.max(initial=0)) + 1)[users]
    return Labels(
        judged=np.bincount(bucket, minlength=BUCKETS).tolist(),
        correct=np.bincount(bucket[right], minlength=BUCKETS).tolist(),
        judged_of_users=np.bincount(group[named], minlength=GROUPS).tolist(),
        correct_of_users=np.bincount(group[named & right], minlength=GROUPS).tolist(),
    )


_NOTHING = LiveWindow(
    _START, _START + timedelta(days=1), [], np.zeros(0, np.int64), 0, np.zeros(GROUPS, np.int64), {}, {}
)
