"""Buckets of live rows added up to a window, whatever its length, in little memory."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from heapq import nlargest

import numpy as np
from numpy.typing import NDArray

from services.monitoring.profiles.count import BucketCounts, Sample, bin_slices
from services.monitoring.profiles.models import (
    BUCKET,
    GROUPS,
    QUALITY_COUNTS,
    Counts,
    FeatureKind,
    LiveFeature,
    LiveWindow,
    Reference,
    VectorSample,
)
from services.monitoring.profiles.reference import SAMPLE_SIZE
from services.monitoring.profiles.values import MAX_UNKNOWN

MOST_STEPS = 288
"""A day by buckets of 5 minutes. The steps of longer windows are several buckets each."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Numbers = NDArray[np.float64]


def sum_up(
    reference: Reference,
    from_time: datetime,
    to_time: datetime,
    buckets: Iterable[tuple[datetime, BucketCounts]],
    *,
    share: float = 1.0,
) -> LiveWindow:
    """Add up buckets in their order, one at a time: of all of them only what a window keeps by its steps is held.

    `share` is the least of theirs: what was read of the others is weighed as if no more had been read of them. So the
    hours of a day keep their weights, and nobody takes rows for certain that were never looked at.
    """
    total = _Sum(reference, from_time, to_time, share)
    for time, counts in buckets:
        total.add(time, counts)
    return total.window()


def step_of(from_time: datetime, to_time: datetime) -> timedelta:
    """Give the length of a window's steps: whole buckets, of which there are MOST_STEPS at most."""
    count = max(1, (to_time - from_time) // BUCKET)
    return BUCKET * -(-count // MOST_STEPS)


class _Rounded:
    """Sums that are rounded when they are taken; what that leaves goes into the next."""

    def __init__(self, *shape: int) -> None:
        self.sums: _Numbers = np.zeros(shape)

    def add(self, values: int | Counts, weight: float) -> None:
        self.sums += values if weight == 1 else values * weight

    def take(self) -> Counts:
        found = np.rint(self.sums)
        self.sums -= found
        return found.astype(np.int64)


class _Sum:
    def __init__(self, reference: Reference, from_time: datetime, to_time: datetime, share: float) -> None:
        self._reference = reference
        self._from_time, self._to_time = from_time, to_time
        self._share = share
        self._span = step_of(from_time, to_time)
        slices = bin_slices(reference)
        self._slices = slices
        bins, features = (slices[-1].stop if slices else 0), len(slices)
        self._times: list[datetime] = []
        self._largest = 0
        most = min(MOST_STEPS, max(1, (to_time - from_time) // BUCKET))
        # Zeros that nobody has written take no memory.
        self._step_rows: Counts = np.zeros(most, np.int64)
        self._step_counts: Counts = np.zeros((most, bins), np.int64)
        self._step_quality: Counts = np.zeros((most, features, len(QUALITY_COUNTS)), np.int64)
        self._rows, self._counts = _Rounded(1), _Rounded(bins)
        self._quality = _Rounded(features, len(QUALITY_COUNTS))
        self._duplicates, self._groups, self._group_rows = _Rounded(1), _Rounded(GROUPS, bins), _Rounded(GROUPS)
        self._extremes = np.full((features, 2), np.nan)
        self._last_times_ms: Counts = np.zeros(features, np.int64)
        self._samples: dict[str, _UniformSample] = {}
        self._unknown: dict[str, float] = {}

    def add(self, time: datetime, counts: BucketCounts) -> None:
        step = self._from_time + (time - self._from_time) // self._span * self._span
        if not self._times or step > self._times[-1]:
            self._end_step()
            self._times.append(step)
        weight = min(1.0, self._share / counts.share)
        self._rows.add(counts.row_count, weight)
        self._largest = max(self._largest, round(counts.row_count * weight))
        self._counts.add(counts.counts, weight)
        self._quality.add(counts.quality, weight)
        self._duplicates.add(counts.duplicate_count, weight)
        self._groups.add(counts.groups, weight)
        self._group_rows.add(counts.group_row_counts, weight)
        self._extremes[:, 0] = np.fmin(self._extremes[:, 0], counts.extremes[:, 0])
        self._extremes[:, 1] = np.fmax(self._extremes[:, 1], counts.extremes[:, 1])
        np.maximum(self._last_times_ms, counts.last_times_ms, out=self._last_times_ms)
        for name, sample in counts.samples.items():
            self._samples.setdefault(name, _UniformSample()).add(sample)
        for name, count in counts.unknown.items():
            self._unknown[name] = self._unknown.get(name, 0.0) + count * weight
        if len(self._unknown) > 10 * MAX_UNKNOWN:
            self._unknown = dict(nlargest(5 * MAX_UNKNOWN, self._unknown.items(), key=lambda one: one[1]))

    def window(self) -> LiveWindow:
        self._end_step()
        steps = len(self._times)
        groups, features = self._groups.take(), {}
        for number, (name, feature) in enumerate(self._reference.features.items()):
            bins, last_ms = self._slices[number], int(self._last_times_ms[number])
            sample = self._samples.get(name) if feature.kind is FeatureKind.EMBEDDING else None
            features[name] = LiveFeature(
                counts=self._step_counts[:steps, bins],
                groups=groups[:, bins],
                quality=self._step_quality[:steps, number],
                min=float(self._extremes[number, 0]),
                max=float(self._extremes[number, 1]),
                last_time=_EPOCH + timedelta(milliseconds=last_ms) if last_ms else None,
                sample=None if sample is None else sample.vectors(),
            )
        return LiveWindow(
            from_time=self._from_time,
            to_time=self._to_time,
            bucket_times=self._times,
            row_counts=self._step_rows[:steps],
            duplicate_count=int(self._duplicates.take()[0]),
            group_row_counts=self._group_rows.take(),
            features=features,
            unknown_features={name: max(1, round(count)) for name, count in self._unknown.items()},
            largest_bucket=self._largest,
            share=self._share,
        )

    def _end_step(self) -> None:
        """Put down what belongs to the step under way, if there is one."""
        if self._times:
            number = len(self._times) - 1
            self._step_rows[number] = self._rows.take()[0]
            self._step_counts[number] = self._counts.take()
            self._step_quality[number] = self._quality.take()


class _UniformSample:
    """A uniform sample of all that the samples were taken of.

    A bucket that left vectors out kept those with its least keys: below the least of these buckets' greatest keys
    every bucket has all of its own, and what lies below is uniform over all.
    """

    def __init__(self) -> None:
        self._kept: list[Sample] = []
        self._count = 0
        self._limit: int | None = None

    def add(self, sample: Sample) -> None:
        if not sample.keys.size:
            return
        if not sample.whole:
            last = int(sample.keys[-1])
            self._limit = last if self._limit is None else min(self._limit, last)
        self._kept.append(sample)
        self._count += sample.keys.size
        if self._count > 4 * SAMPLE_SIZE:
            self._kept = [self._least()]
            self._count = self._kept[0].keys.size

    def vectors(self) -> VectorSample:
        least = self._least()
        return VectorSample(least.vectors, least.users)

    def _least(self) -> Sample:
        keys = np.concatenate([sample.keys for sample in self._kept])
        vectors = np.concatenate([sample.vectors for sample in self._kept])
        users = np.concatenate([sample.users for sample in self._kept])
        order = np.argsort(keys, kind="stable")[:SAMPLE_SIZE]
        if self._limit is not None:
            order = order[keys[order] <= self._limit]
        return Sample(keys[order], vectors[order], users[order], whole=False)
