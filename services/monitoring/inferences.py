"""Asking: one inference, a list of them, and how good a model is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time
from typing import Any
from uuid import UUID

from services.common import pages
from services.common.errors import NotFound
from services.monitoring.ids import find_id
from services.monitoring.models import Filters, Inference, Metrics, Page, Retention, Window
from services.monitoring.rollups.metrics import MetricsReader
from services.monitoring.rollups.models import Totals
from services.monitoring.store.inferences import InferenceStore

Clock = Callable[[], datetime]
DEFAULT_PAGE_SIZE = 100
MAX_EXACT = 20_000
"""Where a model has so many predictions in a window, the percentiles are exact; of more, those of the rollups."""


class Inferences:
    """Answers for what was recorded."""

    def __init__(self, store: InferenceStore, metrics: MetricsReader, retention: Retention, clock: Clock) -> None:
        self._store = store
        self._metrics = metrics
        self._retention = retention
        self._clock = clock

    def get(self, inference_id: UUID) -> Inference:
        """Give an inference with its payloads and all its feedback.

        Raises:
            NotFound: it was never recorded, or is past its retention (INFERENCE_NOT_FOUND).
        """
        found = self._store.find(inference_id)
        if found is None:
            raise NotFound(
                f"inference {inference_id} is not known: it has not arrived yet, or is older than the "
                f"{self._retention.days} days that are kept",
                reason="INFERENCE_NOT_FOUND",
            )
        return found

    def page(self, filters: Filters, *, size: int, token: str) -> Page:
        """List inferences, the newest first, without payloads.

        Raises:
            InvalidArgument: the size, the token or the window.
        """
        size = pages.page_size(size, default=DEFAULT_PAGE_SIZE)
        bound_to = {name: getattr(filters, name) for name in Filters.__dataclass_fields__}
        position = pages.decode(token, bound_to)
        if position is None:
            window, before = Window.of(filters.from_time, filters.to_time, self._clock()), None
        else:
            window, before = _position(position)
        found = self._store.page(filters, window, before=before, limit=size + 1)
        if len(found) <= size:
            return Page(found, "")
        # The window goes along: an hour back from now would be another one on each page.
        last = [window.from_time.isoformat(), window.to_time.isoformat(), str(found[size - 1].event.inference_id)]
        return Page(found[:size], pages.encode(last, bound_to))

    def measure(self, model: str, version: str, from_time: datetime | None, to_time: datetime | None) -> Metrics:
        """Say how a model did in a window; what is past its retention is cut off, and the answer says so.

        All is exact where the model has up to MAX_EXACT predictions in it. Of more, counts and averages are exact up to
        `complete_until`, and percentiles within 1 %.

        Raises:
            InvalidArgument: the window ends before it begins (INVALID_WINDOW).
        """
        now = self._clock()
        window = Window.of(from_time, to_time, now)
        kept_since = datetime.combine(self._retention.first_day(now), time(), UTC)
        if window.from_time < kept_since < window.to_time:
            window = Window(kept_since, window.to_time)
        if self._store.has_more(model, window, than=MAX_EXACT):
            return _metrics(self._metrics.total(model, version, window))
        return self._store.measure(model, version, window)


def _metrics(totals: Totals) -> Metrics:
    counts = totals.counts
    return Metrics(
        window=totals.window,
        inference_count=counts.inference_count,
        error_count=counts.error_count,
        row_count=counts.row_count,
        average_latency_ms=totals.average_latency_ms,
        p50_latency_ms=totals.p50_latency_ms,
        p95_latency_ms=totals.p95_latency_ms,
        p99_latency_ms=totals.p99_latency_ms,
        average_confidence=totals.average_confidence,
        feedback_count=counts.feedback_count,
        judged_count=counts.judged_count,
        correct_count=counts.correct_count,
        complete_until=totals.complete_until,
        feedback_complete_until=totals.feedback_complete_until,
    )


def _position(position: list[Any]) -> tuple[Window, UUID]:
    """Read what a token of ours says; it is not signed, so it is looked at like any input."""
    try:
        begin, end, last = position
        window, before = Window(datetime.fromisoformat(begin), datetime.fromisoformat(end)), find_id(last)
        if before is None or window.from_time.tzinfo is None or window.to_time.tzinfo is None:
            raise ValueError(last)
    except (ValueError, TypeError) as error:
        raise pages.unknown_token() from error
    return window, before
