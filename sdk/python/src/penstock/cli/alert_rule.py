"""`penstock alert rule`: what is watched, and from where on it is too much."""

from __future__ import annotations

import enum
import re
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from penstock.cli.alert_conditions import default_window, parse_condition
from penstock.cli.alert_views import changes_table, condition_of, rule_facts, rules_table
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.options import (
    Json,
    Limit,
    ModelFilter,
    NoColor,
    Severity,
    Token,
    Url,
    VersionFilter,
    Yes,
    duration,
)
from penstock.cli.output import Output

if TYPE_CHECKING:
    from penstock.api.monitoring.v1 import alerts_pb2 as pb
    from penstock.client import Client

EXAMPLES = """Examples

  penstock alert rule create slow --when 'p95_latency_ms > 200' --for 5m
  penstock alert rule create failing --when 'server_error_rate > 5%' --min-count 50
  penstock alert rule create far --when 'effect > 0.2' --drift-type input
  penstock alert rule create dirty --when 'missing_rate > 0.02' --feature age
  penstock alert rule create late --when 'error_rate > 1%' --error-code DEADLINE_EXCEEDED
  penstock alert rule create silent --when 'inference_count < 1' --window 1h

What can be watched

  latency       average_latency_ms max_latency_ms p50_latency_ms
                p95_latency_ms p99_latency_ms
  error_rate    error_rate server_error_rate error_count
                inference_count throughput_per_s accuracy
                average_confidence average_feedback_lag_s feedback_count
                judged_count
  drift         effect drifted_count p_value adjusted_p_value psi
                ks_statistic ks_p_value chi_square chi_square_p_value
                wasserstein jensen_shannon
  data_quality  violation_count missing_rate type_rate schema_rate
                range_rate unknown_category_rate outlier_rate
                not_finite_rate constant_rate stale_s duplicate_rate
"""
app = typer.Typer(no_args_is_help=True, help="Rules: what is watched, and who is told.", epilog=EXAMPLES)
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MAX_LOOKED_AT = 1_000


class DriftType(enum.StrEnum):
    """What has drifted."""

    INPUT = "input"
    PREDICTION = "prediction"
    CONCEPT = "concept"
    EMBEDDING = "embedding"


class MissingData(enum.StrEnum):
    """What no value means."""

    IGNORE = "ignore"
    ALERT = "alert"
    RESOLVE = "resolve"


When = Annotated[
    str | None,
    typer.Option(
        "--when", metavar="M>X", help="The condition: a metric, > >= < or <=, a number. See below.", show_default=False
    ),
]
RuleWindow = Annotated[
    timedelta | None,
    typer.Option(
        "--window",
        "-w",
        metavar="DURATION",
        parser=duration,
        help="Over how long, 1m to 7d. Default: 15m; of drift and data quality 24h, the latest check counts.",
        show_default=False,
    ),
]
For = Annotated[
    timedelta | None,
    typer.Option(
        "--for", metavar="DURATION", parser=duration, help="Fires when it held so long, up to 24h.", show_default=False
    ),
]
RuleSeverity = Annotated[
    Severity | None,
    typer.Option("--severity", metavar="S", help="critical, warning or info. Default: warning.", show_default=False),
]
RuleDrift = Annotated[
    DriftType | None,
    typer.Option(
        "--drift-type", metavar="T", help="Only input, prediction, concept or embedding drift.", show_default=False
    ),
]
RuleFeature = Annotated[
    str | None, typer.Option("--feature", metavar="NAME", help="Only this feature's.", show_default=False)
]
ErrorCode = Annotated[
    str | None,
    typer.Option(
        "--error-code", metavar="CODE", help="Of error_rate and error_count: only this code's.", show_default=False
    ),
]
MinCount = Annotated[
    int | None,
    typer.Option(
        "--min-count", metavar="N", min=0, help="Fewer predictions in the window are no value.", show_default=False
    ),
]
Missing = Annotated[
    MissingData | None,
    typer.Option(
        "--missing-data", metavar="M", help="What no value means: ignore, alert or resolve.", show_default=False
    ),
]
Channels = Annotated[
    list[str] | None,
    typer.Option("--channel", "-c", metavar="NAME", help="Whom to tell; again for more.", show_default=False),
]
Repeat = Annotated[
    timedelta | None,
    typer.Option(
        "--repeat",
        metavar="DURATION",
        parser=duration,
        help="Sent again so often until somebody has it in hand. Default: 4h.",
        show_default=False,
    ),
]
Description = Annotated[
    str | None, typer.Option("--description", metavar="TEXT", help="For people.", show_default=False)
]
Rule = Annotated[str, typer.Argument(metavar="RULE", help="Its name, or its id.", show_default=False)]


