"""The gRPC face of the rollups."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import grpc

from penstock.api.monitoring.v1 import metrics_pb2 as pb
from penstock.api.monitoring.v1 import metrics_pb2_grpc
from services.common.keys import Role
from services.common.server import Service
from services.monitoring.convert import subject_from
from services.monitoring.known_models import KnownModels
from services.monitoring.rollups import convert
from services.monitoring.rollups.metrics import MetricsReader

NAME = "penstock.api.monitoring.v1.MetricsService"
ROLES = {
    "ListMetrics": Role.VIEWER,
    "GetRealtimeMetrics": Role.VIEWER,
    "WatchMetrics": Role.VIEWER,
}
ENDLESS = frozenset({"WatchMetrics"})


class MetricsServicer(metrics_pb2_grpc.MetricsServiceServicer):
    """Decode, call, encode."""

    def __init__(self, metrics: MetricsReader, models: KnownModels) -> None:
        self._metrics = metrics
        self._models = models

    def ListMetrics(self, request: pb.ListMetricsRequest, context: grpc.ServicerContext) -> pb.ListMetricsResponse:
        """Give series."""
        question = convert.question_from(request)
        self._models.require(question.model)
        return convert.list_response(self._metrics.series(question), histograms=request.histograms)

    def GetRealtimeMetrics(
        self, request: pb.GetRealtimeMetricsRequest, context: grpc.ServicerContext
    ) -> pb.GetRealtimeMetricsResponse:
        """Give the last minutes."""
        subject = subject_from(request)
        self._models.require(request.model)
        live = self._metrics.live(*subject)
        return convert.realtime_response(live)

    def WatchMetrics(
        self, request: pb.WatchMetricsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchMetricsResponse]:
        """Give the last minutes again and again."""
        subject, interval_s = subject_from(request), convert.interval_s(request)
        self._models.require(request.model)
        gone = threading.Event()
        if not context.add_callback(gone.set):
            return
        while not gone.is_set():
            yield convert.watch_response(self._metrics.live_shared(*subject))
            gone.wait(interval_s)


def service(servicer: MetricsServicer) -> Service:
    """Describe the service to the server kit."""
    return Service(
        name=NAME,
        register=partial(metrics_pb2_grpc.add_MetricsServiceServicer_to_server, servicer),
        roles=ROLES,
        endless=ENDLESS,
    )
