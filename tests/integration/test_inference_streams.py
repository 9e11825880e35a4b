"""Streams of predictions through both front doors, over a real socket: order, errors, flow control and their ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest

import penstock
from penstock.api.inference.v1 import inference_pb2 as pb
from services.inference.oip import open_inference_pb2 as oip
from services.inference.tensors import from_raw
from tests import inference
from tests.inference import DEADLINE_S, Suite, fp32, infer_request, wait_until
from tests.postgres import PostgresServer
from tests.testdata import models

pytestmark = pytest.mark.slow
ROW = fp32([[1, 2, 3, 4]])
IN_FLIGHT = 4
Outcome = penstock.Prediction | penstock.PenstockError


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    folder = tmp_path_factory.mktemp("suite")
    with inference.running_suite(
        postgres_server, folder, stream_max_in_flight=IN_FLIGHT, run_limit_ms=1_500, max_message_bytes=2**20
    ) as suite:
        inference.serve(suite, "classifier", models.classifier())
        inference.serve(suite, "strings", models.strings())
        inference.serve(suite, "slow", models.patient())
        yield suite


def classify(row: Any = ROW, *, model: str = "classifier", **more: Any) -> pb.PredictRequest:
    return penstock.make_request(model, tensors={"X": row}, **more)


def hang(turns: int = 2**62) -> pb.PredictRequest:
    """Ask for a run that the server ends after its limit of 1.5 s."""
    return penstock.make_request("slow", tensors={"x": ROW, "turns": np.array([turns])})


def all_of(suite: Suite, *requests: pb.PredictRequest) -> list[Outcome]:
    return list(suite.client.inference.predict_stream(requests))


def reasons(outcomes: list[Outcome]) -> list[str]:
    return [outcome.reason if isinstance(outcome, penstock.PenstockError) else "" for outcome in outcomes]


def in_flight(suite: Suite, model: str) -> int:
    return sum(session.in_flight_count for session in suite.client.inference.sessions(model).sessions)


def test_each_answer_is_its_requests_own_and_as_a_unary_call_gives_it(suite: Suite) -> None:
    rows = [fp32([[number, 1, 2, 3]]) for number in range(50)]
    outcomes = all_of(suite, *(classify(row, request_id=str(number)) for number, row in enumerate(rows)))
    assert len(outcomes) == 50
    for row, outcome in zip(rows, outcomes, strict=True):
        assert isinstance(outcome, penstock.Prediction)
        alone = suite.client.inference.predict("classifier", tensors={"X": row})
        np.testing.assert_allclose(outcome.outputs["probabilities"], alone.outputs["probabilities"], rtol=1e-6)
        assert outcome.outputs["label"].tolist() == alone.outputs["label"].tolist()
    first = outcomes[0]
    assert isinstance(first, penstock.Prediction)
    assert inference.event_of(suite.client, first.inference_id).event.request_id == "0"


def test_a_request_that_fails_says_why_and_leaves_the_others(suite: Suite) -> None:
    outcomes = all_of(
        suite,
        classify(),
        classify(model="nowhere"),
        classify(version="9"),
        classify(ROW[:, :3]),
        classify(user_id="x" * 257),
        classify(priority=-1),
        classify(priority=2),
        classify(priority=1),
    )
    assert reasons(outcomes) == [
        "", "MODEL_NOT_FOUND", "VERSION_NOT_FOUND", "DIMENSION_MISMATCH", "INVALID_FIELD", "INVALID_FIELD",
        "INVALID_FIELD", "",
    ]  # fmt: skip
    assert isinstance(outcomes[1], penstock.NotFound)
    assert isinstance(outcomes[3], penstock.InvalidArgument)
    assert outcomes[3].violations[0].field == "X"


def test_a_run_that_is_ended_fails_alone(suite: Suite) -> None:
    outcomes = all_of(suite, classify(), hang(), classify())
    assert reasons(outcomes) == ["", "RUN_TERMINATED", ""]


def test_a_million_characters_are_one_requests_trouble_or_none(suite: Suite) -> None:
    """Of one byte each they fit a message of 1 MiB; of two they don't, and grpc itself ends the stream."""
    text = penstock.make_request("strings", {"colour": [["x" * 1_000_000]]})
    assert reasons(all_of(suite, text, classify())) == ["", ""]
    too_long = penstock.make_request("strings", {"colour": [["ü" * 1_000_000]]})
    with pytest.raises(penstock.ResourceExhausted):
        all_of(suite, classify(), too_long)


