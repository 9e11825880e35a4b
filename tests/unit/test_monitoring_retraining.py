"""Retraining requests without a database: the table of moves, the safety rules, and what raises a request."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID

import pytest

from penstock.ids import uuid7
from services.common.errors import FailedPrecondition
from services.monitoring.alerts.models import (
    Alert,
    AlertState,
    AlertType,
    MissingData,
    Operator,
    Rule,
    Severity,
    Target,
)
from services.monitoring.configuration.models import Effective
from services.monitoring.drift.models import DriftCheck, DriftStatus, DriftType
from services.monitoring.models import Window
from services.monitoring.retraining import causes, safety
from services.monitoring.retraining.models import Past, Reason, Request, State
from services.monitoring.retraining.states import MOVES, OPEN, check_move
from services.monitoring.retraining.watch import is_due, too_many_errors
from services.monitoring.rollups.models import Counts, Totals
from tests.retraining import drift_check, drift_result

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
EFFECTIVE = Effective()
CONFIGURATION = EFFECTIVE.retraining
ALLOWED = {
    (State.PENDING, State.APPROVED),
    (State.PENDING, State.REJECTED),
    (State.PENDING, State.EXPIRED),
    (State.APPROVED, State.TRAINING),
    (State.APPROVED, State.FAILED),
    (State.APPROVED, State.REJECTED),
    (State.APPROVED, State.EXPIRED),
    (State.TRAINING, State.COMPLETED),
    (State.TRAINING, State.FAILED),
}


@pytest.mark.parametrize(("before", "after"), list(product(State, State)), ids=lambda state: state.name)
def test_a_request_moves_as_the_table_says_and_not_otherwise(before: State, after: State) -> None:
    if (before, after) in ALLOWED:
        check_move(before, after)
        return
    with pytest.raises(FailedPrecondition) as caught:
        check_move(before, after)
    assert caught.value.reason == "WRONG_STATE"
    assert before.name in caught.value.message
    assert ("already" in caught.value.message) == (before is after)


def test_every_state_has_its_row_and_those_with_a_way_out_are_open() -> None:
    assert set(MOVES) == set(State)
    assert set(OPEN) == {State.PENDING, State.APPROVED, State.TRAINING}


def request(**fields: Any) -> Request:
    given = Request(
        id=UUID(uuid7()),
        model="iris",
        version="1",
        state=State.PENDING,
        reason=Reason.MANUAL,
        details={},
        alert_id=None,
        check_id=None,
        label_count=0,
        requested_by="ada",
        create_time=NOW,
        expire_time=NOW + timedelta(days=7),
    )
    return replace(given, **fields)


def refusal_of(check: Any, *given: Any) -> str:
    try:
        check(*given)
    except FailedPrecondition as error:
        return error.reason
    return ""


def test_one_request_of_a_model_is_open_at_a_time_and_none_where_retraining_is_off() -> None:
    assert refusal_of(safety.check_open, CONFIGURATION, Past(), "iris") == ""
    assert refusal_of(safety.check_open, CONFIGURATION, Past(open_request=request()), "iris") == "RETRAINING_OPEN"
    with pytest.raises(FailedPrecondition, match=r"set retraining\.enabled=true --model iris`") as off:
        safety.check_open(replace(CONFIGURATION, enabled=False), Past(), "iris")
    assert off.value.reason == "RETRAINING_OFF"


@pytest.mark.parametrize(
    ("days", "reason"), [(None, ""), (8, ""), (7, ""), (6.99, "RETRAINING_TOO_SOON"), (-1, "RETRAINING_TOO_SOON")]
)
def test_trainings_begin_at_least_a_week_apart(days: float | None, reason: str) -> None:
    began = None if days is None else NOW - timedelta(days=days)
    assert refusal_of(safety.check_interval, CONFIGURATION, Past(train_time=began), NOW) == reason


def test_who_has_said_no_is_not_asked_again_for_as_long() -> None:
    declined = Past(decline_time=NOW - timedelta(days=6))
    assert refusal_of(safety.check_declined, CONFIGURATION, declined, NOW) == "RETRAINING_DECLINED"
    assert refusal_of(safety.check_declined, CONFIGURATION, declined, NOW + timedelta(days=1)) == ""
    assert refusal_of(safety.check_declined, CONFIGURATION, Past(), NOW) == ""


def test_there_must_be_enough_to_learn_from() -> None:
    assert refusal_of(safety.check_labels, CONFIGURATION, 499) == "TOO_FEW_LABELS"
    with pytest.raises(FailedPrecondition, match=r"^1 labelled row came"):
        safety.check_labels(CONFIGURATION, 1)
    assert refusal_of(safety.check_labels, CONFIGURATION, 500) == ""
    assert refusal_of(safety.check_labels, replace(CONFIGURATION, min_labels=0), 0) == ""


@pytest.mark.parametrize(
    ("interval", "past", "due"),
    [
        (timedelta(), Past(), False),
        (timedelta(days=30), Past(), True),
        (timedelta(days=30), Past(train_time=NOW - timedelta(days=29)), False),
        (timedelta(days=30), Past(train_time=NOW - timedelta(days=30)), True),
        (timedelta(days=30), Past(train_time=NOW - timedelta(days=90), schedule_time=NOW - timedelta(days=1)), False),
    ],
)
def test_the_calendar_counts_from_the_last_training_or_the_last_time_that_it_asked(
    interval: timedelta, past: Past, due: bool
) -> None:
    assert is_due(replace(CONFIGURATION, schedule_interval=interval), past, NOW) is due


@pytest.mark.parametrize(
    ("count", "failed", "raises"), [(50, 5, True), (50, 4, False), (49, 49, False), (0, 0, False), (1_000, 1_000, True)]
)
def test_an_error_rate_is_one_of_enough_predictions(count: int, failed: int, raises: bool) -> None:
    totals = Totals(Window(NOW - timedelta(days=1), NOW), Counts(inference_count=count, error_count=failed))
    details = too_many_errors(totals, Effective())
    assert (details is not None) is raises
    if details is not None:
        assert (details["value"], details["error_count"]) == (failed / count, failed)


def test_a_careless_client_asks_for_no_training_and_hides_no_errors() -> None:
    def of(**errors: int) -> Totals:
        counts = Counts(inference_count=1_000, error_count=sum(errors.values()), errors=errors)
        return Totals(Window(NOW - timedelta(days=1), NOW), counts)

    assert too_many_errors(of(MISSING_INPUT=900), EFFECTIVE) is None
    details = too_many_errors(of(MISSING_INPUT=900, MODEL_FAILED=20), EFFECTIVE)
    assert details is not None
    assert (details["metric"], details["value"], details["inference_count"]) == ("server_error_rate", 0.2, 100)


def test_input_drift_of_the_configured_effect_raises_a_request_that_says_what_drifted() -> None:
    found = drift_check(
        drift_result(DriftType.INPUT, 0.3, feature="b"), drift_result(DriftType.INPUT, 0.9, feature="a\0")
    )
    cause = causes.of_check(found, EFFECTIVE)
    assert cause is not None
    assert (cause.model, cause.version, cause.reason) == ("iris", "1", Reason.DRIFT_DETECTED)
    assert (cause.check_id, cause.alert_id) == (found.id, None)
    assert cause.details["features"] == ["a", "b"], "the largest first, and without what jsonb refuses"
    assert (cause.details["value"], cause.details["threshold"]) == (0.9, 0.3)


def test_a_fallen_accuracy_goes_before_drifted_features() -> None:
    cause = causes.of_check(
        drift_check(drift_result(DriftType.INPUT, 0.9), drift_result(DriftType.CONCEPT, 0.05)), EFFECTIVE
    )
    assert cause is not None
    assert cause.reason is Reason.ACCURACY_DROP
    assert (cause.details["value"], cause.details["threshold"]) == (0.05, 0.05), "points, and no PSI"


def test_drifted_vectors_are_drifted_input_by_what_a_psi_means_for_them() -> None:
    """A shift by one σ has a PSI of 1, and vectors of an effect of 0.52; one of 1 and more they cannot have."""
    effective = EFFECTIVE.overlaid({"retraining": {"drift_effect": 1.0}})
    input_, vectors = drift_result(DriftType.INPUT, 0.7), drift_result(DriftType.EMBEDDING, 0.6)
    assert causes.of_check(drift_check(input_), effective) is None
    cause = causes.of_check(drift_check(vectors), effective)
    assert cause is not None
    assert cause.reason is Reason.DRIFT_DETECTED
    assert (cause.details["value"], cause.details["threshold"]) == (0.6, pytest.approx(0.5205, abs=1e-4))
    told = replace(INPUT, drift_type=DriftType.EMBEDDING)
    found = [causes.of_alert(alert(told, effect), told, effective) for effect in (0.5, 0.6)]
    assert [each is not None and each.raises for each in found] == [False, True]


@pytest.mark.parametrize(
    "found",
    [
        drift_check(),
        drift_check(drift_result(DriftType.INPUT, 0.29)),
        drift_check(drift_result(DriftType.CONCEPT, 0.04)),
        drift_check(drift_result(DriftType.PREDICTION, 5.0)),
        drift_check(drift_result(DriftType.INPUT, 5.0, status=DriftStatus.OK)),
        drift_check(drift_result(DriftType.CONCEPT, 5.0, status=DriftStatus.INSUFFICIENT_DATA)),
    ],
    ids=["nothing", "a small effect", "a small fall", "what the model says", "no drift", "too little data"],
)
def test_other_checks_raise_none(found: DriftCheck) -> None:
    assert causes.of_check(found, EFFECTIVE) is None


def test_no_more_features_are_named_than_a_person_reads() -> None:
    cause = causes.of_check(
        drift_check(*(drift_result(DriftType.INPUT, 1.0, feature=str(n)) for n in range(100))), EFFECTIVE
    )
    assert cause is not None
    assert (len(cause.details["features"]), cause.details["feature_count"]) == (20, 100)


def rule(metric: str, type_: AlertType, **fields: Any) -> Rule:
    given = Rule(
        name="a rule",
        enabled=True,
        type=type_,
        severity=Severity.WARNING,
        model="",
        version="",
        metric=metric,
        operator=Operator.GREATER,
        threshold=0.1,
        window=timedelta(hours=1),
        hold=timedelta(),
        drift_type=None,
        feature="",
        error_code="",
        min_count=0,
        missing_data=MissingData.IGNORE,
        channels=(),
        repeat_interval=timedelta(hours=4),
        description="",
        id=UUID(uuid7()),
        revision=1,
        create_time=NOW,
        update_time=NOW,
        updated_by="ada",
    )
    return replace(given, **fields)


def alert(of: Rule, value: float | None) -> Alert:
    return Alert(
        id=UUID(uuid7()),
        rule_id=of.id,
        rule_name=of.name,
        rule_revision=1,
        target=Target("iris", "1"),
        type=of.type,
        severity=of.severity,
        state=AlertState.FIRING,
        condition="in words",
        value=value,
        threshold=of.threshold,
        message="It fires.",
        begin_time=NOW,
        judge_time=NOW,
        change_time=NOW,
        fire_time=NOW,
        check_id=UUID(uuid7()) if of.type is AlertType.DRIFT else None,
    )


ERRORS = rule("server_error_rate", AlertType.ERROR_RATE)
ACCURACY = rule("accuracy", AlertType.ERROR_RATE, operator=Operator.LESS)
INPUT = rule("effect", AlertType.DRIFT, drift_type=DriftType.INPUT)
CONCEPT = rule("effect", AlertType.DRIFT, drift_type=DriftType.CONCEPT)
RAISED = [
    (ERRORS, 0.1, Reason.ERROR_RATE_THRESHOLD),
    (ERRORS, 0.09, None),
    (replace(ERRORS, operator=Operator.LESS), 0.5, None),
    (ACCURACY, 0.05, Reason.ACCURACY_DROP),
    (replace(ACCURACY, operator=Operator.GREATER), 0.9, None),
    (INPUT, 0.3, Reason.DRIFT_DETECTED),
    (replace(INPUT, drift_type=DriftType.EMBEDDING), 0.31, Reason.DRIFT_DETECTED),
    (CONCEPT, 0.05, Reason.ACCURACY_DROP),
    (rule("p95_latency_ms", AlertType.LATENCY), 9_000.0, None),
    (ERRORS, None, None),
    (ERRORS, float("nan"), None),
    (replace(ERRORS, metric="error_rate"), 0.5, None),  # their callers' mistakes are among them
]


BELONGING = [
    (INPUT, 0.29),
    (CONCEPT, 0.04),
    (replace(INPUT, drift_type=DriftType.PREDICTION), 0.9),
    (replace(INPUT, drift_type=None), 0.9),
    (replace(INPUT, metric="drifted_count"), 9.0),
]


@pytest.mark.parametrize(("of", "value"), BELONGING)
def test_other_alerts_of_drift_belong_to_what_their_check_raises(of: Rule, value: float) -> None:
    firing = alert(of, value)
    cause = causes.of_alert(firing, of, EFFECTIVE)
    assert cause is not None
    assert (cause.raises, cause.alert_id, cause.check_id) == (False, firing.id, firing.check_id)
    assert causes.of_alert(replace(firing, check_id=None), of, EFFECTIVE) is None


@pytest.mark.parametrize(("of", "value", "reason"), RAISED)
def test_an_alert_raises_what_it_is_about_or_nothing(of: Rule, value: float | None, reason: Reason | None) -> None:
    firing = alert(of, value)
    cause = causes.of_alert(firing, of, EFFECTIVE)
    assert (cause and cause.reason) == reason
    if cause is not None:
        assert cause.raises
        assert (cause.alert_id, cause.check_id) == (firing.id, firing.check_id)
        assert (cause.model, cause.version) == ("iris", "1")
        assert (cause.details["value"], cause.details["rule"]) == (value, "a rule")


@pytest.mark.parametrize("of", [ERRORS, ACCURACY])
def test_callers_who_misspell_an_alias_ask_for_no_training(of: Rule) -> None:
    failing = replace(alert(of, 0.1), target=Target("iris", ""))
    assert causes.of_alert(failing, of, EFFECTIVE) is None
