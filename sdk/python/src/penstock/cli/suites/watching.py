"""Comparing what a suite file says of monitoring with what monitoring keeps: the steps to take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from penstock.alert_rules import changed_rule
from penstock.api.monitoring.v1 import alerts_pb2, channels_pb2, configuration_pb2
from penstock.cli.documents import document_of, flattened
from penstock.cli.suites.monitoring import ChannelSpec, RuleSpec, Settings, rule_defaults, title_of
from penstock.cli.suites.reading import Problems
from penstock.cli.suites.schema import ModelSpec, Suite
from penstock.cli.suites.steps import Action, Change, Run, Step, changed_meanwhile, differences
from penstock.configurations import changed_configuration
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.monitoring import MonitoringClient


@dataclass(slots=True)
class WatchPlanner:
    """Compares a suite with what monitoring keeps. Nothing is changed.

    Attributes:
        owned: models whose rules and settings the file alone decides on: what it no longer names is taken back.
        note: why, for the settings' history.
    """

    suite: Suite
    monitoring: MonitoringClient
    owned: Collection[str]
    note: str
    _steps: list[Step] = field(default_factory=list)
    _problems: Problems = field(init=False)

    def __post_init__(self) -> None:
        self._problems = Problems(self.suite.file)

    def plan(self) -> list[Step]:
        """Compare it all.

        Raises:
            CommandError: the file asks for what can't be; every such place is named (INVALID_SUITE).
        """
        channels = {channel.name: channel for channel in self.monitoring.channels.list()}
        for spec in self.suite.channels:
            self._channel(spec, channels.get(spec.name))
        known = {*channels, *(spec.name for spec in self.suite.channels)}
        rules = {(rule.model, rule.name, rule.version): rule for rule in self.monitoring.alert_rules.list()}
        for rule_spec in self.suite.alert_rules:
            self._rule(rule_spec, rules.get(rule_spec.key), known)
        for model in self.suite.models:
            for rule_spec in model.alert_rules or ():
                self._rule(rule_spec, rules.get(rule_spec.key), known)
            if model.name in self.owned and model.alert_rules is not None:
                named = {spec.key for spec in model.alert_rules}
                gone = [rule for key, rule in rules.items() if rule.model == model.name and key not in named]
                self._steps += map(_delete_rule, gone)
            if model.monitoring is not None:
                self._settings(model, model.monitoring)
        self._problems.raise_any()
        return self._steps

    def _channel(self, spec: ChannelSpec, found: channels_pb2.Channel | None) -> None:
        before = {} if found is None else _shown(found)
        changes = differences(before, _wanted(spec, before))
        if changes:
            action = Action.CREATE_CHANNEL if found is None else Action.REPLACE_CHANNEL
            self._steps.append(Step(action, "", lambda run: _set_channel(run, spec), name=spec.name, changes=changes))

    def _rule(self, spec: RuleSpec, found: alerts_pb2.AlertRule | None, channels: Collection[str]) -> None:
        for name in spec.channels:
            if name not in channels:
                self._problems.add(spec.line, "", f"the rule {spec.name} tells {name}, which is no channel")
        if found is None:
            self._steps.append(_create_rule(spec))
            return
        rule = changed_rule(found, dict(spec.said))
        changes = differences(document_of(found), document_of(rule))
        if changes:
            self._steps.append(
                Step(
                    Action.CHANGE_RULE,
                    rule.model,
                    lambda run: run.watched().alert_rules.replace(rule),
                    name=_named(rule),
                    changes=changes,
                )
            )

    def _settings(self, model: ModelSpec, settings: Settings) -> None:
        found = self.monitoring.configurations.get(model.name)
        before = configuration_pb2.Configuration() if model.name in self.owned else found.own
        try:
            wanted = changed_configuration(before, settings)
        except PenstockError as error:
            self._problems.add(model.line, "", error.message)
            return
        old, new = _said(found.own), _said(wanted)
        names = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
        if names:
            changes = tuple(Change(name, old.get(name), new.get(name)) for name in names)
            note = self.note or f"the suite {self.suite.name}"

            def do(run: Run) -> None:
                run.watched().configurations.set(wanted, model=model.name, note=note, etag=found.etag)

            self._steps.append(Step(Action.CHANGE_MONITORING, model.name, do, changes=changes))


def _shown(channel: channels_pb2.Channel) -> dict[str, Any]:
    """Give what a channel shows of itself."""
    if channel.HasField("webhook"):
        return {"webhook": _origin(channel.webhook.url), "signed": channel.webhook.signed}
    return {"apprise": urlsplit(channel.apprise.url).scheme}


def _wanted(spec: ChannelSpec, before: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a channel is to show: its secrets can't be compared, nor are they shown here."""
    if spec.apprise:
        return {"apprise": urlsplit(spec.apprise).scheme}
    return {"webhook": _origin(spec.webhook), "signed": bool(spec.secret) or before.get("signed", False)}


def _origin(url: str) -> str:
    """Leave out the path: it is often a secret itself."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _set_channel(run: Run, spec: ChannelSpec) -> None:
    channels = run.watched().channels
    if spec.apprise:
        channels.set_apprise(spec.name, spec.apprise)
    else:
        channels.set_webhook(spec.name, spec.webhook, secret=spec.secret)


def _create_rule(spec: RuleSpec) -> Step:
    said = {**rule_defaults(spec), **spec.said}
    rule = changed_rule(alerts_pb2.AlertRule(version=spec.version), said)
    fields = {"for_" if name == "for" else name: value for name, value in said.items()}

    def do(run: Run) -> None:
        run.watched().alert_rules.create(spec.name, model=spec.model, version=spec.version, **fields)

    changes = differences({}, document_of(rule))
    return Step(Action.CREATE_RULE, spec.model, do, name=spec.title, changes=changes)


def _delete_rule(rule: alerts_pb2.AlertRule) -> Step:
    def do(run: Run) -> None:
        rules = run.watched().alert_rules
        if rules.get(rule.id).etag != rule.etag:
            raise changed_meanwhile(f"the rule {rule.name} of {rule.model} was changed")
        rules.delete(rule.id)

    return Step(Action.DELETE_RULE, rule.model, do, name=_named(rule))


def _named(rule: alerts_pb2.AlertRule) -> str:
    return title_of(rule.name, rule.version)


def _said(configuration: configuration_pb2.Configuration) -> dict[str, Any]:
    """Give the settings that are said, by their paths: what is false or 0 is said, what is empty is not."""
    said = flattened({part.name: document_of(message) for part, message in configuration.ListFields()})
    return {name: value for name, value in said.items() if value not in (None, "", [])}
