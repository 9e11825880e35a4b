"""What a suite file says of monitoring: how models are watched, what is too much, and who is told."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import typer

from penstock.cli.alert_channel import secret_of
from penstock.cli.alert_conditions import default_window, parse_condition
from penstock.cli.alert_rule import DriftType, MissingData
from penstock.cli.monitoring import find_setting, read_setting
from penstock.cli.options import Severity
from penstock.cli.suites.reading import Fields, Problem
from penstock.durations import parse_duration, write_duration

Settings = Mapping[str, Mapping[str, Any]]
"""By part and field, as `client.monitoring.configurations.change` takes them."""
MAX_CHANNELS = 100
MAX_RULES = 1_000
_KINDS = ("webhook", "webhook_file", "webhook_env", "apprise_file", "apprise_env")
_SECRETS = ("webhook", "secret", "apprise")
_PORTS = {"https": 443, "http": 80}
_DURATIONS = ("window", "for", "repeat_interval")


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """A channel as it should be: a webhook, signed where there is a secret, or one of apprise's.

    Attributes:
        webhook: its URL; None where it is one of apprise's.
        apprise: likewise.
        secret: what a webhook is signed with; None where the file names none.
        missing: what the file names and is not here: a file that does not exist, a variable that is not set. A channel
            that exists keeps that, so that who has no secrets can still apply the rest.
    """

    name: str
    line: int
    webhook: str | None
    secret: str | None
    apprise: str | None
    missing: Mapping[str, Problem]


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """An alert rule as it should be; `said` has the fields that the file names, as `changed_rule` takes them."""

    name: str
    line: int
    model: str
    version: str
    said: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str, str]:
        """What a rule is known by."""
        return self.model, self.name, self.version

    @property
    def title(self) -> str:
        """What people know it by, within its model."""
        return title_of(self.name, self.version)

    @property
    def channels(self) -> Sequence[str]:
        """Whom it tells, where the file says so."""
        names: Sequence[str] = self.said.get("channels", ())
        return names


def title_of(name: str, version: str) -> str:
    """Name a rule; several of a name may be for versions of a model."""
    return f"{name} for {version}" if version else name


def read_channels(root: Fields, folder: Path) -> tuple[ChannelSpec, ...]:
    """Read the list of channels; files of secrets lie beside the suite's."""
    items = root.items("channels")
    if len(items) > MAX_CHANNELS:
        root.complain("channels", f"has {len(items):,} channels; {MAX_CHANNELS:,} are allowed")
    channels = tuple(_channel(fields, folder) for fields in items[:MAX_CHANNELS])
    _refuse_twins(root, "channels", [(each.name, each.line) for each in channels])
    return channels


def _channel(fields: Fields, folder: Path) -> ChannelSpec:
    name = fields.text("name", required=True, limit=100) or ""
    written = fields.text("webhook", limit=2_048)
    missing: dict[str, Problem] = {}
    hidden = {each: _secret(fields, each, folder, missing) for each in _SECRETS}
    if sum(fields.has(way) for way in _KINDS) != 1:
        fields.complain("", f"takes one of {', '.join(_KINDS)}")
    if hidden["apprise"] is not None and hidden["secret"] is not None:
        fields.complain("", "takes a secret with a webhook, which it signs; apprise has it in its URL")
    webhook = hidden["webhook"] if written is None else written
    try:
        origin_of(webhook or "")
        is_url = written != ""
    except ValueError:
        is_url = False
    if not is_url:
        fields.complain("", "has a webhook that is no URL: https://host/path")
    fields.done()
    return ChannelSpec(name, fields.line, webhook, hidden["secret"], hidden["apprise"], missing)


