"""The trainer's client: watches and logs that break and go on, lists page by page, and what each call asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from penstock import Client, RetryPolicy
from penstock import errors as sdk
from penstock.api.trainer.v1 import training_pb2 as pb
from services.common import errors
from tests.sdk import ScriptedServer, answer, client_of, fail, scripted_server, stream

QUICK = RetryPolicy(attempts=3, base_delay_s=0.001, max_delay_s=0.002)
GONE = errors.Unavailable("the trainer stops", reason="DRAINING")
RUNNING = pb.TrainingRun(id="r", state=pb.TRAINING_RUN_STATE_RUNNING)
DONE = pb.TrainingRun(id="r", state=pb.TRAINING_RUN_STATE_COMPLETED)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server, trainer=server.address, retry=QUICK) as client:
        yield client


def told(*numbers: int, run: pb.TrainingRun = RUNNING) -> pb.WatchTrainingRunResponse:
    return pb.WatchTrainingRunResponse(run=run, epochs=[pb.TrainingEpoch(number=number) for number in numbers])


def test_a_watch_that_breaks_goes_on_after_the_last_epoch_that_came(server: ScriptedServer, client: Client) -> None:
    broken: list[Exception] = []
    rest = stream(told(4), told(run=DONE), told(9))
    server.on("WatchTrainingRun", stream(told(1, 2), told(3), told(), then=GONE), fail(GONE), stream(told()), rest)
    seen = list(client.training.watch_run("r", broken=broken.append))
    assert [epoch.number for each in seen for epoch in each.epochs] == [1, 2, 3, 4]
    assert seen[-1].run == DONE, "nothing comes after the end"
    assert [request.after_epoch for request in server.calls["WatchTrainingRun"]] == [0, 3, 3, 3]
    assert [each.reason for each in broken if isinstance(each, sdk.PenstockError)] == ["DRAINING"]
    server.on("WatchTrainingRun", rest)
    assert client.training.wait_run("r") == DONE
    list(client.training.watch_run("r", after_epoch=7))
    assert server.calls["WatchTrainingRun"][-1].after_epoch == 7


def test_what_is_not_there_is_not_watched_again(server: ScriptedServer, client: Client) -> None:
    missing = fail(errors.NotFound("no such run", reason="RUN_NOT_FOUND"))
    calls: dict[str, Callable[[], object]] = {
        "WatchTrainingRun": lambda: client.training.wait_run("r"),
        "ReadTrainingLog": lambda: list(client.training.log("r")),
        "ListTrainingEpochs": lambda: list(client.training.epochs("r")),
        "DeleteTrainingRun": lambda: client.training.delete_run("r"),
    }
    for rpc, call in calls.items():
        server.on(rpc, missing)
        with pytest.raises(sdk.NotFound) as caught:
            call()
        assert (caught.value.reason, len(server.calls[rpc])) == ("RUN_NOT_FOUND", 1)


def test_a_log_that_breaks_goes_on_at_the_byte_where_it_was(server: ScriptedServer, client: Client) -> None:
    pieces = [pb.ReadTrainingLogResponse(chunk=b"abc", offset=5), pb.ReadTrainingLogResponse(chunk=b"d", offset=108)]
    server.on("ReadTrainingLog", stream(pieces[0], then=GONE), stream(pieces[1]))
    assert list(client.training.log("r", offset=5, follow=True)) == pieces
    asked = [(request.offset, request.follow) for request in server.calls["ReadTrainingLog"]]
    assert asked == [(5, True), (8, True)]


def test_lists_are_asked_for_page_by_page_as_they_are_wanted(server: ScriptedServer, client: Client) -> None:
    first = pb.ListTrainingRunsResponse(runs=[RUNNING], next_page_token="more")
    server.on("ListTrainingRuns", answer(first), answer(pb.ListTrainingRunsResponse(runs=[DONE])))
    runs = client.training.list_runs(model="iris", states=["Queued", pb.TRAINING_RUN_STATE_FAILED], page_size=1)
    assert next(runs) == RUNNING
    assert len(server.calls["ListTrainingRuns"]) == 1
    assert list(runs) == [DONE]
    states = [pb.TRAINING_RUN_STATE_QUEUED, pb.TRAINING_RUN_STATE_FAILED]
    assert server.calls["ListTrainingRuns"] == [
        pb.ListTrainingRunsRequest(model="iris", states=states, page_size=1, page_token=token) for token in ("", "more")
    ]
    with pytest.raises(sdk.InvalidArgument, match="states"):
        list(client.training.list_runs(states=["done"]))
    epochs = [pb.TrainingEpoch(number=number) for number in (1, 2)]
    server.on(
        "ListTrainingEpochs",
        answer(pb.ListTrainingEpochsResponse(epochs=epochs[:1], next_page_token="more")),
        answer(pb.ListTrainingEpochsResponse(epochs=epochs[1:])),
    )
    assert list(client.training.epochs("r")) == epochs


def test_an_end_that_is_asked_for_is_asked_for_again_where_nobody_answers(
    server: ScriptedServer, client: Client
) -> None:
    server.on("CancelTrainingRun", fail(GONE), answer(pb.CancelTrainingRunResponse(run=RUNNING)))
    assert client.training.cancel_run("r") == RUNNING
    assert [request.id for request in server.calls["CancelTrainingRun"]] == ["r", "r"]
    server.on("DeleteTrainingRun", answer(pb.DeleteTrainingRunResponse()))
    client.training.delete_run("r")
    recipe = pb.Recipe(name="sklearn", allowed=True)
    server.on("ListRecipes", answer(pb.ListRecipesResponse(recipes=[recipe])))
    assert client.training.recipes() == [recipe]
