"""Between the contract's messages and our dataclasses. Requests are checked here, events in `checks`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from functools import cache

from google.protobuf.struct_pb2 import NullValue, Value

from penstock.api.monitoring.v1 import metrics_pb2
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from services.common import timestamps
from services.common.errors import InvalidArgument
from services.monitoring.checks import MAX_CHARS, event_from
from services.monitoring.feedback import Standing
from services.monitoring.ids import get_id
from services.monitoring.models import (
    Accepted,
    Event,
    Feedback,
    FeedbackReport,
    Filters,
    Inference,
    Metrics,
    OutcomeValue,
    Page,
    Recorded,
    Rejection,
    Result,
)
from services.monitoring.outcomes import MAX_OUTCOME_CHARS, value_of
from services.monitoring.quarantine import Refused, RefusedPage

MAX_BATCH_EVENTS = 1_000
MAX_ROW = 1_000_000
_STORED = pb.EventResult(outcome=pb.EVENT_OUTCOME_STORED)
_DUPLICATE = pb.EventResult(outcome=pb.EVENT_OUTCOME_DUPLICATE)
_NO_OUTCOME = Value(null_value=NullValue.NULL_VALUE)
Question = tuple[str, str, datetime | None, datetime | None]
AsksOfModel = (
    pb.GetMetricsRequest
    | metrics_pb2.ListMetricsRequest
    | metrics_pb2.GetRealtimeMetricsRequest
    | metrics_pb2.WatchMetricsRequest
)
AsksOfWindow = (
    pb.RecordFeedbackRequest | pb.ListInferencesRequest | pb.GetMetricsRequest | metrics_pb2.ListMetricsRequest
)


def batch_from(request: pb.RecordEventsRequest, accepted: Accepted) -> list[Event | Rejection]:
    """Read a batch, each event for itself.

    Raises:
        InvalidArgument: no events or too many (INVALID_BATCH).
    """
    count = len(request.events)
    if not 1 <= count <= MAX_BATCH_EVENTS:
        raise InvalidArgument.field(
            "events", f"got {count}; 1 to {MAX_BATCH_EVENTS} are allowed in a batch", reason="INVALID_BATCH"
        )
    return [event_from(event, accepted) for event in request.events]


def batch_response(batch_id: int, results: Sequence[Result]) -> pb.RecordEventsResponse:
    """Answer a batch."""
    if all(result is Recorded.STORED for result in results):
        response = pb.RecordEventsResponse.FromString(_all_stored(len(results)))
        response.batch_id = batch_id
        return response
    return pb.RecordEventsResponse(batch_id=batch_id, results=map(_result, results))


@cache
def _all_stored(count: int) -> bytes:
    # To read an answer takes a tenth of making one, and nearly all are the same.
    return pb.RecordEventsResponse(results=[_STORED] * count).SerializeToString()


def _result(result: Result) -> pb.EventResult:
    if isinstance(result, Rejection):
        return pb.EventResult(outcome=pb.EVENT_OUTCOME_REJECTED, reason=result.reason.value, message=result.message)
    return _STORED if result is Recorded.STORED else _DUPLICATE


def report_from(request: pb.RecordFeedbackRequest) -> FeedbackReport:
    """Read a report of feedback; raises InvalidArgument naming the field."""
    if not 0 <= request.row < MAX_ROW:
        raise InvalidArgument.field(
            "row", f"got {request.row}; 0 to {MAX_ROW - 1} are allowed", reason="ROW_OUT_OF_RANGE"
        )
    outcome = _outcome(request.actual_outcome) if request.HasField("actual_outcome") else None
    correct = request.correct if request.HasField("correct") else None
    if outcome is None and correct is None:
        raise InvalidArgument.field(
            "actual_outcome", "neither it nor `correct` came; give one of them, or both", reason="EMPTY_FEEDBACK"
        )
    return FeedbackReport(
        inference_id=get_id(request.inference_id),
        row=request.row,
        actual_outcome=outcome,
        correct=correct,
        feedback_time=_time("feedback_time", request),
    )


def _outcome(value: Value) -> OutcomeValue:
    kind = value.WhichOneof("kind")
    if kind not in ("bool_value", "number_value", "string_value"):
        came = "nothing" if kind is None else f"a {kind.removesuffix('_value')}"
        raise InvalidArgument.field(
            "actual_outcome", f"got {came}; a string, a number or a boolean is allowed", reason="INVALID_OUTCOME"
        )
    outcome: OutcomeValue = getattr(value, kind)
    if isinstance(outcome, float) and not math.isfinite(outcome):
        raise InvalidArgument.field(
            "actual_outcome", f"got {outcome}; a finite number is allowed", reason="INVALID_OUTCOME"
        )
    if isinstance(outcome, str) and (len(outcome) > MAX_OUTCOME_CHARS or "\0" in outcome):
        raise InvalidArgument.field(
            "actual_outcome",
            f"got {len(outcome)} characters; at most {MAX_OUTCOME_CHARS} are allowed, and no NUL",
            reason="INVALID_OUTCOME",
        )
    return outcome


def filters_from(request: pb.ListInferencesRequest) -> Filters:
    """Read a list's filters; raises InvalidArgument naming the field."""
    for name in ("model", "version", "user_id", "session_id"):
        _check_filter(name, getattr(request, name))
    return Filters(
        model=request.model,
        version=request.version,
        user_id=request.user_id,
        session_id=request.session_id,
        errors_only=request.errors_only,
        from_time=_time("from_time", request),
        to_time=_time("to_time", request),
    )


