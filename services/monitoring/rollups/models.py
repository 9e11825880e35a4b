"""What is counted of predictions, and over which spans."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from functools import reduce
from typing import NamedTuple

from services.monitoring.models import Window
from services.monitoring.rollups.latency import Latencies

MAX_ERROR_CODES = 100
OTHER_ERRORS = "OTHER"
"""Stands for the error codes of a span beyond the most frequent ones."""
EXACT = Context(prec=1_000)
"""Rounds nothing that is summed here."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AT_ONCE = 64
"""Counts that are added up in one go: it takes less than to add each by itself."""


class Granularity(enum.Enum):
    """How long a rollup's span is; the numbers are the contract's and the database's."""

    FIVE_MINUTES = 1
    HOUR = 2
    DAY = 3

    @property
    def span(self) -> timedelta:
        """How long."""
        return _SPANS[self]

    def floor(self, time: datetime) -> datetime:
        """Give the beginning of the span that holds a time, in UTC."""
        return _EPOCH + (time - _EPOCH) // self.span * self.span

    def ceil(self, time: datetime) -> datetime:
        """Give the first beginning of a span that is not before a time, in UTC."""
        return _EPOCH - (_EPOCH - time) // self.span * self.span


_SPANS = {
    Granularity.FIVE_MINUTES: timedelta(minutes=5),
    Granularity.HOUR: timedelta(hours=1),
    Granularity.DAY: timedelta(days=1),
}
FINEST_FIRST = tuple(Granularity)


