"""What rules read: of which versions, which value, and why there is none."""

from __future__ import annotations

import ast
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.monitoring.alerts.conditions import METRICS, Reading
from services.monitoring.alerts.mistakes import CALLERS_MISTAKES
from services.monitoring.alerts.models import AlertType, MissingData, Operator, Target
from services.monitoring.alerts.rulebook import RuleBook
from services.monitoring.alerts.values import Values
from services.monitoring.drift.models import Distances, DriftStatus, DriftType
from services.monitoring.quality.models import QualityIssue, QualityStatus
from tests.alerting import (
    HOUR,
    IRIS,
    NOON,
    Readings,
    counted,
    drift_check,
    drift_result,
    quality_check,
    quality_finding,
    rule,
)

VIEW = Target("view:spending", "1")
OLD, WINE, WHOLE = Target("iris", "0.9.0"), Target("wine", "1"), Target("iris", "")
ROOT = Path(__file__).parents[2]
DRIFT: dict[str, Any] = {"type": AlertType.DRIFT, "metric": "effect", "window": 24 * HOUR}
QUALITY: dict[str, Any] = {"type": AlertType.DATA_QUALITY, "metric": "violation_count", "window": 24 * HOUR}
STOPPED: dict[str, Any] = {"metric": "inference_count", "operator": Operator.LESS, "threshold": 10.0}


def read(readings: Readings, **changes: Any) -> Reading:
    return Values(readings.sources, NOON).read(rule(**changes), IRIS)


def targets(readings: Readings, **changes: Any) -> set[Target]:
    return Values(readings.sources, NOON).targets(rule(**changes))


def test_a_rule_is_judged_for_each_version_with_traffic_that_it_is_for() -> None:
    readings = Readings({IRIS: counted(1), OLD: counted(1), WINE: counted(1)})
    assert targets(readings) == {IRIS, OLD, WINE}
    assert targets(readings, model="iris") == {IRIS, OLD}
    assert targets(readings, model="iris", version="0.9.0") == {OLD}
    assert targets(readings, model="unknown") == set()


@pytest.mark.parametrize("metric", METRICS)
def test_one_fact_is_judged_once_of_each_version_or_of_the_model_as_a_whole(metric: str) -> None:
    readings = Readings({IRIS: counted(1), OLD: counted(1), WHOLE: counted(5, of=5)})
    about: dict[str, Any] = {"type": METRICS[metric].type, "metric": metric}
    counts = {"error_count", "inference_count", "throughput_per_s", "feedback_count", "judged_count"}
    calls = {WHOLE} if metric in ("error_rate", "server_error_rate") else set()
    assert targets(readings, **about) == ({WHOLE} if metric in counts else {IRIS, OLD} | calls)
    assert targets(readings, **about, model="iris", version="1.0.0") == {IRIS}


def test_calls_that_failed_before_a_version_was_chosen_are_held_against_all_calls() -> None:
    """Neither does one such call make a rate of 100 %, nor are a version's errors told twice."""
    early = replace(counted(30, of=30), errors={"NO_VERSION_READY": 20, "MODEL_NOT_FOUND": 10})
    readings = Values(Readings({IRIS: counted(60, of=70), WHOLE: early}).sources, NOON)
    assert readings.read(rule(), WHOLE) == Reading(0.3, cause="30 of 100 calls failed before a version was chosen")
    assert readings.read(rule(metric="server_error_rate"), WHOLE).value == pytest.approx(20 / 90)
    assert readings.read(rule(error_code="MODEL_NOT_FOUND"), WHOLE).value == 0.1
    assert readings.read(rule(min_count=101), WHOLE).value is None
    alone = Values(Readings({WHOLE: early}).sources, NOON)
    assert alone.read(rule(), WHOLE).value == 1.0


def test_a_count_of_the_whole_is_that_of_all_versions() -> None:
    readings = Values(Readings({IRIS: counted(1), OLD: counted(2), WHOLE: counted(3, of=3)}).sources, NOON)
    assert readings.read(rule(metric="inference_count"), WHOLE) == Reading(203.0)
    assert readings.read(rule(metric="error_count"), WHOLE) == Reading(6.0)
    assert readings.read(rule(metric="inference_count", model="iris", version="1.0.0"), IRIS) == Reading(100.0)


