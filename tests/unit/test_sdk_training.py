"""The trainer's client: what it asks, and that a retry makes no second run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock import Client, RetryPolicy
from penstock import errors as sdk
from penstock.api.trainer.v1 import training_pb2 as pb
from services.common import errors
from tests.sdk import ScriptedServer, answer, client_of, fail, scripted_server

QUICK = RetryPolicy(attempts=3, base_delay_s=0.001, max_delay_s=0.002)
RUN = pb.TrainingRun(id="r", model="iris", state=pb.TRAINING_RUN_STATE_QUEUED)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server, trainer=server.address, retry=QUICK) as client:
        yield client


def test_a_run_is_asked_for_again_under_one_id(server: ScriptedServer, client: Client) -> None:
    gone = fail(errors.Unavailable("the trainer starts"))
    server.on("CreateTrainingRun", gone, answer(pb.CreateTrainingRunResponse(run=RUN)))
    run = client.training.create_run(
        "iris",
        type="finetune",
        parent_version="1",
        config_version=3,
        requested_by="ada",
        retraining_request_id="q",
        note="why not",
    )
    assert run == RUN
    first, again = server.calls["CreateTrainingRun"]
    assert first.request_id
    assert first == again
    assert first == pb.CreateTrainingRunRequest(
        model="iris",
        type=pb.TRAINING_TYPE_FINETUNE,
        parent_version="1",
        config_version=3,
        trigger=pb.TrainingTrigger(requested_by="ada", retraining_request_id="q", note="why not"),
        request_id=first.request_id,
    )


def test_the_callers_own_id_is_kept(server: ScriptedServer, client: Client) -> None:
    server.on("CreateTrainingRun", answer(pb.CreateTrainingRunResponse(run=RUN)))
    client.training.create_run("iris", request_id="mine")
    assert server.calls["CreateTrainingRun"] == [
        pb.CreateTrainingRunRequest(model="iris", trigger=pb.TrainingTrigger(), request_id="mine")
    ]


def test_a_run_that_is_not_there_is_not_found(server: ScriptedServer, client: Client) -> None:
    server.on(
        "GetTrainingRun",
        answer(pb.GetTrainingRunResponse(run=RUN)),
        fail(errors.NotFound("no such run", reason="RUN_NOT_FOUND")),
    )
    assert client.training.get_run("r") == RUN
    with pytest.raises(sdk.NotFound) as caught:
        client.training.get_run("r")
    assert caught.value.reason == "RUN_NOT_FOUND"
