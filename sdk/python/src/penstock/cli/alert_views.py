"""Alerts, rules, silences and channels as tables and facts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.text import Text

from penstock.api.monitoring.v1 import alerts_pb2 as pb
from penstock.api.monitoring.v1 import drift_pb2
from penstock.cli.documents import document_of, enum_word
from penstock.cli.formats import say_duration, say_number, say_time
from penstock.cli.model_views import time_of
from penstock.cli.output import Column, Output, printable, styled

SEVERITY_STYLES = {"critical": "bold red", "warning": "yellow", "info": "blue"}
STATE_STYLES = {"firing": "bold red", "pending": "yellow", "resolved": "green"}
_ALERTS = (
    Column("alert", give="id"),
    Column("severity"),
    Column("state"),
    Column("what", give="wrap", least_width=20),
    Column("since", "right", optional=True),
    Column("in hand", optional=True),
    Column("value", "right", optional=True),
    Column("condition", give="wrap", optional=True, least_width=20),
)
_RULES = (
    Column("rule", give="cut", least_width=8),
    Column("severity"),
    Column("condition", give="wrap", least_width=24),
    Column("for models", give="cut"),
    Column("tells", give="cut"),
    Column("on"),
    Column("id", optional=True),
)
_SILENCES = (
    Column("silence", give="id"),
    Column("silences", give="wrap", least_width=20),
    Column("left"),
    Column("why", give="wrap", least_width=20),
    Column("by", give="cut", optional=True),
    Column("until", optional=True),
)

_CHANGES = (
    Column("when"),
    Column("by", give="cut"),
    Column("did"),
    Column("rule", give="cut", least_width=8),
    Column("for models", give="cut"),
    Column("what", give="wrap", least_width=24),
)
_NEVER_SAID = ("etag", "update_time", "updated_by", "condition")


def severity_word(severity: pb.Severity.ValueType) -> str:
    """Say how bad it is."""
    return str(enum_word(pb.Severity.DESCRIPTOR, severity) or "any")


def state_word(state: pb.AlertState.ValueType) -> str:
    """Say how far an alert has come."""
    return str(enum_word(pb.AlertState.DESCRIPTOR, state) or "")


def alerts_table(output: Output, alerts: Sequence[pb.Alert], *, empty: str) -> RenderableType:
    """Lay out alerts, one a row."""
    rows = [
        (
            alert.id,
            styled(severity_word(alert.severity), SEVERITY_STYLES),
            styled(state_word(alert.state), STATE_STYLES),
            f"{alert.rule_name} of {_whose(alert)}",
            output.age(time_of(alert.begin_time)),
            ", ".join(filter(None, (alert.acknowledged_by, *_flags(alert)))),
            say_number(alert.value) if alert.HasField("value") else "",
            alert.condition,
        )
        for alert in alerts
    ]
    return output.table(_ALERTS, rows, empty=empty)


def alert_facts(output: Output, alert: pb.Alert) -> RenderableType:
    """Lay out what there is to know of an alert, and how it went on."""
    title = Text.assemble((f"{alert.rule_name}  ", "bold"), (f"{_whose(alert)}  ", "bold"))
    title.append_text(styled(severity_word(alert.severity), SEVERITY_STYLES)).append("  ").append_text(_state(alert))
    value = f"{say_number(alert.value)}, threshold {say_number(alert.threshold)}" if alert.HasField("value") else ""
    at_last = "at last" if alert.state == pb.ALERT_STATE_RESOLVED else "now"
    acknowledged = _by(alert.acknowledge_time, alert.acknowledged_by)
    if alert.acknowledge_note:
        acknowledged += f": {alert.acknowledge_note}"
    parts: list[RenderableType] = [
        title,
        Text(printable(alert.message)),
        output.facts(
            Text(alert.id, style="dim"),
            [
                ("condition", alert.condition),
                ("value", value),
                (
                    at_last,
                    say_number(alert.last_value)
                    if alert.HasField("last_value") and alert.last_value != alert.value
                    else "",
                ),
                ("began", say_time(time_of(alert.begin_time))),
                ("fired", say_time(time_of(alert.fire_time))),
                ("resolved", say_time(time_of(alert.resolve_time))),
                ("in hand", acknowledged),
                ("queued for", ", ".join(alert.told_channels) or "nobody"),
                ("check", alert.check_id),
                ("newest check", alert.last_check_id if alert.last_check_id != alert.check_id else ""),
                ("rule", alert.rule_id),
            ],
        ),
    ]
    if alert.history:
        parts += [Text("\nhow it went on", style="bold"), _history(output, alert.history)]
    return Group(*parts)


def rules_table(output: Output, rules: Sequence[pb.AlertRule]) -> RenderableType:
    """Lay out rules, one a row."""
    rows = [
        (
            rule.name,
            styled(severity_word(rule.severity), SEVERITY_STYLES),
            condition_of(rule),
            f"{rule.model} {rule.version}".strip() or "all",
            ", ".join(rule.channels) or Text("nobody", style="dim"),
            Text("yes", style="green") if rule.enabled else Text("no", style="yellow"),
            rule.id,
        )
        for rule in rules
    ]
    empty = "no rules: `penstock alert rule create NAME --when 'error_rate > 0.05'` makes one"
    return output.table(_RULES, rows, empty=empty)


def rule_facts(output: Output, rule: pb.AlertRule) -> RenderableType:
    """Lay out what there is to know of a rule."""
    title = Text.assemble((f"{rule.name}  ", "bold"), styled(severity_word(rule.severity), SEVERITY_STYLES))
    if not rule.enabled:
        title.append("  off", style="yellow")
    drift = str(enum_word(drift_pb2.DriftType.DESCRIPTOR, rule.drift_type) or "")
    missing = str(enum_word(pb.MissingData.DESCRIPTOR, rule.missing_data) or "ignore")
    return output.facts(
        title,
        [
            ("condition", condition_of(rule)),
            ("watches", rule.metric),
            ("holds for", f"{rule.model} {rule.version}".strip() or "every model"),
            ("window", rule.window),
            ("fires after", "at once" if getattr(rule, "for") in ("", "0s") else getattr(rule, "for")),
            ("drift", drift),
            ("feature", rule.feature),
            ("error code", rule.error_code),
            (
                "no value",
                {"ignore": "changes nothing", "alert": "is an alert", "resolve": "is no alert"}.get(missing, ""),
            ),
            ("tells", ", ".join(rule.channels) or "nobody: it is listed all the same"),
            ("again every", rule.repeat_interval),
            ("description", rule.description),
            ("id", rule.id),
            ("changed", _by(rule.update_time, rule.updated_by)),
        ],
    )


def changes_table(output: Output, changes: Sequence[pb.AlertRuleChange]) -> RenderableType:
    """Lay out what was done to rules, one a row."""
    rows = [
        (
            output.time(time_of(change.time)),
            change.changed_by,
            _done(change),
            (after := change.after if change.HasField("after") else change.before).name,
            f"{after.model} {after.version}".strip() or "all",
            _difference(change),
        )
        for change in changes
    ]
    return output.table(_CHANGES, rows, empty="nobody has made, changed or deleted a rule")


def _done(change: pb.AlertRuleChange) -> str:
    if not change.HasField("before"):
        return "made"
    return "changed" if change.HasField("after") else "deleted"


def _difference(change: pb.AlertRuleChange) -> str:
    """Say what a change changed: `threshold: 0.1 -> 0.2`; of a rule that was made or deleted, its condition."""
    if _done(change) != "changed":
        return condition_of(change.after if change.HasField("after") else change.before)
    before, after = (document_of(each) for each in (change.before, change.after))
    said = [
        f"{name}: {before.get(name, '') or '-'} -> {after.get(name, '') or '-'}"
        for name in {**before, **after}
        if name not in _NEVER_SAID and before.get(name) != after.get(name)
    ]
    return "; ".join(said) or "nothing"


def condition_of(rule: pb.AlertRule) -> str:
    """Give a rule's condition in words, as the service has them."""
    return rule.condition or f"{rule.metric} over {rule.window}"