def test_a_value_that_is_missing_is_missed_of_the_model_and_a_check_of_the_versions_that_answered_lately() -> None:
    changes = {"missing_data": MissingData.ALERT}
    readings = Readings(lately={"iris": ("1.0.0", "0.9.0", "")})
    assert targets(readings, **changes) == {WHOLE}
    assert Values(readings.sources, NOON).read(rule(**changes), WHOLE).why == "no prediction came over 5m"
    assert targets(readings, **{**DRIFT, "window": HOUR}, **changes) == {IRIS, OLD}
    assert targets(readings) == set()
    assert targets(Readings({OLD: counted(0)}, {"iris": ("1.0.0",)}), **changes) == {OLD}
    assert targets(Readings(), **changes, model="iris", version="1.0.0") == {IRIS}


def test_traffic_that_stops_is_missed_of_the_model_and_not_of_a_version_that_was_replaced() -> None:
    assert targets(Readings(lately={"iris": ("1.0.0", "0.9.0")}), **STOPPED) == {WHOLE}
    assert targets(Readings({OLD: counted(0)}, {"iris": ("1.0.0",)}), **STOPPED) == {WHOLE}
    assert targets(Readings(), **STOPPED) == set()
    assert targets(Readings(), **STOPPED, model="iris") == {WHOLE}  # however long ago it stopped
    assert targets(Readings(), **STOPPED, model="iris", version="1.0.0") == {IRIS}


def over(readings: Readings, target: Target = IRIS, **changes: Any) -> str:
    return Values(readings.sources, NOON).over(rule(**changes), target)


def test_a_version_in_whose_place_another_answers_is_not_missed() -> None:
    readings = Readings({OLD: counted(0)}, {"wine": ("1",)})
    assert over(readings) == "iris 1.0.0 no longer answers: another version does"
    assert over(readings, OLD) == ""
    assert over(readings, WINE) == ""
    assert over(readings, model="iris", version="1.0.0", missing_data=MissingData.ALERT) == ""


def test_rules_about_drift_and_no_others_are_judged_for_feature_views() -> None:
    readings = Readings({IRIS: counted(0)}, drift_checks={VIEW: drift_check(drift_result("amount", 0.5))}, views={VIEW})
    assert targets(readings, **DRIFT) == {IRIS, VIEW}
    assert targets(readings, **DRIFT, model="view:spending") == {VIEW}
    assert Values(readings.sources, NOON).read(rule(**DRIFT), VIEW).value == 0.5
    assert targets(readings, **QUALITY) == {IRIS}
    assert targets(readings) == {IRIS}
    assert over(readings, VIEW, **DRIFT) == ""
    missed = {**DRIFT, "missing_data": MissingData.ALERT}
    assert "by schedule no longer" in over(Readings(), VIEW, **missed)
    assert over(Readings(), VIEW, **missed, model="view:spending", version="1") == ""


def test_calls_that_failed_before_a_version_was_chosen_answer_in_nobodys_place() -> None:
    readings = Readings({Target("iris", ""): counted(5)}, {"iris": ("1.0.0",)})
    assert over(readings) == ""
    assert over(readings, WHOLE) == ""


def test_a_model_as_a_whole_ends_with_what_failed_before_a_version_was_chosen_and_says_so() -> None:
    assert over(Readings({IRIS: counted(1)}), WHOLE) == (
        "versions of iris answer, and no call failed before one was chosen any more"
    )


def test_a_model_is_missed_until_the_registry_has_no_use_for_it() -> None:
    assert over(Readings({OLD: counted(0)}), WHOLE, **STOPPED) == ""
    assert over(Readings(), WHOLE, **STOPPED) == ""
    archived = "iris no longer answers: all of it was deleted or archived"
    assert over(Readings(lately={"iris": ("1.0.0",)}, archived={WHOLE}), WHOLE, **STOPPED) == archived
    forgotten = "iris has not answered for 24h, and the registry does not know it"
    assert over(Readings(unknown={WHOLE}), WHOLE, **STOPPED) == forgotten