@app.command(epilog=EXAMPLES)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called.", show_default=False)],
    when: When = None,
    severity: RuleSeverity = None,
    model: ModelFilter = "",
    version: VersionFilter = "",
    window: RuleWindow = None,
    hold: For = None,
    channel: Channels = None,
    drift_type: RuleDrift = None,
    feature: RuleFeature = None,
    error_code: ErrorCode = None,
    min_count: MinCount = None,
    missing_data: Missing = None,
    repeat: Repeat = None,
    description: Description = None,
    off: Annotated[bool, typer.Option("--off", help="Make it, and don't judge by it yet.")] = False,
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="The same again makes no second rule.")
    ] = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Make a rule: for every model by itself, or for one, where it takes the place of the global one of its name."""
    output = Output(as_json=as_json, no_color=no_color)
    if when is None:
        raise typer.BadParameter("say what is too much, such as --when 'p95_latency_ms > 200'", param_hint="--when")
    metric, sign, threshold = parse_condition(when)
    with connect(Service.MONITORING, url, token) as client:
        made = client.monitoring.alert_rules.create(
            name,
            metric,
            sign,
            threshold,
            window=window or default_window(metric),
            severity=(severity or Severity.WARNING).value,
            model=model,
            version=version,
            for_=hold,
            drift_type=drift_type and drift_type.value,
            feature=feature or "",
            error_code=error_code or "",
            min_count=min_count or 0,
            missing_data=missing_data and missing_data.value,
            channels=channel or (),
            repeat_interval=repeat,
            description=description or "",
            enabled=not off,
            request_id=request_id,
        )
    output.answer(document_of(made), rule_facts(output, made))
    output.warn(made.warnings)
    if not made.channels:
        whose = f" --model {made.model}" if made.model else ""
        output.note(f"nobody is told: penstock alert rule update {made.name}{whose} --channel NAME changes that")


@app.command(epilog=EXAMPLES)
def update(
    rule: Rule,
    when: When = None,
    severity: RuleSeverity = None,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="Which of this name: this model's.")
    ] = "",
    version: Annotated[str, typer.Option("--version", "-v", metavar="V", help="And this version's.")] = "",
    window: RuleWindow = None,
    hold: For = None,
    channel: Channels = None,
    nobody: Annotated[bool, typer.Option("--no-channel", help="Tell nobody any more.")] = False,
    drift_type: RuleDrift = None,
    feature: RuleFeature = None,
    error_code: ErrorCode = None,
    min_count: MinCount = None,
    missing_data: Missing = None,
    repeat: Repeat = None,
    description: Description = None,
    enabled: Annotated[bool | None, typer.Option("--on/--off", help="Judge by it, or not.", show_default=False)] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Change what is named of a rule, and leave the rest; --channel gives all of them.

    With another condition or severity the rule's open alerts are resolved, and others begin where it holds.
    """
    output = Output(as_json=as_json, no_color=no_color)
    said: dict[str, Any] = {
        "severity": severity and severity.value,
        "window": window,
        "for_": hold,
        "channels": [] if nobody else channel or None,
        "drift_type": drift_type and drift_type.value,
        "feature": feature,
        "error_code": error_code,
        "min_count": min_count,
        "missing_data": missing_data and missing_data.value,
        "repeat_interval": repeat,
        "description": description,
        "enabled": enabled,
    }
    changes = {field: value for field, value in said.items() if value is not None}
    if when is not None:
        changes["metric"], changes["operator"], changes["threshold"] = parse_condition(when)
    if not changes:
        raise typer.BadParameter("say what to change; --help lists what there is")
    with connect(Service.MONITORING, url, token) as client:
        found = find_rule(client, rule, model, version)
        changed = client.monitoring.alert_rules.update(found.id, **changes)
    output.answer(document_of(changed), rule_facts(output, changed))
    output.warn(changed.warnings)


