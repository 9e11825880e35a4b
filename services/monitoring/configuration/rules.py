"""What each field of a configuration may be: one table, by which requests are checked and values are written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from penstock.durations import parse_duration, write_duration
from services.common.errors import FieldViolation
from services.monitoring.configuration.models import DriftGate, Effective, Own, Scope

_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MAX_IGNORED_FEATURES = 2_000
MAX_FEATURE_CHARS = 256


@dataclass(frozen=True, slots=True)
class Span:
    """A duration within bounds, both allowed."""

    least: timedelta
    most: timedelta

    def read(self, text: str) -> timedelta:
        """Read what a person wrote, to the second; raises ValueError saying what is allowed."""
        duration = timedelta(seconds=round(parse_duration(text, zero=not self.least).total_seconds()))
        if not self.least <= duration <= self.most:
            raise ValueError(f"got {text}; {write_duration(self.least)} to {write_duration(self.most)} is allowed")
        return duration

    def load(self, stored: str) -> timedelta:
        """Read what `dump` wrote."""
        return parse_duration(stored, zero=True)

    def dump(self, value: timedelta) -> str:
        """Write for the database and for people."""
        return write_duration(value)


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds; `above`: the lower one is not allowed itself."""

    least: float
    most: float
    above: bool = False

    def read(self, value: float) -> float:
        """Check; raises ValueError saying what is allowed. NaN is within no bounds."""
        if not self.least <= value <= self.most or (self.above and value == self.least):
            begin = f"above {self.least:g}, at most" if self.above else f"{self.least:g} to"
            raise ValueError(f"got {value:g}; {begin} {self.most:g} is allowed")
        return value

    def load(self, stored: float) -> float:
        """Read what `dump` wrote."""
        return stored

    def dump(self, value: float) -> float:
        """Write for the database."""
        return value


