"""Retraining requests over the socket and a real PostgreSQL: asked for by people, and decided by people."""

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
from tests.kit import bearing, write_keys
from tests.monitoring import TIMEOUT_S, new_event, reason
from tests.retraining import Retraining, new_uuid, serve_retraining, state_of
from tests.trainer import ScriptedTrainer, serve_trainer

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


def test_an_approval_by_mistake_is_withdrawn_while_no_trainer_has_it(here: Retraining) -> None:
    asked = here.create(force=True)
    here.approve(asked.id, "by mistake")
    withdrawn = here.reject(asked.id, "it was the wrong model")
    assert (state_of(withdrawn), withdrawn.decision_note, withdrawn.message) == (
        "REJECTED",
        "it was the wrong model",
        "",
    )
    assert [step.note for step in here.get(asked.id).history[1:]] == ["by mistake", "it was the wrong model"]
    assert state_of(here.create(force=True)) == "PENDING", "it is in the way of no other"


def test_a_decision_stands_though_it_is_made_again(here: Retraining) -> None:
    asked = here.create(force=True)
    here.approve(asked.id, "first")
    assert reason(lambda: here.approve(asked.id, "second")) == (FAILED, "WRONG_STATE")
    here.reject(asked.id, "third")
    assert reason(lambda: here.reject(asked.id, "fourth")) == (FAILED, "WRONG_STATE")
    assert here.get(asked.id).decision_note == "third"


def test_an_approval_that_no_trainer_takes_expires_and_does_not_train_months_later(here: Retraining) -> None:
    here.configure(approval_expiry="20d")
    asked = here.create(force=True)
    approved = here.approve(asked.id)
    assert approved.expire_time.ToDatetime() - approved.decide_time.ToDatetime() == timedelta(days=20)
    here.monitoring.query("UPDATE monitoring.retraining_requests SET expire_time = now() RETURNING 1")
    assert here.becomes(asked.id, "EXPIRED").history[-1].note == "No trainer took it in time."


def test_the_version_that_answered_last_is_none_that_failed(here: Retraining) -> None:
    here.monitoring.record(new_event(version="7", age_s=60))
    here.monitoring.record(new_event(version="8", age_s=30, error_code="MODEL_FAILED"))
    here.monitoring.record(new_event(version="", error_code="MODEL_NOT_FOUND"))
    assert here.create(force=True).version == "7"


def test_what_has_just_expired_is_not_approved_though_nobody_has_swept_it_yet(
    clone_database: Callable[[str], str],
) -> None:
    with serve_retraining(clone_database("monitoring"), retraining_interval_ms=3_600_000) as here:
        asked = here.create(force=True)
        here.monitoring.query("UPDATE monitoring.retraining_requests SET expire_time = now() RETURNING 1")
        assert reason(lambda: here.approve(asked.id)) == (FAILED, "WRONG_STATE")
        assert state_of(here.get(asked.id)) == "PENDING"


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
