"""Rules that make no sense are refused, saying why; conditions read as people say them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.api.monitoring.v1 import alerts_pb2 as pb
from penstock.api.monitoring.v1 import drift_pb2
from services.common.errors import InvalidArgument
from services.monitoring.alerts import convert
from services.monitoring.alerts.conditions import METRICS, Reading, in_words, judge
from services.monitoring.alerts.life import Verdict
from services.monitoring.alerts.models import AlertType, MissingData, Operator
from services.monitoring.alerts.sense import check_rule
from services.monitoring.drift.models import DriftType
from tests.alerting import HOUR, IRIS, MINUTE, SECOND, draft

INTERVALS = {AlertType.DRIFT: 6 * HOUR, AlertType.DATA_QUALITY: HOUR}
LATENCY: dict[str, Any] = {"type": AlertType.LATENCY, "metric": "p99_latency_ms", "threshold": 200.0}
COUNT: dict[str, Any] = {"metric": "inference_count", "operator": Operator.LESS, "threshold": 10.0}
DRIFT: dict[str, Any] = {"type": AlertType.DRIFT, "metric": "effect", "threshold": 0.2, "window": 24 * HOUR}
QUALITY: dict[str, Any] = {
    "type": AlertType.DATA_QUALITY,
    "metric": "missing_rate",
    "threshold": 0.1,
    "window": 24 * HOUR,
}

NONSENSE: dict[str, tuple[dict[str, Any], str, str]] = {
    "a version of no model": ({"version": "1"}, "version", "without a model"),
    "no such metric": ({"metric": "cpu"}, "metric", "is no metric.*error_rate"),
    "another type's metric": ({"metric": "effect"}, "metric", "of type DRIFT.*error_rate"),
    "a rate above 1": ({"threshold": 5.0}, "threshold", "0.05 for 5 %"),
    "a rate below 0": ({"threshold": -0.1}, "threshold", "0 to 1"),
    "NaN": ({"threshold": math.nan}, "threshold", "finite"),
    "infinity": ({**LATENCY, "threshold": math.inf}, "threshold", "finite"),
    "a rate over 1": ({"threshold": 1.0}, "threshold", "never holds"),
    "a rate of at most 1": ({"threshold": 1.0, "operator": Operator.LESS_OR_EQUAL}, "threshold", "always holds"),
    "a rate of at least 0": ({"threshold": 0.0, "operator": Operator.GREATER_OR_EQUAL}, "threshold", "always holds"),
    "a count below 0": ({**COUNT, "threshold": 0.0}, "threshold", "never holds"),
    "a count of at most less than 0": (
        {**COUNT, "operator": Operator.LESS_OR_EQUAL, "threshold": -1.0},
        "threshold",
        "never holds",
    ),
    "a latency above less than 0": ({**LATENCY, "threshold": -1.0}, "threshold", "always holds"),
    "a short window": ({"window": 30 * SECOND}, "window", "1m to 7d"),
    "a long window": ({"window": 8 * 24 * HOUR}, "window", "1m to 7d"),
    "a window too short for labels": (
        {"metric": "accuracy", "operator": Operator.LESS, "threshold": 0.9, "window": MINUTE},
        "window",
        "5m to 7d",
    ),
    "a window shorter than its checks come": ({**DRIFT, "window": HOUR}, "window", "checks come every 6h"),
    "holding for days": ({"hold": 25 * HOUR}, "for", "0s to 24h"),
    "a drift type of errors": ({"drift_type": DriftType.INPUT}, "drift_type", "has none"),
    "a feature of errors": ({"feature": "age"}, "feature", "not counted by feature"),
    "a feature of repeated rows": ({**QUALITY, "metric": "duplicate_rate", "feature": "age"}, "feature", "by feature"),
    "a feature of concept drift": (
        {**DRIFT, "drift_type": DriftType.CONCEPT, "feature": "age"},
        "feature",
        "of the accuracy",
    ),
    "a distance of concept drift": (
        {**DRIFT, "metric": "ks_statistic", "drift_type": DriftType.CONCEPT},
        "drift_type",
        "CONCEPT drift has none",
    ),
    "a PSI of concept drift": ({**DRIFT, "metric": "psi", "drift_type": DriftType.CONCEPT}, "drift_type", "has none"),
    "a distance of embeddings": (
        {**DRIFT, "metric": "wasserstein", "drift_type": DriftType.EMBEDDING},
        "drift_type",
        "EMBEDDING drift has none",
    ),
    "two features that are one": (
        {**DRIFT, "metric": "drifted_count", "operator": Operator.GREATER_OR_EQUAL, "threshold": 2.0, "feature": "age"},
        "threshold",
        "never holds.*0 to 1",
    ),
    "two accuracies": (
        {**DRIFT, "metric": "drifted_count", "threshold": 1.0, "drift_type": DriftType.CONCEPT},
        "threshold",
        "never holds.*0 to 1",
    ),
    "an accuracy that falls by more than all": (
        {**DRIFT, "threshold": 1.0, "drift_type": DriftType.CONCEPT},
        "threshold",
        "never holds.*0 to 1",
    ),
    "vectors that are told apart better than always": (
        {**DRIFT, "threshold": 2.0, "drift_type": DriftType.EMBEDDING},
        "threshold",
        "never holds.*0 to 1",
    ),
    "older than any window": ({**QUALITY, "metric": "stale_s", "threshold": 31 * 86400.0}, "threshold", "never holds"),
    "an error code of latencies": ({**LATENCY, "error_code": "MODEL_FAILED"}, "error_code", "by error code"),
    "a negative count": ({"min_count": -1}, "min_count", "0 to"),
    "a least count of drift": ({**DRIFT, "min_count": 5}, "min_count", "has none"),
    "a least count of a count": ({**COUNT, "min_count": 5}, "min_count", "is a count itself"),
    "missing counts": ({**COUNT, "missing_data": MissingData.ALERT}, "missing_data", "without traffic too"),
    "many channels": ({"channels": tuple("abcdefghijklmnopqrstu")}, "channels", "at most 20"),
    "a channel twice": ({"channels": ("ops", "ops")}, "channels", "twice"),
    "sent every second": ({"repeat_interval": SECOND}, "repeat_interval", "5m to 7d"),
    "sent once a month": ({"repeat_interval": timedelta(days=30)}, "repeat_interval", "5m to 7d"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_refused_by_its_field_saying_why(name: str) -> None:
    changes, field, why = NONSENSE[name]
    with pytest.raises(InvalidArgument, match=why) as refused:
        check_rule(draft(**changes), INTERVALS)
    assert refused.value.reason == "INVALID_RULE"
    assert [violation.field for violation in refused.value.violations] == [f"rule.{field}"]


SENSE: list[dict[str, Any]] = [
    {},
    {"threshold": 0.0},
    {"threshold": 1.0, "operator": Operator.GREATER_OR_EQUAL},
    {"threshold": 1.0, "operator": Operator.LESS},
    {"threshold": 0.0, "operator": Operator.LESS_OR_EQUAL},
    {**COUNT, "threshold": 1.0},
    {**LATENCY, "model": "iris", "version": "1", "min_count": 20, "missing_data": MissingData.ALERT},
    {**DRIFT, "drift_type": DriftType.INPUT, "feature": "age"},
    {**DRIFT, "drift_type": DriftType.CONCEPT, "feature": "accuracy"},
    {**DRIFT, "threshold": 0.99, "drift_type": DriftType.CONCEPT},
    {**DRIFT, "metric": "drifted_count", "threshold": 0.0, "feature": "age"},
    {**DRIFT, "metric": "psi", "threshold": 2.0, "drift_type": DriftType.PREDICTION},
    {**QUALITY, "metric": "stale_s", "threshold": 29 * 86400.0},
    {**QUALITY, "feature": "age", "missing_data": MissingData.RESOLVE},
    {"hold": 24 * HOUR, "window": MINUTE, "repeat_interval": 5 * MINUTE, "channels": ("ops", "slack")},
]


@pytest.mark.parametrize("changes", SENSE, ids=str)
def test_what_makes_sense_passes(changes: dict[str, Any]) -> None:
    check_rule(draft(**changes), INTERVALS)


def test_a_feature_is_seen_to_be_as_old_as_the_window_of_its_checks() -> None:
    stale = draft(**{**QUALITY, "metric": "stale_s", "threshold": 86_400.0})
    check_rule(replace(stale, operator=Operator.GREATER_OR_EQUAL), INTERVALS, 24 * HOUR)
    check_rule(stale, INTERVALS, 48 * HOUR)
    with pytest.raises(InvalidArgument, match="stale_s > 86400 s never holds, since it is 0 to 86400"):
        check_rule(stale, INTERVALS, 24 * HOUR)


def test_checks_that_come_seldom_leave_a_window_that_is_allowed() -> None:
    seldom = {AlertType.DRIFT: timedelta(days=30)}
    check_rule(draft(**{**DRIFT, "window": timedelta(days=7)}), seldom)
    with pytest.raises(InvalidArgument, match="take at least 7d"):
        check_rule(draft(**DRIFT), seldom)


def test_a_rule_that_misses_checks_is_not_woken_by_one_that_is_made_a_minute_late() -> None:
    missing = {**DRIFT, "missing_data": MissingData.ALERT}
    check_rule(draft(**{**DRIFT, "window": 6 * HOUR}), INTERVALS)
    for window in (5 * HOUR, 6 * HOUR):
        with pytest.raises(InvalidArgument, match="take at least 370m"):
            check_rule(draft(**{**missing, "window": window}), INTERVALS)
    check_rule(draft(**{**missing, "window": 6 * HOUR + 10 * MINUTE}), INTERVALS)
    check_rule(draft(**{**missing, "window": 6 * HOUR, "hold": 10 * MINUTE}), INTERVALS)
    check_rule(draft(missing_data=MissingData.ALERT, window=MINUTE), INTERVALS)


def test_every_metric_of_the_contract_is_known() -> None:
    contract = Path("protos/penstock/api/monitoring/v1/alerts.proto").read_text()
    said = contract.split("// What is compared; required.")[1].split("string metric =")[0]
    assert [name for name in METRICS if not re.search(rf"\b{name}\b", said)] == []
    assert {metric.type for metric in METRICS.values()} == set(AlertType)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({**LATENCY, "hold": 10 * MINUTE}, "p99_latency_ms over 5m > 200 ms for 10m"),
        ({"min_count": 20}, "error_rate over 5m > 0.1, from 20 predictions on"),
        (
            {**DRIFT, "drift_type": DriftType.INPUT, "feature": "age"},
            "effect of age (input drift) in a check of the last 24h > 0.2",
        ),
        (COUNT, "inference_count over 5m < 10"),
    ],
)
def test_a_condition_is_said_in_words(changes: dict[str, Any], words: str) -> None:
    assert in_words(draft(**changes)) == words


def test_a_value_is_judged_and_told() -> None:
    high, low = judge(draft(), IRIS, Reading(0.25)), judge(draft(), IRIS, Reading(0.1))
    assert (high.verdict, high.value) == (Verdict.HOLDS, 0.25)
    assert high.message == "iris 1.0.0: error_rate over 5m is 0.25, > 0.1"
    assert low.verdict is Verdict.CLEAR
    assert low.message == "iris 1.0.0: error_rate over 5m is 0.1, no longer > 0.1"
    drifted = judge(draft(**DRIFT), IRIS, Reading(0.4, cause="age by 0.4"))
    assert drifted.message == "iris 1.0.0: effect in the latest check is 0.4, > 0.2 (age by 0.4)"


@pytest.mark.parametrize("operator", Operator)
def test_each_operator_compares_as_it_is_written(operator: Operator) -> None:
    met = {value for value in (1.0, 2.0, 3.0) if judge(_count(operator), IRIS, Reading(value)).verdict is Verdict.HOLDS}
    assert (
        met
        == {
            Operator.GREATER: {3.0},
            Operator.GREATER_OR_EQUAL: {2.0, 3.0},
            Operator.LESS: {1.0},
            Operator.LESS_OR_EQUAL: {1.0, 2.0},
        }[operator]
    )


def _count(operator: Operator) -> Any:
    return draft(metric="error_count", operator=operator, threshold=2.0)


@pytest.mark.parametrize(
    ("missing", "verdict"),
    [
        (MissingData.IGNORE, Verdict.UNKNOWN),
        (MissingData.ALERT, Verdict.HOLDS),
        (MissingData.RESOLVE, Verdict.CLEAR),
    ],
)
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_no_value_means_what_the_rule_says(missing: MissingData, verdict: Verdict, value: float | None) -> None:
    found = judge(draft(missing_data=missing), IRIS, Reading(value, "no prediction came over 5m"))
    assert (found.verdict, found.value) == (verdict, None)
    assert found.message == "iris 1.0.0: error_rate has no value: no prediction came over 5m"


GOOD: dict[str, Any] = {
    "name": "slow",
    "type": pb.ALERT_TYPE_LATENCY,
    "severity": pb.SEVERITY_WARNING,
    "metric": "p99_latency_ms",
    "operator": pb.OPERATOR_GREATER,
    "threshold": 200,
    "window": "5m",
}


def test_what_a_request_leaves_unset_has_its_default() -> None:
    read = convert.draft_from(pb.AlertRule(**GOOD))
    assert (read.hold, read.repeat_interval) == (timedelta(), 4 * HOUR)
    assert (read.missing_data, read.drift_type, read.enabled) == (MissingData.IGNORE, None, False)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": " "}, "name"),
    "a long name": ({"name": "n" * 101}, "name"),
    "a name of two lines": ({"name": "a\nb"}, "name"),
    "no type": ({"type": 0}, "type"),
    "an unknown type": ({"type": 99}, "type"),
    "no severity": ({"severity": 0}, "severity"),
    "no operator": ({"operator": 0}, "operator"),
    "no window": ({"window": ""}, "window"),
    "a window that is none": ({"window": "soon"}, "window"),
    "part of a second": ({"window": "60.5s"}, "window"),
    "a for that is none": ({"for": "-5m"}, "for"),
    "a repeat that is none": ({"repeat_interval": "often"}, "repeat_interval"),
    "an unknown drift type": ({"drift_type": 99}, "drift_type"),
    "an unknown meaning of no value": ({"missing_data": 99}, "missing_data"),
    "a long description": ({"description": "d" * 1_001}, "description"),
    "NUL in a feature": ({"feature": "a\0"}, "feature"),
    "a long model": ({"model": "m" * 129}, "model"),
    "a line end in a channel": ({"channels": ["a\n"]}, "channels"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_rule_is_refused_by_its_field(name: str) -> None:
    changes, field = BAD[name]
    with pytest.raises(InvalidArgument) as refused:
        convert.draft_from(pb.AlertRule(**{**GOOD, **changes}))
    assert refused.value.reason == "INVALID_RULE"
    assert [violation.field for violation in refused.value.violations] == [f"rule.{field}"]


def test_the_enums_are_the_contracts() -> None:
    pairs = [
        (AlertType, pb.AlertType, "ALERT_TYPE_"),
        (Operator, pb.Operator, "OPERATOR_"),
        (MissingData, pb.MissingData, "MISSING_DATA_"),
        (DriftType, drift_pb2.DriftType, "DRIFT_TYPE_"),
    ]
    for ours, theirs, prefix in pairs:
        assert {f"{prefix}{each.name}": each.value for each in ours} == {
            name: number for name, number in theirs.items() if number
        }
