"""Between the contract's messages and our dataclasses. Requests are checked here; whether a rule makes sense, in
`sense`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import timedelta
from enum import Enum
from typing import TypeVar
from uuid import UUID

from penstock.api.monitoring.v1 import alerts_pb2 as pb
from penstock.durations import parse_duration
from services.common import timestamps
from services.common.errors import InvalidArgument, NotFound
from services.common.keys import caller
from services.monitoring.alerts.models import (
    AlertFilters,
    AlertState,
    AlertType,
    MissingData,
    Operator,
    RequestKey,
    RuleDraft,
    Severity,
    SilenceDraft,
)
from services.monitoring.alerts.sense import refused
from services.monitoring.checks import MAX_CHARS
from services.monitoring.drift.models import DriftType
from services.monitoring.ids import find_id

MAX_NAME_CHARS = 100
MAX_FEATURE_CHARS = 256
MAX_NOTE_CHARS = 1_000
MAX_REQUEST_ID_CHARS = 128
DEFAULT_REPEAT = timedelta(hours=4)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SECOND = timedelta(seconds=1)
_E = TypeVar("_E", bound=Enum)


def id_from(what: str, text: str) -> UUID:
    """Read the id of an alert, a rule or a silence; one that none can have is NotFound, as an unknown one is."""
    found = find_id(text)
    if found is None:
        raise NotFound(f"{text[:64]!r} is no id of any {what}: they are UUIDv7s", reason=f"{what.upper()}_NOT_FOUND")
    return found


def key_of(rpc: str, request: pb.CreateAlertRuleRequest | pb.CreateSilenceRequest) -> RequestKey:
    """Read what makes a request the same one again; raises InvalidArgument naming the field."""
    request_id = _line("request_id", request.request_id, MAX_REQUEST_ID_CHARS)
    body = type(request)()
    body.CopyFrom(request)  # type: ignore[arg-type] # it is of its own type
    body.ClearField("request_id")
    digest = hashlib.sha256(body.SerializeToString(deterministic=True)).hexdigest()
    return RequestKey(caller().name, rpc, request_id, digest)


def draft_from(rule: pb.AlertRule) -> RuleDraft:
    """Read a rule; raises InvalidArgument naming the field (INVALID_RULE)."""
    try:
        return _draft(rule)
    except InvalidArgument as error:
        raise InvalidArgument(error.message, reason="INVALID_RULE", violations=error.violations) from error


def _draft(rule: pb.AlertRule) -> RuleDraft:
    if not rule.name.strip():
        raise refused("name", "it is empty; name the rule")
    return RuleDraft(
        name=_line("rule.name", rule.name, MAX_NAME_CHARS),
        enabled=rule.enabled,
        type=_required("rule.type", rule.type, AlertType),
        severity=_required("rule.severity", rule.severity, Severity),
        model=_line("rule.model", rule.model, MAX_CHARS["model"]),
        version=_line("rule.version", rule.version, MAX_CHARS["version"]),
        metric=_line("rule.metric", rule.metric, MAX_NAME_CHARS),
        operator=_required("rule.operator", rule.operator, Operator),
        threshold=rule.threshold,
        window=_duration("rule.window", rule.window),
        hold=_duration("rule.for", getattr(rule, "for"), default=timedelta()),
        drift_type=_enum("rule.drift_type", rule.drift_type, DriftType),
        feature=_line("rule.feature", rule.feature, MAX_FEATURE_CHARS),
        error_code=_line("rule.error_code", rule.error_code, MAX_CHARS["error_code"]),
        min_count=rule.min_count,
        missing_data=_enum("rule.missing_data", rule.missing_data, MissingData) or MissingData.IGNORE,
        channels=tuple(_line("rule.channels", name, MAX_NAME_CHARS) for name in rule.channels),
        repeat_interval=_duration("rule.repeat_interval", rule.repeat_interval, default=DEFAULT_REPEAT),
        description=_text("rule.description", rule.description, MAX_NOTE_CHARS),
    )


def scope_from(request: pb.ListAlertRulesRequest) -> tuple[str, str]:
    """Read whose rules are asked for; raises InvalidArgument naming the field."""
    return _line("model", request.model, MAX_CHARS["model"]), _line("version", request.version, MAX_CHARS["version"])


def changes_from(request: pb.ListAlertRuleChangesRequest) -> tuple[str, UUID | None]:
    """Read of which rules changes are asked for; raises InvalidArgument naming the field, NotFound."""
    rule_id = id_from("rule", request.rule_id) if request.rule_id else None
    return _line("model", request.model, MAX_CHARS["model"]), rule_id


def filters_from(request: pb.ListAlertsRequest) -> AlertFilters:
    """Read a list's filters; raises InvalidArgument naming the field."""
    return AlertFilters(
        model=_line("model", request.model, MAX_CHARS["model"]),
        version=_line("version", request.version, MAX_CHARS["version"]),
        severity=_enum("severity", request.severity, Severity),
        states=tuple(_required("states", number, AlertState) for number in sorted(set(request.states))),
        type=_enum("type", request.type, AlertType),
    )