def test_what_nobody_can_tell_of_any_more_is_over_and_what_is_missed_is_not() -> None:
    away = Readings()
    assert over(away) == "iris 1.0.0 has not answered for 24h: whether the condition still holds can't be told"
    assert over(away, window=48 * HOUR).startswith("iris 1.0.0 has not answered for 2d")
    assert over(Readings(lately={"iris": ("1.0.0",)})) == ""
    missed = "no version of iris answers any more, which is judged of the model as a whole"
    assert over(away, missing_data=MissingData.ALERT) == missed
    assert over(away, WHOLE, missing_data=MissingData.ALERT) == ""
    gone = Readings(unknown={WHOLE})
    assert over(gone, WHOLE, missing_data=MissingData.ALERT).endswith("the registry does not know it")


def test_an_archived_version_and_one_that_the_registry_forgot_are_missed_by_nobody() -> None:
    named: dict[str, Any] = {**STOPPED, "model": "iris", "version": "1.0.0"}
    archived = Readings(lately={"iris": ("1.0.0",)}, archived={IRIS})
    assert over(archived, **named) == "iris 1.0.0 no longer answers: it was archived"
    assert over(Readings({IRIS: counted(1)}, archived={IRIS}), **named) == ""
    forgotten = "iris 1.0.0 has not answered for 24h, and the registry does not know it"
    assert over(Readings(unknown={IRIS}), **named) == forgotten
    assert over(Readings(lately={"iris": ("1.0.0",)}, unknown={IRIS}), **named) == ""


def test_metrics_are_read_by_their_names() -> None:
    readings = Readings({IRIS: counted(25, judged_count=4, correct_count=3, feedback_count=5)})
    assert read(readings) == Reading(0.25)
    assert read(readings, metric="error_count") == Reading(25.0)
    assert read(readings, metric="inference_count") == Reading(100.0)
    assert read(readings, metric="accuracy") == Reading(0.75)
    assert read(readings, metric="average_feedback_lag_s") == Reading(0.0)
    slow = Readings({IRIS: counted(0, of=4, latency_sum_ms=Decimal(10), latency_max_ms=7.0)})
    assert read(slow, type=AlertType.LATENCY, metric="average_latency_ms") == Reading(2.5)
    assert read(slow, type=AlertType.LATENCY, metric="max_latency_ms") == Reading(7.0)


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("accuracy", "no feedback came over 5m"),
        ("average_feedback_lag_s", "no feedback came over 5m"),
        ("average_confidence", "no prediction had one over 5m"),
    ],
)
def test_no_value_says_why(metric: str, why: str) -> None:
    assert read(Readings({IRIS: counted(0)}), metric=metric) == Reading(None, why)


def test_too_few_are_no_value() -> None:
    assert read(Readings()) == Reading(None, "no prediction came over 5m")
    failed = Readings({IRIS: counted(100)})
    assert read(failed, type=AlertType.LATENCY, metric="p99_latency_ms").why == "no prediction succeeded over 5m"
    few = Readings({IRIS: counted(3, of=5, judged_count=2, correct_count=1)})
    assert read(few, min_count=6) == Reading(None, "5 predictions came over 5m, and min_count is 6")
    assert read(few, min_count=5) == Reading(0.6)
    assert read(few, metric="accuracy", min_count=3).why == "2 judged rows came over 5m, and min_count is 3"
    assert read(few, metric="average_feedback_lag_s", min_count=3).why.startswith("0 rows with feedback")


