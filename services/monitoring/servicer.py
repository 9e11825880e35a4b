"""The gRPC face of monitoring."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.api.monitoring.v1.monitoring_pb2_grpc import MonitoringServiceServicer
from services.common.keys import Role
from services.monitoring import convert
from services.monitoring.events import EventLog
from services.monitoring.feedback import FeedbackLog
from services.monitoring.ids import get_id
from services.monitoring.in_order import in_order
from services.monitoring.inferences import Inferences
from services.monitoring.known_models import KnownModels
from services.monitoring.models import Event, Rejection
from services.monitoring.quarantine import Quarantine

NAME = "penstock.api.monitoring.v1.MonitoringService"
ROLES = {
    "RecordEvents": Role.OPERATOR,
    "RecordFeedback": Role.OPERATOR,
    "GetInference": Role.VIEWER,
    "ListInferences": Role.VIEWER,
    "GetMetrics": Role.VIEWER,
    "ListQuarantinedEvents": Role.OPERATOR,
}
BATCHES_AT_ONCE = 2
"""Of one stream: while PostgreSQL stores a batch, another is made ready, and a third decoded."""
ENDLESS = frozenset({"RecordEvents"})


class MonitoringServicer(MonitoringServiceServicer):
    """Decode, call, encode."""

    def __init__(
        self,
        events: EventLog,
        feedback: FeedbackLog,
        inferences: Inferences,
        models: KnownModels,
        quarantine: Quarantine,
    ) -> None:
        self._events = events
        self._feedback = feedback
        self._inferences = inferences
        self._models = models
        self._quarantine = quarantine

    def RecordEvents(
        self,
        request_iterator: Iterator[pb.RecordEventsRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[pb.RecordEventsResponse]:
        """Record batches, in order."""
        decoded = (
            (request.batch_id, convert.batch_from(request, self._events.accepted())) for request in request_iterator
        )
        yield from in_order(decoded, self._record, at_once=BATCHES_AT_ONCE)

    def _record(self, decoded: tuple[int, list[Event | Rejection]]) -> pb.RecordEventsResponse:
        batch_id, batch = decoded
        return convert.batch_response(batch_id, self._events.record(batch))

    def RecordFeedback(
        self,
        request: pb.RecordFeedbackRequest,
        context: grpc.ServicerContext,
    ) -> pb.RecordFeedbackResponse:
        """Record what really happened."""
        report = convert.report_from(request)
        return convert.feedback_response(self._feedback.record(report))

    def GetInference(
        self,
        request: pb.GetInferenceRequest,
        context: grpc.ServicerContext,
    ) -> pb.GetInferenceResponse:
        """Give one inference."""
        inference_id = get_id(request.inference_id)
        inference = self._inferences.get(inference_id)
        return pb.GetInferenceResponse(inference=convert.inference_proto(inference))

    def ListInferences(
        self,
        request: pb.ListInferencesRequest,
        context: grpc.ServicerContext,
    ) -> pb.ListInferencesResponse:
        """Give a page of inferences."""
        filters = convert.filters_from(request)
        self._models.require(filters.model)
        page = self._inferences.page(filters, size=request.page_size, token=request.page_token)
        return convert.page_response(page)

    def GetMetrics(
        self,
        request: pb.GetMetricsRequest,
        context: grpc.ServicerContext,
    ) -> pb.GetMetricsResponse:
        """Say how a model did."""
        question = convert.question_from(request)
        self._models.require(request.model)
        metrics = self._inferences.measure(*question)
        return convert.metrics_response(metrics)

    def ListQuarantinedEvents(
        self,
        request: pb.ListQuarantinedEventsRequest,
        context: grpc.ServicerContext,
    ) -> pb.ListQuarantinedEventsResponse:
        """Give a page of what was refused."""
        model = convert.refused_model_from(request)
        page = self._quarantine.page(model, size=request.page_size, token=request.page_token)
        if not page.events:  # what was refused may be all that there is of a model
            self._models.require(model)
        return convert.refused_response(page)