def test_a_stream_without_requests_ends_without_answers(suite: Suite) -> None:
    assert all_of(suite) == []


def test_what_the_requests_raise_is_raised_and_ends_the_stream(suite: Suite) -> None:
    def requests() -> Iterator[pb.PredictRequest]:
        yield classify()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(suite.client.inference.predict_stream(requests()))


def test_leaving_the_answers_frees_what_waits(suite: Suite) -> None:
    answers = suite.client.inference.predict_stream([classify(), *[hang()] * 9])
    assert isinstance(next(answers), penstock.Prediction)
    wait_until(lambda: in_flight(suite, "slow") or None)
    answers.close()
    # What runs is ended by its limit; what waited never runs: only as much fails as could be in flight.
    wait_until(lambda: in_flight(suite, "slow") == 0 or None)
    assert reasons(all_of(suite, classify())) == [""]
    assert not [thread for thread in threading.enumerate() if thread.name == "stream-reader" and _is_stuck(thread)]


def _is_stuck(thread: threading.Thread) -> bool:
    thread.join(DEADLINE_S)
    return thread.is_alive()


class Feed:
    """Requests of a bare stream, sent when the test says so, and counted as grpc takes them."""

    def __init__(self) -> None:
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self.taken_count = 0

    def send(self, *requests: Any) -> None:
        for request in requests:
            self._requests.put(request)

    def __iter__(self) -> Iterator[Any]:
        while (request := self._requests.get()) is not None:
            self.taken_count += 1
            yield request


def test_a_client_that_does_not_read_is_not_read_from(suite: Suite) -> None:
    """Answers of 128 KiB each: what the sockets and flow control hold is far below what the client would send."""
    rows = np.ones((1_000, 4), np.float32)
    request = pb.PredictStreamRequest(request=classify(rows))
    count = 2_000  # 32 MB of requests; sockets hold some 7 MB of them
    feed = Feed()
    feed.send(*[request] * count, None)
    call = suite.predict.PredictStream(iter(feed))
    before = -1
    settled = 0
    while settled < 20:  # nothing has moved for 20 looks
        settled = settled + 1 if feed.taken_count == before else 0
        before = feed.taken_count
        threading.Event().wait(0.02)
    assert feed.taken_count < count / 2
    assert sum(1 for _ in call) == count


def stream_infer(suite: Suite, *requests: oip.ModelInferRequest) -> list[oip.ModelStreamInferResponse]:
    return list(suite.oip.ModelStreamInfer(iter(requests), timeout=DEADLINE_S))


def test_tritons_stream_answers_in_order_with_each_requests_id(suite: Suite) -> None:
    answers = stream_infer(
        suite, *(infer_request("classifier", {"X": ROW * number}, id=f"r-{number}") for number in range(20))
    )
    assert [answer.infer_response.id for answer in answers] == [f"r-{number}" for number in range(20)]
    assert not any(answer.error_message for answer in answers)
    probabilities = from_raw("p", "FP32", (1, 3), answers[3].infer_response.raw_output_contents[1])
    alone = suite.client.inference.predict("classifier", tensors={"X": ROW * 3}).outputs["probabilities"]
    np.testing.assert_allclose(probabilities, alone, rtol=1e-6)


