"""`penstock session`: what is in memory, and the hands on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from penstock.api.inference.v1 import sessions_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.formats import say_bytes, say_ms
from penstock.cli.model_views import time_of
from penstock.cli.options import Json, Model, NoColor, Token, Url
from penstock.cli.output import Column, Output

app = typer.Typer(no_args_is_help=True, help="List what is in memory, load and unload models.")
_COLUMNS = (
    Column("model", give="cut"),
    Column("version", give="cut"),
    Column("runtime", optional=True),
    Column("worker", "right"),
    Column("memory", "right"),
    Column("in flight", "right"),
    Column("pinned"),
    Column("loaded in", "right", optional=True),
    Column("last use"),
)
Selector = Annotated[
    str,
    typer.Option("--version", "-v", metavar="V", help="An exact version, a stage, an alias, or `latest`."),
]


@app.command("list")
def list_(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Only this model. Default: all.", show_default=False)
    ] = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List what is in memory, of every worker."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.INFERENCE, url, token) as client:
        found = client.inference.sessions(model)
    output.answer(
        document_of(found),
        _table(output, found.sessions, empty="nothing is in memory"),
        Text(f"{say_bytes(found.used_bytes)} of {say_bytes(found.budget_bytes)} used", style="dim"),
    )


@app.command()
def load(
    model: Model,
    version: Selector = "",
    pin: Annotated[
        bool, typer.Option("--pin", help="Keep it, whatever else loads, until it is unloaded or the service ends.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1, max=3_600, help="How long to wait for it.")
    ] = 120.0,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Load a version and warm it up, on every worker. A load that takes longer goes on."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.INFERENCE, url, token) as client, output.spinner(f"loading {model}"):
        sessions = client.inference.load_model(model, version, pin=pin, timeout_s=timeout)
    output.answer([document_of(session) for session in sessions], _table(output, sessions, empty="it is gone again"))


@app.command()
def unload(
    model: Model,
    version: Annotated[
        str,
        typer.Option("--version", "-v", metavar="V", help="An exact version, a stage, an alias. Default: every one."),
    ] = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Take a model out of memory, pinned or not, on every worker; its next request loads it again."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.INFERENCE, url, token) as client:
        count = client.inference.unload_model(model, version)
    words = {0: "it was not in memory", 1: "1 session is on its way out"}
    output.answer({"session_count": count}, Text(words.get(count, f"{count} sessions are on their way out")))


def _table(output: Output, sessions: Sequence[pb.ModelSession], *, empty: str) -> RenderableType:
    rows = [
        (
            session.model,
            session.version,
            session.framework,
            str(session.worker),
            say_bytes(session.size_bytes),
            str(session.in_flight_count),
            "yes" if session.pinned else "",
            say_ms(session.load_ms),
            output.time(time_of(session.last_use_time)),
        )
        for session in sessions
    ]
    return output.table(_COLUMNS, rows, empty=empty)
