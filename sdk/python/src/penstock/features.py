"""The client of the feature store: values of entities as they are now, and as they were known at any time."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.api.features.v1 import feature_views_pb2 as views_pb
from penstock.api.features.v1 import features_pb2 as pb
from penstock.feature_columns import (
    FeatureValues,
    Values,
    from_selected,
    refused,
    times_us,
    to_column,
    to_us,
    to_value_column,
    versioned,
)
from penstock.feature_imports import FeatureImporting, SourceColumns
from penstock.feature_samples import FeatureSampling
from penstock.paging import pages
from penstock.values import enum_number

__all__ = ["FeaturesClient", "SourceColumns", "Views"]
BLOCK_ROWS = 8_192
"""Rows of one message of an import, or of a read as of a time."""
Views = Mapping[str, Sequence[str]] | Sequence[str] | str
"""A view, several, or each with the features that are wanted of it; `name@2` is version 2, else the newest."""
_ON_READ = views_pb.FEATURE_COMPUTATION_ON_READ


class FeaturesClient(FeatureSampling, FeatureImporting):
    """Calls the feature store, which the registry serves."""

    def create_view(
        self,
        name: str,
        *,
        entity: str,
        features: Mapping[str, str],
        descriptions: Mapping[str, str] | None = None,
        expressions: Mapping[str, str] | None = None,
        on_read: Collection[str] = (),
        request_values: Mapping[str, str] | None = None,
        ttl_ms: int = 0,
        owner: str = "",
        description: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> views_pb.FeatureView:
        """Make a view, or its next version; the same features again give the version that is there.

        Args:
            name: the view.
            entity: what its keys name.
            features: name → type: FLOAT64, INT64, BOOL, STRING, FLOAT64_LIST, TIMESTAMP, in any case.
            descriptions: name → what it is.
            expressions: name → what computes it from others, such as "amount / visits"; when it is written.
            on_read: those of them that are computed at each read instead.
            request_values: name → type of what who reads may bring along for those.
            ttl_ms: for how long after its event a value holds; 0: for ever.
            owner: who answers for it.
            description: what it is.
            labels: for search.

        Raises:
            InvalidArgument: the service refuses a field; `violations` names it.
            FailedPrecondition: the view is about another entity (ENTITY_CHANGED).
        """
        said, computed = descriptions or {}, expressions or {}
        for named in (*computed, *on_read):
            if named not in features:
                raise refused("features", f"{named!r} has an expression and no type; give its type, too", "NO_FEATURES")
        view = views_pb.FeatureView(
            name=name,
            entity=entity,
            features=[
                views_pb.Feature(
                    name=feature,
                    type=enum_number("type", views_pb.FeatureType, kind),
                    description=said.get(feature, ""),
                    expression=computed.get(feature, ""),
                    computation=_ON_READ if feature in on_read else views_pb.FEATURE_COMPUTATION_UNSPECIFIED,
                )
                for feature, kind in features.items()
            ],
            request_values=[
                views_pb.RequestValue(name=each, type=enum_number("type", views_pb.FeatureType, kind))
                for each, kind in (request_values or {}).items()
            ],
            ttl_ms=ttl_ms,
            owner=owner,
            description=description,
            labels=labels or {},
        )
        request = views_pb.CreateFeatureViewRequest(view=view)
        return self._connection.unary(self._connection.stub.CreateFeatureView, request).view

    def get_view(self, name: str, version: int = 0) -> views_pb.FeatureView:
        """Give a version of a view, 0: the newest; raises NotFound (VIEW_NOT_FOUND, VIEW_VERSION_NOT_FOUND)."""
        request = views_pb.GetFeatureViewRequest(name=name, version=version)
        return self._connection.unary(self._connection.stub.GetFeatureView, request).view

    def list_views(self, *, entity: str = "", name: str = "", page_size: int = 0) -> Iterator[views_pb.FeatureView]:
        """List the newest version of each view, or all versions of one, page by page as they are wanted."""

        def fetch(token: str) -> views_pb.ListFeatureViewsResponse:
            request = views_pb.ListFeatureViewsRequest(entity=entity, name=name, page_size=page_size, page_token=token)
            return self._connection.unary(self._connection.stub.ListFeatureViews, request)

        for page in pages(fetch):
            yield from page.views

    def update_view(
        self,
        name: str,
        version: int = 0,
        *,
        ttl_ms: int | None = None,
        owner: str | None = None,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> views_pb.FeatureView:
        """Change what leaves the values' meaning alone; None stays as it is."""
        request = views_pb.UpdateFeatureViewRequest(
            name=name, version=version, ttl_ms=ttl_ms, owner=owner, description=description
        )
        if labels is not None:
            request.labels.labels.update(labels)
            request.labels.SetInParent()
        return self._connection.unary(self._connection.stub.UpdateFeatureView, request).view

    def delete_view(self, name: str, version: int) -> None:
        """Delete a version of a view with all its values."""
        request = views_pb.DeleteFeatureViewRequest(name=name, version=version)
        self._connection.unary(self._connection.stub.DeleteFeatureView, request)

    def write(
        self,
        view: str,
        keys: Sequence[str],
        columns: Mapping[str, Values],
        *,
        event_times: Sequence[datetime | int] | NDArray[Any] | datetime | int | None = None,
    ) -> pb.WriteFeaturesResponse:
        """Write rows, all of them or none; twice writes them once.

        Args:
            view: the view; `name@2` is version 2, else the newest.
            keys: the entities, one a row, 10,000 at the most.
            columns: feature → one value a row; None is missing, and so is a feature that is left out.
            event_times: when each became true: aware datetimes, or µs since 1970; one for all, one a row. None: now.

        Raises:
            InvalidArgument: the service refuses a row; `violations` names it.
            NotFound: there is no such view.
        """
        name, version = versioned(view)
        rows = self._rows(self.get_view(name, version), keys, columns, _event_times(event_times))
        request = pb.WriteFeaturesRequest(view=name, version=version, rows=rows)
        return self._connection.unary(self._connection.stub.WriteFeatures, request)

    def load(
        self,
        view: str,
        keys: Sequence[str],
        columns: Mapping[str, Values],
        *,
        event_times: Sequence[datetime | int] | NDArray[Any],
        create_times: Sequence[datetime | int] | NDArray[Any] | None = None,
    ) -> pb.ImportFeaturesResponse:
        """Write any number of rows, block by block; after an error load them again: none is written twice.

        `create_times`: when each was known elsewhere, of values that are older than this store; None: they are known
        from now on, and no read as of an earlier time sees them.
        """
        name, version = versioned(view)
        found = self.get_view(name, version)
        times = times_us("event_times", event_times)
        created = None if create_times is None else times_us("create_times", create_times)

        def blocks() -> Iterator[pb.ImportFeaturesRequest]:
            for start in range(0, len(keys), BLOCK_ROWS):
                part = slice(start, start + BLOCK_ROWS)
                rows = self._rows(found, keys[part], {each: columns[each][part] for each in columns}, times[part])
                known = () if created is None else created[part].tolist()
                yield pb.ImportFeaturesRequest(view=name, version=version, rows=rows, create_times_us=known)

        return self._connection.upload(self._connection.stub.ImportFeatures, pb.ImportFeaturesRequest, blocks())

    def get(
        self,
        views: Views,
        keys: Sequence[str],
        *,
        request_values: Mapping[str, Values] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, FeatureValues]:
        """Give the latest values of entities, by view; see `Views` for how they are named.

        `request_values`: for features that are computed on read, one a key; None is missing. `timeout_s`: of the whole
        call, in seconds; None: the client's.
        """
        brought = [to_value_column(name, values) for name, values in (request_values or {}).items()]
        request = pb.GetFeaturesRequest(keys=keys, selections=_selections(views), request_values=brought)
        response = self._connection.unary(self._connection.stub.GetFeatures, request, timeout_s=timeout_s)
        return {each.view: from_selected(keys, each) for each in response.selected}

    def get_as_of(
        self,
        views: Views,
        keys: Sequence[str],
        times: Sequence[datetime | int] | NDArray[Any],
        *,
        known_time: datetime | int | None = None,
        request_values: Mapping[str, Values] | None = None,
    ) -> Iterator[dict[str, FeatureValues]]:
        """Give values as they were known at a time per row, block by block, in the order of the rows.

        `known_time`: what was known at this time counts for all rows; None: at each row's own, so that no later
        correction leaks into the past. `request_values`: as in `get`, one a row.
        """
        wanted, moments = _selections(views), times_us("times", times)
        known, brought = 0 if known_time is None else to_us("known_time", known_time), request_values or {}
        if len(moments) != len(keys):
            sentence = f"{len(moments):,} times came for {len(keys):,} keys; each row needs one"
            raise refused("times", sentence, "RAGGED")
        starts = range(0, len(keys), BLOCK_ROWS)

        def blocks() -> Iterator[pb.GetFeaturesAsOfRequest]:
            for start in starts:
                part = slice(start, start + BLOCK_ROWS)
                yield pb.GetFeaturesAsOfRequest(
                    selections=() if start else wanted,
                    keys=keys[part],
                    as_of_times_us=moments[part].tolist(),
                    known_time_us=known,
                    request_values=[to_value_column(name, values[part]) for name, values in brought.items()],
                )

        answers = self._connection.exchange(self._connection.stub.GetFeaturesAsOf, pb.GetFeaturesAsOfRequest, blocks())
        for start, answer in zip(starts, answers, strict=True):
            named = keys[start : start + BLOCK_ROWS]
            yield {each.view: from_selected(named, each) for each in answer.selected}

    def history(self, view: str, key: str, *, page_size: int = 0) -> Iterator[dict[str, Any]]:
        """List what was ever written of an entity, the latest event first.

        Each has `event_time_us`, `create_time_us` and the features by name; None where there was no value.
        """
        name, version = versioned(view)

        def fetch(token: str) -> pb.ListFeatureHistoryResponse:
            request = pb.ListFeatureHistoryRequest(
                view=name, version=version, key=key, page_size=page_size, page_token=token
            )
            return self._connection.unary(self._connection.stub.ListFeatureHistory, request)

        for page in pages(fetch):
            rows = page.rows
            selected = pb.SelectedFeatures(view=name, event_times_us=rows.event_times_us, columns=rows.columns)
            values = from_selected(rows.keys, selected).rows()
            times = zip(rows.event_times_us, page.create_times_us, strict=True)
            for (event_time_us, create_time_us), features in zip(times, values, strict=True):
                yield {"event_time_us": event_time_us, "create_time_us": create_time_us, **features}

    def delete(self, view: str, keys: Sequence[str]) -> int:
        """Delete all that is known of entities, in all versions of a view or in one; gives how many had values."""
        name, version = versioned(view)
        request = pb.DeleteFeaturesRequest(view=name, version=version, keys=keys)
        return self._connection.unary(self._connection.stub.DeleteFeatures, request).deleted_count

    def _rows(
        self,
        view: views_pb.FeatureView,
        keys: Sequence[str],
        columns: Mapping[str, Values],
        event_times: NDArray[np.int64],
    ) -> pb.FeatureRows:
        kinds = {
            feature.name: views_pb.FeatureType.Name(feature.type).removeprefix("FEATURE_TYPE_")
            for feature in view.features
        }
        encoded = [to_column(name, values, kinds.get(name, "FLOAT64")) for name, values in columns.items()]
        return pb.FeatureRows(keys=keys, event_times_us=event_times.tolist(), columns=encoded)


def _selections(views: Views) -> list[pb.FeatureSelection]:
    chosen: Iterable[tuple[str, Sequence[str]]]
    if isinstance(views, str):
        chosen = [(views, ())]
    elif isinstance(views, Mapping):
        chosen = views.items()
    else:
        chosen = [(view, ()) for view in views]
    selections = []
    for view, features in chosen:
        name, version = versioned(view)
        selections.append(pb.FeatureSelection(view=name, version=version, features=features))
    return selections


def _event_times(given: Sequence[datetime | int] | NDArray[Any] | datetime | int | None) -> NDArray[np.int64]:
    """Give one time, or one a row. Now is decided here, so that a write that is sent again is the same write."""
    if given is None:
        return np.array([time.time_ns() // 1_000])
    if isinstance(given, datetime | int):
        return np.array([to_us("event_times", given)])
    return times_us("event_times", given)
