"""Values of features over gRPC: decode, call, encode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Protocol

import grpc
import numpy as np

from penstock.api.features.v1 import features_pb2 as pb
from penstock.api.features.v1 import features_pb2_grpc
from services.common.keys import Role
from services.common.server import Service
from services.registry.features import convert, samples
from services.registry.features.imports import convert as imports_convert
from services.registry.features.imports.feature_imports import FeatureImports, ImportSettings
from services.registry.features.models import Written
from services.registry.features.store.columns import column_of
from services.registry.features.store.transaction import FeatureStore
from services.registry.features.values import FeatureValues
from services.registry.features.views.feature_views import FeatureViews

NAME = "penstock.api.features.v1.FeatureService"
ROLES: Mapping[str, Role] = {
    "WriteFeatures": Role.OPERATOR,
    "ImportFeatures": Role.OPERATOR,
    "ImportFeatureSource": Role.OPERATOR,
    "GetFeatures": Role.VIEWER,
    "GetFeaturesAsOf": Role.VIEWER,
    "ListFeatureHistory": Role.VIEWER,
    "SampleFeatures": Role.VIEWER,
    "DeleteFeatures": Role.OPERATOR,
}


class FeatureSettings(ImportSettings, Protocol):
    """What the settings say of features; see services/registry/settings.py."""

    max_message_bytes: int


def service(store: FeatureStore, settings: FeatureSettings) -> Service:
    """Build it, on a store, as the settings say."""
    values = FeatureValues(store)
    taken = samples.FeatureSamples(store)
    return Service(
        name=NAME,
        register=partial(
            features_pb2_grpc.add_FeatureServiceServicer_to_server,
            FeatureServicer(
                FeatureViews(store),
                values,
                FeatureImports.from_settings(settings, values),
                taken,
                max_message_bytes=settings.max_message_bytes,
            ),
        ),
        roles=ROLES,
    )


class FeatureServicer(features_pb2_grpc.FeatureServiceServicer):
    """See features.proto for what each RPC promises."""

    def __init__(
        self,
        views: FeatureViews,
        values: FeatureValues,
        imports: FeatureImports,
        taken: samples.FeatureSamples,
        *,
        max_message_bytes: int,
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._samples = taken
        self._views = views
        self._values = values
        self._imports = imports

    def WriteFeatures(self, request: pb.WriteFeaturesRequest, _: grpc.ServicerContext) -> pb.WriteFeaturesResponse:
        """Write rows."""
        view = self._views.get(request.view, request.version)
        written = self._values.write(view, convert.rows(request.rows, view))
        return pb.WriteFeaturesResponse(
            written_count=written.written_count,
            late_count=written.late_count,
            duplicate_count=written.duplicate_count,
        )

    def ImportFeatures(
        self, requests: Iterator[pb.ImportFeaturesRequest], _: grpc.ServicerContext
    ) -> pb.ImportFeaturesResponse:
        """Write rows, block by block."""
        written, view = Written(), None
        for request in requests:
            view = view or self._views.get(request.view, request.version)
            rows = convert.rows(request.rows, view, most=convert.MAX_BLOCK_ROWS)
            written += self._values.write(view, rows, convert.create_times(request, len(rows.keys)))
        return pb.ImportFeaturesResponse(
            written_count=written.written_count,
            late_count=written.late_count,
            duplicate_count=written.duplicate_count,
        )

    def ImportFeatureSource(
        self, request: pb.ImportFeatureSourceRequest, _: grpc.ServicerContext
    ) -> Iterator[pb.ImportFeatureSourceResponse]:
        """Write the rows of a file or a query."""
        source = imports_convert.source(request)
        view = self._views.get(request.view, request.version)
        with closing(self._imports.run(view, source, imports_convert.columns(request, view))) as reached:
            yield from map(imports_convert.progress_proto, reached)

    def GetFeatures(self, request: pb.GetFeaturesRequest, _: grpc.ServicerContext) -> pb.GetFeaturesResponse:
        """Give the latest values."""
        keys = convert.asked_keys(request.keys)
        brought = convert.request_values(request.request_values, len(keys))
        found, read_time_us = self._values.latest(keys, convert.selections(request.selections), brought)
        response = pb.GetFeaturesResponse(selected=map(convert.selected_proto, found))
        response.read_time.FromMicroseconds(read_time_us)
        return convert.fitting(response, self._max_message_bytes)

    def GetFeaturesAsOf(
        self, requests: Iterator[pb.GetFeaturesAsOfRequest], _: grpc.ServicerContext
    ) -> Iterator[pb.GetFeaturesAsOfResponse]:
        """Give values as they were known."""
        selections, known_time_us = None, 0
        for request in requests:
            if selections is None:
                selections, known_time_us = convert.selections(request.selections), request.known_time_us
            times = convert.as_of_times(request)
            keys = convert.asked_keys(request.keys, most=convert.MAX_BLOCK_ROWS)
            brought = convert.request_values(request.request_values, len(keys))
            found = self._values.as_of(selections, keys, times, known_time_us, brought)
            response = pb.GetFeaturesAsOfResponse(selected=map(convert.selected_proto, found))
            yield convert.fitting(response, self._max_message_bytes)

    def ListFeatureHistory(
        self, request: pb.ListFeatureHistoryRequest, _: grpc.ServicerContext
    ) -> pb.ListFeatureHistoryResponse:
        """List what was written of an entity."""
        view, rows, token = self._values.history(
            request.view, request.version, request.key, page_size=request.page_size, page_token=request.page_token
        )
        columns = list(zip(*rows, strict=True)) or [()] * (2 + len(view.stored))
        values = [
            convert.column_proto(feature, column_of(feature, column))
            for feature, column in zip(view.stored, columns[2:], strict=True)
        ]
        written = pb.FeatureRows(keys=[request.key] * len(rows), event_times_us=columns[0], columns=values)
        response = pb.ListFeatureHistoryResponse(
            rows=written, create_times_us=np.array(columns[1], np.int64).tolist(), next_page_token=token
        )
        return convert.fitting(response, self._max_message_bytes)

    def SampleFeatures(
        self, request: pb.SampleFeaturesRequest, _: grpc.ServicerContext
    ) -> Iterator[pb.SampleFeaturesResponse]:
        """Give what was written of a sample of the entities."""
        sample = self._samples.take(samples.request_from(request))
        for block in sample.blocks:
            yield samples.response_of(sample, block)

    def DeleteFeatures(self, request: pb.DeleteFeaturesRequest, _: grpc.ServicerContext) -> pb.DeleteFeaturesResponse:
        """Delete all that is known of entities."""
        deleted = self._values.delete(request.view, request.version, convert.keys(request.keys))
        return pb.DeleteFeaturesResponse(deleted_count=deleted)
