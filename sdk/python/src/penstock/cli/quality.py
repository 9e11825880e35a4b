"""`penstock quality`: what is wrong with live data."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from itertools import islice
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from penstock.api.monitoring.v1 import quality_pb2 as pb
from penstock.cli.charts import bar
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of, enum_word
from penstock.cli.drift_views import note_window, trigger_word
from penstock.cli.exits import CommandError
from penstock.cli.formats import say_count, say_duration, say_share, say_time
from penstock.cli.ids import whole_id
from penstock.cli.model_views import time_of
from penstock.cli.options import (
    Check,
    Fail,
    From,
    Json,
    Limit,
    Model,
    ModelFilter,
    ModelOrAll,
    NoColor,
    Scheduled,
    Token,
    Until,
    Url,
    VersionFilter,
    Window,
    one_model,
)
from penstock.cli.output import Column, Output, printable, styled

EXAMPLES = """Examples

  penstock quality check iris --window 1h
  penstock quality list iris --status violated
"""
app = typer.Typer(
    no_args_is_help=True, help="Look for bad data: missing, of a wrong type, out of range, stale.", epilog=EXAMPLES
)
STATUS_STYLES = {"ok": "green", "violated": "bold red", "insufficient data": "yellow"}
BAR_CELLS = 10
_COLUMNS = (
    Column("check", give="id"),
    Column("model", give="cut", least_width=10),
    Column("status", give="cut", least_width=12),
    Column("violations", "right"),
    Column("made", "right", optional=True),
    Column("rows", "right", optional=True),
    Column("by", optional=True),
)
_FINDING_COLUMNS = (
    Column("what"),
    Column("feature", give="cut", least_width=14),
    Column("now", "right"),
    Column("", optional=True),
    Column("reference", "right", optional=True),
    Column("at most", "right"),
    Column("rows", "right", optional=True),
    Column("what happened", give="wrap", optional=True, least_width=24),
)


class Status(enum.StrEnum):
    """What a check came to."""

    OK = "ok"
    VIOLATED = "violated"
    INSUFFICIENT_DATA = "insufficient_data"


@app.command(epilog=EXAMPLES)
def check(
    model: Model,
    version: Annotated[
        str,
        typer.Option("--version", "-v", metavar="V", help="The version. Default: the one that answered most."),
    ] = "",
    window: Window = None,
    begin: From = None,
    until: Until = None,
    scheduled: Scheduled = False,
    fail: Fail = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Look now for what is wrong with the data. The result is kept, as those by schedule are."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client, output.spinner(f"looking {model}'s data over"):
        found = client.monitoring.quality.check(
            model, version, from_time=begin, to_time=until, window=window, as_scheduled=scheduled
        )
    _answer(output, found)
    note_window(output, found, since=begin, until=until, length=window)
    if fail and found.status == pb.QUALITY_STATUS_VIOLATED:
        raise CommandError(f"the data of {found.model} {found.version} are bad", reason="QUALITY_VIOLATED")


@app.command("list")
def list_(
    name: ModelOrAll = "",
    model: ModelFilter = "",
    version: VersionFilter = "",
    status: Annotated[
        Status | None,
        typer.Option("--status", "-s", metavar="STATUS", help="ok, violated, insufficient_data.", show_default=False),
    ] = None,
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List quality checks, by schedule and on demand, the newest first."""
    model = one_model(name, model)
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        checks = client.monitoring.quality.list(
            model=model, version=version, status=status and status.value, limit=limit
        )
        found = list(islice(checks, limit))
    rows = [_row(output, each) for each in found]
    empty = "no quality check: `penstock quality check MODEL` makes one"
    output.answer([document_of(each) for each in found], output.table(_COLUMNS, rows, empty=empty))
    if found:
        output.note(f"what is behind one: penstock quality show {found[0].id}")


@app.command()
def show(
    check_id: Check, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False
) -> None:
    """Show a quality check with all that was found."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = client.monitoring.quality.get(whole_id(check_id, client.monitoring.quality.list))
    _answer(output, found)


def _answer(output: Output, check: pb.QualityCheck) -> None:
    begin, end = time_of(check.from_time), time_of(check.to_time)
    title = Text.assemble((f"{check.model} {check.version}  ", "bold"), _status(check))
    window = Text(f"{say_count(check.row_count, 'row')}, {say_time(begin)} to {say_time(end)}", style="dim")
    parts: list[RenderableType] = [title, Text(printable(check.summary)), window, Text("")]
    output.answer(document_of(check), *parts, _findings(output, check.findings))
    if not check.profile_id:
        output.note(
            "without a reference only what needs none was looked at: "
            f"penstock profile create {check.model} {check.version} --file training.csv"
        )


def _findings(output: Output, findings: Sequence[pb.QualityFinding]) -> RenderableType:
    rows = []
    for finding in findings:
        style = "bold red" if finding.violated else ""
        share = finding.issue != pb.QUALITY_ISSUE_STALE
        say = say_share if share else say_duration
        picture = Text(bar(finding.value, BAR_CELLS), style="red" if finding.violated else "cyan") if share else Text()
        rows.append(
            (
                Text(_issue(finding.issue), style=style),
                finding.feature or Text("whole rows", style="dim"),
                Text(say(finding.value), style=style),
                picture if output.stdout.is_terminal else "",
                say(finding.reference_value) if share else "",
                say(finding.threshold),
                f"{finding.count:,}",
                finding.summary,
            )
        )
    return output.table(_FINDING_COLUMNS, rows, empty="no findings")


def _row(output: Output, check: pb.QualityCheck) -> tuple[str | Text, ...]:
    return (
        check.id,
        f"{check.model} {check.version}",
        _status(check),
        f"{check.violation_count:,}",
        output.time(time_of(check.create_time)),
        f"{check.row_count:,}",
        trigger_word(check.trigger),
    )


def _status(check: pb.QualityCheck) -> Text:
    word = str(enum_word(pb.QualityStatus.DESCRIPTOR, check.status) or "").replace("_", " ")
    return styled(word, STATUS_STYLES)


def _issue(issue: pb.QualityIssue.ValueType) -> str:
    return str(enum_word(pb.QualityIssue.DESCRIPTOR, issue) or "").replace("_", " ")
