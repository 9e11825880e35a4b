"""The monitoring client: what was predicted, what really happened, how good the model is, and who is told."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import numpy as np

from penstock.alert_rules import AlertRulesClient
from penstock.alerts import AlertsClient, SilencesClient
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.api.tensors.v1.tensors_pb2 import TensorList
from penstock.channels import MEBIBYTE, Connection
from penstock.configurations import ConfigurationsClient
from penstock.drift import DriftClient
from penstock.errors import Unavailable
from penstock.exports import ExportsClient
from penstock.ids import uuid7
from penstock.lineage import LineageClient
from penstock.metrics import MetricsClient
from penstock.monitoring_connection import page_size_of
from penstock.notification_channels import NotificationChannelsClient
from penstock.paging import pages
from penstock.profiles import ProfilesClient
from penstock.quality import QualityClient
from penstock.retraining import RetrainingClient
from penstock.stubs import MonitoringStub
from penstock.tensors import to_tensor
from penstock.values import to_struct, to_timestamp, to_value
from penstock.wire import varint

MAX_BATCH_EVENTS = 1_000
MAX_BATCH_BYTES = 4 * MEBIBYTE


def make_event(
    model: str,
    *,
    version: str = "",
    framework: str = "",
    inference_id: str = "",
    time: datetime | None = None,
    request_id: str = "",
    user_id: str = "",
    session_id: str = "",
    features: Mapping[str, Any] | None = None,
    prediction: Mapping[str, Any] | None = None,
    confidence: float | None = None,
    latency_ms: float = 0.0,
    error_code: str = "",
    row_count: int = 1,
    trace_id: str = "",
) -> pb.InferenceEvent:
    """Describe a prediction made by a model that Penstock does not serve, for `record_events`.

    Args:
        model: the model.
        version: the version that answered.
        framework: what ran it.
        inference_id: a UUIDv7, whose time is the event's; empty: a new one, of `time`.
        time: when it happened (aware); None: now.
        request_id: the caller's id; empty: the inference id.
        user_id: who it was for.
        session_id: likewise.
        features: what went in: named values, or numpy arrays, which are kept as tensors.
        prediction: what came out, likewise.
        confidence: the mean over the rows of the highest class probability, 0 to 1.
        latency_ms: in ms.
        error_code: the reason of the failure; empty: it succeeded.
        row_count: the rows of the request.
        trace_id: the trace that it is part of, 32 hex digits in lower case; empty: none.
    """
    return pb.InferenceEvent(
        inference_id=inference_id or uuid7(time),
        model=model,
        version=version,
        framework=framework,
        request_id=request_id,
        user_id=user_id,
        session_id=session_id,
        features=_payload(features),
        prediction=_payload(prediction),
        confidence=confidence,
        latency_ms=latency_ms,
        error_code=error_code,
        row_count=row_count,
        trace_id=trace_id,
    )


class MonitoringClient:
    """Calls the monitoring service: events and feedback here, and what is made of them by a client for each noun.

    Times are aware datetimes, durations timedeltas. Lists are fetched page by page, as they are iterated. Enums are
    taken by number or by short name, in any case: `severity="warning"`.

    Attributes:
        metrics: series over any window, and the last five minutes as they go by.
        profiles: what a version's data looked like when it was good.
        drift: whether live data still is like that.
        quality: what is wrong with live data.
        alerts: what rules found.
        alert_rules: what is watched, and from where on it is too much.
        silences: alerts that nobody is to be told of for a while.
        channels: whom to tell.
        retraining: requests, and what became of them.
        lineage: what led to what.
        configurations: how models are watched.
        exports: events and metrics as files.
    """

    def __init__(self, connection: Connection[MonitoringStub]) -> None:
        self._connection = connection
        self.metrics = MetricsClient(connection)
        self.profiles = ProfilesClient(connection)
        self.drift = DriftClient(connection)
        self.quality = QualityClient(connection)
        self.alerts = AlertsClient(connection)
        self.alert_rules = AlertRulesClient(connection)
        self.silences = SilencesClient(connection)
        self.channels = NotificationChannelsClient(connection)
        self.retraining = RetrainingClient(connection)
        self.lineage = LineageClient(connection)
        self.configurations = ConfigurationsClient(connection)
        self.exports = ExportsClient(connection)

    def record_events(
        self, events: Iterable[pb.InferenceEvent], *, batch_size: int = 500
    ) -> Generator[pb.EventResult, None, None]:
        """Send events in batches, and give the result of each, in order, once it is durable.

        After an error send everything again for which no result came: a known event is a DUPLICATE and changes
        nothing. `events` is read from another thread; what it raises is raised here.

        Args:
            events: see `make_event`.
            batch_size: events a batch, 1 to 1,000; a batch is also sent when it reaches 4 MiB.
        """
        with closing(self.record_batches(_batches(events, min(batch_size, MAX_BATCH_EVENTS)))) as answers:
            for answer in answers:
                yield from answer.results

    def record_batches(
        self, batches: Iterable[Sequence[pb.InferenceEvent]]
    ) -> Generator[pb.RecordEventsResponse, None, None]:
        """Send batches of 1 to 1,000 events, and give the answer to each, in order; batch ids count from 1.

        Raises:
            Unavailable: the server ended the stream before it had answered all (STREAM_ENDED_EARLY).
        """
        encoded = ([event.SerializeToString() for event in batch] for batch in batches)
        return self.record_encoded(encoded)

    def record_encoded(self, batches: Iterable[Sequence[bytes]]) -> Generator[pb.RecordEventsResponse, None, None]:
        """Send events that are serialized already, without reading them again; see `record_batches`."""
        sent_count = 0

        def requests() -> Iterator[bytes]:
            nonlocal sent_count
            for batch in batches:
                sent_count += 1
                yield _request(sent_count, batch)

        answered_count = 0
        method = self._connection.stub.RecordEncodedEvents
        with closing(self._connection.exchange(method, pb.RecordEventsRequest, requests())) as answers:
            for answer in answers:
                answered_count += 1
                yield answer
        if answered_count < sent_count:
            raise Unavailable(
                f"monitoring answered {answered_count} of {sent_count} batches and ended the stream; send the rest",
                reason="STREAM_ENDED_EARLY",
                retryable=True,
            )

    def record_feedback(
        self,
        inference_id: str,
        actual_outcome: str | float | bool | None = None,
        *,
        correct: bool | None = None,
        row: int = 0,
        feedback_time: datetime | None = None,
    ) -> pb.RecordFeedbackResponse:
        """Say what really happened to one row of an inference; also early, and again: the latest time wins.

        `warnings` say what looks like a mistake: an outcome that no prediction of the model can equal.

        Args:
            inference_id: the prediction's.
            actual_outcome: a string, a number or a boolean; give it, or `correct`, or both.
            correct: whether the prediction was right; None: found out by comparing.
            row: the row of the request, from 0.
            feedback_time: when it became known; None: now. At most 5 minutes ahead.
        """
        request = pb.RecordFeedbackRequest(
            inference_id=inference_id,
            row=row,
            actual_outcome=None if actual_outcome is None else to_value("actual_outcome", actual_outcome),
            correct=correct,
            # Fixed before the first try, so that a retry can't overtake a later correction.
            feedback_time=to_timestamp("feedback_time", feedback_time or datetime.now(UTC)),
        )
        return self._connection.unary(self._connection.stub.RecordFeedback, request)

    def get_inference(self, inference_id: str) -> pb.Inference:
        """Get one inference, with its payloads and every feedback ever given."""
        request = pb.GetInferenceRequest(inference_id=inference_id)
        return self._connection.unary(self._connection.stub.GetInference, request).inference

    def list_inferences(
        self,
        *,
        model: str = "",
        version: str = "",
        user_id: str = "",
        session_id: str = "",
        from_time: datetime | None = None,
        to_time: datetime | None = None,
        errors_only: bool = False,
        limit: int | None = 100,
    ) -> Iterator[pb.Inference]:
        """List inferences, the newest first, fetched as they are iterated.

        Args:
            model: only this model.
            version: only this version.
            user_id: only this user.
            session_id: only this session.
            from_time: from here on; None: one hour before `to_time`.
            to_time: up to here, exclusive; None: now.
            errors_only: only failed ones.
            limit: so many at most; None: all.

        Raises:
            NotFound: neither the registry nor monitoring knows the model (MODEL_NOT_FOUND); it names those near it.
        """
        since, until = to_timestamp("from_time", from_time), to_timestamp("to_time", to_time)

        def fetch(token: str) -> pb.ListInferencesResponse:
            request = pb.ListInferencesRequest(
                model=model,
                version=version,
                user_id=user_id,
                session_id=session_id,
                from_time=since,
                to_time=until,
                errors_only=errors_only,
                page_size=page_size_of(limit),
                page_token=token,
            )
            return self._connection.unary(self._connection.stub.ListInferences, request)

        return islice((inference for page in pages(fetch) for inference in page.inferences), limit)

    def list_quarantined_events(self, *, model: str = "", limit: int | None = 100) -> Iterator[pb.QuarantinedEvent]:
        """List events that monitoring refused, and why, the newest first, fetched as they are iterated.

        Args:
            model: only those that name this model.
            limit: so many at most; None: all that are kept.
        """

        def fetch(token: str) -> pb.ListQuarantinedEventsResponse:
            request = pb.ListQuarantinedEventsRequest(model=model, page_size=page_size_of(limit), page_token=token)
            return self._connection.unary(self._connection.stub.ListQuarantinedEvents, request)

        return islice((event for page in pages(fetch) for event in page.events), limit)

    def get_metrics(
        self,
        model: str,
        version: str = "",
        *,
        from_time: datetime | None = None,
        to_time: datetime | None = None,
    ) -> pb.GetMetricsResponse:
        """Count predictions, errors, latencies (in ms) and accuracy over a window, by default the last hour.

        What can't be told is unset, not 0: test `HasField("accuracy")`. Where `complete_until` is set, counts of what
        came since may be too low, and feedback of predictions after `feedback_complete_until`.

        Raises:
            NotFound: as `list_inferences`.
        """
        request = pb.GetMetricsRequest(
            model=model,
            version=version,
            from_time=to_timestamp("from_time", from_time),
            to_time=to_timestamp("to_time", to_time),
        )
        return self._connection.unary(self._connection.stub.GetMetrics, request)


def _payload(values: Mapping[str, Any] | None) -> pb.Payload | None:
    if values is None:
        return None
    if values and all(isinstance(value, np.ndarray) for value in values.values()):
        return pb.Payload(tensors=TensorList(tensors=[to_tensor(name, value) for name, value in values.items()]))
    return pb.Payload(fields=to_struct(values))


def _request(batch_id: int, events: Sequence[bytes]) -> bytes:
    """Write a RecordEventsRequest: `batch_id` is its field 1, and each of `events` one of field 2."""
    parts = [b"\x08", varint(batch_id)]
    for event in events:
        parts += (b"\x12", varint(len(event)), event)
    return b"".join(parts)


def _batches(events: Iterable[pb.InferenceEvent], batch_size: int) -> Iterator[list[pb.InferenceEvent]]:
    batch: list[pb.InferenceEvent] = []
    batch_bytes = 0
    for event in events:
        event_bytes = event.ByteSize()
        if batch and (len(batch) >= batch_size or batch_bytes + event_bytes > MAX_BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(event)
        batch_bytes += event_bytes
    if batch:
        yield batch
