"""The use cases of values: write, read now, read as of a time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.common import pages
from services.common.errors import InvalidArgument
from services.registry.features import computing
from services.registry.features.models import Column, Rows, Selected, Times, View, Written
from services.registry.features.store.bounds import rows_at_once
from services.registry.features.store.transaction import FeatureStore, FeatureTables
from services.registry.features.store.values import Asked

FUTURE_TOLERANCE_US = 5 * 60 * 1_000_000
"""How far clocks of writers may be ahead."""
PAGE_SIZE = 50
ALL_LATER = (2**63 - 1, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class Selection:
    """Features of a version of a view, 0: the newest; none: all."""

    view: str
    version: int
    features: Sequence[str]


class FeatureValues:
    """Writes and reads values."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def write(self, view: View, rows: Rows, create_times: Times | None = None) -> Written:
        """Write rows, all of them or none.

        Raises:
            InvalidArgument: an event lies in the future (INVALID_TIME).
            NotFound: the view was deleted in between.
        """
        latest = time.time_ns() // 1_000 + FUTURE_TOLERANCE_US
        if len(rows.keys) and int(rows.event_times.max()) > latest:
            row = int(rows.event_times.argmax())
            sentence = f"row {row} lies more than 5 minutes in the future; see that the writer's clock is right"
            raise InvalidArgument.field("rows.event_times_us", sentence, reason="INVALID_TIME")
        if not len(rows.keys):
            return Written()
        rows = computing.written(view, rows)
        with self._store.transaction() as tables:
            return tables.values.write(view, rows, create_times)

    def latest(
        self, keys: Sequence[str], selections: Sequence[Selection], brought: Mapping[str, Column]
    ) -> tuple[list[Selected], int]:
        """Give the latest values, and the time of reading in µs; raises NotFound, InvalidArgument (UNKNOWN_FEATURE)."""
        now = time.time_ns() // 1_000
        with self._store.transaction() as tables:
            wanted = _wanted(tables, selections, brought)
            found = [tables.values.latest(each.view, keys, each.places, now=now) for each in wanted]
        times = np.full(len(keys), now)
        return [each.given(selected, times) for each, selected in zip(wanted, found, strict=True)], now

    def as_of(
        self,
        selections: Sequence[Selection],
        keys: Sequence[str],
        as_of: Times,
        known_time: int,
        brought: Mapping[str, Column],
    ) -> list[Selected]:
        """Give the values of rows as they were known at their times, or at `known_time` where that is not 0."""
        with self._store.transaction() as tables:
            wanted = _wanted(tables, selections, brought)
            settled = min((tables.values.settled(each.view) for each in wanted), default=0)
            known = np.minimum(as_of if not known_time else np.full(len(keys), known_time), settled)
            asked = Asked(keys, as_of, known)
            found = [tables.values.as_of(each.view, each.places, asked) for each in wanted]
        return [each.given(selected, as_of) for each, selected in zip(wanted, found, strict=True)]

    def history(
        self, view: str, version: int, key: str, *, page_size: int, page_token: str
    ) -> tuple[View, list[tuple[Any, ...]], str]:
        """List what was written of an entity, the latest event first, with the token of the next page."""
        size = pages.page_size(page_size, default=PAGE_SIZE)
        filters = {"view": view, "version": version, "key": key}
        position = pages.decode(page_token, filters)
        if position is not None and (len(position) != 2 or any(type(each) is not int for each in position)):
            raise pages.unknown_token()
        before = (position[0], position[1]) if position else ALL_LATER
        with self._store.transaction() as tables:
            found = tables.views.get(view, version)
            size = min(size, rows_at_once(found.stored))  # a page may be shorter than was asked for
            rows = tables.values.history(found, key, before=before, limit=size + 1)
        if len(rows) <= size:
            return found, rows, ""
        return found, rows[:size], pages.encode([rows[size - 1][0], rows[size - 1][1]], filters)

    def delete(self, view: str, version: int, keys: Sequence[str]) -> int:
        """Delete all that is known of entities, in one version or, 0, in all; gives how many had values."""
        with self._store.transaction() as tables:
            if version:
                return tables.values.delete(tables.views.get(view, version), keys)
            newest = tables.views.get(view)
            versions = tables.views.versions(newest.name, before=newest.version + 1, limit=newest.version)
            return max(tables.values.delete(each, keys) for each in versions)


def _wanted(
    tables: FeatureTables, selections: Sequence[Selection], brought: Mapping[str, Column]
) -> list[computing.Wanted]:
    views = [tables.views.get(each.view, each.version) for each in selections]
    entities = sorted({view.entity for view in views})
    if len(entities) > 1:
        sentence = f"the views are about {' and '.join(entities)}; ask for views of one entity at a time"
        raise InvalidArgument.field("selections", sentence, reason="ENTITY_MISMATCH")
    computing.check_known(views, brought)
    return [computing.wanted(view, each.features, brought) for view, each in zip(views, selections, strict=True)]
