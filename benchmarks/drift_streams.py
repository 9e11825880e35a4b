"""Streams of made-up rows for the drift benchmark: independent, clustered by user, autocorrelated, with a daily cycle.

Fifty features hang on fifty normal latent values: 40 numeric, 6 categorical of five kinds, 4 boolean; ten of the
numeric ones are missing in 1 % of the rows. Every stream has the same distribution over whole days, and no drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import ndtri

from services.monitoring.configuration.models import DriftConfiguration
from services.monitoring.profiles.frames import Column, ColumnBuilder, Frame, numbers_column
from services.monitoring.profiles.models import (
    GROUPS,
    QUALITY_COUNTS,
    FeatureKind,
    LiveFeature,
    LiveWindow,
    Reference,
)
from services.monitoring.profiles.overdispersion import groups_of, user_number
from services.monitoring.profiles.reference import Columns, build_reference
from services.monitoring.window_checks.rounds import scheduled_level

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]
FEATURES = 50
NUMERIC, CATEGORICAL = 40, 6
MISSING = 10
MISSING_SHARE = 0.01
ROWS_PER_USER = 20
DAY_MINUTES = 1_440
BUCKETS = DAY_MINUTES // 5
SCHEDULED_LEVEL = scheduled_level(DriftConfiguration().alpha, DriftConfiguration().interval)
CATEGORIES = ("a", "b", "c", "d", "e")
_CATEGORY_CUTS = ndtri(np.cumsum((0.5, 0.25, 0.15, 0.07)))
_BOOLEAN_CUT = ndtri(np.asarray([0.9]))
_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Stream:
    """How rows depend on each other.

    `icc`: of the latent values of a user's 20 rows; `carry`: of one row's and the next; `cycle`: the share of the
    variance that goes up and down with the hour, as the rate of the rows does. `tails`: Student's t of so many degrees
    of freedom in place of the normal distribution.
    """

    name: str
    icc: float = 0.0
    carry: float = 0.0
    cycle: float = 0.0
    tails: float = 0.0


STREAMS = (
    Stream("independent"),
    Stream("users, ICC 0.2", icc=0.2),
    Stream("users, ICC 0.5", icc=0.5),
    Stream("autocorrelated, 0.5", carry=0.5),
    Stream("autocorrelated, 0.9", carry=0.9),
    Stream("daily cycle", cycle=0.3),
)


@dataclass(frozen=True, slots=True)
class Rows:
    """Values [n, FEATURES], NaN where missing; users, numbers of no order, or -1; minutes since the first midnight."""

    values: Numbers
    users: Places
    minutes: Numbers

    def __len__(self) -> int:
        return len(self.values)


@dataclass
class Source:
    """Draws rows of a stream, one span of time after the other."""

    stream: Stream
    generator: np.random.Generator
    _last: Numbers | None = field(default=None, init=False)
    _next_user: int = field(default=0, init=False)

    def draw(self, count: int, *, from_minute: float = 0.0, minutes: float = DAY_MINUTES) -> Rows:
        """Draw so many rows over a span, in the order of time."""
        times = self._times(count, from_minute, minutes)
        users = np.full(count, -1, dtype=np.int64)
        latent = self.generator.standard_normal((count, FEATURES))
        if self.stream.icc:
            users = self._users(count)
            places = users - users.min()
            own = self.generator.standard_normal((int(places.max()) + 1, FEATURES))
            latent = np.sqrt(self.stream.icc) * own[places] + np.sqrt(1 - self.stream.icc) * latent
        elif self.stream.carry:
            latent = self._carried(latent)
        elif self.stream.cycle:
            phase = 2 * np.pi * (times / DAY_MINUTES)[:, None] + np.arange(FEATURES)
            latent = np.sqrt(2 * self.stream.cycle) * np.sin(phase) + np.sqrt(1 - self.stream.cycle) * latent
        else:
            users = np.arange(count, dtype=np.int64) + self._next_user
            self._next_user += count
        if self.stream.tails:
            freedom = self.stream.tails
            latent /= np.sqrt(self.generator.chisquare(freedom, latent.shape) / freedom)
        latent[:, :MISSING][self.generator.random((count, MISSING)) < MISSING_SHARE] = np.nan
        return Rows(latent, users, times)

    def _users(self, count: int) -> Places:
        many = -(-count // ROWS_PER_USER)
        found = self.generator.permutation(np.repeat(np.arange(many), ROWS_PER_USER)[:count]) + self._next_user
        self._next_user += many
        return np.asarray(found)

    def _carried(self, latent: Numbers) -> Numbers:
        carry = self.stream.carry
        start = self.generator.standard_normal(FEATURES) if self._last is None else self._last
        noise = np.sqrt(1 - carry**2) * latent
        carried, _ = lfilter([1.0], [1.0, -carry], noise, axis=0, zi=carry * start[None, :])
        self._last = carried[-1].copy() if len(carried) else start  # some of its values are missing soon
        return np.asarray(carried)

    def _times(self, count: int, from_minute: float, minutes: float) -> Numbers:
        """Give times in order; where there is a cycle, three quarters more rows come at its top than on average."""
        if not self.stream.cycle:
            return np.sort(from_minute + minutes * self.generator.random(count))
        drawn = from_minute + minutes * self.generator.random(8 * count + 64)
        rate = (1 + 0.75 * np.sin(2 * np.pi * drawn / DAY_MINUTES)) / 1.75
        return np.sort(drawn[self.generator.random(len(drawn)) < rate][:count])


def places_of(reference: Reference, rows: Rows) -> Places:
    """Give the bin of each value: [n, FEATURES]."""
    found = np.empty(rows.values.shape, dtype=np.int64)
    for number, feature in enumerate(reference.features.values()):
        values = rows.values[:, number]
        if feature.kind is FeatureKind.NUMERIC:
            found[:, number] = np.searchsorted(np.asarray(feature.edges), values, side="left")
        else:
            known = [names_of(number).index(name) for name in feature.categories]
            places = np.full(len(names_of(number)), len(feature.counts) - 1)
            places[known] = np.arange(len(known))
            found[:, number] = places[kinds_of(number, values)]
        found[np.isnan(values), number] = len(feature.counts) - 2
    return found


def names_of(number: int) -> Sequence[str]:
    """Name the kinds of a categorical or boolean feature."""
    return CATEGORIES if number < NUMERIC + CATEGORICAL else ("false", "true")


def kinds_of(number: int, values: Numbers) -> Places:
    """Say which kind each latent value of a categorical or boolean feature is of."""
    cuts = np.asarray(_CATEGORY_CUTS if number < NUMERIC + CATEGORICAL else _BOOLEAN_CUT)
    return np.searchsorted(cuts, values, side="left")


def reference_of(rows: Rows) -> Reference:
    """Make a reference as the service makes it of a file of these rows, its column of users named as the group."""
    frame = frame_of(rows)
    users = "user" if "user" in frame.columns else ""
    found = build_reference(frame, Columns(group=users))
    return Reference(
        id=UUID(int=1),
        model="model",
        version="1",
        number=1,
        row_count=found.row_count,
        features=found.features,
        accuracy=None,
        judged_count=0,
        duplicate_share=found.duplicate_share,
        create_time=_START,
        created_by="benchmark",
        note="",
    )


def frame_of(rows: Rows) -> Frame:
    """Give rows as the service reads them from a file; "user" is there where rows name one."""
    columns = {f"feature_{number:02d}": _column(number, rows.values[:, number]) for number in range(FEATURES)}
    if rows.users[0] >= 0:
        columns["user"] = _texts(list(map(str, rows.users.tolist())))
    return Frame(len(rows), columns)


def _column(number: int, values: Numbers) -> Column:
    if number < NUMERIC:
        return numbers_column(values)
    kinds = kinds_of(number, values)
    return (
        numbers_column(kinds > 0) if number >= NUMERIC + CATEGORICAL else _texts([CATEGORIES[kind] for kind in kinds])
    )


def _texts(values: Sequence[str]) -> Column:
    builder = ColumnBuilder(len(values))
    builder.put_texts(np.arange(len(values)), values)
    return builder.build()


@dataclass(frozen=True, slots=True)
class Counted:
    """Rows in the bins of a reference, of a number of buckets: what the live profiles keep."""

    rows: Places
    users: Places
    features: Mapping[str, tuple[Places, Places]]


def count(reference: Reference, rows: Rows, *, from_minute: float = 0.0, buckets: int = BUCKETS) -> Counted:
    """Count rows by bucket and by group of users."""
    bucket = np.clip((rows.minutes - from_minute) // 5, 0, buckets - 1).astype(np.int64)
    named = rows.users >= 0
    users, of_row = np.unique(rows.users, return_inverse=True)
    group = groups_of(np.array([user_number(str(user)) for user in users.tolist()], np.uint32))[of_row]
    places = places_of(reference, rows)
    found = {}
    for number, (name, feature) in enumerate(reference.features.items()):
        bins, place = len(feature.counts), places[:, number]
        in_time = np.bincount(bucket * bins + place, minlength=buckets * bins).reshape(buckets, bins)
        of_users = np.bincount((group * bins + place)[named], minlength=GROUPS * bins).reshape(GROUPS, bins)
        found[name] = (in_time, of_users)
    return Counted(np.bincount(bucket, minlength=buckets), np.bincount(group[named], minlength=GROUPS), found)


def window_of(parts: list[Counted]) -> LiveWindow:
    """Put spans of time together, the oldest first; buckets without rows are left out, as the service does."""
    rows = np.concatenate([part.rows for part in parts])
    used = rows > 0
    starts = [_START + timedelta(minutes=5 * int(number)) for number in np.flatnonzero(used)]
    features = {}
    for name in parts[0].features:
        in_time = np.concatenate([part.features[name][0] for part in parts])[used]
        of_users = np.sum([part.features[name][1] for part in parts], axis=0)
        quality = np.zeros((len(in_time), len(QUALITY_COUNTS)), dtype=np.int64)
        features[name] = LiveFeature(in_time, of_users, quality, np.nan, np.nan, None)
    return LiveWindow(
        from_time=_START,
        to_time=_START + timedelta(minutes=5 * len(rows)),
        bucket_times=starts,
        row_counts=rows[used],
        duplicate_count=0,
        group_row_counts=np.sum([part.users for part in parts], axis=0),
        features=features,
        unknown_features={},
    )
