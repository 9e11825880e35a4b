"""`penstock metrics`: how good a model is, over any window, step by step, or as it goes by."""

from __future__ import annotations

import enum
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.text import Text

from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.formats import say_bytes, say_iso, say_time
from penstock.cli.metrics_views import live_line, live_view, series_table, step_words, totals, versions_table
from penstock.cli.model_views import time_of
from penstock.cli.options import Force, Json, Model, NoColor, Token, Url, VersionFilter, duration, refuse_to_replace
from penstock.cli.output import Output

if TYPE_CHECKING:
    from penstock.api.monitoring.v1 import metrics_pb2 as pb
    from penstock.api.monitoring.v1.monitoring_pb2 import GetMetricsResponse
    from penstock.client import Client

EXAMPLES = """Examples

  penstock metrics iris                                    the last hour in numbers
  penstock metrics iris --granularity 1h --since 7d        hour by hour
  penstock metrics iris --by-version                       versions beside each other
  penstock metrics iris --watch                            as it goes by
  penstock metrics iris --granularity 1d --out iris.parquet
"""


class Step(enum.StrEnum):
    """How long a step is."""

    FIVE_MINUTES = "5m"
    HOUR = "1h"
    DAY = "1d"


_SINCE = {None: timedelta(hours=1), Step.FIVE_MINUTES: timedelta(hours=2), Step.HOUR: timedelta(days=1)}
_LONGEST_SINCE = timedelta(days=30)


def metrics(
    model: Model,
    version: VersionFilter = "",
    granularity: Annotated[
        Step | None,
        typer.Option("--granularity", "-g", metavar="STEP", help="Step by step: 5m, 1h or 1d.", show_default=False),
    ] = None,
    by_version: Annotated[bool, typer.Option("--by-version", help="Each version by itself.")] = False,
    since: Annotated[
        timedelta | None,
        typer.Option(
            "--since",
            metavar="DURATION",
            parser=duration,
            help="How far back: 45m, 24h, 7d. Default: 1h; by steps 2h, 24h or 30d.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="The last 5 minutes, live, until Ctrl-C.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=1, max=60, help="Between two looks of --watch.")
    ] = 2.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write the steps to a .csv or .parquet file instead.", show_default=False
        ),
    ] = None,
    force: Force = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show counts, errors, latencies and accuracy: over a window, step by step, or live."""
    output = Output(as_json=as_json, no_color=no_color)
    if watch and (granularity or by_version or out or since):
        raise typer.BadParameter("--watch shows the last 5 minutes: it goes with --version and --interval alone")
    if out is not None:
        refuse_to_replace(out, force=force)
    back = since or _SINCE.get(granularity, _LONGEST_SINCE)
    with connect(Service.MONITORING, url, token) as client:
        if watch:
            _watch(client, output, model, version, timedelta(seconds=interval))
        elif out is not None:
            _export(client, output, out, model, version, granularity, back)
        elif granularity or by_version:
            found = client.monitoring.metrics.list(
                model, version, window=back, granularity=granularity and granularity.value, by_version=by_version
            )
            _show(output, f"{model} {version}".rstrip(), found, steps=granularity is not None)
        else:
            answer = client.monitoring.get_metrics(model, version=version, from_time=datetime.now(UTC) - back)
            title = _title(f"{model} {version}".rstrip(), answer)
            output.answer(document_of(answer), output.facts(title, totals(answer)))
            if not answer.inference_count:
                output.note("nothing in this window; --since looks further back")
            _say_completeness(output, answer)


def _title(name: str, answer: pb.ListMetricsResponse | object, words: str = "") -> Text:
    begin, end = (time_of(getattr(answer, field)) for field in ("from_time", "to_time"))
    window = f"  {say_time(begin)} to {say_time(end)}"
    return Text.assemble((name, "bold"), (f"{window}{f', {words}' if words else ''}", "dim"))


def _show(output: Output, name: str, found: pb.ListMetricsResponse, *, steps: bool) -> None:
    parts = []
    single = len(found.series) == 1 and not found.series[0].version
    if steps:
        for series in found.series:
            whose = name if single else f"{name.split(' ', 1)[0]} {series.version or '(no version)'}"
            parts.append(output.facts(_title(whose, found, step_words(found.granularity)), totals(series.total)))
            parts.append(Text(""))
            parts.append(series_table(output, series, found.granularity))
    else:
        parts = [_title(name, found), versions_table(output, found.series)]
    if not found.series:
        parts = [_title(name, found), Text("no predictions in this window", style="dim")]
    output.answer(document_of(found), Group(*parts))
    _say_completeness(output, found)


def _say_completeness(output: Output, found: pb.ListMetricsResponse | GetMetricsResponse) -> None:
    if found.HasField("complete_until"):
        output.note(_complete_up_to(output, time_of(found.complete_until)))
    if found.HasField("feedback_complete_until"):
        upto = output.time(time_of(found.feedback_complete_until))
        output.note(f"feedback on predictions after {upto} may wait to be counted, for seconds")


def _complete_up_to(output: Output, time: datetime | None) -> str:
    return f"complete up to {output.time(time)}; what came since is counted within minutes"


def _watch(client: Client, output: Output, model: str, version: str, interval: timedelta) -> None:
    title = f"{model} {version}".rstrip()
    with closing(client.monitoring.metrics.watch(model, version, interval=interval)) as answers:
        if output.as_json or not output.stdout.is_terminal:
            for answer in answers:
                output.item(document_of(answer), live_line(title, answer.total))
            return
        from rich.live import Live

        with Live(console=output.stdout, auto_refresh=False) as live:
            for answer in answers:
                live.update(live_view(title, answer.points, answer.total), refresh=True)


def _export(
    client: Client, output: Output, out: Path, model: str, version: str, granularity: Step | None, back: timedelta
) -> None:
    with output.transfer(f"writing {out.name}") as bar:
        written = client.monitoring.exports.metrics(
            model,
            out,
            version=version,
            window=back,
            granularity=granularity and granularity.value,
            progress=bar.reach,
        )
    size_bytes, until = out.stat().st_size, written.complete_until
    document = {"file": str(out.absolute()), "size_bytes": size_bytes, "complete_until": until and say_iso(until)}
    output.answer(document, Text(f"{out}  {say_bytes(size_bytes)}"))
    if until:
        output.note(_complete_up_to(output, until))
