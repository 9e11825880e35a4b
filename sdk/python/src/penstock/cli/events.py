"""`penstock events`: what was predicted lately, what is predicted now, and all of it as a file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.events_views import EventLines, events_table, new_ones, rejected_table
from penstock.cli.formats import say_bytes
from penstock.cli.options import (
    Force,
    From,
    Json,
    Limit,
    Model,
    ModelFilter,
    NoColor,
    Since,
    Token,
    Until,
    Url,
    VersionFilter,
    refuse_to_replace,
)
from penstock.cli.output import Output

LISTED, SHOWN_BEFORE = 100, 10
"""Without --limit; `--follow` shows the last of what was there already, as `tail -f` does."""
EXAMPLES = """Examples

  penstock events --model iris --errors --since 24h
  penstock events --follow --model iris
  penstock events export iris --from 7d --out iris.parquet --payloads
  penstock events rejected --model iris
"""
_Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        "-n",
        metavar="N",
        min=1,
        max=100_000,
        help=f"At most so many; with --follow so many of what was there already. Default: {LISTED}, "
        f"with --follow {SHOWN_BEFORE}.",
        show_default=False,
    ),
]
app = typer.Typer(invoke_without_command=True, epilog=EXAMPLES)


@app.callback()
def events(
    context: typer.Context,
    model: ModelFilter = "",
    version: VersionFilter = "",
    user: Annotated[str, typer.Option("--user", metavar="ID", help="Only this user.")] = "",
    session: Annotated[str, typer.Option("--session", metavar="ID", help="Only this session.")] = "",
    since: Since = timedelta(hours=1),
    errors: Annotated[bool, typer.Option("--errors", help="Only failed predictions.")] = False,
    limit: _Limit = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is predicted, until Ctrl-C.")] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List predictions, the newest first; follow them as they come; export them to a file; see those refused.

    With --follow the newest stand at the end, and --json prints a document a line.
    """
    if context.invoked_subcommand is not None:
        return
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:

        def fetch(begin: datetime, most: int) -> list[pb.Inference]:
            found = client.monitoring.list_inferences(
                model=model,
                version=version,
                user_id=user,
                session_id=session,
                from_time=begin,
                errors_only=errors,
                limit=most,
            )
            return list(found)

        if follow:
            lines = EventLines(output)
            for inference in new_ones(fetch, since=since, shown_before=SHOWN_BEFORE if limit is None else limit):
                output.item(document_of(inference), *lines.of(inference))
            return
        limit = limit or LISTED
        found = fetch(datetime.now(UTC) - since, limit)
    output.answer([document_of(inference) for inference in found], events_table(output, found))
    if len(found) == limit:
        output.note(f"the newest {limit}; --limit shows more, --since looks further back")


@app.command()
def export(
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where to: .csv or .parquet.", show_default=False)
    ],
    version: VersionFilter = "",
    begin: From = None,
    until: Until = None,
    payloads: Annotated[
        bool, typer.Option("--payloads", help="With features and predictions, as JSON in their cells.")
    ] = False,
    force: Force = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Write events with their latest feedback to a file, the oldest first. Default: of the last day."""
    output = Output(as_json=as_json, no_color=no_color)
    refuse_to_replace(out, force=force)
    with connect(Service.MONITORING, url, token) as client, output.transfer(f"writing {out.name}") as bar:
        client.monitoring.exports.events(
            model, out, version=version, from_time=begin, to_time=until, payloads=payloads, progress=bar.reach
        )
    size_bytes = out.stat().st_size
    output.answer({"file": str(out.absolute()), "size_bytes": size_bytes}, Text(f"{out}  {say_bytes(size_bytes)}"))


@app.command()
def rejected(
    model: ModelFilter = "",
    limit: Limit = LISTED,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List predictions that monitoring refused, and why, the newest first.

    Their senders have them as dead letters as well. With --json each has an excerpt of what came. Role: operator.
    """
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = list(client.monitoring.list_quarantined_events(model=model, limit=limit))
    output.answer([document_of(event) for event in found], rejected_table(output, found))
    if len(found) == limit:
        output.note(f"the newest {limit}; --limit shows more")
