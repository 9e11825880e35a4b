"""The rows of feature views, read from the registry: a sample of the entities, all that became true in a window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock import Client
from penstock.errors import PenstockError
from penstock.feature_columns import FeatureValues
from services.common.errors import DomainError, InvalidArgument, NotFound, Unavailable
from services.monitoring.clients import CallError, is_refusal, sentence_of
from services.monitoring.models import Window
from services.monitoring.profiles.frames import Column, ColumnBuilder, Frame, joined, numbers_column
from services.monitoring.profiles.overdispersion import user_number

T = TypeVar("T")
MAX_ROWS: Final = 100_000
_EPOCH_US: Final = 1_000_000
_RETRY_AFTER_S: Final = 5.0
UNAVAILABLE: Final = "FEATURES_UNAVAILABLE"
"""Why a view cannot be read: the registry gives no answer."""


@dataclass(frozen=True, slots=True)
class ViewRows:
    """Rows in the order of their event times: `times_us` [N], and the number [N] of each one's entity.

    `share` is that of the entities which these are of; 1: all.
    """

    frame: Frame
    times_us: NDArray[np.int64]
    entities: NDArray[np.uint32]
    share: float


class FeatureViews:
    """Reads views through the registry. Threads may share it."""

    def __init__(self, client: Callable[[], Client]) -> None:
        """`client` gives the one to ask; it may not be there before the first question."""
        self._client = client

    def newest(self, view: str) -> str:
        """Give the newest version of a view; raises as `require`."""
        return str(self._asked(view, lambda: self._client().features.get_view(view)).version)

    def require(self, view: str, version: str) -> None:
        """Let a version pass that is there.

        Raises:
            NotFound: VIEW_NOT_FOUND, VIEW_VERSION_NOT_FOUND.
            Unavailable: the registry does not say (FEATURES_UNAVAILABLE).
        """
        number = _number(view, version)
        self._asked(view, lambda: self._client().features.get_view(view, number))

    def read(self, view: str, version: str, window: Window) -> ViewRows:
        """Read the rows whose event time lies in a window; raises as `require`."""
        number = _number(view, version)
        begin, end = _us(window.from_time), _us(window.to_time)
        samples = self._asked(
            view,
            lambda: list(self._client().features.sample(view, number, from_time=begin, to_time=end, max_rows=MAX_ROWS)),
        )
        keys = [key for sample in samples for key in sample.values.keys]
        times = np.concatenate([sample.values.event_times_us for sample in samples])
        entities = np.fromiter(map(user_number, keys), np.uint32, len(keys))
        # Rows of one time stand in no order of their keys, which may be alike where their values are.
        order = np.lexsort((entities, times))
        frame = _ordered(joined([_frame(sample.values) for sample in samples]), order)
        return ViewRows(frame, times[order], entities[order], samples[0].share)

    def _asked(self, view: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except CallError as error:
            raise _meant(view, error) from error


def _meant(view: str, error: Exception) -> DomainError:
    if isinstance(error, PenstockError) and is_refusal(error):
        kind = NotFound if error.reason.endswith("NOT_FOUND") else InvalidArgument
        return kind(f"the feature view {view[:128]!r}: {error.message}", reason=error.reason)
    return Unavailable(
        f"the feature view {view[:128]!r} cannot be read: {sentence_of(error)}",
        reason=UNAVAILABLE,
        retry_after_s=_RETRY_AFTER_S,
    )


def _number(view: str, version: str) -> int:
    if version.isascii() and version.isdigit() and 0 < int(version) < 2**31:
        return int(version)
    sentence = f"the feature view {view[:128]!r} has no version {version[:64]!r}; versions of views are 1, 2, 3 …"
    raise NotFound(sentence, reason="VIEW_VERSION_NOT_FOUND")


def _us(time: datetime) -> int:
    return round(time.timestamp() * _EPOCH_US)


def _frame(values: FeatureValues) -> Frame:
    count = len(values.keys)
    return Frame(count, {name: _column(array, values.missing[name]) for name, array in values.columns.items()})


def _column(values: NDArray[Any], missing: NDArray[np.bool_]) -> Column:
    if values.ndim == 1 and values.dtype.kind in "if":
        return numbers_column(np.where(missing, np.nan, values.astype(np.float64)))
    builder, rows = ColumnBuilder(len(values)), np.flatnonzero(~missing)
    if values.ndim == 2:
        if values.shape[1]:
            builder.put_vectors(rows, values[rows])
    elif values.dtype.kind == "b":
        builder.put_values(rows, values[rows].tolist())
    else:
        builder.put_texts(rows, values[rows].tolist())
    return builder.build()


def _ordered(frame: Frame, order: NDArray[np.intp]) -> Frame:
    """Put rows into another order: what was row `order[i]` becomes row i."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return Frame(frame.row_count, _spread(frame.columns, places, frame.row_count))


def _spread(columns: Mapping[str, Column], places: NDArray[np.intp], count: int) -> Mapping[str, Column]:
    return {name: column.spread(places, count) for name, column in columns.items()}


def without(frame: Frame, ignored: Sequence[str]) -> Frame:
    """Leave columns out."""
    return Frame(frame.row_count, {name: column for name, column in frame.columns.items() if name not in ignored})
