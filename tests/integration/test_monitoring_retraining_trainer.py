"""Approved requests at the trainer, a scripted one on the real contract, over sockets and a real PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

import penstock
from penstock.api.monitoring.v1 import retraining_pb2 as pb
from penstock.api.trainer.v1 import training_pb2 as training
from penstock.cli.embedded.ports import free_port
from services.common.errors import Internal, Unavailable
from tests.monitoring import eventually, new_event, reason
from tests.postgres import PostgresServer
from tests.retraining import Retraining, reason_of, serve_retraining, state_of
from tests.trainer import ScriptedTrainer, no_training_config, serve_trainer

FAILED = grpc.StatusCode.FAILED_PRECONDITION
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def trainer() -> Iterator[ScriptedTrainer]:
    with serve_trainer() as trainer:
        yield trainer


@pytest.fixture
def there(clone_database: Callable[[str], str], trainer: ScriptedTrainer) -> Iterator[Retraining]:
    """Monitoring with a trainer."""
    url = clone_database("monitoring")
    with serve_retraining(url, trainer_address=trainer.address, database_pool_size=12) as there:
        yield there


def test_a_request_by_hand_becomes_a_new_version(there: Retraining, trainer: ScriptedTrainer) -> None:
    there.monitoring.record(new_event(version="7"))
    asked = there.create(note="it is old", force=True)
    assert (state_of(asked), reason_of(asked), asked.version) == ("PENDING", "MANUAL", "7")
    assert asked.requested_by == "anonymous"
    assert asked.expire_time.ToDatetime() - asked.create_time.ToDatetime() == timedelta(days=7)
    approved = there.approve(asked.id, "the new data is in")
    assert (approved.decided_by, approved.decision_note) == ("anonymous", "the new data is in")
    taken = there.becomes(asked.id, "TRAINING")
    request = trainer.asked[0]
    assert (request.model, request.parent_version, request.request_id) == ("iris", "7", asked.id)
    assert request.trigger == training.TrainingTrigger(
        requested_by="anonymous", retraining_request_id=asked.id, note="the new data is in"
    )
    trainer.move(taken.training_run_id, training.TRAINING_RUN_STATE_RUNNING)
    trainer.move(taken.training_run_id, training.TRAINING_RUN_STATE_COMPLETED, new_version="8", validation_passed=False)
    done = there.becomes(asked.id, "COMPLETED")
    assert done.new_version == "8"
    assert done.message == "Version 8 is there; it does not meet the success criteria."
    assert [pb.RetrainingState.Name(step.state)[17:] for step in done.history] == [
        "PENDING", "APPROVED", "TRAINING", "COMPLETED",
    ]  # fmt: skip
    assert [step.actor for step in done.history] == ["anonymous", "anonymous", "", ""]
    assert [step.note for step in done.history[:2]] == ["it is old", "the new data is in"]
    assert len(trainer.runs) == 1


def test_an_approved_request_waits_for_a_trainer_and_says_so(
    clone_database: Callable[[str], str], trainer: ScriptedTrainer
) -> None:
    url = clone_database("monitoring")
    with serve_retraining(url) as here:
        asked = here.create(force=True)
        here.approve(asked.id)
        eventually(lambda: "none is configured" in here.get(asked.id).message)
        assert state_of(here.get(asked.id)) == "APPROVED"
    trainer.refusal = Unavailable("the trainer starts", reason="STARTING")
    with serve_retraining(url, trainer_address=trainer.address) as there:
        eventually(lambda: "the trainer starts" in there.get(asked.id).message)
        assert state_of(there.get(asked.id)) == "APPROVED"
        trainer.refusal = None
        there.becomes(asked.id, "TRAINING")
    assert len(trainer.runs) == 1, "asked again and again, it is one run"


def test_a_trainer_that_goes_away_in_mid_run_is_waited_for(clone_database: Callable[[str], str]) -> None:
    port, trainer = free_port(), ScriptedTrainer()  # type: ignore[abstract] # as in tests.trainer
    with serve_retraining(clone_database("monitoring"), trainer_address=f"127.0.0.1:{port}") as there:
        with serve_trainer(trainer, port=port):
            asked = there.create(force=True)
            there.approve(asked.id)
            run_id = there.becomes(asked.id, "TRAINING").training_run_id
        eventually(lambda: "gives no answer" in there.get(asked.id).message)
        assert state_of(there.get(asked.id)) == "TRAINING"
        trainer.move(run_id, training.TRAINING_RUN_STATE_COMPLETED, new_version="2")
        with serve_trainer(trainer, port=port):
            there.becomes(asked.id, "COMPLETED")


def test_a_run_whose_trainer_was_taken_out_of_the_settings_waits(
    clone_database: Callable[[str], str], trainer: ScriptedTrainer
) -> None:
    url = clone_database("monitoring")
    with serve_retraining(url, trainer_address=trainer.address) as there:
        asked = there.create(force=True)
        there.approve(asked.id)
        there.becomes(asked.id, "TRAINING")
    with serve_retraining(url) as here:
        eventually(lambda: "none is configured" in here.get(asked.id).message)
        assert state_of(here.get(asked.id)) == "TRAINING"


@pytest.mark.slow
def test_a_database_that_goes_away_while_the_trainer_trains_loses_nothing(
    own_postgres_server: PostgresServer, trainer: ScriptedTrainer
) -> None:
    url = own_postgres_server.clone("monitoring")
    with serve_retraining(url, trainer_address=trainer.address, database_pool_wait_ms=1_000) as there:
        asked = there.create(force=True)
        there.approve(asked.id)
        run_id = there.becomes(asked.id, "TRAINING").training_run_id
        own_postgres_server.stop()
        assert reason(lambda: there.get(asked.id)) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
        trainer.move(run_id, training.TRAINING_RUN_STATE_COMPLETED, new_version="2")
        own_postgres_server.start()

        def answers() -> bool:
            try:
                return state_of(there.get(asked.id)) == "COMPLETED"
            except grpc.RpcError:
                return False

        eventually(answers, within_s=60)
        assert there.get(asked.id).new_version == "2"


def test_a_key_that_is_not_there_yet_is_waited_for(
    clone_database: Callable[[str], str], trainer: ScriptedTrainer, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    with serve_retraining(
        clone_database("monitoring"), trainer_address=trainer.address, service_token_file=file
    ) as there:
        asked = there.create(force=True)
        there.approve(asked.id)
        eventually(lambda: "No such file" in there.get(asked.id).message)
        file.write_text("\n")
        eventually(lambda: "BROKEN_TOKEN_FILE" in there.get(asked.id).message)
        file.write_text("pk_made\n")
        there.becomes(asked.id, "TRAINING")


def test_a_run_is_found_again_by_a_service_that_was_killed_between_asking_and_writing(
    there: Retraining, trainer: ScriptedTrainer
) -> None:
    asked = there.create(force=True)
    there.approve(asked.id)
    run_id = there.becomes(asked.id, "TRAINING").training_run_id
    there.monitoring.query("""
        UPDATE monitoring.retraining_requests SET state = 'APPROVED', training_run_id = '', train_time = NULL
        RETURNING 1
    """)
    assert there.becomes(asked.id, "TRAINING").training_run_id == run_id
    assert len(trainer.runs) == 1


@pytest.mark.parametrize(
    ("state", "fields", "message"),
    [
        (training.TRAINING_RUN_STATE_FAILED, {"message": "it ran out of memory"}, "it ran out of memory"),
        (training.TRAINING_RUN_STATE_CANCELLED, {}, "is cancelled."),
        (training.TRAINING_RUN_STATE_COMPLETED, {}, "has made no version"),
    ],
)
def test_a_run_that_makes_no_version_fails_its_request(
    there: Retraining, trainer: ScriptedTrainer, state: int, fields: dict[str, Any], message: str
) -> None:
    asked = there.create(force=True)
    there.approve(asked.id)
    trainer.move(there.becomes(asked.id, "TRAINING").training_run_id, state, **fields)
    failed = there.becomes(asked.id, "FAILED")
    assert message in failed.message
    assert failed.history[-1].note == failed.message


def test_what_the_trainer_refuses_or_forgets_fails(there: Retraining, trainer: ScriptedTrainer) -> None:
    trainer.refusal = no_training_config()
    asked = there.create(force=True)
    there.approve(asked.id)
    assert "NO_TRAINING_CONFIG" in there.becomes(asked.id, "FAILED").message
    trainer.refusal = None
    asked = there.create(force=True)
    there.approve(asked.id)
    trainer.forget(there.becomes(asked.id, "TRAINING").training_run_id)
    assert "RUN_NOT_FOUND" in there.becomes(asked.id, "FAILED").message


@pytest.mark.slow
def test_two_replicas_hand_each_request_over_once(
    clone_database: Callable[[str], str], trainer: ScriptedTrainer
) -> None:
    url = clone_database("monitoring")
    with (
        serve_retraining(url, trainer_address=trainer.address) as one,
        serve_retraining(url, trainer_address=trainer.address) as other,
    ):
        asked = [one.create(model=f"model-{number}", force=True).id for number in range(12)]
        for number, id_ in enumerate(asked):
            (one, other)[number % 2].approve(id_)
        runs = {id_: one.becomes(id_, "TRAINING").training_run_id for id_ in asked}
        assert sorted(runs.values()) == sorted(trainer.runs)
        for run_id in runs.values():
            trainer.move(run_id, training.TRAINING_RUN_STATE_COMPLETED, new_version="2")
        for id_ in asked:
            assert len(other.becomes(id_, "COMPLETED").history) == 4, "each step is taken once"


def test_one_request_that_the_trainer_breaks_on_keeps_no_other_from_it(
    there: Retraining, trainer: ScriptedTrainer
) -> None:
    trainer.broken["iris"] = Internal("it fell over", reason="INTERNAL")
    first, second = there.create(force=True), there.create(model="other", force=True)
    there.approve(first.id)
    there.approve(second.id)
    there.becomes(second.id, "TRAINING")
    eventually(lambda: "gives no answer" in there.get(first.id).message)
    assert state_of(there.get(first.id)) == "APPROVED"
    del trainer.broken["iris"]
    there.becomes(first.id, "TRAINING")


def test_what_the_trainer_is_just_taking_is_not_withdrawn(there: Retraining, trainer: ScriptedTrainer) -> None:
    asked, goes_on = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        goes_on.wait(60)

    trainer.when_asked = hold
    request = there.create(force=True)
    there.approve(request.id)
    assert asked.wait(60)
    refused: list[tuple[grpc.StatusCode, str]] = []
    withdrawing = threading.Thread(target=lambda: refused.append(reason(lambda: there.reject(request.id))))
    withdrawing.start()
    eventually(lambda: there.monitoring.query(WAITING) == [(1,)])
    goes_on.set()
    withdrawing.join()
    assert refused == [(FAILED, "WRONG_STATE")]
    assert state_of(there.get(request.id)) == "TRAINING"


def test_of_approvals_at_once_one_counts_and_one_run_comes_of_them(there: Retraining, trainer: ScriptedTrainer) -> None:
    asked = there.create(force=True)
    row = "SELECT FROM monitoring.retraining_requests WHERE retraining_id = %s FOR UPDATE"
    with penstock.Client(monitoring=there.monitoring.address) as client, ThreadPoolExecutor(6) as threads:

        def approve(number: int) -> str:
            try:
                return client.monitoring.retraining.approve(asked.id, note=f"approval {number}").decision_note
            except penstock.FailedPrecondition as error:
                return error.reason

        with psycopg.connect(there.monitoring.database_url) as holding:
            holding.execute(row, [asked.id])
            answers = [threads.submit(approve, number) for number in range(6)]
            eventually(lambda: there.monitoring.query(WAITING) == [(6,)])
        said = [answer.result(60) for answer in answers]
    (won,) = set(said) - {"WRONG_STATE"}
    assert said.count("WRONG_STATE") == 5
    trained = there.becomes(asked.id, "TRAINING")
    assert trained.decision_note == won
    assert [step.note for step in trained.history][:2] == ["", won]
    assert len(trained.history) == 3
    assert list(trainer.runs) == [trained.training_run_id]
    assert len(trainer.asked) == 1
