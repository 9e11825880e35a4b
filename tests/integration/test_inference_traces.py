"""Traces from a request to the collector that takes them, and to the event that names them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from penstock.api.inference.v1 import inference_pb2 as pb
from penstock.api.tensors.v1.tensors_pb2 import Tensor
from penstock.tensors import to_tensor
from services.inference.oip import open_inference_pb2 as oip
from tests import collector as collecting
from tests import inference
from tests.collector import Collector, attributes
from tests.inference import DEADLINE_S, Suite, fp32
from tests.postgres import PostgresServer
from tests.testdata import models

PREDICT = "penstock.api.inference.v1.InferenceService/Predict"
STREAM = "penstock.api.inference.v1.InferenceService/PredictStream"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting.collecting() as running:
        yield running


@pytest.fixture(scope="module")
def suite(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, collector: Collector
) -> Iterator[Suite]:
    environment = pytest.MonkeyPatch()
    environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    folder = tmp_path_factory.mktemp("suite")
    with inference.running_suite(postgres_server, folder, otlp_endpoint=collector.endpoint, trace_share=0.5) as suite:
        inference.serve(suite, "linear", models.linear())
        yield suite
    environment.undo()


def row() -> Tensor:
    return to_tensor("x", fp32([[1, 2, 3, 4]]))


def parent(*, sampled: bool = True) -> tuple[str, str, tuple[tuple[str, str]]]:
    """Begin a trace as a caller does: its id, its span's, and the metadata that says so."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, (("traceparent", f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"),)


def test_a_callers_trace_goes_on_through_queue_batch_and_compute(suite: Suite, collector: Collector) -> None:
    trace_id, span_id, metadata = parent()
    before = time.time_ns()
    request = pb.PredictRequest(model="linear", tensors=[row()])
    answer = suite.predict.Predict(request, metadata=metadata, timeout=DEADLINE_S)
    spans = collector.until(
        PREDICT, "infer", "queue", "batch", "compute", chosen=lambda span: span.trace_id.hex() == trace_id
    )
    server, infer = spans[PREDICT], spans["infer"]
    assert server.parent_span_id.hex() == span_id
    assert attributes(server)["rpc.method"] == "Predict"
    assert infer.parent_span_id == server.span_id
    assert attributes(infer) == {
        "penstock.inference_id": answer.inference_id,
        "penstock.model": "linear",
        "penstock.version": "1.0.0",
        "penstock.row_count": 1,
    }
    at_ns = infer.start_time_unix_nano
    assert before <= server.start_time_unix_nano <= at_ns
    for name in ("queue", "batch", "compute"):
        span = spans[name]
        assert span.parent_span_id == infer.span_id
        assert span.start_time_unix_nano == at_ns, "one follows on the other"
        at_ns = span.end_time_unix_nano
    assert at_ns <= infer.end_time_unix_nano <= server.end_time_unix_nano <= time.time_ns()
    assert spans["compute"].end_time_unix_nano > spans["compute"].start_time_unix_nano
    assert inference.event_of(suite.client, answer.inference_id).event.trace_id == trace_id
    assert {"service.name": "penstock-inference", "service.version": "0.1.0"}.items() <= collector.resources[0].items()


def test_what_the_caller_does_not_sample_is_not_recorded(suite: Suite, collector: Collector) -> None:
    trace_id, _, metadata = parent(sampled=False)
    request = pb.PredictRequest(model="linear", tensors=[row()])
    answer = suite.predict.Predict(request, metadata=metadata, timeout=DEADLINE_S)
    assert inference.event_of(suite.client, answer.inference_id).event.trace_id == ""
    assert not [span for span in collector.spans if span.trace_id.hex() == trace_id]


def test_a_share_of_what_begins_here_is_recorded(suite: Suite) -> None:
    ids = [suite.client.inference.predict("linear", {"x": [1, 2, 3, 4]}).inference_id for _ in range(64)]
    traced = [bool(inference.event_of(suite.client, each).event.trace_id) for each in ids]
    # 64 fair coins fall all the same way once in 10^19.
    assert 0 < sum(traced) < 64


def test_a_failure_is_one_in_its_trace_and_its_event(suite: Suite, collector: Collector) -> None:
    trace_id, _, metadata = parent()
    with pytest.raises(grpc.RpcError):
        suite.predict.Predict(pb.PredictRequest(model="nobody", tensors=[row()]), metadata=metadata, timeout=DEADLINE_S)
    span = collector.until(PREDICT, chosen=lambda span: span.trace_id.hex() == trace_id)[PREDICT]
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "MODEL_NOT_FOUND"
    assert inference.failures_of(suite.client, "nobody")[0].trace_id == trace_id


def test_the_predictions_of_a_stream_are_in_its_trace(suite: Suite, collector: Collector) -> None:
    trace_id, _, metadata = parent()
    requests = [pb.PredictStreamRequest(request=pb.PredictRequest(model="linear", tensors=[row()])) for _ in range(3)]
    answers = list(suite.predict.PredictStream(iter(requests), metadata=metadata, timeout=DEADLINE_S))
    spans = collector.until(STREAM, "infer", chosen=lambda span: span.trace_id.hex() == trace_id)
    infers = [span for span in collector.spans if span.trace_id.hex() == trace_id and span.name == "infer"]
    assert {attributes(span)["penstock.inference_id"] for span in infers} == {
        answer.prediction.inference_id for answer in answers
    }
    assert {span.parent_span_id for span in infers} == {spans[STREAM].span_id}
    for answer in answers:
        assert inference.event_of(suite.client, answer.prediction.inference_id).event.trace_id == trace_id


def test_tritons_trace_settings_turn_traces_off_and_on(suite: Suite) -> None:
    off = oip.TraceSettingRequest(settings={"trace_level": oip.TraceSettingRequest.SettingValue(value=["OFF"])})
    on = oip.TraceSettingRequest(settings={"trace_level": oip.TraceSettingRequest.SettingValue(value=["TIMESTAMPS"])})
    request = pb.PredictRequest(model="linear", tensors=[row()])
    for setting, traced in ((off, False), (on, True)):
        suite.oip.TraceSetting(setting, timeout=DEADLINE_S)
        trace_id, _, metadata = parent()
        answer = suite.predict.Predict(request, metadata=metadata, timeout=DEADLINE_S)
        event = inference.event_of(suite.client, answer.inference_id).event
        assert event.trace_id == (trace_id if traced else "")


@pytest.mark.slow
def test_a_collector_that_is_gone_costs_no_request(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with collecting.collecting() as gone:
        endpoint = gone.endpoint
    folder = tmp_path_factory.mktemp("alone")
    with inference.running_suite(postgres_server, folder, otlp_endpoint=endpoint) as suite:
        inference.serve(suite, "linear", models.linear())
        for _ in range(20):
            answer = suite.client.inference.predict("linear", {"x": [1, 2, 3, 4]})
            np.testing.assert_array_equal(answer.outputs["y"].shape, (1, 3))
        assert len(inference.event_of(suite.client, answer.inference_id).event.trace_id) == 32
