"""Live traffic as rows to make a profile of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.monitoring.ids import time_ms_of
from services.monitoring.models import Window
from services.monitoring.profiles.frames import Frame, numbers_column
from services.monitoring.profiles.layouts import ANY_NAMES, Layout
from services.monitoring.profiles.models import BUCKET
from services.monitoring.profiles.overdispersion import user_number
from services.monitoring.profiles.reference import MAX_FEATURES, Clusters, Columns, check_there, too_many_features
from services.monitoring.profiles.sampling import RowSample
from services.monitoring.profiles.values import LiveRow, decode_features, decode_predictions

_BUCKET_MS = BUCKET // timedelta(milliseconds=1)
_HOUR_BUCKETS = 12
_MIN_HOURS = 12
"""Fewer hours say little of how much they differ."""
_TIME, _USER = "\0time", "\0user"
"""Columns of our own; no payload's name has a NUL once it is shortened."""
_Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Rows of live traffic: the predictions among their columns, the ways in which rows belong together, and users."""

    frame: Frame
    predictions: tuple[str, ...]
    clusterings: Sequence[Clusters]
    users: NDArray[np.uint32]


def read_traffic(
    batches: Iterable[Sequence[LiveRow]], columns: Columns, window: Window, layout: Layout = ANY_NAMES
) -> Traffic:
    """Decode the events of a window.

    Raises:
        InvalidArgument: they have too many columns (TOO_MANY_FEATURES), or no such column to ignore (UNKNOWN_COLUMN).
    """
    sample, predictions, left_out = RowSample(), dict[str, None](), dict[str, None]()
    for events in batches:
        frame, names = _decoded(events, columns, layout, left_out)
        predictions.update(dict.fromkeys(names))
        if len(frame.columns) > MAX_FEATURES + len(columns.ignored):
            raise too_many_features()
        sample.add(frame)
    frame = sample.frame()
    if not frame.row_count:
        raise InvalidArgument.field(
            "window", "no event of this version with captured features lies in it", reason="TOO_FEW_ROWS"
        )
    clusterings = _clusterings(frame, window)
    users = frame.columns[_USER].numbers
    numbers = np.zeros(frame.row_count, np.uint32) if users is None else users.astype(np.uint32)
    kept = {name: column for name, column in frame.columns.items() if name not in (_TIME, _USER)}
    check_there(columns.ignored, [*kept, *left_out])
    return Traffic(Frame(frame.row_count, kept), tuple(predictions), clusterings, numbers)


def _decoded(
    events: Sequence[LiveRow], columns: Columns, layout: Layout, left_out: dict[str, None]
) -> tuple[Frame, Sequence[str]]:
    """Put each row's inputs, outputs, time and user side by side; `left_out` gets the names that are ignored.

    What failed is no example of good data.
    """
    events = [event for event in events if not event.error_code]
    inputs = decode_features(events, layout)
    outputs = decode_predictions(events, layout)
    rows = inputs.frame.row_count
    found = dict(inputs.frame.columns)
    aligned = _aligned(outputs.frame, outputs.events, inputs.events, rows)
    found.update(aligned.columns)
    left_out.update(dict.fromkeys(name for name in found if name in columns.ignored))
    names = [name for name in aligned.columns if name not in columns.ignored]
    found = {name: column for name, column in found.items() if name not in columns.ignored}
    times = np.array([time_ms_of(event.inference_id) for event in events], np.float64)
    users = np.array([user_number(event.user_id) for event in events], np.float64)
    found[_TIME] = numbers_column(times[inputs.events])
    found[_USER] = numbers_column(users[inputs.events])
    return Frame(rows, found), names


def _aligned(outputs: Frame, of_outputs: _Rows, of_inputs: _Rows, row_count: int) -> Frame:
    """Put outputs beside their inputs: those of events that have as many rows of both."""
    events = int(max(of_outputs.max(initial=-1), of_inputs.max(initial=-1))) + 1
    fits = np.bincount(of_outputs, minlength=events) == np.bincount(of_inputs, minlength=events)
    return outputs.take(fits[of_outputs]).spread(np.flatnonzero(fits[of_inputs]), row_count)


def _clusterings(frame: Frame, window: Window) -> list[Clusters]:
    """Put rows together by the bucket of 5 minutes and, where there are enough, by the hour."""
    times_ms = frame.columns[_TIME].numbers
    return [] if times_ms is None else clusterings_in_time(times_ms.astype(np.int64), window)


def clusterings_in_time(times_ms: NDArray[np.int64], window: Window) -> list[Clusters]:
    """Put rows [N], one at least, together by the bucket of 5 minutes and, where there are enough, by the hour."""
    start_ms = int(window.from_time.timestamp() * 1000) // _BUCKET_MS * _BUCKET_MS
    buckets = np.maximum(times_ms - start_ms, 0) // _BUCKET_MS
    hours = buckets // _HOUR_BUCKETS
    found = [Clusters(buckets.astype(np.intp), int(buckets.max()) + 1)]
    if np.unique(hours).size >= _MIN_HOURS:
        found.append(Clusters(hours.astype(np.intp), int(hours.max()) + 1))
    return found