class Mark(NamedTuple):
    """A span of a version that is to be counted anew."""

    granularity: Granularity
    start_time: datetime
    model: str
    version: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted over a span. Sums are exact decimals, so that the order of adding does not matter.

    Latencies are those of successful predictions; feedback counts by the time of its prediction.
    """

    inference_count: int = 0
    error_count: int = 0
    row_count: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    latencies: Latencies = field(default_factory=Latencies)
    latency_sum_ms: Decimal = Decimal()
    latency_max_ms: float | None = None
    confidence_count: int = 0
    confidence_sum: Decimal = Decimal()
    feedback_count: int = 0
    judged_count: int = 0
    correct_count: int = 0
    feedback_lag_s: Decimal = Decimal()

    @classmethod
    def merged(cls, several: Iterable[Counts]) -> Counts:
        """Add up."""
        all_ = list(several)
        if len(all_) == 1:
            return all_[0]
        errors: dict[str, int] = {}
        for counts in all_:
            for code, count in counts.errors.items():
                errors[code] = errors.get(code, 0) + count
        return cls(
            inference_count=sum(counts.inference_count for counts in all_),
            error_count=sum(counts.error_count for counts in all_),
            row_count=sum(counts.row_count for counts in all_),
            errors=most_frequent(errors),
            latencies=Latencies.merged(counts.latencies for counts in all_),
            latency_sum_ms=exact_sum(counts.latency_sum_ms for counts in all_),
            latency_max_ms=max((c.latency_max_ms for c in all_ if c.latency_max_ms is not None), default=None),
            confidence_count=sum(counts.confidence_count for counts in all_),
            confidence_sum=exact_sum(counts.confidence_sum for counts in all_),
            feedback_count=sum(counts.feedback_count for counts in all_),
            judged_count=sum(counts.judged_count for counts in all_),
            correct_count=sum(counts.correct_count for counts in all_),
            feedback_lag_s=exact_sum(counts.feedback_lag_s for counts in all_),
        )


class Sum:
    """Adds up counts as they are read, and holds no more than their sum."""

    def __init__(self) -> None:
        self._several: list[Counts] = []

    def add(self, counts: Counts) -> None:
        """Take a part in."""
        self._several.append(counts)
        if len(self._several) == _AT_ONCE:
            self._several = [Counts.merged(self._several)]

    def result(self) -> Counts:
        """Give the sum of what was taken in."""
        return Counts.merged(self._several)


def exact_sum(values: Iterable[Decimal]) -> Decimal:
    """Add up without rounding."""
    return reduce(EXACT.add, values, Decimal())


def most_frequent(errors: Mapping[str, int]) -> dict[str, int]:
    """Order error codes, the most frequent first, and put those beyond a hundred together."""
    ordered = sorted(errors.items(), key=lambda item: (item[0] == OTHER_ERRORS, -item[1], item[0]))
    kept = dict(ordered[:MAX_ERROR_CODES])
    rest = sum(count for _, count in ordered[MAX_ERROR_CODES:])
    if rest:
        kept[OTHER_ERRORS] = kept.get(OTHER_ERRORS, 0) + rest
    return kept


@dataclass(frozen=True, slots=True)
class Totals:
    """How a model did over a window. What can't be told is None, never 0.

    Attributes:
        window: what the counts really cover; it may be longer than was asked for by parts of a span whose events are
            gone, or begin later.
        counts: what was counted.
        complete_until: up to here all that is stored is in them; None: it all is.
        feedback_complete_until: the same of feedback that came since its predictions were counted.
    """

    window: Window
    counts: Counts
    complete_until: datetime | None = None
    feedback_complete_until: datetime | None = None

    @property
    def success_count(self) -> int:
        """Predictions that did not fail."""
        return self.counts.inference_count - self.counts.error_count

    @property
    def error_rate(self) -> float | None:
        """Failed predictions / predictions."""
        return _ratio(self.counts.error_count, self.counts.inference_count)

    @property
    def average_latency_ms(self) -> float | None:
        """Over successful predictions, exact."""
        return _ratio(self.counts.latency_sum_ms, self.success_count)

    @property
    def max_latency_ms(self) -> float | None:
        """Over successful predictions, exact."""
        return self.counts.latency_max_ms

    @property
    def p50_latency_ms(self) -> float | None:
        """The median over successful predictions, within 1 %."""
        return self.percentile_ms(50)

    @property
    def p95_latency_ms(self) -> float | None:
        """The 95th percentile, within 1 %."""
        return self.percentile_ms(95)

    @property
    def p99_latency_ms(self) -> float | None:
        """The 99th percentile, within 1 %."""
        return self.percentile_ms(99)

    def percentile_ms(self, percent: int) -> float | None:
        """Give a percentile of the latency over successful predictions, within 1 %, in ms."""
        (found,) = self.percentiles_ms(percent)
        return found

    def percentiles_ms(self, *percents: int) -> list[float | None]:
        """Give several of them, in the time of one."""
        most = self.counts.latency_max_ms
        found = self.counts.latencies.percentiles(percents)
        return [one if one is None or most is None else min(one, most) for one in found]

    @property
    def average_confidence(self) -> float | None:
        """Over predictions that have one."""
        return _ratio(self.counts.confidence_sum, self.counts.confidence_count)

    @property
    def accuracy(self) -> float | None:
        """Rows judged right / rows judged."""
        return _ratio(self.counts.correct_count, self.counts.judged_count)

    @property
    def average_feedback_lag_s(self) -> float | None:
        """From the prediction to its feedback, over rows with feedback."""
        return _ratio(self.counts.feedback_lag_s, self.counts.feedback_count)

    @property
    def throughput_per_s(self) -> float:
        """Predictions per second of the window."""
        return self.counts.inference_count / self.window.seconds


def _ratio(part: int | Decimal, whole: int) -> float | None:
    return float(part / whole) if whole else None


@dataclass(frozen=True, slots=True)
class Series:
    """The steps of one version, or of all (""), the oldest first; those without predictions are left out."""

    version: str
    points: Sequence[Totals]
    total: Totals


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question for a series gave: the window that it covers, and up to when it is complete (None: all of it)."""

    granularity: Granularity
    window: Window
    series: Sequence[Series]
    complete_until: datetime | None
    feedback_complete_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A series that is asked for; no version: all, as one series or, `by_version`, each by itself.

    Without `latencies`, how they are spread is left out of what rollups say: it is most of them.
    """

    model: str
    version: str
    from_time: datetime | None
    to_time: datetime | None
    granularity: Granularity | None
    by_version: bool
    latencies: bool = True
