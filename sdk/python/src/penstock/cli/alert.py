"""`penstock alert`: what rules found, who has it in hand, and who is told."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated

import typer
from rich.text import Text

from penstock.api.monitoring.v1 import alerts_pb2 as pb
from penstock.cli import alert_channel, alert_rule
from penstock.cli.alert_views import alert_facts, alerts_table, silenced_words, silences_table
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.formats import say_time
from penstock.cli.ids import whole_id
from penstock.cli.model_views import time_of
from penstock.cli.options import (
    AlertType,
    Json,
    Limit,
    ModelFilter,
    NoColor,
    Note,
    Severity,
    Token,
    Url,
    VersionFilter,
    duration,
)
from penstock.cli.output import Output

EXAMPLES = """Examples

  penstock alert list --severity critical
  penstock alert ack ALERT --note "rolling back"
  penstock alert silence --model iris --for 2h --note "a migration"
  penstock alert rule create slow --when 'p95_latency_ms > 200' --for 5m
"""
app = typer.Typer(no_args_is_help=True, help="Alerts: see, take in hand, silence; rules and channels.", epilog=EXAMPLES)
app.add_typer(alert_rule.app, name="rule")
app.add_typer(alert_channel.app, name="channel")


class State(enum.StrEnum):
    """How far an alert has come."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


SilenceNote = Annotated[
    str, typer.Option("--note", metavar="TEXT", help="Why; required, for those who wonder why it is silent.")
]
Alert = Annotated[str, typer.Argument(metavar="ALERT", help="The alert's id, or how it begins.", show_default=False)]


@app.command("list")
def list_(
    model: ModelFilter = "",
    version: VersionFilter = "",
    severity: Annotated[
        Severity | None,
        typer.Option("--severity", metavar="S", help="Only critical, warning or info.", show_default=False),
    ] = None,
    kind: Annotated[
        AlertType | None,
        typer.Option(
            "--type", metavar="T", help="Only latency, error_rate, drift or data_quality.", show_default=False
        ),
    ] = None,
    state: Annotated[
        list[State] | None,
        typer.Option("--state", "-s", metavar="STATE", help="pending, firing, resolved. Default: the first two."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Those that are over too.")] = False,
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List alerts, the newest first: those that are not over, or all."""
    output = Output(as_json=as_json, no_color=no_color)
    states = [each.value for each in state or ()] or ([] if every else [State.PENDING.value, State.FIRING.value])
    with connect(Service.MONITORING, url, token) as client:
        alerts = client.monitoring.alerts.list(
            model=model,
            version=version,
            severity=severity and severity.value,
            states=states,
            alert_type=kind and kind.value,
            limit=limit,
        )
        found = list(islice(alerts, limit))
    empty = "no alerts match" if every or state else "nothing is wrong that a rule watches; --all shows what is over"
    output.answer([document_of(each) for each in found], alerts_table(output, found, empty=empty))
    waiting = [each for each in found if each.state == pb.ALERT_STATE_FIRING and not each.acknowledged_by]
    if waiting:
        output.note(f"what is behind one: penstock alert show {waiting[0].id}; `penstock alert ack` takes it in hand")


@app.command()
def show(alert: Alert, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Show an alert: what happened, the condition, the value, and how it went on."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = client.monitoring.alerts.get(whole_id(alert, client.monitoring.alerts.list))
    output.answer(document_of(found), alert_facts(output, found))
    if found.check_id:
        noun = "quality" if found.type == pb.ALERT_TYPE_DATA_QUALITY else "drift"
        output.note(f"the check behind it: penstock {noun} show {found.check_id}")
    if found.state != pb.ALERT_STATE_RESOLVED and not found.acknowledged_by:
        output.note(f'to take it in hand: penstock alert ack {found.id} --note "…"')


@app.command()
def ack(
    alert: Alert,
    note: Note = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Take an alert in hand: it is not sent again until it is resolved."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = client.monitoring.alerts.acknowledge(whole_id(alert, client.monitoring.alerts.list), note=note)
    said = Text.assemble((found.rule_name, "bold"), f" of {found.model} {found.version}".rstrip(), " is in ")
    output.answer(document_of(found), said.append(f"{found.acknowledged_by}'s hands; it is not sent again"))
    output.note(f"what led here, and what comes of it: penstock lineage {found.id}")


@app.command()
def silence(
    alert: Annotated[
        str,
        typer.Argument(
            metavar="ALERT",
            help="Silence this one's rule for this one's version; of one without a version, for the model as a whole, "
            "and not for its versions.",
            show_default=False,
        ),
    ] = "",
    length: Annotated[
        timedelta | None,
        typer.Option(
            "--for", metavar="DURATION", parser=duration, help="For so long: 2h, up to 30d.", show_default=False
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            "--until",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"],
            metavar="TIME",
            help="Up to then: 2026-01-31T12:00.",
            show_default=False,
        ),
    ] = None,
    note: SilenceNote = "",
    model: ModelFilter = "",
    version: VersionFilter = "",
    rule: Annotated[str, typer.Option("--rule", metavar="NAME", help="Only the rule of this name.")] = "",
    severity: Annotated[
        Severity | None,
        typer.Option("--severity", metavar="S", help="Only critical, warning or info.", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All alerts of all models.")] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Send alerts that match to nobody for a while; they are kept and listed all the same."""
    output = Output(as_json=as_json, no_color=no_color)
    if (length is None) == (until is None):
        raise typer.BadParameter("give --for DURATION or --until TIME: a silence has an end")
    if not note.strip():
        raise typer.BadParameter("say why, for those who wonder why it is silent: --note", param_hint="--note")
    if not (alert or model or version or rule or severity or every):
        raise typer.BadParameter("say which alerts: ALERT, --model, --rule, --severity; --all silences everything")
    with connect(Service.MONITORING, url, token) as client:
        without_version = False
        if alert:
            found = client.monitoring.alerts.get(whole_id(alert, client.monitoring.alerts.list))
            without_version = not (found.version or version)
            model, version, rule = model or found.model, version or found.version, rule or found.rule_name
        made = client.monitoring.silences.create(
            length or (until or datetime.now(UTC)).astimezone(),
            note=note,
            model=model,
            version=version,
            rule_name=rule,
            severity=severity and severity.value,
            without_version=without_version,
        )
    said = f"{silenced_words(made)} are sent to nobody until {say_time(time_of(made.end_time))}"
    output.answer(document_of(made), Text(said))
    output.warn(made.warnings)
    output.note(f"to end it sooner: penstock alert unsilence {made.id}")


@app.command()
def silences(
    every: Annotated[bool, typer.Option("--all", help="Those that are over too.")] = False,
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List silences, the newest first."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = list(islice(client.monitoring.silences.list(ended=every, limit=limit), limit))
    output.answer([document_of(each) for each in found], silences_table(output, found))


@app.command()
def unsilence(
    silence_id: Annotated[
        str, typer.Argument(metavar="SILENCE", help="The silence's id, or how it begins.", show_default=False)
    ],
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """End a silence now."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        ended = client.monitoring.silences.end(whole_id(silence_id, client.monitoring.silences.list))
    output.answer(document_of(ended), Text(f"{silenced_words(ended)} are sent again"))