def test_tritons_stream_names_the_request_that_failed_and_goes_on(suite: Suite) -> None:
    mixed = infer_request("classifier", {"X": ROW}, id="mixed")
    mixed.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    sequence = infer_request("classifier", {"X": ROW}, id="sequence")
    sequence.parameters["sequence_id"].int64_param = 7
    answers = stream_infer(
        suite,
        infer_request("nowhere", {"X": ROW}, id="unknown"),
        mixed,
        sequence,
        infer_request("classifier", {"X": ROW}, id="good"),
    )
    assert [answer.infer_response.id for answer in answers] == ["unknown", "mixed", "sequence", "good"]
    assert "Request for unknown model" in answers[0].error_message
    assert "send one of them" in answers[1].error_message
    assert "sequence_id" in answers[2].error_message
    assert answers[3].error_message == ""
    assert len(answers[3].infer_response.raw_output_contents) == 2


def test_tritons_stream_marks_the_last_answer_of_a_request_that_asks_for_it(suite: Suite) -> None:
    asking = infer_request("classifier", {"X": ROW})
    asking.parameters["triton_enable_empty_final_response"].bool_param = True
    marked, failed, plain = stream_infer(
        suite, asking, _renamed(asking, "nowhere"), infer_request("classifier", {"X": ROW})
    )
    for answer in (marked, failed):
        assert answer.infer_response.parameters["triton_final_response"].bool_param
    assert "triton_final_response" not in plain.infer_response.parameters


def _renamed(request: oip.ModelInferRequest, model: str) -> oip.ModelInferRequest:
    copy = oip.ModelInferRequest()
    copy.CopyFrom(request)
    copy.model_name = model
    return copy


def test_bytes_that_are_no_request_end_the_stream_after_what_came_before(suite: Suite) -> None:
    with grpc.insecure_channel(suite.inference.address) as channel:
        call: Any = channel.stream_stream(
            "/penstock.api.inference.v1.InferenceService/PredictStream",
            response_deserializer=pb.PredictStreamResponse.FromString,
        )
        good = pb.PredictStreamRequest(request=classify()).SerializeToString()
        answers = call(iter([good, b"\xff\xff\xff"]), timeout=DEADLINE_S)
        assert next(answers).HasField("prediction")
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("door", ["ours", "tritons"])
def test_a_drain_answers_what_was_taken_and_sends_the_client_on(
    postgres_server: PostgresServer, tmp_path: Path, door: str
) -> None:
    with inference.running_suite(postgres_server, tmp_path, run_limit_ms=1_500) as suite:
        inference.serve(suite, "slow", models.patient())
        feed = Feed()
        slow = infer_request("slow", {"x": ROW, "turns": np.array([2**62])}, id="slow")
        feed.send(*([pb.PredictStreamRequest(request=hang())] if door == "ours" else [slow]) * 2)
        call: Any = (
            suite.predict.PredictStream(iter(feed)) if door == "ours" else suite.oip.ModelStreamInfer(iter(feed))
        )
        wait_until(lambda: in_flight(suite, "slow") == 2 or None)
        draining = threading.Thread(target=suite.inference.server.close)
        draining.start()
        try:
            failed = [next(call), next(call)]
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
        finally:
            draining.join()
            feed.send(None)
    assert all("run" in (each.error.message if door == "ours" else each.error_message) for each in failed)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "another" in (caught.value.details() or "")


def test_a_silent_stream_costs_a_drain_nothing(postgres_server: PostgresServer, tmp_path: Path) -> None:
    with inference.running_suite(postgres_server, tmp_path, drain_grace_ms=600_000) as suite:
        inference.serve(suite, "classifier", models.classifier())
        feed = Feed()
        feed.send(pb.PredictStreamRequest(request=classify()))
        call = suite.predict.PredictStream(iter(feed))
        assert next(call).HasField("prediction")
        suite.inference.server.close()
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        feed.send(None)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