def silences_table(output: Output, silences: Sequence[pb.Silence]) -> RenderableType:
    """Lay out silences, one a row."""
    now = datetime.now(UTC)
    rows = []
    for silence in silences:
        end = time_of(silence.end_time)
        left = (end - now).total_seconds() if end else 0.0
        said = Text(say_duration(left), style="yellow") if left > 0 else Text("over", style="dim")
        rows.append((silence.id, silenced_words(silence), said, silence.note, silence.created_by, output.time(end)))
    return output.table(_SILENCES, rows, empty="no silences")


def silenced_words(silence: pb.Silence) -> str:
    """Say what a silence lies on."""
    severity = severity_word(silence.severity) if silence.severity else ""
    rule = f"rule {silence.rule_name}" if silence.rule_name else ""
    of = f"of {silence.model} {silence.version}".rstrip() if silence.model else ""
    of += " as a whole" if silence.without_version else ""
    return " ".join(each for each in (severity, "alerts", of, rule) if each) if severity or of or rule else "all alerts"


def _whose(alert: pb.Alert) -> str:
    return f"{alert.model} {alert.version}".rstrip()


def _state(alert: pb.Alert) -> Text:
    state = styled(state_word(alert.state), STATE_STYLES)
    for said in _flags(alert):
        state.append(f", {said}", style="dim")
    return state


def _flags(alert: pb.Alert) -> list[str]:
    if alert.state == pb.ALERT_STATE_RESOLVED:
        return []
    return [said for flag, said in ((alert.silenced, "silenced"), (alert.flapping, "flapping")) if flag]


def _history(output: Output, history: Sequence[pb.AlertEvent]) -> RenderableType:
    columns = (
        Column("when"),
        Column("state"),
        Column("value", "right"),
        Column("by", give="cut"),
        Column("what", give="wrap"),
    )
    rows = [
        (
            output.time(time_of(event.time)),
            styled(state_word(event.state), STATE_STYLES),
            say_number(event.value) if event.HasField("value") else "",
            event.actor,
            event.message,
        )
        for event in history
    ]
    return output.table(columns, rows, empty="")


def _by(stamp: object, who: str) -> str:
    when = say_time(time_of(stamp))  # type: ignore[arg-type]  # a Timestamp, of whichever message
    return f"{when} by {who}" if when and who else when
