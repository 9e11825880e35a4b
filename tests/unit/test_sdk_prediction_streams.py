"""The SDK's stream of predictions against a scripted server: its errors, and what was not answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import penstock
from penstock.api.inference.v1 import inference_pb2 as pb
from penstock.api.status.v1.status_pb2 import Status
from services.common import errors
from services.common.status import status_of
from tests.sdk import ScriptedServer, scripted_server


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


def answering(*answers: pb.PredictStreamResponse, early: bool = False) -> Any:
    """Answer as many requests as there are answers, and end with the client, or early."""

    def behaviour(requests: Iterator[Any], _context: Any) -> Iterator[Any]:
        for answer in answers:
            next(requests)
            yield answer
        while not early and next(requests, None) is not None:
            pass

    return behaviour


def outcomes(server: ScriptedServer, count: int) -> list[penstock.Prediction | penstock.PenstockError]:
    request = penstock.make_request("iris", tensors={"X": np.zeros((1, 4), np.float32)})
    with penstock.Client(inference=server.address) as client:
        return list(client.inference.predict_stream([request] * count))


def test_an_error_in_the_stream_is_the_error_that_a_unary_call_would_raise(server: ScriptedServer) -> None:
    missing = errors.InvalidArgument.field("X", "this input is missing", reason="MISSING_INPUT")
    busy = errors.ResourceExhausted("full", reason="QUEUE_FULL", retry_after_s=0.5)
    answers = [pb.PredictStreamResponse(error=status_of(error)) for error in (missing, busy)]
    server.on(
        "PredictStream", answering(*answers, pb.PredictStreamResponse(prediction=pb.PredictResponse(version="1")))
    )
    first, second, third = outcomes(server, 3)
    assert isinstance(first, penstock.InvalidArgument)
    assert (first.reason, first.violations[0].field) == ("MISSING_INPUT", "X")
    assert isinstance(second, penstock.ResourceExhausted)
    assert (second.retryable, second.retry_after_s) == (True, 0.5)
    assert isinstance(third, penstock.Prediction)


def test_an_error_without_details_keeps_its_code_and_sentence(server: ScriptedServer) -> None:
    server.on("PredictStream", answering(pb.PredictStreamResponse(error=Status(code=5, message="gone"))))
    (only,) = outcomes(server, 1)
    assert isinstance(only, penstock.NotFound)
    assert (only.reason, only.message) == ("NOT_FOUND", "gone")


def test_a_stream_that_ends_early_says_how_many_were_answered(server: ScriptedServer) -> None:
    server.on("PredictStream", answering(pb.PredictStreamResponse(prediction=pb.PredictResponse()), early=True))
    with pytest.raises(penstock.Unavailable) as caught:
        outcomes(server, 500)
    assert caught.value.reason == "STREAM_ENDED_EARLY"
