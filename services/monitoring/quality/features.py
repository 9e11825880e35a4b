"""The questions that one feature of a window raises."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from services.monitoring.profiles.models import (
    QUALITY_COUNTS,
    Counts,
    FeatureKind,
    FeatureReference,
    LiveFeature,
    LiveWindow,
    Reference,
)
from services.monitoring.profiles.sums import step_of
from services.monitoring.quality import sentences
from services.monitoring.quality.bounds import design_effect
from services.monitoring.quality.models import QualityIssue

_NUMBERS = frozenset({FeatureKind.NUMERIC, FeatureKind.TEXT_LENGTH})
_MISSING, _OTHER = -2, -1


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A question to the window: `count` of `rows` rows have it; is that more than is allowed for?

    `design` says how many rows are worth as much as one by itself. `shown_value` and `shown_limit` stand in for the
    shares where people think in something else; then the one must exceed the other as well.
    """

    issue: QualityIssue
    feature: str
    count: int
    rows: int
    reference_share: float
    reference_rows: float
    sentence: str
    tolerance: float = 0.0
    design: float = 1.0
    growth: float = 1.0
    shown_value: float | None = None
    shown_limit: float | None = None

    @property
    def share(self) -> float:
        """The share of the rows that have it."""
        return self.count / self.rows