@dataclass(frozen=True, slots=True)
class Flag:
    """On or off."""

    def read(self, value: bool) -> bool:
        """Check: both are fine."""
        return value

    load = dump = read


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate of drift, by its number."""

    def read(self, number: int) -> DriftGate:
        """Check; raises ValueError."""
        try:
            return DriftGate(number)
        except ValueError:
            raise ValueError(f"got {number}; a DriftGate is allowed: {', '.join(DriftGate.__members__)}") from None

    def load(self, stored: str) -> DriftGate:
        """Read what `dump` wrote."""
        return DriftGate[stored]

    def dump(self, value: DriftGate) -> str:
        """Write for the database."""
        return value.name


NONE = [""]
"""How a list says that it is empty, whatever the scope above says: in the contract, one without names says nothing."""


@dataclass(frozen=True, slots=True)
class Names:
    """Names of features, sorted, each once."""

    def read(self, names: list[str]) -> tuple[str, ...]:
        """Check; raises ValueError saying what is allowed."""
        if names == NONE:
            return ()
        if len(names) > MAX_IGNORED_FEATURES:
            raise ValueError(f"got {len(names)} names; at most {MAX_IGNORED_FEATURES} are allowed")
        for name in names:
            if not 0 < len(name) <= MAX_FEATURE_CHARS or "\0" in name:
                raise ValueError(f"got {name[:40]!r}; 1 to {MAX_FEATURE_CHARS} characters are allowed, and no NUL")
        return tuple(sorted(set(names)))

    def load(self, stored: list[str]) -> tuple[str, ...]:
        """Read what `dump` wrote."""
        return tuple(stored)

    def dump(self, value: tuple[str, ...]) -> list[str]:
        """Write for the database."""
        return list(value)


Rule = Span | Number | Flag | Gate | Names
_CHECK = Span(5 * _MINUTE, 30 * _DAY)
_KEPT = Span(_DAY, 3650 * _DAY)
RULES: Mapping[str, Mapping[str, Rule]] = {
    "rollups": {
        "enabled": Flag(),
        "hourly_interval": Span(5 * _MINUTE, _DAY),
        "daily_interval": Span(_HOUR, 7 * _DAY),
        "five_minute_retention": _KEPT,
        "hourly_retention": _KEPT,
        "daily_retention": _KEPT,
    },
    "profiles": {
        "enabled": Flag(),
    },
    "drift": {
        "enabled": Flag(),
        "interval": _CHECK,
        "window": _CHECK,
        "alpha": Number(0, 0.2, above=True),
        "effect_floor": Number(0, 10),
        "min_rows": Number(20, 1_000_000_000),
        "gate": Gate(),
        "min_labels": Number(30, 1_000_000_000),
        "accuracy_drop": Number(0, 1),
        "ignored_features": Names(),
    },
    "quality": {
        "enabled": Flag(),
        "interval": _CHECK,
        "window": _CHECK,
        "min_rows": Number(20, 1_000_000_000),
        "tolerance": Number(0, 1),
        "stale_after": _CHECK,
    },
    "retraining": {
        "enabled": Flag(),
        "min_interval": Span(timedelta(), 365 * _DAY),
        "min_labels": Number(0, 1_000_000_000),
        "drift_effect": Number(0, 10, above=True),
        "error_rate": Number(0, 1, above=True),
        "schedule_interval": Span(timedelta(), 365 * _DAY),
        "expiry": Span(_HOUR, 365 * _DAY),
        "approval_expiry": Span(_HOUR, 365 * _DAY),
    },
    "alerts": {
        "enabled": Flag(),
    },
}


def contradictions(scope: Scope, own: Own, effective: Effective) -> Iterator[FieldViolation]:
    """Say what is wrong with values that are each fine by themselves, where the scope is to say `own`."""
    if scope.model and own.get("rollups"):
        yield FieldViolation(
            "configuration.rollups",
            f"metrics are rolled up for all models alike; leave it out for {scope.model}, and set it for all",
        )
    rollups = effective.rollups
    kept = {"hourly_retention": rollups.hourly_retention, "daily_retention": rollups.daily_retention}
    finer = rollups.five_minute_retention
    for name, retention in kept.items():
        if own.get("rollups") and retention < finer:
            yield FieldViolation(
                f"configuration.rollups.{name}",
                f"{write_duration(retention)} is shorter than finer points are kept; "
                f"at least {write_duration(finer)} is allowed",
            )
        finer = retention
    yield from _never(own, effective)


def _never(own: Own, effective: Effective) -> Iterator[FieldViolation]:
    """Say what would never come to pass, where the scope says any of the two that are at odds."""
    quality, retraining = effective.quality, effective.retraining
    said = own.get("quality", {})
    if ("stale_after" in said or "window" in said) and quality.stale_after >= quality.window:
        yield FieldViolation(
            "configuration.quality.stale_after",
            f"nothing is stale after {write_duration(quality.stale_after)} in a window of "
            f"{write_duration(quality.window)}; take a shorter time, or a longer quality.window",
        )
    said, interval = own.get("retraining", {}), retraining.schedule_interval
    if ("schedule_interval" in said or "min_interval" in said) and timedelta() < interval < retraining.min_interval:
        yield FieldViolation(
            "configuration.retraining.schedule_interval",
            f"{write_duration(interval)} is shorter than retraining.min_interval, "
            f"{write_duration(retraining.min_interval)}, within which none is asked for; set that too",
        )


def dump(own: Own) -> dict[str, dict[str, Any]]:
    """Write what a scope says as JSON values."""
    return {
        part: {name: RULES[part][name].dump(value) for name, value in sorted(fields.items())}
        for part, fields in sorted(own.items())
        if fields
    }


def load(stored: Mapping[str, Mapping[str, Any]]) -> Own:
    """Read what `dump` wrote; a field that this release does not know is left aside."""
    return {
        part: {name: RULES[part][name].load(value) for name, value in fields.items() if name in RULES[part]}
        for part, fields in stored.items()
        if part in RULES
    }


def etag_of(own: Own) -> str:
    """Digest what a scope says: equal for equal configurations."""
    return hashlib.sha256(json.dumps(dump(own), sort_keys=True).encode()).hexdigest()[:16]
