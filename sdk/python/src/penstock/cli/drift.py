"""`penstock drift`: whether live data still is what the reference was."""

from __future__ import annotations

import enum
from itertools import islice
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from penstock.api.monitoring.v1 import drift_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.drift_views import check_facts, checks_table, comparison, note_window, results_table
from penstock.cli.exits import CommandError
from penstock.cli.ids import whole_id
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
from penstock.cli.output import Output

EXAMPLES = """Examples

  penstock drift check iris                        the last 24 hours, or what is configured
  penstock drift check iris --window 1h --feature petal_length
  penstock drift check view:spending --fail        a feature view, against its own profile
  penstock drift list iris --status drifted
"""
app = typer.Typer(
    no_args_is_help=True, help="Compare live data with the reference: what has drifted, and how far.", epilog=EXAMPLES
)
SHOWN_FEATURES = 5
SHOWN_RESULTS = 50


class Status(enum.StrEnum):
    """What a check came to."""

    OK = "ok"
    DRIFTED = "drifted"
    INSUFFICIENT_DATA = "insufficient_data"


Feature = Annotated[
    list[str] | None,
    typer.Option("--feature", metavar="NAME", help="Draw this one, whatever came of it; again for more."),
]
All = Annotated[bool, typer.Option("--all", help="Draw every feature, not only the worst that drifted.")]


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
    feature: Feature = None,
    every: All = False,
    fail: Fail = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Check now: live data against the version's profile. The result is kept, as those by schedule are."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client, output.spinner(f"comparing {model} with its reference"):
        found = client.monitoring.drift.check(
            model, version, from_time=begin, to_time=until, window=window, as_scheduled=scheduled
        )
    _answer(output, found, feature or [], every=every)
    note_window(output, found, since=begin, until=until, length=window)
    if fail and found.status == pb.DRIFT_STATUS_DRIFTED:
        raise CommandError(f"{found.model} {found.version} has drifted", reason="DRIFTED")


@app.command("list")
def list_(
    name: ModelOrAll = "",
    model: ModelFilter = "",
    version: VersionFilter = "",
    status: Annotated[
        Status | None,
        typer.Option("--status", "-s", metavar="STATUS", help="ok, drifted, insufficient_data.", show_default=False),
    ] = None,
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List drift checks, by schedule and on demand, the newest first."""
    model = one_model(name, model)
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        checks = client.monitoring.drift.list(model=model, version=version, status=status and status.value, limit=limit)
        found = list(islice(checks, limit))
    output.answer([document_of(each) for each in found], checks_table(output, found))
    if found:
        output.note(f"what is behind one: penstock drift show {found[0].id}")


@app.command()
def show(
    check_id: Check,
    feature: Feature = None,
    every: All = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show a drift check: what drifted, both distributions side by side, and every statistic."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = client.monitoring.drift.get(whole_id(check_id, client.monitoring.drift.list))
    _answer(output, found, feature or [], every=every)


def _answer(output: Output, check: pb.DriftCheck, features: list[str], *, every: bool) -> None:
    """Show a check: its sentence, the worst features or those that were asked for, and then all of them in numbers."""
    unknown = [name for name in features if name not in {result.feature for result in check.results}]
    if unknown:
        known = ", ".join(result.feature for result in check.results) or "none"
        raise typer.BadParameter(f"{', '.join(unknown)} was not compared; these were: {known}", param_hint="--feature")
    drifted = [result for result in check.results if result.status == pb.DRIFT_STATUS_DRIFTED]
    drawn = (
        [result for result in check.results if every or result.feature in features] if every or features else drifted
    )
    shown = drawn if every or features else drawn[:SHOWN_FEATURES]
    parts: list[RenderableType] = [check_facts(check)]
    for result in shown:
        parts += [Text(""), comparison(output, result, said=check.summary)]
    counted = check.results if every else check.results[:SHOWN_RESULTS]
    output.answer(document_of(check), *parts, Text(""), results_table(output, counted))
    if len(counted) < len(check.results):
        output.note(f"the first {len(counted)} of {len(check.results):,} comparisons, the worst; --all has every one")
    if len(drawn) > len(shown):
        output.note(f"{len(shown)} of {len(drawn)} features that drifted are drawn; --all draws all")
    elif not shown and check.results:
        output.note("--feature NAME draws both distributions of a feature")
    if check.status == pb.DRIFT_STATUS_INSUFFICIENT_DATA:
        output.note("a longer --window has more rows; `penstock monitoring get` says how many are needed")
    elif check.status == pb.DRIFT_STATUS_DRIFTED:
        output.note("to be told of it the next time: penstock alert rule update drift --channel NAME")