def note_from(request: pb.AcknowledgeAlertRequest) -> str:
    """Read why an alert is acknowledged; raises InvalidArgument naming the field."""
    return _text("note", request.note, MAX_NOTE_CHARS)


def silence_from(silence: pb.Silence) -> SilenceDraft:
    """Read a silence; raises InvalidArgument naming the field (INVALID_SILENCE)."""
    try:
        return _silence(silence)
    except InvalidArgument as error:
        raise InvalidArgument(error.message, reason="INVALID_SILENCE", violations=error.violations) from error


def _silence(silence: pb.Silence) -> SilenceDraft:
    if silence.version and not silence.model:
        raise InvalidArgument.field("silence.model", "it is empty; name the version's model")
    if silence.without_version and (silence.version or not silence.model):
        description = "it is for alerts of one model as a whole; name the model, and no version"
        raise InvalidArgument.field("silence.without_version", description)
    if not silence.note.strip():
        raise InvalidArgument.field("silence.note", "it is empty; say why, for who wonders later")
    if not silence.HasField("end_time"):
        raise InvalidArgument.field("silence.end_time", "it is unset; say when the silence is over")
    began = silence.HasField("begin_time")
    return SilenceDraft(
        model=_line("silence.model", silence.model, MAX_CHARS["model"]),
        version=_line("silence.version", silence.version, MAX_CHARS["version"]),
        rule_name=_line("silence.rule_name", silence.rule_name, MAX_NAME_CHARS),
        severity=_enum("silence.severity", silence.severity, Severity),
        begin_time=timestamps.read("silence.begin_time", silence.begin_time) if began else None,
        end_time=timestamps.read("silence.end_time", silence.end_time),
        note=_text("silence.note", silence.note, MAX_NOTE_CHARS),
        without_version=silence.without_version,
    )


def _duration(field: str, text: str, *, default: timedelta | None = None) -> timedelta:
    if not text and default is not None:
        return default
    try:
        duration = parse_duration(text, zero=True)
    except ValueError as error:
        raise InvalidArgument.field(field, str(error)) from error
    if duration % _SECOND:
        raise InvalidArgument.field(field, f"got {text}; whole seconds are allowed")
    return duration


def _required(field: str, number: int, kind: type[_E]) -> _E:
    found = _enum(field, number, kind)
    if found is None:
        raise InvalidArgument.field(field, f"it is unset; give {_allowed(kind)}", reason="INVALID_FIELD")
    return found


def _enum(field: str, number: int, kind: type[_E]) -> _E | None:
    if not number:
        return None
    try:
        return kind(number)
    except ValueError as error:
        message = f"got {number}; {_allowed(kind)} are allowed"
        raise InvalidArgument.field(field, message, reason="INVALID_FIELD") from error


def _allowed(kinds: Iterable[Enum]) -> str:
    return ", ".join(each.name for each in kinds)


def _line(field: str, text: str, most: int) -> str:
    """Check a text of one line."""
    if len(text) > most:
        raise InvalidArgument.field(
            field, f"got {len(text)} characters; at most {most} are allowed", reason="INVALID_TEXT"
        )
    if _CONTROL.search(text):
        raise InvalidArgument.field(
            field, f"{text[:64]!r} has control characters, which are not allowed", reason="INVALID_TEXT"
        )
    return text


def _text(field: str, text: str, most: int) -> str:
    """Check a text of any number of lines."""
    if len(text) > most or "\0" in text:
        raise InvalidArgument.field(
            field, f"got {len(text)} characters; at most {most} are allowed, and no NUL", reason="INVALID_TEXT"
        )
    return text
