"""Configurations without a database: defaults, overlays, and what is refused, field by field."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.api.monitoring.v1 import configuration_pb2 as pb
from penstock.api.monitoring.v1 import drift_pb2
from penstock.cli.documents import document_of, flattened
from penstock.cli.formats import say_names, say_value
from penstock.durations import write_duration
from services.common.errors import InvalidArgument
from services.monitoring.configuration import convert, rules
from services.monitoring.configuration.models import DriftGate, Effective, Scope


def test_the_defaults_are_those_that_were_agreed() -> None:
    effective = Effective()
    assert convert.effective_proto(effective) == pb.Configuration(
        rollups=pb.RollupConfiguration(
            enabled=True,
            hourly_interval="1h",
            daily_interval="24h",
            five_minute_retention="14d",
            hourly_retention="90d",
            daily_retention="730d",
        ),
        drift=pb.DriftConfiguration(
            enabled=True,
            interval="6h",
            window="24h",
            alpha=0.05,
            effect_floor=0.02,
            min_rows=50,
            gate=drift_pb2.DRIFT_GATE_PSI_CALIBRATED,
            min_labels=100,
            accuracy_drop=0.05,
        ),
        quality=pb.QualityConfiguration(
            enabled=True, interval="1h", window="24h", min_rows=50, tolerance=0.01, stale_after="1h"
        ),
        retraining=pb.RetrainingConfiguration(
            enabled=True,
            min_interval="7d",
            min_labels=500,
            drift_effect=0.3,
            error_rate=0.1,
            schedule_interval="0s",
            expiry="7d",
            approval_expiry="30d",
        ),
        alerts=pb.AlertConfiguration(enabled=True),
        profiles=pb.ProfileConfiguration(enabled=True),
    )


def test_every_field_of_the_contract_has_its_rule_and_its_default() -> None:
    everything = convert.effective_proto(Effective())
    parts = {field.name: getattr(everything, field.name) for field in pb.Configuration.DESCRIPTOR.fields}
    assert {part: set(message.DESCRIPTOR.fields_by_name) for part, message in parts.items()} == {
        part: set(fields) for part, fields in rules.RULES.items()
    }
    own = {part: vars_of(getattr(Effective(), part)) for part in parts}
    assert rules.load(rules.dump(own)) == own


def test_the_page_of_settings_has_each_with_its_default_and_what_is_allowed() -> None:
    row = re.compile(r"^\| `(\w+\.\w+)` \| (.+?) \| (.+?) \| .+ \|$", re.MULTILINE)
    page = (Path(__file__).parents[2] / "docs/monitoring-settings.md").read_text()
    defaults = flattened(document_of(convert.effective_proto(Effective()))).items()
    said = {name: say_names(value) if isinstance(value, list) else say_value(value) for name, value in defaults}
    assert row.findall(page) == [
        (f"{part}.{field}", said[f"{part}.{field}"], allowed(rule))
        for part, fields in rules.RULES.items()
        for field, rule in fields.items()
    ]


def allowed(rule: rules.Rule) -> str:
    """Say what a setting may be, as the page does."""
    match rule:
        case rules.Span(least, most):
            return f"{write_duration(least)} to {write_duration(most)}"
        case rules.Number(least, most, above):
            return f"above {least:,}, at most {most:,}" if above else f"{least:,} to {most:,}"
        case rules.Flag():
            return "true or false"
        case rules.Gate():
            return ", ".join(gate.name.lower() for gate in DriftGate)
        case rules.Names():
            return f"up to {rules.MAX_IGNORED_FEATURES:,} names"


def vars_of(configuration: Any) -> dict[str, Any]:
    return {name: getattr(configuration, name) for name in configuration.__dataclass_fields__}


def test_what_a_scope_says_lies_over_what_the_one_above_says() -> None:
    over_all: dict[str, dict[str, Any]] = {"drift": {"alpha": 0.01, "interval": timedelta(hours=1)}}
    over_model: dict[str, dict[str, Any]] = {
        "drift": {"interval": timedelta(hours=2), "gate": DriftGate.KS},
        "quality": {"enabled": False},
    }
    effective = Effective().overlaid(over_all).overlaid(over_model)
    assert (effective.drift.alpha, effective.drift.interval) == (0.01, timedelta(hours=2))
    assert (effective.drift.gate, effective.drift.window) == (DriftGate.KS, timedelta(hours=24))
    assert not effective.quality.enabled
    assert effective.retraining == Effective().retraining


def test_a_scope_names_those_above_it() -> None:
    assert Scope().lineage == (Scope(),)
    assert Scope("iris").lineage == (Scope(), Scope("iris"))
    assert Scope("iris", "2").lineage == (Scope(), Scope("iris"), Scope("iris", "2"))


def test_false_zero_and_empty_are_told_apart_from_unset() -> None:
    message = pb.Configuration(
        drift=pb.DriftConfiguration(enabled=False, effect_floor=0.0),
        retraining=pb.RetrainingConfiguration(min_interval="0s", min_labels=0),
    )
    assert convert.own_from(message) == {
        "drift": {"enabled": False, "effect_floor": 0.0},
        "retraining": {"min_interval": timedelta(), "min_labels": 0},
    }
    assert convert.own_proto(convert.own_from(message)) == message
    assert convert.own_from(pb.Configuration(drift=pb.DriftConfiguration())) == {}


def test_names_of_features_are_kept_once_and_sorted() -> None:
    message = pb.Configuration(drift=pb.DriftConfiguration(ignored_features=["b", "a", "b"]))
    assert convert.own_from(message) == {"drift": {"ignored_features": ("a", "b")}}


def test_a_list_that_says_none_empties_what_the_scope_above_says() -> None:
    message = pb.Configuration(drift=pb.DriftConfiguration(ignored_features=[""]))
    own = convert.own_from(message)
    assert convert.own_proto(rules.load(rules.dump(own))) == message, "read and set again, it says the same"
    effective = Effective().overlaid({"drift": {"ignored_features": ("id",)}}).overlaid(own)
    assert list(convert.effective_proto(effective).drift.ignored_features) == []


NONSENSE: dict[str, tuple[pb.Configuration, str, str]] = {
    "no duration": (
        pb.Configuration(drift=pb.DriftConfiguration(interval="soon")),
        "drift.interval",
        "is no duration: write for example",
    ),
    "a shorter one than makes sense": (
        pb.Configuration(quality=pb.QualityConfiguration(interval="4m59s")),
        "quality.interval",
        "got 4m59s; 5m to 30d is allowed",
    ),
    "a longer one": (
        pb.Configuration(rollups=pb.RollupConfiguration(hourly_interval="25h")),
        "rollups.hourly_interval",
        "5m to 24h is allowed",
    ),
    "no window": (pb.Configuration(drift=pb.DriftConfiguration(window="0s")), "drift.window", "is out of range"),
    "an alpha of nothing": (
        pb.Configuration(drift=pb.DriftConfiguration(alpha=0)),
        "drift.alpha",
        "got 0; above 0, at most 0.2 is allowed",
    ),
    "an alpha that alarms always": (
        pb.Configuration(drift=pb.DriftConfiguration(alpha=0.5)),
        "drift.alpha",
        "got 0.5",
    ),
    "NaN": (pb.Configuration(drift=pb.DriftConfiguration(alpha=float("nan"))), "drift.alpha", "got nan"),
    "infinity": (
        pb.Configuration(drift=pb.DriftConfiguration(effect_floor=float("inf"))),
        "drift.effect_floor",
        "got inf; 0 to 10 is allowed",
    ),
    "too few rows": (
        pb.Configuration(quality=pb.QualityConfiguration(min_rows=19)),
        "quality.min_rows",
        "got 19; 20 to 1e+09 is allowed",
    ),
    "a rate that no model can have": (
        pb.Configuration(retraining=pb.RetrainingConfiguration(error_rate=1.1)),
        "retraining.error_rate",
        "got 1.1",
    ),
    "a gate that is none": (
        pb.Configuration(drift=pb.DriftConfiguration(gate=99)),  # type: ignore[arg-type] # as a later client may
        "drift.gate",
        "got 99; a DriftGate is allowed: PSI_CALIBRATED",
    ),
    "a feature without a name": (
        pb.Configuration(drift=pb.DriftConfiguration(ignored_features=["a", ""])),
        "drift.ignored_features",
        "1 to 256 characters are allowed",
    ),
    "too many features": (
        pb.Configuration(drift=pb.DriftConfiguration(ignored_features=[str(n) for n in range(2_001)])),
        "drift.ignored_features",
        "got 2001 names; at most 2000",
    ),
}


@pytest.mark.parametrize(("message", "field", "sentence"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused_and_the_field_is_named(message: pb.Configuration, field: str, sentence: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        convert.own_from(message)
    (violation,) = caught.value.violations
    assert caught.value.reason == "INVALID_CONFIGURATION"
    assert violation.field == f"configuration.{field}"
    assert sentence in violation.description


def test_all_that_is_wrong_is_said_at_once() -> None:
    message = pb.Configuration(
        drift=pb.DriftConfiguration(interval="x", alpha=2), retraining=pb.RetrainingConfiguration(expiry="1s")
    )
    with pytest.raises(InvalidArgument) as caught:
        convert.own_from(message)
    assert [violation.field for violation in caught.value.violations] == [
        "configuration.drift.interval",
        "configuration.drift.alpha",
        "configuration.retraining.expiry",
    ]


CONTRADICTIONS: dict[str, tuple[Scope, dict[str, dict[str, Any]], list[str]]] = {
    "rollups of one model": (Scope("iris"), {"rollups": {"enabled": False}}, ["configuration.rollups"]),
    "hours kept for less long than their parts": (
        Scope(),
        {"rollups": {"hourly_retention": timedelta(days=13)}},
        ["configuration.rollups.hourly_retention"],
    ),
    "days kept for less long than hours": (
        Scope(),
        {"rollups": {"daily_retention": timedelta(days=80)}},
        ["configuration.rollups.daily_retention"],
    ),
    "nothing that is ever stale": (
        Scope("iris"),
        {"quality": {"window": timedelta(minutes=30)}},
        ["configuration.quality.stale_after"],
    ),
    "a schedule that always comes too soon": (
        Scope("iris"),
        {"retraining": {"schedule_interval": timedelta(days=1)}},
        ["configuration.retraining.schedule_interval"],
    ),
    "a schedule as often as may be": (
        Scope("iris"),
        {"retraining": {"schedule_interval": timedelta(days=1), "min_interval": timedelta(days=1)}},
        [],
    ),
    "what makes sense": (Scope("iris", "1"), {"drift": {"enabled": False}}, []),
    "nothing": (Scope("iris"), {}, []),
}


@pytest.mark.parametrize(("scope", "own", "fields"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused(
    scope: Scope, own: dict[str, dict[str, Any]], fields: list[str]
) -> None:
    found = rules.contradictions(scope, own, Effective().overlaid(own))
    assert [violation.field for violation in found] == fields


def test_an_etag_is_of_what_is_said_not_of_how_it_came() -> None:
    one = {"drift": {"alpha": 0.01, "interval": timedelta(hours=1)}, "quality": {}}
    other = {"drift": {"interval": timedelta(minutes=60), "alpha": 0.01}}
    assert rules.etag_of(one) == rules.etag_of(other) != rules.etag_of({})


def test_what_a_newer_release_has_stored_is_left_aside() -> None:
    stored: dict[str, dict[str, Any]] = {"drift": {"alpha": 0.01, "colour": "red"}, "sound": {"volume": 11}}
    assert rules.load(stored) == {"drift": {"alpha": 0.01}}


SCOPES: dict[str, tuple[Callable[[], pb.GetConfigurationRequest], str]] = {
    "a version of no model": (lambda: pb.GetConfigurationRequest(version="1"), "MODEL_REQUIRED"),
    "a long name": (lambda: pb.GetConfigurationRequest(model="m" * 129), "INVALID_TEXT"),
    "NUL": (lambda: pb.GetConfigurationRequest(model="a", version="\0"), "INVALID_TEXT"),
}


@pytest.mark.parametrize(("request_", "reason"), SCOPES.values(), ids=SCOPES)
def test_a_scope_that_is_none_is_refused(request_: Callable[[], pb.GetConfigurationRequest], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        convert.scope_from(request_())
    assert caught.value.reason == reason
