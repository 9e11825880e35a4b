"""Lineages over the socket: a real registry (but for its validator), a real PostgreSQL, and a scripted trainer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import grpc
import numpy as np
import pytest

from penstock.api.monitoring.v1 import alerts_pb2 as alerts
from penstock.api.monitoring.v1 import profiles_pb2
from penstock.api.monitoring.v1.alerts_pb2_grpc import AlertServiceStub
from penstock.api.monitoring.v1.profiles_pb2_grpc import ProfileServiceStub
from penstock.api.registry.v1.registry_pb2 import Source
from penstock.api.trainer.v1 import training_pb2 as training
from tests import quick_registry
from tests.lineage import Suite, ask, suite_of
from tests.monitoring import TIMEOUT_S, eventually, labels, new_event, new_id
from tests.registry import go_live
from tests.retraining import Retraining, new_uuid, reason_of, serve_retraining


@pytest.fixture
def suite(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Suite]:
    with suite_of(clone_database, tmp_path) as suite:
        yield suite


def retrained(suite: Suite) -> tuple[str, str, UUID, UUID]:
    """Have version 1 do badly, and version 2 come of it. Gives the request, the run, the check and the alert."""
    here, check_id, alert_id = suite.monitoring, new_uuid(), new_uuid()
    quick_registry.register(suite.registry, "1")
    go_live(suite.registry.models, "1")
    here.configure(min_labels=0)
    here.find(check_id=check_id, alert_id=alert_id)
    here.weighed()
    (raised,) = here.listed()
    here.approve(raised.id)
    run_id = here.becomes(raised.id, "TRAINING").training_run_id
    quick_registry.register(suite.registry, "2", training_run_id=run_id)
    suite.trainer.move(run_id, training.TRAINING_RUN_STATE_COMPLETED, new_version="2", validation_passed=True)
    here.becomes(raised.id, "COMPLETED")
    return raised.id, run_id, check_id, alert_id


def test_a_version_says_where_its_files_came_from(suite: Suite) -> None:
    source = Source(origin="huggingface", reference="org/iris", revision="abc123")
    quick_registry.register(suite.registry, "1", source=source)
    quick_registry.register(suite.registry, "2")
    said = [ask(suite.monitoring, version=name).of("VERSION")[0].attributes["source"] for name in ("iris/1", "iris/2")]
    assert said == ["huggingface org/iris abc123", "upload"]


def test_from_a_prediction_back_to_the_data_that_its_version_learned_from(suite: Suite) -> None:
    request_id, run_id, check_id, alert_id = retrained(suite)
    event = new_event(version="2", prediction=labels(1), user_id="someone")
    suite.monitoring.monitoring.record(event)
    suite.monitoring.monitoring.feedback(event.inference_id, actual=1)
    found = ask(suite.monitoring, inference_id=event.inference_id)
    assert found.nodes[0].id == event.inference_id, "the subject comes first"
    assert found.nodes[0].attributes["judged_right"] == "1 of 1"
    assert "someone" not in str(found.nodes[0]), "who it was for is not for everyone who walks by"
    assert found.said == {
        ("iris/2", "answered", event.inference_id),
        (run_id, "trained", "iris/2"),
        ("iris-rows/3", "fed", run_id),
        ("iris/1", "was live before", "iris/2"),
        (request_id, "led to", run_id),
        ("iris/1", "did badly", request_id),
        (str(check_id), "raised", request_id),
        (str(alert_id), "raised", request_id),
    }
    (run,) = found.of("TRAINING_RUN")
    assert (run.attributes["state"], run.attributes["validation_passed"]) == ("COMPLETED", "yes")
    one, two = sorted(found.of("VERSION"), key=lambda node: node.id)
    assert (one.attributes["stage"], two.attributes["stage"]) == ("PRODUCTION", "DEVELOPMENT")
    assert one.attributes["promoted_by"] == "anonymous"
    assert two.attributes["training_run_id"] == run_id
    assert found.of("DATASET")[0].attributes["row_count"] == "100"
    assert {node.missing for node in (*found.of("ALERT"), *found.of("CHECK"))} == {"it is no longer kept"}


def test_from_a_request_a_run_and_from_either_version_the_same_story_is_told(suite: Suite) -> None:
    request_id, run_id, _, _ = retrained(suite)
    subjects = (
        {"retraining_request_id": request_id},
        {"version": "iris/1"},
        {"version": "iris/2"},
        {"training_run_id": run_id},
    )
    for subject in subjects:
        found = ask(suite.monitoring, **subject)
        assert found.nodes[0].id == next(iter(subject.values()))
        assert {
            ("iris/1", "did badly", request_id),
            (request_id, "led to", run_id),
            (run_id, "trained", "iris/2"),
        } <= found.said


def test_what_a_person_asks_for_is_for_the_live_version_of_which_nobody_said_that_it_did_badly(suite: Suite) -> None:
    here = suite.monitoring
    quick_registry.register(suite.registry, "1")
    here.monitoring.record(new_event(version="2"))  # of a candidate that somebody asks by name
    assert here.create(model="iris", force=True).version == "2", "nothing is live yet"
    here.reject(here.listed()[0].id)
    go_live(suite.registry.models, "1")
    asked = here.create(model="iris", force=True)
    assert (asked.version, reason_of(asked)) == ("1", "MANUAL")
    said = ask(here, retraining_request_id=asked.id).said
    assert {each for each in said if each[2] == asked.id} == {("iris/1", "is to be retrained by", asked.id)}


def test_from_an_alert_to_the_version_that_answered_it_and_back(
    clone_database: Callable[[str], str], suite: Suite
) -> None:
    trainer = suite.trainer
    with serve_retraining(
        clone_database("monitoring"),
        registry_address=suite.registry.address,
        trainer_address=trainer.address,
        alert_interval_ms=50,
    ) as here:
        here.configure(min_labels=0)
        # As few as this are for the rule alone: the service's own look at error rates wants 50.
        here.monitoring.record(*(new_event(version="1", error_code="MODEL_FAILED") for _ in range(20)))
        rule = alerts.AlertRule(
            name="broken",
            enabled=True,
            type=alerts.ALERT_TYPE_ERROR_RATE,
            severity=alerts.SEVERITY_CRITICAL,
            metric="server_error_rate",
            operator=alerts.OPERATOR_GREATER,
            threshold=0.5,
            window="5m",
        )
        with grpc.insecure_channel(here.monitoring.address) as channel:
            AlertServiceStub(channel).CreateAlertRule(alerts.CreateAlertRuleRequest(rule=rule), timeout=TIMEOUT_S)
        eventually(lambda: bool(here.listed()))
        (raised,) = here.listed()
        assert (raised.version, reason_of(raised)) == ("1", "ERROR_RATE_THRESHOLD")
        assert raised.details.fields["rule"].string_value == "broken"
        here.approve(raised.id)
        run_id = here.becomes(raised.id, "TRAINING").training_run_id
        trainer.move(run_id, training.TRAINING_RUN_STATE_COMPLETED, new_version="2")
        here.becomes(raised.id, "COMPLETED")
        for subject in ({"alert_id": raised.alert_id}, {"version": "iris/2"}, {"version": "iris/1"}):
            found = ask(here, **subject)
            assert {
                ("iris/1", "raised", raised.alert_id),
                (raised.alert_id, "raised", raised.id),
                (raised.id, "led to", run_id),
                (run_id, "trained", "iris/2"),
            } <= found.said
            (alert,) = [node for node in found.of("ALERT") if node.id == raised.alert_id]
            assert (alert.attributes["value"], alert.attributes["state"]) == ("1", "FIRING")


def test_a_request_shows_the_version_before_it_has_heard_of_it(suite: Suite) -> None:
    quick_registry.register(suite.registry, "1")
    asked = suite.monitoring.create(force=True)
    suite.monitoring.approve(asked.id)
    run_id = suite.monitoring.becomes(asked.id, "TRAINING").training_run_id
    suite.trainer.move(run_id, training.TRAINING_RUN_STATE_VALIDATING, new_version="2")
    assert (run_id, "trained", "iris/2") in ask(suite.monitoring, retraining_request_id=asked.id).said


def shifted_rows(count: int, shift: float) -> list[dict[str, float]]:
    """Rows of two features, one of which is off by so many σ."""
    generator = np.random.default_rng(7)
    petals, sepals = generator.normal(shift, 1, count), generator.normal(0, 1, count)
    return [{"petal": float(petal), "sepal": float(sepal)} for petal, sepal in zip(petals, sepals, strict=True)]


def send_rows(here: Retraining, rows: list[dict[str, float]]) -> None:
    """Record an event a row, over the hours before."""
    ages_s = np.linspace(7_200, 400, len(rows))
    events = [new_event(version="1", age_s=float(age_s)) for age_s in ages_s]
    for event, row in zip(events, rows, strict=True):
        event.features.fields.update(row)
    assert set(here.monitoring.record(*events)) == {"STORED"}


@pytest.mark.slow
def test_drift_in_real_events_is_found_alerted_of_and_answered_by_a_new_version(
    clone_database: Callable[[str], str], suite: Suite
) -> None:
    often = {
        "rollup_interval_ms": 50,
        "profile_interval_ms": 50,
        "profile_open_interval_ms": 0,
        "drift_interval_ms": 50,
        "alert_interval_ms": 50,
    }
    with (
        serve_retraining(
            clone_database("monitoring"),
            registry_address=suite.registry.address,
            trainer_address=suite.trainer.address,
            **often,
        ) as here,
        grpc.insecure_channel(here.monitoring.address) as channel,
    ):
        here.configure(min_labels=0)
        header = profiles_pb2.UploadProfileHeader(model="iris", version="1", format=profiles_pb2.ROW_FORMAT_JSONL)
        text = "\n".join(json.dumps(row) for row in shifted_rows(1_000, 0)).encode()
        parts = (profiles_pb2.UploadProfileRequest(header=header), profiles_pb2.UploadProfileRequest(chunk=text))
        profile = ProfileServiceStub(channel).UploadProfile(iter(parts), timeout=TIMEOUT_S).profile
        send_rows(here, shifted_rows(500, 3))
        due = "UPDATE monitoring.drift_schedule SET due_time = now() - interval '1 second' RETURNING model"

        def found_by_schedule() -> bool:
            here.monitoring.query(due)
            return bool(here.listed())

        eventually(found_by_schedule)
        (raised,) = here.listed()
        assert (reason_of(raised), raised.requested_by) == ("DRIFT_DETECTED", "monitoring")
        assert [each.string_value for each in raised.details.fields["features"].list_value.values] == ["petal"]
        here.approve(raised.id)
        run_id = here.becomes(raised.id, "TRAINING").training_run_id
        suite.trainer.move(run_id, training.TRAINING_RUN_STATE_COMPLETED, new_version="2")
        here.becomes(raised.id, "COMPLETED")
        found = ask(here, version="iris/2")
        assert {
            ("iris/1", "was checked", raised.check_id),
            (profile.id, "was compared with", raised.check_id),
            (raised.check_id, "raised", raised.id),
            (raised.id, "led to", run_id),
            (run_id, "trained", "iris/2"),
        } <= found.said
        answered = "SELECT count(*) FROM monitoring.retraining_alerts"
        eventually(lambda: here.monitoring.query(answered) == [(1,)])
        (alert,) = ask(here, version="iris/1").of("ALERT")
        assert "The alert drift for iris 1" in alert.title
        found = ask(here, alert_id=alert.id)
        assert {(alert.id, "is answered by", raised.id), (run_id, "trained", "iris/2")} <= found.said
        found = ask(here, check_id=raised.check_id)
        assert found.nodes[0].id == raised.check_id
        assert {(raised.check_id, "raised", alert.id), (raised.check_id, "raised", raised.id)} <= found.said


def test_a_run_that_no_request_led_to_leads_to_the_version_that_it_made(suite: Suite) -> None:
    run_id = new_id()
    suite.trainer.runs[run_id] = training.TrainingRun(id=run_id, model="iris", dataset="iris-rows/3", new_version="7")
    found = ask(suite.monitoring, training_run_id=run_id)
    assert found.said == {("iris-rows/3", "fed", run_id), (run_id, "trained", "iris/7")}