def question_from(request: pb.GetMetricsRequest | metrics_pb2.ListMetricsRequest) -> Question:
    """Read whose metrics are asked for, and the window; raises InvalidArgument naming the field."""
    return *subject_from(request), _time("from_time", request), _time("to_time", request)


def subject_from(request: AsksOfModel) -> tuple[str, str]:
    """Read which model is asked about, and which version; raises InvalidArgument naming the field."""
    if not request.model:
        raise InvalidArgument.field("model", "it is empty; name the model", reason="MODEL_REQUIRED")
    for name in ("model", "version"):
        _check_filter(name, getattr(request, name))
    return request.model, request.version


def _check_filter(name: str, text: str) -> None:
    if len(text) > MAX_CHARS[name] or "\0" in text:
        raise InvalidArgument.field(
            name,
            f"got {len(text)} characters; at most {MAX_CHARS[name]} are allowed, and no NUL",
            reason="INVALID_TEXT",
        )


def _time(name: str, request: AsksOfWindow) -> datetime | None:
    if not request.HasField(name):  # type: ignore[arg-type] # each caller names a field of its request
        return None
    return timestamps.read(name, getattr(request, name))


def feedback_response(standing: Standing) -> pb.RecordFeedbackResponse:
    """Encode what stands since a report."""
    return pb.RecordFeedbackResponse(
        feedback=feedback_proto(standing.feedback), matched=standing.matched, warnings=standing.warnings
    )


def feedback_proto(feedback: Feedback) -> pb.Feedback:
    """Encode feedback."""
    message = pb.Feedback(
        row=feedback.row,
        actual_outcome=None if feedback.actual_outcome is None else _value(feedback.actual_outcome),
        correct=feedback.correct,
        recorded_by=feedback.recorded_by,
    )
    message.feedback_time.FromDatetime(feedback.feedback_time)
    return message


def inference_proto(inference: Inference) -> pb.Inference:
    """Encode an inference, with what is there of payloads and history."""
    message = pb.Inference(
        event=_event_proto(inference.event),
        outcomes=[_NO_OUTCOME if one is None else _value(value_of(one)) for one in inference.event.outcomes or ()],
        feedback=map(feedback_proto, inference.feedback),
        feedback_history=map(feedback_proto, inference.history),
    )
    message.time.FromDatetime(inference.time)
    return message


def _value(outcome: OutcomeValue) -> Value:
    if isinstance(outcome, bool):
        return Value(bool_value=outcome)
    if isinstance(outcome, str):
        return Value(string_value=outcome)
    return Value(number_value=outcome)


def _event_proto(event: Event) -> pb.InferenceEvent:
    return pb.InferenceEvent(
        inference_id=str(event.inference_id),
        model=event.model,
        version=event.version,
        framework=event.framework,
        request_id=event.request_id,
        user_id=event.user_id,
        session_id=event.session_id,
        features=None if event.features is None else pb.Payload.FromString(event.features),
        prediction=None if event.prediction is None else pb.Payload.FromString(event.prediction),
        confidence=event.confidence,
        latency_ms=event.latency_ms,
        error_code=event.error_code,
        row_count=event.row_count,
        trace_id=event.trace_id,
    )


def page_response(page: Page) -> pb.ListInferencesResponse:
    """Encode a page."""
    return pb.ListInferencesResponse(
        inferences=map(inference_proto, page.inferences), next_page_token=page.next_page_token
    )


def refused_model_from(request: pb.ListQuarantinedEventsRequest) -> str:
    """Read whose refused events are asked for, empty for all; raises InvalidArgument naming the field."""
    _check_filter("model", request.model)
    return request.model


def refused_response(page: RefusedPage) -> pb.ListQuarantinedEventsResponse:
    """Encode a page of refused events."""
    return pb.ListQuarantinedEventsResponse(
        events=map(_refused_proto, page.events), next_page_token=page.next_page_token
    )


def _refused_proto(refused: Refused) -> pb.QuarantinedEvent:
    message = pb.QuarantinedEvent(
        sent_by=refused.sent_by,
        reason=refused.reason,
        message=refused.message,
        inference_id=refused.inference_id,
        model=refused.model,
        version=refused.version,
        excerpt=refused.excerpt,
    )
    message.received_time.FromDatetime(refused.received_time)
    return message


def metrics_response(metrics: Metrics) -> pb.GetMetricsResponse:
    """Encode metrics; what is None stays unset."""
    message = pb.GetMetricsResponse(
        inference_count=metrics.inference_count,
        error_count=metrics.error_count,
        error_rate=metrics.error_rate,
        average_latency_ms=metrics.average_latency_ms,
        p50_latency_ms=metrics.p50_latency_ms,
        p95_latency_ms=metrics.p95_latency_ms,
        p99_latency_ms=metrics.p99_latency_ms,
        average_confidence=metrics.average_confidence,
        accuracy=metrics.accuracy,
        feedback_count=metrics.feedback_count,
        judged_count=metrics.judged_count,
        correct_count=metrics.correct_count,
        throughput_per_s=metrics.throughput_per_s,
        row_count=metrics.row_count,
    )
    message.from_time.FromDatetime(metrics.window.from_time)
    message.to_time.FromDatetime(metrics.window.to_time)
    if metrics.complete_until is not None:
        message.complete_until.FromDatetime(metrics.complete_until)
    if metrics.feedback_complete_until is not None:
        message.feedback_complete_until.FromDatetime(metrics.feedback_complete_until)
    return message