def test_drift_is_read_from_the_latest_check() -> None:
    results = (
        drift_result("age", 0.3),
        drift_result("income", 0.5),
        drift_result("prediction", 0.9, type=DriftType.PREDICTION),
        drift_result("zip", 0.7, status=DriftStatus.OK),
        drift_result("few", 9.0, status=DriftStatus.INSUFFICIENT_DATA),
    )
    readings = Readings(drift_checks={IRIS: drift_check(*results)})
    found = read(readings, **DRIFT)
    assert (found.value, found.check_id) == (0.9, drift_check().id)
    assert found.cause == "prediction by 0.9, income by 0.5, age by 0.3"
    assert read(readings, **{**DRIFT, "metric": "drifted_count"}).value == 3
    assert read(readings, **DRIFT, drift_type=DriftType.INPUT).value == 0.5
    assert read(readings, **DRIFT, feature="age").value == 0.3
    assert read(readings, **DRIFT, feature="zip").value == 0.0
    assert read(readings, **DRIFT, feature="few").value is None
    assert (
        read(readings, **DRIFT, drift_type=DriftType.CONCEPT).why == "the latest drift check has too little data for it"
    )


def test_every_number_of_a_comparison_may_be_watched() -> None:
    near = {"p_value": 0.2, "adjusted_p_value": 0.4, "distances": Distances(psi=0.1, ks_statistic=0.2, wasserstein=1.0)}
    far = {"p_value": 0.01, "adjusted_p_value": 0.02, "distances": Distances(psi=0.3, ks_statistic=0.4, chi_square=9.0)}
    results = drift_result("age", 0.3, **near), drift_result("zip", 0.5, **far, status=DriftStatus.OK)
    readings = Readings(drift_checks={IRIS: drift_check(*results)})
    found = {
        metric: read(readings, **{**DRIFT, "metric": metric})
        for metric, of in METRICS.items()
        if of.type is DRIFT["type"]
    }
    assert (found["p_value"].value, found["p_value"].cause) == (0.01, "zip")
    assert (found["adjusted_p_value"].value, found["psi"].value, found["ks_statistic"].value) == (0.02, 0.3, 0.4)
    assert (found["wasserstein"].value, found["wasserstein"].cause) == (1.0, "age")
    assert (found["chi_square"].value, found["drifted_count"].value, found["effect"].value) == (9.0, 1, 0.3)
    assert found["jensen_shannon"].why == "the latest drift check has no jensen_shannon for it"
    assert read(readings, **{**DRIFT, "metric": "p_value", "feature": "age"}).value == 0.2


@pytest.mark.parametrize("issue", QualityIssue, ids=lambda issue: issue.name)
def test_every_kind_of_bad_data_may_be_watched(issue: QualityIssue) -> None:
    readings = Readings(quality_checks={IRIS: quality_check(quality_finding(issue, "age", 0.25))})
    metrics = [metric for metric, of in METRICS.items() if of.type is QUALITY["type"] and metric != "violation_count"]
    found = {metric: read(readings, **{**QUALITY, "metric": metric}).value for metric in metrics}
    assert sorted(value or 0.0 for value in found.values()) == [0.0] * 9 + [0.25]


def test_callers_mistakes_are_errors_and_none_of_the_servers() -> None:
    """A careless client neither fires the rule that comes with the service, nor hides an outage behind its mistakes."""
    errors = {"MISSING_INPUT": 60, "MODEL_LOAD_FAILED": 20, "OTHER": 10}
    readings = Readings({IRIS: replace(counted(90), errors=errors)})
    assert read(readings).value == 0.9
    assert read(readings, metric="server_error_rate").value == 30 / 40
    assert read(readings, metric="server_error_rate", min_count=41).why.startswith("40 valid predictions came")
    careless = Readings({IRIS: replace(counted(100), errors={"MISSING_INPUT": 100})})
    assert read(careless, metric="server_error_rate") == Reading(None, "no prediction came over 5m")


def test_all_that_the_inference_service_refuses_as_malformed_is_its_callers_mistake() -> None:
    reasons = {
        keyword.value.value
        for path in ROOT.glob("services/inference/**/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("InvalidArgument", "InvalidArgument.field")
        for keyword in node.keywords
        if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant)
    }
    assert "MISSING_INPUT" in reasons
    of_jobs_alone = {
        "DIGEST_MISMATCH", "FORMAT_REQUIRED", "INCOMPLETE_UPLOAD", "INPUT_REQUIRED", "OUT_OF_BOUNDS", "URI_NOT_ALLOWED",
    }  # fmt: skip
    assert reasons - of_jobs_alone <= CALLERS_MISTAKES
    assert not {"MODEL_LOAD_FAILED", "NO_VERSION_READY", "VERSION_NOT_READY", "QUEUE_FULL"} & CALLERS_MISTAKES


