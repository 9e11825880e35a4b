"""The gRPC face of exports."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.monitoring.v1 import export_pb2 as pb
from penstock.api.monitoring.v1 import export_pb2_grpc
from services.common.keys import Role
from services.common.server import Service
from services.monitoring.export import convert
from services.monitoring.export.events import EventExports
from services.monitoring.export.metrics import MetricsExports
from services.monitoring.known_models import KnownModels

NAME = "penstock.api.monitoring.v1.ExportService"
ROLES = {"ExportEvents": Role.VIEWER, "ExportMetrics": Role.VIEWER}


class ExportServicer(export_pb2_grpc.ExportServiceServicer):
    """Decode, call, encode. A chunk is made when the one before it is on the wire."""

    def __init__(self, events: EventExports, metrics: MetricsExports, models: KnownModels) -> None:
        self._events = events
        self._metrics = metrics
        self._models = models

    def ExportEvents(
        self, request: pb.ExportEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportEventsResponse]:
        """Give a file of events."""
        wanted = convert.events_from(request)
        self._models.require(wanted.model)
        for chunk in self._events.export(wanted):
            yield pb.ExportEventsResponse(chunk=chunk)

    def ExportMetrics(
        self, request: pb.ExportMetricsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportMetricsResponse]:
        """Give a file of metrics."""
        wanted = convert.metrics_from(request)
        self._models.require(wanted.model)
        file = self._metrics.export(wanted)
        for chunk in file.chunks():
            yield pb.ExportMetricsResponse(chunk=chunk)
        if file.complete_until is not None:
            complete_until = Timestamp()
            complete_until.FromDatetime(file.complete_until)
            yield pb.ExportMetricsResponse(complete_until=complete_until)


def service(servicer: ExportServicer) -> Service:
    """Say how it is served."""
    register = partial(export_pb2_grpc.add_ExportServiceServicer_to_server, servicer)
    return Service(name=NAME, register=register, roles=ROLES)
