"""Between the contract's messages and our dataclasses. Requests are checked here, by the table in `rules`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from google.protobuf.message import Message

from penstock.api.monitoring.v1 import configuration_pb2 as pb
from penstock.durations import write_duration
from services.common.errors import FieldViolation, InvalidArgument
from services.monitoring.checks import MAX_CHARS
from services.monitoring.configuration.models import Change, DriftGate, Effective, Own, Scope, Standing
from services.monitoring.configuration.rules import NONE, RULES, Rule

MAX_NOTE_CHARS = 1_000


def scope_from(request: pb.GetConfigurationRequest | pb.SetConfigurationRequest) -> Scope:
    """Read whom a request is about; raises InvalidArgument naming the field."""
    model = text("model", request.model, MAX_CHARS["model"])
    version = text("version", request.version, MAX_CHARS["version"])
    if version and not model:
        raise InvalidArgument.field("model", "it is empty; name the version's model", reason="MODEL_REQUIRED")
    return Scope(model, version)


def text(name: str, value: str, most: int) -> str:
    """Check a text; raises InvalidArgument naming the field (INVALID_TEXT)."""
    if len(value) > most or "\0" in value:
        raise InvalidArgument.field(
            name, f"got {len(value)} characters; at most {most} are allowed, and no NUL", reason="INVALID_TEXT"
        )
    return value


def own_from(message: pb.Configuration) -> Own:
    """Read what a scope is to say.

    Raises:
        InvalidArgument: values out of their bounds, each with a violation of its own (INVALID_CONFIGURATION).
    """
    own: dict[str, dict[str, Any]] = {}
    violations: list[FieldViolation] = []
    for part, rules in RULES.items():
        fields = getattr(message, part)
        for name, rule in rules.items():
            if not _is_set(fields, name):
                continue
            try:
                own.setdefault(part, {})[name] = _read(rule, getattr(fields, name))
            except ValueError as error:
                violations.append(FieldViolation(f"configuration.{part}.{name}", str(error)))
    if violations:
        raise InvalidArgument(
            "; ".join(f"{each.field}: {each.description}" for each in violations),
            reason="INVALID_CONFIGURATION",
            violations=tuple(violations),
        )
    return own


def _read(rule: Rule, value: Any) -> Any:
    return rule.read(value)


def _is_set(fields: Message, name: str) -> bool:
    if fields.DESCRIPTOR.fields_by_name[name].has_presence:
        return fields.HasField(name)
    return bool(getattr(fields, name))


def get_response(standing: Standing, warnings: Iterable[str]) -> pb.GetConfigurationResponse:
    """Answer how a scope stands."""
    return pb.GetConfigurationResponse(
        effective=effective_proto(standing.effective),
        own=own_proto(standing.own),
        etag=standing.etag,
        warnings=warnings,
    )


def set_response(standing: Standing, warnings: Iterable[str]) -> pb.SetConfigurationResponse:
    """Answer how a scope stands since the change."""
    return pb.SetConfigurationResponse(
        effective=effective_proto(standing.effective),
        own=own_proto(standing.own),
        etag=standing.etag,
        warnings=warnings,
    )


def changes_response(changes: Sequence[Change], next_page_token: str) -> pb.ListConfigurationChangesResponse:
    """Answer with a page of changes."""
    return pb.ListConfigurationChangesResponse(changes=map(_change_proto, changes), next_page_token=next_page_token)


def effective_proto(effective: Effective) -> pb.Configuration:
    """Encode what holds, nothing unset."""
    own = {part: {name: getattr(getattr(effective, part), name) for name in rules} for part, rules in RULES.items()}
    return _proto(own, none=())


def own_proto(own: Own) -> pb.Configuration:
    """Encode what a scope says."""
    return _proto(own, none=NONE)


def _proto(own: Own, *, none: Sequence[str]) -> pb.Configuration:
    parts: dict[str, Any] = {
        part: {name: _plain(value, none) for name, value in fields.items()} for part, fields in own.items()
    }
    return pb.Configuration(**parts)


def _plain(value: Any, none: Sequence[str]) -> Any:
    match value:
        case timedelta():
            return write_duration(value)
        case DriftGate():
            return value.value
        case ():
            return none
    return value


def _change_proto(change: Change) -> pb.ConfigurationChange:
    message = pb.ConfigurationChange(
        model=change.scope.model,
        version=change.scope.version,
        before=own_proto(change.before),
        after=own_proto(change.after),
        changed_by=change.changed_by,
        note=change.note,
    )
    message.time.FromDatetime(change.time)
    return message