def test_failures_of_one_code_and_feedback_may_be_watched() -> None:
    readings = Readings({IRIS: replace(counted(30), errors={"INTERNAL": 20}, feedback_count=7, judged_count=6)})
    assert read(readings, error_code="INTERNAL").value == 0.2
    assert read(readings, metric="error_count", error_code="INTERNAL").value == 20
    assert read(readings, metric="error_count", error_code="OTHER").value == 0
    assert read(Readings(), error_code="INTERNAL").why == "no prediction came over 5m"
    assert read(readings, metric="feedback_count").value == 7
    assert read(readings, metric="judged_count").value == 6


def test_quality_is_read_from_the_latest_check() -> None:
    findings = (
        quality_finding(QualityIssue.MISSING, "age", 0.2),
        quality_finding(QualityIssue.MISSING, "income", 0.3),
        quality_finding(QualityIssue.RANGE, "age", 0.01, violated=False),
    )
    readings = Readings(quality_checks={IRIS: quality_check(*findings)})
    found = read(readings, **QUALITY)
    assert (found.value, found.cause, found.check_id) == (2.0, "missing age, missing income", quality_check().id)
    worst = read(readings, **{**QUALITY, "metric": "missing_rate"})
    assert (worst.value, worst.cause) == (0.3, "income")
    assert read(readings, **{**QUALITY, "metric": "missing_rate", "feature": "age"}).value == 0.2
    assert read(readings, **{**QUALITY, "metric": "range_rate"}).value == 0.01
    assert read(readings, **{**QUALITY, "metric": "outlier_rate"}).value == 0.0
    few = Readings(quality_checks={IRIS: quality_check(status=QualityStatus.INSUFFICIENT_DATA)})
    assert read(few, **QUALITY).why == "the latest quality check had too little data"


@pytest.mark.parametrize("changes", [DRIFT, QUALITY], ids=["drift", "quality"])
def test_a_check_that_is_older_than_the_window_is_no_value(changes: dict[str, Any]) -> None:
    assert "of the last 24h" in read(Readings(), **changes).why
    old = NOON - 24 * HOUR
    readings = Readings(
        drift_checks={IRIS: drift_check(drift_result("age", 0.3), to_time=old)},
        quality_checks={IRIS: quality_check(to_time=old)},
    )
    assert "of the last 24h" in read(readings, **changes).why


def test_the_most_specific_rule_of_a_name_holds_off_or_on() -> None:
    everywhere, mine = rule(), rule(model="iris")
    off = rule(model="iris", version="1.0.0", enabled=False)
    book = RuleBook([everywhere, mine, off])
    assert book.find("errors", WINE) is everywhere
    assert book.find("errors", OLD) is mine
    assert book.find("errors", IRIS) is off
    assert book.find("other", IRIS) is None


def test_odd_names_of_features_are_shown_so_that_they_can_be_kept_and_read() -> None:
    readings = Readings(
        drift_checks={IRIS: drift_check(drift_result("a\0b\x1b[31m" + "x" * 100, 0.5))},
        quality_checks={IRIS: quality_check(quality_finding(QualityIssue.MISSING, "größe\n", 0.5))},
    )
    assert read(readings, **DRIFT).cause == f"a?b?[31m{'x' * 56} by 0.5"
    assert read(readings, **QUALITY).cause == "missing größe?"
    assert read(readings, **{**QUALITY, "metric": "missing_rate"}).cause == "größe?"


def test_many_causes_are_named_in_short() -> None:
    results = [drift_result(f"f{number}", 1 - number / 10) for number in range(5)]
    readings = Readings(drift_checks={IRIS: drift_check(*results)})
    assert read(readings, **DRIFT).cause == "f0 by 1, f1 by 0.9, f2 by 0.8 and 2 more"