@app.command("list")
def list_(
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="Only those that hold for this model.")
    ] = "",
    version: Annotated[
        str, typer.Option("--version", "-v", metavar="V", help="Only those that hold for this version.")
    ] = "",
    limit: Limit = 100,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List rules by name; of a model: its own, and the global ones that hold there."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = list(islice(client.monitoring.alert_rules.list(model=model, version=version, limit=limit), limit))
    output.answer([document_of(each) for each in found], rules_table(output, found))


@app.command()
def show(
    rule: Rule,
    model: ModelFilter = "",
    version: VersionFilter = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show a rule."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = find_rule(client, rule, model, version)
    output.answer(document_of(found), rule_facts(output, found))


@app.command()
def history(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="Its name, or its id. Default: all.")] = "",
    model: ModelFilter = "",
    version: VersionFilter = "",
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show who made, changed and deleted rules, the newest first. One that was deleted is found by its id."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        rule_id = find_rule_id(client, rule, model, version) if rule else ""
        of_model = "" if rule else model
        changes = client.monitoring.alert_rules.changes(model=of_model, rule_id=rule_id, limit=limit)
        found = list(islice(changes, limit))
    output.answer([document_of(each) for each in found], changes_table(output, found))


@app.command()
def delete(
    rule: Rule,
    model: ModelFilter = "",
    version: VersionFilter = "",
    yes: Yes = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Delete a rule. Its open alerts are resolved; their history stays."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = find_rule(client, rule, model, version)
        if not yes:
            typer.confirm(f"Delete rule {found.name} ({condition_of(found)})?", abort=True, err=True)
        client.monitoring.alert_rules.delete(found.id)
    output.answer({"id": found.id, "name": found.name, "deleted": True}, Text(f"deleted rule {found.name}"))


def find_rule_id(client: Client, rule: str, model: str, version: str) -> str:
    """Find a rule's id as `find_rule` does; an id is taken as it is, since a rule that was deleted has one, too."""
    return rule if _ID.fullmatch(rule) else find_rule(client, rule, model, version).id


def find_rule(client: Client, rule: str, model: str, version: str) -> pb.AlertRule:
    """Find a rule by its id, or by its name, of a model or version where there are several.

    Raises:
        CommandError: there is none of the name (RULE_NOT_FOUND), or there are several (RULE_AMBIGUOUS).
    """
    if _ID.fullmatch(rule):
        return client.monitoring.alert_rules.get(rule)
    found = [each for each in client.monitoring.alert_rules.list(limit=MAX_LOOKED_AT) if each.name == rule]
    if model or version:
        found = [each for each in found if each.model == model and (not version or each.version == version)]
    if not found:
        of = f" of {model} {version}".rstrip() if model else ""
        sentence = f"there is no rule {rule!r}{of}; `penstock alert rule list` has all"
        raise CommandError(sentence, reason="RULE_NOT_FOUND", exit_code=ExitCode.NOT_FOUND)
    if len(found) > 1:
        whose = ", ".join(f"{each.model or 'all models'} {each.version}".rstrip() for each in found)
        sentence = f"there are {len(found)} rules {rule!r} (for {whose}): say which by --model, --version or its id"
        raise CommandError(sentence, reason="RULE_AMBIGUOUS", exit_code=ExitCode.USAGE)
    return found[0]