class FeatureLook:
    """One feature of a window beside that of the reference.

    Bad values keep their own company: whether they come from few users is seen in the groups. Values that lie far out
    are values still, and cluster as these do, in the reference and now.
    """

    def __init__(
        self, known: FeatureReference, live: LiveFeature, reference: Reference, window: LiveWindow, tolerance: float
    ) -> None:
        self._known = known
        self._live = live
        self._window = window
        self._tolerance = tolerance
        self._counts = [int(count) for count in live.counts.sum(axis=0)]
        self._groups = live.groups
        self._group_rows = live.groups.sum(axis=1)
        self.rows = sum(self._counts)
        self._reference_rows = sum(known.counts)
        if known.kind is FeatureKind.EMBEDDING:  # vectors that are good have no bin
            self.rows, self._reference_rows = window.row_count, reference.row_count
            self._group_rows = window.group_row_counts
        quality = live.quality.sum(axis=0)
        self._bad = {name: int(count) for name, count in zip(QUALITY_COUNTS, quality, strict=True)}
        self.design = self._by_user_of(live.groups)
        """Of its values: how alike the reference's rows are says nothing of these."""

    @property
    def _name(self) -> str:
        return self._known.name

    @property
    def never_came(self) -> bool:
        """Whether it is missing in all rows."""
        return self._counts[_MISSING] == self.rows

    def questions(self, newest: datetime | None, stale_after: timedelta) -> Iterator[Suspicion]:
        """Ask all; `newest` is when any feature came last."""
        if self.rows == 0:
            return
        yield self._missing()
        if self.never_came:
            yield self._absence()
        else:
            yield from self._bad_values()
            yield from self._far_values()
            yield from self._constant()
        yield from self._stale(newest, stale_after)

    def _ask(self, issue: QualityIssue, count: int, reference_share: float, sentence: str) -> Suspicion:
        return Suspicion(
            issue,
            self._name,
            count,
            self.rows,
            reference_share,
            self._reference_rows,
            sentence,
            tolerance=self._tolerance,
        )

    def _by_user(self, *places: int) -> float:
        """Say how much the rows in some places keep to few users."""
        hits = self._groups[:, list(places)].sum(axis=1)
        table: Counts = np.stack([hits, self._group_rows - hits], axis=1)
        return self._by_user_of(table)

    def _by_user_of(self, table: Counts) -> float:
        """Users tell of all rows where most rows name one."""
        return design_effect(table) if 2 * self._group_rows.sum() > self.rows else 1.0

    def _missing_share(self) -> float:
        return self._known.counts[_MISSING] / max(self._reference_rows, 1)

    def _missing(self) -> Suspicion:
        count = self._counts[_MISSING]
        sentence = sentences.missing(self._name, count / self.rows, self.rows)
        found = self._ask(QualityIssue.MISSING, count, self._missing_share(), sentence)
        return replace(found, design=self._by_user(_MISSING))

    def _absence(self) -> Suspicion:
        share = self._missing_share()
        sentence = sentences.never_came(self._name, self.rows, share)
        found = self._ask(QualityIssue.SCHEMA, self.rows, share, sentence)
        return replace(found, tolerance=0.0, shown_value=1.0, shown_limit=share)

    def _bad_values(self) -> Iterator[Suspicion]:
        kind = self._known.kind
        sentence = sentences.wrong_type(self._name, self._share("wrong_type"), self.rows, kind)
        yield self._of_bad(QualityIssue.TYPE, "wrong_type", sentence, _OTHER)
        if kind in _NUMBERS or kind is FeatureKind.EMBEDDING:
            sentence = sentences.not_finite(self._name, self._share("not_finite"), self.rows)
            yield self._of_bad(QualityIssue.NOT_FINITE, "not_finite", sentence, _OTHER)
        if kind is FeatureKind.CATEGORICAL:
            sentence = sentences.unknown_category(self._name, self._share("unknown_category"), self.rows)
            yield self._of_bad(QualityIssue.UNKNOWN_CATEGORY, "unknown_category", sentence, _OTHER)

    def _far_values(self) -> Iterator[Suspicion]:
        moments = self._known.moments
        if self._known.kind not in _NUMBERS or moments is None or moments.count == 0:
            return
        sentence = sentences.out_of_range(
            self._name, self._share("out_of_range"), self.rows, moments, self._live.min, self._live.max
        )
        yield self._of_far(QualityIssue.RANGE, "out_of_range", sentence)
        if moments.mad > 0:
            sentence = sentences.outlier(self._name, self._share("outlier"), self.rows, moments)
            yield self._of_far(QualityIssue.OUTLIER, "outlier", sentence)

    def _share(self, name: str) -> float:
        return self._bad[name] / self.rows

    def _of_bad(self, issue: QualityIssue, name: str, sentence: str, *places: int) -> Suspicion:
        found = self._ask(issue, self._bad[name], self._known.quality.get(name, 0.0), sentence)
        return replace(found, design=self._by_user(*places))

    def _of_far(self, issue: QualityIssue, name: str, sentence: str) -> Suspicion:
        found = self._ask(issue, self._bad[name], self._known.quality.get(name, 0.0), sentence)
        rows = self._reference_rows / self._known.overdispersion
        return replace(found, design=self.design, reference_rows=rows)

    def _constant(self) -> Iterator[Suspicion]:
        """Ask about a feature all of whose values are one, where the reference has several.

        How frequent that one is in the reference is known by its bin, which is no less frequent.
        """
        values, of_reference = self._counts[:_MISSING], self._known.counts[:_MISSING]
        if sum(count > 0 for count in values) != 1 or not sum(of_reference):
            return
        place = max(range(len(values)), key=values.__getitem__)
        if self._known.kind in _NUMBERS:
            moments = self._known.moments
            several = moments is not None and moments.min < moments.max and self._live.min == self._live.max
            value = f"{self._live.min:g}"
        else:
            several, value = sum(count > 0 for count in of_reference) > 1, self._known.categories[place]
        if not several:
            return
        share = of_reference[place] / sum(of_reference)
        yield Suspicion(
            QualityIssue.CONSTANT,
            self._name,
            values[place],
            values[place],
            share,
            sum(of_reference) / self._known.overdispersion,
            sentences.constant(self._known.kind, self._name, value, values[place], share),
            design=self.design,
            shown_value=1.0,
            shown_limit=share,
        )

    def _rows_since(self, last: datetime) -> int:
        """Count rows since a feature came last; of the step in which that was, as many as its rest has time for."""
        totals, times = self._live.counts.sum(axis=1), self._window.bucket_times
        first = bisect_right(times, last)
        rows = int(totals[first:].sum())
        if first:
            step = step_of(self._window.from_time, self._window.to_time)
            rest = max(0.0, 1 - (last - times[first - 1]) / step)
            rows += min(int(self._live.counts[first - 1, _MISSING]), int(rest * totals[first - 1]))
        return rows

    def _stale(self, newest: datetime | None, limit: timedelta) -> Iterator[Suspicion]:
        """Ask about a feature that stopped coming while others went on: all rows since are without it.

        Of one that came at no time in the window, that is all that is known: it is that long ago at least.
        """
        last = self._live.last_time
        if last is None or newest is None:
            age, rows = self._window.to_time - self._window.from_time, self.rows
            sentence = sentences.gone(self._name, age, rows, limit)
        else:
            age, rows = newest - last, self._rows_since(last)
            sentence = sentences.stale(self._name, age, rows, limit)
        if rows and age > limit:
            found = self._ask(QualityIssue.STALE, rows, self._missing_share(), sentence)
            seconds, at_most = age.total_seconds(), limit.total_seconds()
            yield replace(found, rows=rows, tolerance=0.0, shown_value=seconds, shown_limit=at_most)
