"""Retraining requests over the socket and a real PostgreSQL; the trainer is a scripted one on the real contract."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock.api.monitoring.v1 import retraining_pb2 as pb
from penstock.api.trainer.v1 import training_pb2 as training
from penstock.cli.embedded.ports import free_port
from penstock.values import from_value
from services.common.errors import Unavailable
from services.monitoring.retraining.models import Reason
from tests.kit import bearing, write_keys
from tests.monitoring import TIMEOUT_S, eventually, new_event, reason
from tests.postgres import PostgresServer
from tests.retraining import Retraining, new_uuid, reason_of, serve_retraining, state_of
from tests.trainer import ScriptedTrainer, no_training_config, serve_trainer

INVALID = grpc.StatusCode.INVALID_ARGUMENT
FAILED = grpc.StatusCode.FAILED_PRECONDITION
UNKNOWN = (grpc.StatusCode.NOT_FOUND, "REQUEST_NOT_FOUND")


@pytest.fixture
def here(clone_database: Callable[[str], str]) -> Iterator[Retraining]:
    """Monitoring without a trainer."""
    with serve_retraining(clone_database("monitoring")) as here:
        yield here


@pytest.fixture
def trainer() -> Iterator[ScriptedTrainer]:
    with serve_trainer() as trainer:
        yield trainer


@pytest.fixture
def there(clone_database: Callable[[str], str], trainer: ScriptedTrainer) -> Iterator[Retraining]:
    """Monitoring with a trainer."""
    with serve_retraining(clone_database("monitoring"), trainer_address=trainer.address) as there:
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
    port, trainer = free_port(), ScriptedTrainer()
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
def test_safety_keeps_people_from_asking_too_often_or_on_too_little(
    there: Retraining, trainer: ScriptedTrainer
) -> None:
    assert reason(there.create) == (FAILED, "TOO_FEW_LABELS")
    there.configure(min_labels=3)
    there.label(2)
    assert reason(there.create) == (FAILED, "TOO_FEW_LABELS")
    there.label(1)
    there.label(5, model="other")
    first = there.create()
    assert (first.label_count, first.version) == (3, "1")
    assert reason(there.create) == (FAILED, "RETRAINING_OPEN")
    assert reason(lambda: there.create(force=True)) == (FAILED, "RETRAINING_OPEN"), "no force opens two"
    there.approve(first.id)
    run_id = there.becomes(first.id, "TRAINING").training_run_id
    trainer.move(run_id, training.TRAINING_RUN_STATE_COMPLETED, new_version="2")
    there.becomes(first.id, "COMPLETED")
    there.label(3)
    assert reason(there.create) == (FAILED, "RETRAINING_TOO_SOON")
    there.configure(min_labels=4, min_interval="0s")
    assert reason(there.create) == (FAILED, "TOO_FEW_LABELS"), "those from before the training are not new"
    there.label(1)
    assert there.create().label_count == 4
    there.configure(enabled=False)
    assert reason(lambda: there.create(model="third", force=True)) == (FAILED, "RETRAINING_OFF")


def test_the_same_request_again_gives_the_first_result(here: Retraining) -> None:
    first = here.create(force=True, request_id="r1")
    assert here.create(force=True, request_id="r1") == first
    assert reason(lambda: here.create(force=True, note="other", request_id="r1")) == (FAILED, "REQUEST_ID_REUSED")
    assert len(here.listed()) == 1


def at_once(here: Retraining, count: int, **fields: Any) -> tuple[list[str], list[tuple[grpc.StatusCode, str]]]:
    """Ask from so many threads at once. Gives the ids that came of it, and what was refused."""
    opened: list[str] = []
    refused: list[tuple[grpc.StatusCode, str]] = []
    barrier = threading.Barrier(count)

    def ask() -> None:
        barrier.wait()
        try:
            opened.append(here.create(force=True, **fields).id)
        except grpc.RpcError as error:
            refused.append((error.code(), error.details() or ""))

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return opened, refused


def test_of_many_at_once_one_is_opened(here: Retraining) -> None:
    opened, refused = at_once(here, 6)
    assert len(opened) == 1
    assert all(code is FAILED and "is open already" in details for code, details in refused)


def test_the_same_request_many_times_at_once_gives_all_the_one_result(here: Retraining) -> None:
    opened, refused = at_once(here, 6, request_id="r1")
    assert (len(opened), len(set(opened)), refused) == (6, 1, [])


def test_a_decision_is_made_once_by_an_admin_and_a_no_says_why(
    clone_database: Callable[[str], str], tmp_path: Path
) -> None:
    write_keys(tmp_path / "keys.json", ada="admin", otto="operator", eve="viewer")
    with serve_retraining(clone_database("monitoring"), keys_file=tmp_path / "keys.json") as here:
        request = pb.CreateRetrainingRequestRequest(model="iris", force=True)
        asked = here.stub.CreateRetrainingRequest(request, metadata=bearing("otto"), timeout=TIMEOUT_S)
        rejection = pb.RejectRetrainingRequestRequest(id=asked.retraining_request.id, note="not before the audit")
        with pytest.raises(grpc.RpcError) as weak:
            here.stub.RejectRetrainingRequest(rejection, metadata=bearing("otto"), timeout=TIMEOUT_S)
        assert weak.value.code() is grpc.StatusCode.PERMISSION_DENIED
        answer = here.stub.RejectRetrainingRequest(rejection, metadata=bearing("ada"), timeout=TIMEOUT_S)
        rejected = answer.retraining_request
        assert (rejected.requested_by, rejected.decided_by) == ("otto", "ada")
        assert (state_of(rejected), rejected.decision_note) == ("REJECTED", "not before the audit")
        approval = pb.ApproveRetrainingRequestRequest(id=rejected.id)
        with pytest.raises(grpc.RpcError, match="REJECTED and cannot become APPROVED"):
            here.stub.ApproveRetrainingRequest(approval, metadata=bearing("ada"), timeout=TIMEOUT_S)


def test_what_nobody_decides_expires(here: Retraining) -> None:
    here.configure(expiry="1h")
    asked = here.create(force=True)
    here.monitoring.query("UPDATE monitoring.retraining_requests SET expire_time = now() RETURNING 1")
    expired = here.becomes(asked.id, "EXPIRED")
    assert expired.history[-1].note == "Nobody decided in time."
    assert reason(lambda: here.approve(asked.id)) == (FAILED, "WRONG_STATE")


def test_what_has_just_expired_is_not_approved_though_nobody_has_swept_it_yet(
    clone_database: Callable[[str], str],
) -> None:
    with serve_retraining(clone_database("monitoring"), retraining_interval_ms=3_600_000) as here:
        asked = here.create(force=True)
        here.monitoring.query("UPDATE monitoring.retraining_requests SET expire_time = now() RETURNING 1")
        assert reason(lambda: here.approve(asked.id)) == (FAILED, "WRONG_STATE")
        assert state_of(here.get(asked.id)) == "PENDING"


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


def test_lists_are_filtered_and_paged_the_newest_first(here: Retraining) -> None:
    asked = [here.create(model=f"model-{number}", force=True).id for number in range(5)]
    here.reject(asked[0])
    first = here.stub.ListRetrainingRequests(pb.ListRetrainingRequestsRequest(page_size=3), timeout=TIMEOUT_S)
    rest = here.listed(page_size=3, page_token=first.next_page_token)
    assert [each.id for each in (*first.retraining_requests, *rest)] == asked[::-1]
    assert [each.id for each in here.listed(model="model-2")] == [asked[2]]
    rejected = here.listed(states=[pb.RETRAINING_STATE_REJECTED, pb.RETRAINING_STATE_FAILED])
    assert [each.id for each in rejected] == [asked[0]]
    for bad, expected in (
        ({"page_size": 1_001}, "INVALID_PAGE_SIZE"),
        ({"page_token": "x"}, "INVALID_PAGE_TOKEN"),
        ({"page_token": first.next_page_token, "model": "model-1"}, "INVALID_PAGE_TOKEN"),
        ({"states": [99]}, "INVALID_FIELD"),
    ):
        assert reason(lambda bad=bad: here.listed(**bad)) == (INVALID, expected)  # type: ignore[misc] # bound now


def test_bad_requests_are_refused(here: Retraining) -> None:
    assert reason(lambda: here.create(model="")) == (INVALID, "MODEL_REQUIRED")
    assert reason(lambda: here.create(note="x" * 1_001)) == (INVALID, "INVALID_TEXT")
    assert reason(lambda: here.create(version="a\0b")) == (INVALID, "INVALID_TEXT")
    for id_ in ("", "nonsense", str(new_uuid())):
        assert reason(lambda id_=id_: here.get(id_)) == UNKNOWN  # type: ignore[misc] # bound now
        assert reason(lambda id_=id_: here.approve(id_)) == UNKNOWN  # type: ignore[misc]
        assert reason(lambda id_=id_: here.reject(id_)) == UNKNOWN  # type: ignore[misc]
    asked = here.create(force=True)
    assert reason(lambda: here.reject(asked.id, " ")) == (INVALID, "NOTE_REQUIRED")


def test_what_was_found_raises_one_request_which_names_its_check_and_its_alert(here: Retraining) -> None:
    here.configure(min_labels=2)
    here.label(2)
    check_id, alert_id = new_uuid(), new_uuid()
    details = {"metric": "drift_effect", "value": 0.5, "features": ["petal_length"]}
    here.find(check_id=check_id, details=details)
    here.find(alert_id=alert_id, check_id=check_id)
    here.weighed()
    (raised,) = here.listed()
    assert (state_of(raised), reason_of(raised), raised.requested_by) == ("PENDING", "DRIFT_DETECTED", "monitoring")
    assert (raised.check_id, raised.alert_id) == (str(check_id), str(alert_id))
    assert (raised.label_count, raised.version) == (2, "1")
    assert {name: from_value(value) for name, value in raised.details.fields.items()} == details


def test_an_alert_that_raises_nothing_itself_is_answered_by_what_its_check_raised(here: Retraining) -> None:
    here.configure(min_labels=0)
    check_id = new_uuid()
    here.find(check_id=check_id)
    at_once, later, other = new_uuid(), new_uuid(), new_uuid()
    here.find(check_id=check_id, alert_id=at_once, raises=False)
    here.find(check_id=new_uuid(), alert_id=later, raises=False)
    here.find(check_id=new_uuid(), alert_id=other, version="2", raises=False)
    here.weighed()
    (raised,) = here.listed()
    assert (raised.check_id, raised.alert_id) == (str(check_id), "")
    answered = here.monitoring.query("SELECT retraining_id::text, alert_id FROM monitoring.retraining_alerts")
    assert sorted(answered) == sorted([(raised.id, at_once), (raised.id, later)])


def test_what_was_found_for_another_reason_is_no_part_of_an_open_request(here: Retraining) -> None:
    here.configure(min_labels=0)
    here.find(check_id=new_uuid())
    here.find(Reason.ERROR_RATE_THRESHOLD, alert_id=new_uuid())
    here.find(version="2", alert_id=new_uuid())
    here.weighed()
    (raised,) = here.listed()
    assert (reason_of(raised), raised.version, raised.alert_id) == ("DRIFT_DETECTED", "1", "")


def test_what_was_found_again_after_a_no_is_not_asked_again(here: Retraining) -> None:
    here.configure(min_labels=0)
    here.find()
    here.weighed()
    (raised,) = here.listed()
    here.reject(raised.id)
    here.find()
    here.weighed()
    assert len(here.listed()) == 1
    assert state_of(here.create()) == "PENDING", "a person may"


def test_what_is_found_on_too_few_labels_raises_nothing(here: Retraining) -> None:
    here.label(3)
    here.find()
    here.find(Reason.ERROR_RATE_THRESHOLD)
    here.weighed()
    assert here.listed() == []


@pytest.mark.slow
def test_the_calendar_raises_requests(here: Retraining) -> None:
    here.label(1, version="4")
    here.configure(min_labels=1, schedule_interval="30d")
    eventually(lambda: bool(here.listed()))
    found = here.listed()
    assert (reason_of(found[0]), found[0].version) == ("SCHEDULED", "4")


@pytest.mark.slow
def test_an_error_rate_raises_a_request_for_the_version_that_fails(here: Retraining) -> None:
    here.configure(min_labels=0)
    here.monitoring.record(*(new_event(version="4", error_code="MODEL_FAILED") for _ in range(49)))
    here.monitoring.record(*(new_event(model="fine") for _ in range(200)))
    here.monitoring.record(new_event(version="4"))
    eventually(lambda: bool(here.listed()))
    found = here.listed()
    assert [(each.model, each.version, reason_of(each)) for each in found] == [("iris", "4", "ERROR_RATE_THRESHOLD")]
    assert found[0].details.fields["value"].number_value == pytest.approx(0.98)