def origin_of(url: str) -> str:
    """Leave out a webhook's path, which is often a secret itself, and write the rest as the service gives it out.

    Raises:
        ValueError: it is no URL.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in (None, _PORTS.get(parts.scheme)) else "")


def _secret(fields: Fields, name: str, folder: Path, missing: dict[str, Problem]) -> str | None:
    """Read what must not stand in the file itself: from another file, or the environment.

    None: the file names neither. What it names and is not there is empty, and noted.
    """
    file, variable = fields.text(f"{name}_file") or "", fields.text(f"{name}_env") or ""
    source = f"{name}_file" if file else f"{name}_env"
    sentence = ""
    if not file and not variable:
        return None
    try:
        if file or os.environ.get(variable, "").strip():
            return secret_of(str(folder / file) if file else "", variable, name)
        sentence = f"the variable {variable} is not set, or empty"
    except typer.BadParameter as error:
        fields.complain(source, error.message)
    except FileNotFoundError:
        sentence = f"there is no file {file}"
    except OSError as error:
        fields.complain(source, f"can't be read: {error.strerror}")
    if sentence:
        missing[name] = Problem(fields.line_of(source), f"{fields.path}.{source}", sentence)
    return ""


def read_rules(fields: Fields, model: str) -> tuple[RuleSpec, ...]:
    """Read the list of alert rules: of a model, or at the file's top of all models."""
    items = fields.items("alert_rules")
    if len(items) > MAX_RULES:
        fields.complain("alert_rules", f"has {len(items):,} rules; {MAX_RULES:,} are allowed")
    rules = tuple(_rule(each, model) for each in items[:MAX_RULES])
    _refuse_twins(fields, "alert_rules", [(each.title, each.line) for each in rules])
    return rules


def _rule(fields: Fields, model: str) -> RuleSpec:
    name = fields.text("name", required=True, limit=100) or ""
    version = (fields.text("version", limit=128) or "") if model else ""
    said: dict[str, Any] = {
        "severity": fields.choice("severity", Severity),
        "drift_type": fields.choice("drift_type", DriftType),
        "missing_data": fields.choice("missing_data", MissingData),
        "enabled": fields.truth("enabled"),
        "min_count": fields.number("min_count", int, least=0, most=2**53),
        "feature": fields.text("feature"),
        "error_code": fields.text("error_code"),
        "description": fields.text("description"),
        "channels": fields.texts("channels"),
        **{each: _duration(fields, each) for each in _DURATIONS},
        **_condition(fields),
    }
    fields.done()
    return RuleSpec(
        name, fields.line, model, version, {each: value for each, value in said.items() if value is not None}
    )


def _condition(fields: Fields) -> dict[str, Any]:
    text = fields.text("when", required=True, limit=256)
    if text is None:
        return {}
    try:
        metric, operator, threshold = parse_condition(text)
    except typer.BadParameter as error:
        fields.complain("when", error.message)
        return {}
    return {"metric": metric, "operator": operator, "threshold": threshold}


def rule_defaults(spec: RuleSpec) -> dict[str, Any]:
    """Give what a new rule says where the file does not: as `penstock alert rule create`."""
    window = write_duration(default_window(spec.said.get("metric", "")))
    return {"enabled": True, "severity": Severity.WARNING, "window": window}


def _duration(fields: Fields, name: str) -> str | None:
    """Read a duration, and write it as the service does, so that `60m` is `1h`."""
    text = fields.text(name, limit=64)
    return None if text is None else _usual(fields, name, text, zero=name == "for")


def _usual(fields: Fields, name: str, text: str, *, zero: bool) -> str | None:
    try:
        return write_duration(parse_duration(text, zero=zero))
    except ValueError as error:
        fields.complain(name, str(error))
        return None


def read_settings(fields: Fields | None) -> Settings | None:
    """Read how a model is watched; None where the file says nothing of it."""
    if fields is None:
        return None
    settings: dict[str, dict[str, Any]] = {}
    for part in list(fields.names()):
        section = fields.fields(part)
        for name in list(section.names()) if section else ():
            value = _setting(section, part, name) if section else None
            if value is not None:
                settings.setdefault(part, {})[name] = value
    return settings


def _setting(fields: Fields, part: str, name: str) -> Any:
    path = f"{part}.{name}"
    field = find_setting(path)
    if field is None:
        fields.complain(name, "is no setting; `penstock monitoring get` lists them")
        return None
    if part == "rollups":
        fields.complain(name, "holds for all models alike: `penstock monitoring set`")
        return None
    if name == "ignored_features":
        names = fields.texts(name)
        return None if names is None else list(names)
    text = fields.text(name)
    if text is None:
        return None
    try:
        value = read_setting(path, field, text)
    except typer.BadParameter as error:
        fields.complain(name, error.message)
        return None
    is_duration = field.cpp_type == field.CPPTYPE_STRING
    return _usual(fields, name, text, zero=True) if is_duration else value


def _refuse_twins(fields: Fields, name: str, known: Sequence[tuple[str, int]]) -> None:
    seen: dict[str, int] = {}
    for number, (key, line) in enumerate(known):
        if key and key in seen:
            path = ".".join(filter(None, (fields.path, f"{name}[{number}]")))
            fields.problems.add(line, path, f"{key} stands in line {seen[key]} already")
        seen.setdefault(key, line)
