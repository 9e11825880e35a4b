"""What is wrong with live data that no reference is needed for: values that are none, of two types, or that stopped.

Without a reference nothing is counted beforehand, so the newest events of the window are read, a few thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from services.monitoring.configuration.models import QualityConfiguration
from services.monitoring.ids import time_ms_of
from services.monitoring.models import Window
from services.monitoring.profiles.bins import lacking
from services.monitoring.profiles.frames import Column, Tag
from services.monitoring.profiles.layouts import ANY_NAMES, Layout
from services.monitoring.profiles.store.samples import SampleStore
from services.monitoring.profiles.values import LiveRow, decode_features
from services.monitoring.quality import sentences
from services.monitoring.quality.bounds import LEVEL
from services.monitoring.quality.features import Suspicion
from services.monitoring.quality.findings import insufficient, judge, report
from services.monitoring.quality.models import QualityFinding, QualityIssue, QualityReport

_CERTAIN = 1e12
"""Rows of a reference that leaves no doubt: what is asked for is wrong in any share beyond the tolerance."""


class Unreferenced:
    """Looks windows over that have no reference."""

    def __init__(self, store: SampleStore, layout: Callable[[str, str], Layout]) -> None:
        """`layout` says of a model and a version how its columns are called."""
        self._store = store
        self._layout = layout

    def examine(
        self, model: str, version: str, window: Window, configuration: QualityConfiguration, level: float
    ) -> QualityReport:
        """Say what is wrong with the newest rows of a window; INSUFFICIENT_DATA below the least number of rows."""
        events = self._store.sample(model, version, window)
        return examine_rows(events, configuration, self._layout(model, version), level)


def examine_rows(
    events: list[LiveRow], configuration: QualityConfiguration, layout: Layout = ANY_NAMES, level: float = LEVEL
) -> QualityReport:
    """Say what is wrong with these events, the oldest first."""
    decoded = decode_features(events, layout)
    rows, columns = decoded.frame.row_count, decoded.frame.columns
    if rows < max(configuration.min_rows, 1):
        return insufficient(rows, configuration.min_rows)
    event_times_ms = np.fromiter((time_ms_of(event.inference_id) for event in events), np.int64, len(events))
    times_ms = event_times_ms[decoded.events]
    suspicions: list[Suspicion] = []
    shown: list[QualityFinding] = []
    for name, column in columns.items():
        suspicions.extend(_bad_values(name, column, configuration.tolerance))
        suspicions.extend(_stale(name, column, times_ms, configuration.stale_after))
        shown.append(_missing(name, column))
    findings = [*judge(suspicions, sentences.by_itself, level=level), *shown]
    return report(rows, findings, sentences.well_by_itself(rows, len(columns)))


def _bad_values(name: str, column: Column, tolerance: float) -> Iterator[Suspicion]:
    rows = column.tags.size
    of_tag = np.bincount(column.tags, minlength=len(Tag))[Tag.MISSING + 1 :]
    odd = int(of_tag.sum() - of_tag.max())
    sentence = sentences.mixed_types(name, odd / rows, rows)
    yield Suspicion(QualityIssue.TYPE, name, odd, rows, 0.0, _CERTAIN, sentence, tolerance=tolerance)
    bad = 0
    if column.numbers is not None:
        bad += int(np.count_nonzero((column.tags == Tag.NUMBER) & ~np.isfinite(column.numbers)))
    if column.vectors is not None:
        bad += int(np.count_nonzero(np.isinf(column.vectors).any(axis=1) & ~lacking(column.vectors)))
    sentence = sentences.not_finite(name, bad / rows, rows)
    yield Suspicion(QualityIssue.NOT_FINITE, name, bad, rows, 0.0, _CERTAIN, sentence, tolerance=tolerance)


def _stale(name: str, column: Column, times_ms: NDArray[np.int64], limit: timedelta) -> Iterator[Suspicion]:
    """Ask about a feature that stopped coming; how often it was missing before is its own reference."""
    present = np.flatnonzero(column.tags != Tag.MISSING)
    if present.size == 0:
        return
    last = int(present[-1])
    age = _time(int(times_ms[-1])) - _time(int(times_ms[last]))
    since = column.tags.size - last - 1
    if since == 0 or age <= limit:
        return
    yield Suspicion(
        QualityIssue.STALE,
        name,
        since,
        since,
        1 - present.size / (last + 1),
        last + 1,
        sentences.stale(name, age, since, limit),
        shown_value=age.total_seconds(),
        shown_limit=limit.total_seconds(),
    )


def _time(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _missing(name: str, column: Column) -> QualityFinding:
    """Show how much is missing, without a judgement."""
    rows = column.tags.size
    count = int(np.count_nonzero(column.tags == Tag.MISSING))
    if column.vectors is not None:
        count += int(np.count_nonzero(lacking(column.vectors)))
    share = count / rows
    summary = sentences.missing_unjudged(name, share, rows)
    return QualityFinding(QualityIssue.MISSING, name, share, 0.0, 1.0, violated=False, count=count, summary=summary)
