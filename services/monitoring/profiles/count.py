"""Live rows counted in the bins of a reference, a bucket of 5 minutes at a time. Counts of buckets add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.monitoring.ids import time_ms_of
from services.monitoring.profiles.bins import Placed, place
from services.monitoring.profiles.frames import Column, repeats, row_hashes
from services.monitoring.profiles.layouts import Layout
from services.monitoring.profiles.models import GROUPS, QUALITY_COUNTS, Counts, FeatureReference, Reference
from services.monitoring.profiles.overdispersion import grouped_counts, groups_of, user_number
from services.monitoring.profiles.values import MAX_UNKNOWN, Decoded, LiveRow, decode_features, decode_predictions

BUCKET_SAMPLE_SIZE = 50
"""Vectors of an embedding that are kept of a bucket."""
_LOW = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, slots=True)
class Sample:
    """The vectors with the least keys, which are random and uniform: so samples of samples are uniform as well.

    `keys` [n] ascending, `vectors` [n, dimensions], `users` [n] their numbers; `whole`: none was left out.
    """

    keys: NDArray[np.uint64]
    vectors: NDArray[np.float32]
    users: NDArray[np.uint32]
    whole: bool

    def joined(self, other: Sample, size: int) -> Sample:
        """Take the vectors of the least keys of both."""
        keys = np.concatenate((self.keys, other.keys))
        order = np.argsort(keys, kind="stable")[:size]
        vectors = np.concatenate((self.vectors, other.vectors))[order]
        users = np.concatenate((self.users, other.users))[order]
        return Sample(keys[order], vectors, users, self.whole and other.whole and keys.size <= size)

    def of_share(self, share: float) -> Sample:
        """Make it a sample of all rows, of which it is one of a share: up to `share` of the keys it has all of them."""
        if share == 1.0:
            return self
        return Sample((self.keys * share).astype(np.uint64), self.vectors, self.users, whole=False)


@dataclass(frozen=True, slots=True)
class BucketCounts:
    """Rows of a bucket, counted. Of F features, in the reference's order, whose bins stand side by side.

    Attributes:
        row_count: rows with captured features.
        duplicate_count: of them, those that repeat another.
        group_row_counts: [GROUPS].
        counts: [all bins].
        groups: [GROUPS, all bins], of the rows that name a user.
        quality: [F, len(QUALITY_COUNTS)].
        extremes: [F, 2], the least and the greatest finite value, NaN where there is none.
        last_times_ms: [F], when the last value came that was not missing, in ms since 1970; 0: none did.
        samples: of EMBEDDINGs, by name.
        unknown: rows by the name of a feature that the reference does not have.
        share: of the bucket's events that these are, chosen uniformly; 1: all.
    """

    row_count: int
    duplicate_count: int
    group_row_counts: Counts
    counts: Counts
    groups: Counts
    quality: Counts
    extremes: NDArray[np.float64]
    last_times_ms: Counts
    samples: Mapping[str, Sample]
    unknown: Mapping[str, int]
    share: float = 1.0


def bin_slices(reference: Reference) -> list[slice]:
    """Give where each feature's bins stand."""
    ends = np.cumsum([len(feature.counts) for feature in reference.features.values()]).tolist()
    return [slice(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []


class BucketCounter:
    """Counts the events of one bucket, some at a time."""

    def __init__(self, reference: Reference, columns: Sequence[str] = ()) -> None:
        """`columns` are what those of the version's only input were declared to be called."""
        self._reference = reference
        self._layout = Layout.of(reference, columns)
        self._slices = bin_slices(reference)
        features, bins = len(self._slices), self._slices[-1].stop if self._slices else 0
        self._row_count = 0
        self._group_row_counts = np.zeros(GROUPS, np.int64)
        self._counts = np.zeros(bins, np.int64)
        self._groups = np.zeros((GROUPS, bins), np.int64)
        self._quality = np.zeros((features, len(QUALITY_COUNTS)), np.int64)
        self._extremes = np.full((features, 2), np.nan)
        self._last_times_ms = np.zeros(features, np.int64)
        self._hashes: list[NDArray[np.uint64]] = []
        self._samples: dict[str, Sample] = {}
        self._unknown: Counter[str] = Counter()

    def add(self, events: Sequence[LiveRow]) -> None:
        """Count these events, too."""
        users = np.fromiter((user_number(event.user_id) for event in events), np.uint32, len(events))
        groups = groups_of(users)
        times_ms = np.fromiter((time_ms_of(event.inference_id) for event in events), np.int64, len(events))
        keys = np.fromiter((event.inference_id.int & _LOW for event in events), np.uint64, len(events))
        inputs = decode_features(events, self._layout)
        self._add_rows(inputs, groups)
        decoded = {False: inputs}
        if self._layout.predictions:
            decoded[True] = decode_predictions(events, self._layout)
        for number, feature in enumerate(self._reference.features.values()):
            rows = decoded[feature.is_prediction]
            placed = place(rows.frame.columns.get(feature.name), feature, rows.frame.row_count)
            self._add_feature(number, placed, groups[rows.events], times_ms[rows.events])
            if placed.vectors is not None:
                self._add_sample(feature, rows, placed, keys, users)

    def result(self, share: float = 1.0) -> BucketCounts:
        """Give what was counted; `share` of the bucket's events came."""
        hashes = np.concatenate(self._hashes) if self._hashes else np.empty(0, np.uint64)
        return BucketCounts(
            row_count=self._row_count,
            duplicate_count=repeats(hashes),
            group_row_counts=self._group_row_counts,
            counts=self._counts,
            groups=self._groups,
            quality=self._quality,
            extremes=self._extremes,
            last_times_ms=self._last_times_ms,
            samples={name: sample.of_share(share) for name, sample in self._samples.items()},
            unknown=dict(self._unknown.most_common(MAX_UNKNOWN)),
            share=share,
        )

    def _add_rows(self, inputs: Decoded, groups: NDArray[np.intp]) -> None:
        frame = inputs.frame
        self._row_count += frame.row_count
        self._group_row_counts += np.bincount(groups[inputs.events], minlength=GROUPS + 1)[:GROUPS]
        missing = Column(np.zeros(frame.row_count, np.uint8))
        if frame.columns.keys() & self._layout.known:
            ordered = (frame.columns.get(name, missing) for name in self._layout.features)
            self._hashes.append(row_hashes(ordered, frame.row_count))
        self._unknown.update(inputs.unknown)

    def _add_feature(self, number: int, placed: Placed, groups: NDArray[np.intp], times_ms: NDArray[np.int64]) -> None:
        bins = self._slices[number]
        self._counts[bins] += placed.counts
        self._groups[:, bins] += grouped_counts(placed.bins, placed.bin_count, groups, GROUPS)
        self._quality[number] += placed.quality
        if placed.finite.size:
            extremes = self._extremes[number]
            extremes[0] = np.fmin(extremes[0], placed.finite.min())
            extremes[1] = np.fmax(extremes[1], placed.finite.max())
        here = times_ms[placed.present]
        if here.size:
            self._last_times_ms[number] = max(self._last_times_ms[number], here.max())

    def _add_sample(
        self,
        feature: FeatureReference,
        rows: Decoded,
        placed: Placed,
        event_keys: NDArray[np.uint64],
        event_users: NDArray[np.uint32],
    ) -> None:
        if placed.vectors is None or not placed.vectors[0].size:
            return
        chosen, vectors = placed.vectors
        events = rows.events[chosen]
        keys = _row_keys(event_keys[events], chosen - np.searchsorted(rows.events, events))
        order = np.argsort(keys, kind="stable")[:BUCKET_SAMPLE_SIZE]
        found = Sample(keys[order], vectors[order], event_users[events[order]], keys.size <= BUCKET_SAMPLE_SIZE)
        known = self._samples.get(feature.name)
        self._samples[feature.name] = found if known is None else known.joined(found, BUCKET_SAMPLE_SIZE)


def _row_keys(events: NDArray[np.uint64], rows: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Make random keys of the random half of an id and the number of a row in its event, the same each time.

    The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), one round of it.
    """
    keys: NDArray[np.uint64] = events + (rows.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    keys ^= keys >> np.uint64(30)
    keys *= _MIX
    keys ^= keys >> np.uint64(31)
    return keys
