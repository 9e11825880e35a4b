"""Comparing what a suite file says of monitoring with what monitoring keeps: the steps to take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from penstock.alert_rules import changed_rule
from penstock.api.monitoring.v1 import alerts_pb2, channels_pb2
from penstock.api.monitoring.v1.configuration_pb2 import Configuration
from penstock.cli.documents import document_of, flattened
from penstock.cli.suites.monitoring import ChannelSpec, RuleSpec, Settings, origin_of, rule_defaults, title_of
from penstock.cli.suites.reading import Problems
from penstock.cli.suites.schema import ModelSpec, Suite
from penstock.cli.suites.steps import Action, Change, Run, Step, changed_meanwhile, differences
from penstock.configurations import changed_configuration
from penstock.durations import parse_duration
from penstock.errors import FailedPrecondition, InvalidArgument, PenstockError, PermissionDenied

if TYPE_CHECKING:
    from penstock.monitoring import MonitoringClient

_NOT_HERE = "(its URL is not here)"


@dataclass(slots=True)
class WatchPlanner:
    """Compares a suite with what monitoring keeps. Nothing is changed.

    Attributes:
        owned: models whose rules and settings the file alone decides on: what it no longer names is taken back.
        note: why, for the settings' history.
        dry_run: nothing will be done, so that secrets which that would take may be missing.
        kept: what stays as it is because a secret is not here, in sentences.
    """

    suite: Suite
    monitoring: MonitoringClient
    owned: Collection[str]
    note: str
    dry_run: bool = False
    kept: list[str] = field(default_factory=list)
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
        rules = {(rule.model, rule.name, rule.version): rule for rule in self.monitoring.alert_rules.list()}
        for rule_spec in self._rule_specs():
            self._rule(rule_spec, rules.get(rule_spec.key), channels)
        defaults = self.monitoring.configurations.get().effective
        for model in self.suite.models:
            if model.name in self.owned and model.alert_rules is not None:
                named = {spec.key for spec in model.alert_rules}
                gone = [rule for key, rule in rules.items() if rule.model == model.name and key not in named]
                self._steps += map(_delete_rule, gone)
            if model.monitoring is not None:
                self._settings(model, model.monitoring, defaults)
        self._problems.raise_any()
        return self._steps

    def _channel(self, spec: ChannelSpec, found: channels_pb2.Channel | None) -> None:
        before = {} if found is None else _shown(found)
        changes = differences(before, _wanted(spec, before))
        for name, problem in spec.missing.items():
            if name in before:
                self.kept.append(f"channel {spec.name}: unchanged, {problem.sentence}")
                return
            if name == "secret" and before.get("signed"):
                self.kept.append(f"channel {spec.name}: secret unchanged, {problem.sentence}")
            elif self.dry_run:
                self.kept.append(f"channel {spec.name}: {problem.sentence}, and without it this can't be applied")
            else:
                sentence = f"{problem.sentence}, and the channel {spec.name} has none yet that it could keep"
                self._problems.add(problem.line, problem.field, sentence)
        if not changes and self._differs(spec):
            changes = (Change("secrets", "those kept", "those given"),)
        if changes:
            action = Action.CREATE_CHANNEL if found is None else Action.REPLACE_CHANNEL
            self._steps.append(Step(action, "", lambda run: _set_channel(run, spec), name=spec.name, changes=changes))

    def _differs(self, spec: ChannelSpec) -> bool:
        """Have the service compare a channel that looks the same with what it keeps, its secrets included."""
        channels = self.monitoring.channels
        try:
            if spec.webhook is None:
                return channels.differs_from_apprise(spec.name, spec.apprise or "")
            return channels.differs_from_webhook(spec.name, spec.webhook, secret=spec.secret or "")
        except PermissionDenied:
            self.kept.append(f"channel {spec.name}: its secrets were not compared, which takes an admin's key")
            return False
        except (InvalidArgument, FailedPrecondition):
            return True  # what is refused is refused once more where it is set, and ends the rules that tell it alone

    def _rule_specs(self) -> list[RuleSpec]:
        """Give all rules, the narrower first: where one holds, the wider ones of its name need not."""
        rules = [*self.suite.alert_rules, *(each for model in self.suite.models for each in model.alert_rules or ())]
        return sorted(rules, key=lambda spec: (not spec.version, not spec.model))

    def _rule(self, spec: RuleSpec, found: alerts_pb2.AlertRule | None, channels: Collection[str]) -> None:
        new = {channel.name for channel in self.suite.channels}.difference(channels)
        for name in spec.channels:
            if name not in channels and name not in new:
                self._problems.add(spec.line, "", f"the rule {spec.name} tells {name}, which is no channel")
        needs = frozenset(("channel", name) for name in new.intersection(spec.channels))
        if found is None:
            self._steps.append(replace(_create_rule(spec), needs=needs))
            return
        rule = changed_rule(found, dict(spec.said))
        changes = differences(document_of(found), document_of(rule))
        if changes:
            self._steps.append(
                Step(
                    Action.CHANGE_RULE,
                    rule.model,
                    lambda run: run.output.warn(run.watched().alert_rules.replace(rule).warnings),
                    name=_named(rule),
                    changes=changes,
                    needs=needs,
                )
            )

    def _settings(self, model: ModelSpec, settings: Settings, defaults: Configuration) -> None:
        found = self.monitoring.configurations.get(model.name)
        before = Configuration() if model.name in self.owned else found.own
        try:
            wanted = changed_configuration(before, settings)
        except PenstockError as error:
            self._problems.add(model.line, "", error.message)
            return
        early = _but_checked_as_often(found.own, wanted, defaults)
        self._set(model.name, found.own, early)
        self._set(model.name, early, wanted, late=True)

    def _set(self, model: str, before: Configuration, after: Configuration, *, late: bool = False) -> None:
        old, new = _said(before), _said(after)
        changes = tuple(
            Change(name, old.get(name), new.get(name))
            for name in dict.fromkeys((*old, *new))
            if old.get(name) != new.get(name)
        )
        note = self.note or f"the suite {self.suite.name}"

        def do(run: Run) -> None:
            configurations = run.watched().configurations
            now = configurations.get(model)
            if _said(now.own) != old:
                raise changed_meanwhile(f"how {model} is watched was changed")
            run.output.warn(configurations.set(after, model=model, note=note, etag=now.etag).warnings)

        if changes:
            needs = frozenset({("model", model)}) if late else frozenset()
            self._steps.append(Step(Action.CHANGE_MONITORING, model, do, changes=changes, late=late, needs=needs))


def _but_checked_as_often(before: Configuration, after: Configuration, defaults: Configuration) -> Configuration:
    """Leave out what is to be checked less often: that waits until alert rules look back as far."""
    early = Configuration()
    early.CopyFrom(after)
    for part in ("drift", "quality"):
        if _spacing(after, part, defaults) > _spacing(before, part, defaults):
            early.ClearField(part)
            if before.HasField(part):
                getattr(early, part).CopyFrom(getattr(before, part))
    return early


def _spacing(own: Configuration, part: str, defaults: Configuration) -> tuple[timedelta, bool]:
    """Say how far apart checks are, and whether they are made at all: what rules on them have to do with."""
    whole = Configuration()
    whole.CopyFrom(defaults)
    whole.MergeFrom(own)
    section = getattr(whole, part)
    return parse_duration(section.interval, zero=True), section.enabled


def _shown(channel: channels_pb2.Channel) -> dict[str, Any]:
    """Give what a channel shows of itself."""
    if channel.HasField("webhook"):
        return {"webhook": origin_of(channel.webhook.url), "signed": channel.webhook.signed}
    return {"apprise": urlsplit(channel.apprise.url).scheme}


def _wanted(spec: ChannelSpec, before: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a channel is to show; what is not here stays as it is."""
    if spec.webhook is None:
        return {"apprise": urlsplit(spec.apprise).scheme if spec.apprise else before.get("apprise", _NOT_HERE)}
    signed = spec.secret is not None or before.get("signed", False)
    return {"webhook": origin_of(spec.webhook) if spec.webhook else before.get("webhook", _NOT_HERE), "signed": signed}


def _set_channel(run: Run, spec: ChannelSpec) -> None:
    channels = run.watched().channels
    if spec.webhook is None:
        channels.set_apprise(spec.name, spec.apprise or "")
    else:
        channels.set_webhook(spec.name, spec.webhook, secret=spec.secret or "")


def _create_rule(spec: RuleSpec) -> Step:
    said = {**rule_defaults(spec), **spec.said}
    rule = changed_rule(alerts_pb2.AlertRule(version=spec.version), said)
    fields = {"for_" if name == "for" else name: value for name, value in said.items()}

    def do(run: Run) -> None:
        made = run.watched().alert_rules.create(spec.name, model=spec.model, version=spec.version, **fields)
        run.output.warn(made.warnings)

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


def _said(configuration: Configuration) -> dict[str, Any]:
    """Give the settings that are said, by their paths: what is false or 0 is said, what is empty is not."""
    said = flattened({part.name: document_of(message) for part, message in configuration.ListFields()})
    return {name: value for name, value in said.items() if value not in (None, "", [])}
