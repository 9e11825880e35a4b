"""What a lineage can't show and says so, what it refuses, and how much it asks of the registry for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import grpc
import pytest

from penstock import Client
from penstock.api.registry.v1.registry_pb2 import STAGE_ARCHIVED
from services.monitoring.registry_reader import PLACES, MissingError, RegistryReader
from tests import quick_registry
from tests.lineage import Suite, ask, suite_of
from tests.monitoring import new_event, new_id, reason
from tests.registry import promote
from tests.retraining import new_uuid, serve_retraining

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MISSING = grpc.StatusCode.NOT_FOUND
NOWHERE = "127.0.0.1:1"
"""Nobody listens here."""


@pytest.fixture
def suite(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Suite]:
    with suite_of(clone_database, tmp_path) as suite:
        yield suite


def test_what_cannot_be_asked_is_missing_and_says_why(clone_database: Callable[[str], str]) -> None:
    with serve_retraining(clone_database("monitoring"), registry_address=NOWHERE) as here:
        event = new_event(version="2")
        here.monitoring.record(event)
        found = ask(here, inference_id=event.inference_id)
        (version,) = found.of("VERSION")
        assert "the registry gives no answer" in version.missing
        assert found.said == {("iris/2", "answered", event.inference_id)}
        here.configure(min_labels=0)
        here.find()
        here.weighed()
        (raised,) = here.listed()
        here.monitoring.query("""
            UPDATE monitoring.retraining_requests SET state = 'COMPLETED', training_run_id = 'r', new_version = '2'
            RETURNING 1
        """)
        (run,) = ask(here, retraining_request_id=raised.id).of("TRAINING_RUN")
        assert "no trainer is configured" in run.missing


@pytest.mark.slow
def test_a_registry_that_is_deaf_holds_no_more_than_a_few_questions(clone_database: Callable[[str], str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        with serve_retraining(clone_database("monitoring"), registry_address=address) as here:
            event = new_event()
            here.monitoring.record(event)

            def missing(_: int) -> str:
                (version,) = ask(here, inference_id=event.inference_id).of("VERSION")
                return version.missing

            with ThreadPoolExecutor(PLACES + 2) as threads:
                said = list(threads.map(missing, range(PLACES + 2)))
            assert sum("the registry gives no answer" in each for each in said) == PLACES
            assert sum("many wait for an answer of the registry" in each for each in said) == 2


def test_a_registry_that_cannot_be_asked_for_want_of_a_key_is_missing_too(
    clone_database: Callable[[str], str], tmp_path: Path
) -> None:
    with serve_retraining(clone_database("monitoring"), service_token_file=tmp_path / "token") as here:
        event = new_event()
        here.monitoring.record(event)
        (version,) = ask(here, inference_id=event.inference_id).of("VERSION")
        assert "No such file" in version.missing


def test_a_version_that_the_registry_does_not_know_is_shown_as_that(suite: Suite) -> None:
    event = new_event(model="stranger", version="9")
    suite.monitoring.monitoring.record(event)
    (version,) = ask(suite.monitoring, inference_id=event.inference_id).of("VERSION")
    assert "the registry does not know it" in version.missing
    assert reason(lambda: ask(suite.monitoring, version="iris/404")) == (MISSING, "VERSION_NOT_FOUND")


def test_a_lineage_is_bounded(suite: Suite) -> None:
    here = suite.monitoring
    assert here.monitoring.record(new_event(version="1")) == ["STORED"]
    here.reject(here.create(version="1", force=True).id)
    for _ in range(30):
        here.monitoring.query(f"""
            INSERT INTO monitoring.retraining_requests (
                retraining_id, model, version, state, reason, details, label_count, requested_by, create_time,
                expire_time, training_run_id, new_version, alert_id, check_id
            )
            SELECT
                '{new_uuid()}', model, version, 'COMPLETED', reason, details, label_count, requested_by, create_time,
                expire_time, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid()
            FROM monitoring.retraining_requests LIMIT 1
            RETURNING 1
        """)
    found = ask(here, version="iris/1")
    assert len(found.of("RETRAINING_REQUEST")) == 20
    assert len(found.nodes) <= 200


SUBJECTS: dict[str, tuple[dict[str, str], tuple[grpc.StatusCode, str]]] = {
    "nothing": ({}, (INVALID, "SUBJECT_REQUIRED")),
    "an empty id": ({"alert_id": ""}, (INVALID, "SUBJECT_REQUIRED")),
    "no id": ({"inference_id": "x"}, (INVALID, "INVALID_ID")),
    "no version": ({"version": "iris"}, (INVALID, "INVALID_ID")),
    "a long version": ({"version": "iris/" + "1" * 129}, (INVALID, "INVALID_ID")),
    "an unknown prediction": ({"inference_id": new_id()}, (MISSING, "INFERENCE_NOT_FOUND")),
    "an unknown alert": ({"alert_id": new_id()}, (MISSING, "ALERT_NOT_FOUND")),
    "an unknown check": ({"check_id": new_id()}, (MISSING, "CHECK_NOT_FOUND")),
    "an unknown run": ({"training_run_id": new_id()}, (MISSING, "RUN_NOT_FOUND")),
    "an unknown request": ({"retraining_request_id": new_id()}, (MISSING, "REQUEST_NOT_FOUND")),
}


def test_a_subject_that_is_none_is_refused(suite: Suite) -> None:
    refused: dict[str, Any] = {
        name: reason(lambda subject=subject: ask(suite.monitoring, **subject))  # type: ignore[misc] # bound now
        for name, (subject, _) in SUBJECTS.items()
    }
    assert refused == {name: expected for name, (_, expected) in SUBJECTS.items()}


def test_a_model_is_in_use_until_each_of_its_versions_was_archived_or_deleted(suite: Suite) -> None:
    with Client(registry=suite.registry.address) as client:
        reader = RegistryReader(client, BoundedSemaphore(1), with_trainer=False)
        with pytest.raises(MissingError) as missing:
            reader.in_use("iris")
        assert missing.value.unknown
        for version in ("1", "2"):
            quick_registry.register(suite.registry, version)
        promote(suite.registry.models, "1", STAGE_ARCHIVED)
        assert reader.in_use("iris")
        quick_registry.delete(suite.registry, "2")
        assert not reader.in_use("iris")
