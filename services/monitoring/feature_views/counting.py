"""Rows of a view counted in the bins of a reference, as those of a model's live traffic are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.monitoring.feature_views.views import ViewRows
from services.monitoring.models import Window
from services.monitoring.profiles.bins import Placed, place
from services.monitoring.profiles.models import (
    GROUPS,
    QUALITY_COUNTS,
    FeatureReference,
    LiveFeature,
    LiveWindow,
    Reference,
    VectorSample,
)
from services.monitoring.profiles.overdispersion import grouped_counts, groups_of
from services.monitoring.profiles.reference import SAMPLE_SIZE
from services.monitoring.profiles.sums import step_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def count_rows(reference: Reference, rows: ViewRows, window: Window) -> LiveWindow:
    """Count rows, which lie in the window, by its steps of time and by groups of entities."""
    step = step_of(window.from_time, window.to_time)
    since_us = rows.times_us - (window.from_time - _EPOCH) // _MICROSECOND
    steps, of_row = np.unique(since_us // (step // _MICROSECOND), return_inverse=True)
    groups = groups_of(rows.entities)
    counted = _Counted(of_row.astype(np.intp), len(steps), groups, rows)
    known = reference.features
    return LiveWindow(
        from_time=window.from_time,
        to_time=window.to_time,
        bucket_times=[window.from_time + step * int(number) for number in steps],
        row_counts=np.bincount(of_row, minlength=len(steps)).astype(np.int64),
        duplicate_count=0,
        group_row_counts=np.bincount(groups, minlength=GROUPS + 1)[:GROUPS].astype(np.int64),
        features={name: counted.feature(feature) for name, feature in known.items()},
        unknown_features={name: rows.frame.row_count for name in rows.frame.columns if name not in known},
        share=rows.share or 1.0,
    )


class _Counted:
    """Rows as they are counted: the step [N] and the group [N] of each."""

    def __init__(self, steps: NDArray[np.intp], step_count: int, groups: NDArray[np.intp], rows: ViewRows) -> None:
        self._steps = steps
        self._step_count = step_count
        self._groups = groups
        self._rows = rows

    def feature(self, feature: FeatureReference) -> LiveFeature:
        frame = self._rows.frame
        placed = place(frame.columns.get(feature.name), feature, frame.row_count)
        quality = np.zeros((self._step_count, len(QUALITY_COUNTS)), np.int64)
        if self._step_count:
            quality[0] = placed.quality  # of the window: which step it was nobody asks of a view
        here = self._rows.times_us[placed.present]
        return LiveFeature(
            counts=grouped_counts(placed.bins, placed.bin_count, self._steps, self._step_count),
            groups=grouped_counts(placed.bins, placed.bin_count, self._groups, GROUPS),
            quality=quality,
            min=float(placed.finite.min()) if placed.finite.size else float("nan"),
            max=float(placed.finite.max()) if placed.finite.size else float("nan"),
            last_time=_EPOCH + int(here.max()) * _MICROSECOND if here.size else None,
            sample=_sample(placed, self._rows.entities),
        )


def _sample(placed: Placed, entities: NDArray[np.uint32]) -> VectorSample | None:
    if placed.vectors is None:
        return None
    chosen, vectors = placed.vectors
    some: NDArray[Any] = np.arange(len(chosen))
    if len(chosen) > SAMPLE_SIZE:  # the same each time
        some = np.sort(np.random.default_rng(len(chosen)).choice(len(chosen), SAMPLE_SIZE, replace=False))
    return VectorSample(vectors[some], entities[chosen[some]])
