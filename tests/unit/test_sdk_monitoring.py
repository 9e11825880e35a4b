"""Events by stream, feedback, and questions, against a server that answers batch by batch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import numpy as np
import pytest

from penstock import Client, RetryPolicy, make_event, time_of
from penstock import errors as sdk
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.tensors import from_tensor
from services.common import errors
from tests.sdk import ScriptedServer, abort, answer, client_of, scripted_server

QUICK = RetryPolicy(attempts=4, base_delay_s=0.001, max_delay_s=0.002)
STORED = pb.EventResult(outcome=pb.EVENT_OUTCOME_STORED)
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server, retry=QUICK) as client:
        yield client


class Recorder:
    """Stores each batch, as monitoring does."""

    def __init__(self, *, breaks_at: int | None = None, ends_at: int | None = None) -> None:
        self.batches: list[list[str]] = []
        self._breaks_at = breaks_at
        self._ends_at = ends_at

    def __call__(self, requests: Any, context: grpc.ServicerContext) -> Iterator[pb.RecordEventsResponse]:
        for request in requests:
            if request.batch_id == self._breaks_at:
                abort(context, errors.Unavailable("the database is gone"))
            if request.batch_id == self._ends_at:
                return
            self.batches.append([event.inference_id for event in request.events])
            yield pb.RecordEventsResponse(batch_id=request.batch_id, results=[STORED] * len(request.events))


def test_events_go_in_batches_and_each_has_its_result(server: ScriptedServer, client: Client) -> None:
    recorder = Recorder()
    server.on("RecordEvents", recorder)
    events = [make_event("iris") for _ in range(7)]
    results = list(client.monitoring.record_events(iter(events), batch_size=3))
    assert results == [STORED] * 7
    assert [len(batch) for batch in recorder.batches] == [3, 3, 1]
    assert [each for batch in recorder.batches for each in batch] == [event.inference_id for event in events]


def test_large_events_make_small_batches(server: ScriptedServer, client: Client) -> None:
    recorder = Recorder()
    server.on("RecordEvents", recorder)
    events = [make_event("iris", features={"x": np.zeros(250_000)}) for _ in range(5)]
    assert len(list(client.monitoring.record_events(events))) == 5
    assert [len(batch) for batch in recorder.batches] == [2, 2, 1]


def test_no_events_are_no_results(server: ScriptedServer, client: Client) -> None:
    server.on("RecordEvents", Recorder())
    assert list(client.monitoring.record_events([])) == []


def test_a_break_gives_the_results_so_far_and_then_the_error(server: ScriptedServer, client: Client) -> None:
    server.on("RecordEvents", Recorder(breaks_at=3))
    seen: list[pb.EventResult] = []
    with pytest.raises(sdk.Unavailable, match="database"):
        # What came before the error stays in the list.
        seen.extend(client.monitoring.record_events((make_event("iris") for _ in range(9)), batch_size=2))
    assert seen == [STORED] * 4
    assert len(server.calls["RecordEvents"]) == 1


def test_a_stream_that_ends_before_all_is_answered_is_an_error(server: ScriptedServer, client: Client) -> None:
    server.on("RecordEvents", Recorder(ends_at=2))
    with pytest.raises(sdk.Unavailable) as caught:
        list(client.monitoring.record_batches([[make_event("iris")]] * 2))
    assert caught.value.reason == "STREAM_ENDED_EARLY"


def test_what_the_callers_events_raise_comes_out(server: ScriptedServer, client: Client) -> None:
    def events() -> Iterator[pb.InferenceEvent]:
        yield make_event("iris")
        raise KeyError("a bad row")

    server.on("RecordEvents", Recorder())
    with pytest.raises(KeyError, match="a bad row"):
        list(client.monitoring.record_events(events(), batch_size=1))


def test_a_server_that_does_not_answer_a_batch_ends_the_stream(server: ScriptedServer) -> None:
    def hang(requests: Any, context: grpc.ServicerContext) -> Iterator[pb.RecordEventsResponse]:
        server.released.wait()
        yield pb.RecordEventsResponse()

    server.on("RecordEvents", hang)
    with client_of(server, idle_timeout_s=0.2) as client, pytest.raises(sdk.DeadlineExceeded, match="silent"):
        list(client.monitoring.record_events([make_event("iris")]))


@pytest.mark.slow
def test_a_slow_source_and_a_slow_reader_are_not_the_servers_silence(server: ScriptedServer) -> None:
    """Both take longer than the idle time-out, which counts the waits for the server alone."""
    idle = threading.Event()  # never set: its wait is the slowness itself

    def events() -> Iterator[pb.InferenceEvent]:
        for _ in range(2):
            idle.wait(1.2)
            yield make_event("iris")

    server.on("RecordEvents", Recorder())
    with client_of(server, idle_timeout_s=1.0) as client:
        seen = 0
        for _ in client.monitoring.record_events(events(), batch_size=1):
            idle.wait(1.2)
            seen += 1
    assert seen == 2


def test_an_event_has_the_time_of_its_id_and_keeps_what_it_is_given() -> None:
    event = make_event(
        "iris", version="1", framework="onnx", time=AT, request_id="r", user_id="u", session_id="s",
        features={"sepal": 1.5, "tags": ["a"]}, prediction={"p": np.array([0.1, 0.9])}, confidence=0.9,
        latency_ms=2.5, row_count=2,
    )  # fmt: skip
    assert time_of(event.inference_id) == AT
    assert event.features.fields.fields["sepal"].number_value == 1.5
    assert from_tensor(event.prediction.tensors.tensors[0]).tolist() == [0.1, 0.9]
    assert (event.confidence, event.latency_ms, event.row_count) == (0.9, 2.5, 2)
    slim = make_event("iris", error_code="WRONG_SHAPE")
    assert not slim.HasField("confidence")
    assert not slim.HasField("features")


@pytest.mark.parametrize(
    ("outcome", "kind"), [("setosa", "string_value"), (2, "number_value"), (False, "bool_value"), (None, None)]
)
def test_feedback_says_what_happened(server: ScriptedServer, client: Client, outcome: Any, kind: str | None) -> None:
    server.on("RecordFeedback", answer(pb.RecordFeedbackResponse(matched=True)))
    client.monitoring.record_feedback("id", outcome, correct=True if outcome is None else None, row=3, feedback_time=AT)
    request = server.calls["RecordFeedback"][0]
    assert (request.inference_id, request.row) == ("id", 3)
    assert request.actual_outcome.WhichOneof("kind") == kind
    assert request.HasField("actual_outcome") is (kind is not None)
    assert request.HasField("correct") is (outcome is None)
    assert request.feedback_time.ToDatetime(tzinfo=UTC) == AT


def test_inferences_are_listed_up_to_the_limit(server: ScriptedServer, client: Client) -> None:
    page = [pb.Inference(event=pb.InferenceEvent(inference_id=str(number))) for number in range(3)]
    server.on("ListInferences", answer(pb.ListInferencesResponse(inferences=page, next_page_token="more")))
    found = client.monitoring.list_inferences(
        model="iris", version="1", user_id="u", session_id="s", from_time=AT, to_time=AT + timedelta(hours=1),
        errors_only=True, limit=5,
    )  # fmt: skip
    assert [each.event.inference_id for each in found] == ["0", "1", "2", "0", "1"]
    first, second = server.calls["ListInferences"]
    assert (first.model, first.version, first.user_id, first.session_id) == ("iris", "1", "u", "s")
    assert (first.errors_only, first.page_size, second.page_token) == (True, 5, "more")
    assert first.to_time.ToDatetime(tzinfo=UTC) - first.from_time.ToDatetime(tzinfo=UTC) == timedelta(hours=1)
    assert list(client.monitoring.list_inferences(limit=0)) == []


def test_one_inference_and_the_metrics_come_as_they_are(server: ScriptedServer, client: Client) -> None:
    server.on("GetInference", answer(pb.GetInferenceResponse(inference=pb.Inference(outcomes=[]))))
    server.on("GetMetrics", answer(pb.GetMetricsResponse(inference_count=3, accuracy=0.5)))
    assert client.monitoring.get_inference("id") == pb.Inference()
    metrics = client.monitoring.get_metrics("iris", "1", from_time=AT)
    assert (metrics.inference_count, metrics.accuracy) == (3, 0.5)
    request = server.calls["GetMetrics"][0]
    assert (request.model, request.version, request.HasField("to_time")) == ("iris", "1", False)
