"""`penstock alert channel`: whom alerts tell. Secrets come from a file or the environment, never from the line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from penstock.api.monitoring.v1 import channels_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.model_views import time_of
from penstock.cli.options import Json, Limit, NoColor, Token, Url, Yes
from penstock.cli.output import Column, Output, printable

EXAMPLES = """Examples

  penstock alert channel set ops --webhook https://example.org/hook --secret-file hook.key
  penstock alert channel set chat --webhook-file hook.url
  OPS_MAIL=mailtos://… penstock alert channel set mail --apprise-env OPS_MAIL
  penstock alert channel test ops
  penstock alert channel history ops
"""
app = typer.Typer(no_args_is_help=True, help="Channels: whom to tell, by webhook, e-mail, Slack …", epilog=EXAMPLES)
MAX_SECRET_BYTES = 16_384
Name = Annotated[str, typer.Argument(metavar="NAME", help="The channel's name.", show_default=False)]


@app.command("set", epilog=EXAMPLES)
def set_(
    name: Name,
    webhook: Annotated[
        str,
        typer.Option("--webhook", metavar="URL", help="Post JSON there, https as a rule; with nothing secret in it."),
    ] = "",
    webhook_file: Annotated[
        str, typer.Option("--webhook-file", metavar="FILE | -", help="Post JSON to the URL that this file holds.")
    ] = "",
    webhook_env: Annotated[
        str, typer.Option("--webhook-env", metavar="VARIABLE", help="Post JSON to the URL that this variable holds.")
    ] = "",
    secret_file: Annotated[
        str, typer.Option("--secret-file", metavar="FILE | -", help="Sign it with what this file holds.")
    ] = "",
    secret_env: Annotated[
        str, typer.Option("--secret-env", metavar="VARIABLE", help="Sign it with what this variable holds.")
    ] = "",
    no_secret: Annotated[
        bool, typer.Option("--no-secret", help="Sign it no more: the secret that it had is forgotten.")
    ] = False,
    apprise_file: Annotated[
        str,
        typer.Option("--apprise-file", metavar="FILE | -", help="By apprise: a file with its URL, such as mailtos://…"),
    ] = "",
    apprise_env: Annotated[
        str, typer.Option("--apprise-env", metavar="VARIABLE", help="By apprise: a variable with its URL.")
    ] = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Make or replace a channel. Its secrets are kept encrypted, and never given out.

    A webhook that is replaced without a secret keeps the one that it has. The path of a webhook is often a secret
    itself: then name a file or a variable with its URL. An apprise URL names one receiver: make a channel of each.
    """
    output = Output(as_json=as_json, no_color=no_color)
    apprise = secret_of(apprise_file, apprise_env, "--apprise")
    secret = secret_of(secret_file, secret_env, "--secret")
    posted_to = secret_of(webhook_file, webhook_env, "--webhook")
    if (bool(webhook), bool(posted_to), bool(apprise)).count(True) != 1:
        raise typer.BadParameter(
            "give --webhook URL, or one of --webhook-file, --webhook-env, --apprise-file and --apprise-env"
        )
    if (secret or no_secret) and apprise:
        raise typer.BadParameter("a secret signs what a webhook posts; apprise has it in its URL")
    if secret and no_secret:
        raise typer.BadParameter("give a secret, or --no-secret")
    hook = webhook or posted_to
    with connect(Service.MONITORING, url, token) as client:
        channels = client.monitoring.channels
        if hook:
            made = channels.set_webhook(name, hook, secret=secret, clear_secret=no_secret)
        else:
            made = channels.set_apprise(name, apprise)
    output.answer(document_of(made), _channels_table(output, [made]))
    output.note(f"to see that it arrives: penstock alert channel test {name}")


@app.command("list")
def list_(url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """List channels without their secrets: what waits for them, and what arrived."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = client.monitoring.channels.list()
    output.answer([document_of(each) for each in found], _channels_table(output, found))


@app.command("test")
def try_out(name: Name, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Send a message that says it is a test, and wait for what comes of it."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client, output.spinner(f"sending {name} a test"):
        took = client.monitoring.channels.test(name)
    took_ms = round(took.total_seconds() * 1000)
    output.answer({"name": name, "duration_ms": took_ms}, Text(f"{name} took it, in {took_ms:,} ms"))
    output.note(f"rules name whom they tell: penstock alert rule create NAME --when … --channel {name}")


@app.command()
def history(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Of this channel; else of all.")] = "",
    limit: Limit = 100,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Say who made, replaced and deleted channels, the newest first."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = list(client.monitoring.channels.changes(name, limit=limit))
    output.answer([document_of(each) for each in found], _changes_table(output, found))


@app.command()
def delete(
    name: Name, yes: Yes = False, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False
) -> None:
    """Delete a channel that no rule names."""
    output = Output(as_json=as_json, no_color=no_color)
    if not yes:
        typer.confirm(f"Delete channel {name}?", abort=True, err=True)
    with connect(Service.MONITORING, url, token) as client:
        client.monitoring.channels.delete(name)
    output.answer({"name": name, "deleted": True}, Text(f"deleted channel {name}"))


def secret_of(file: str, variable: str, option: str) -> str:
    """Read a secret from a file, stdin or the environment; empty where none is named.

    On the command line it would stand in the shell's history, and in everybody's list of processes.
    """
    if file and variable:
        raise typer.BadParameter(f"give one of {option}-file and {option}-env")
    if variable:
        found = os.environ.get(variable, "").strip()
        if not found:
            raise typer.BadParameter(f"the variable {variable} is not set, or empty", param_hint=f"{option}-env")
        return found
    if not file:
        return ""
    if file == "-":
        found = sys.stdin.read(MAX_SECRET_BYTES + 1)
    else:
        with Path(file).open(encoding="utf-8") as stream:
            found = stream.read(MAX_SECRET_BYTES + 1)
    if not found.strip() or len(found) > MAX_SECRET_BYTES:
        raise typer.BadParameter(f"{file} is empty, or over {MAX_SECRET_BYTES} characters", param_hint=f"{option}-file")
    return found.strip()


def _channels_table(output: Output, channels: Sequence[pb.Channel]) -> RenderableType:
    columns = (
        Column("channel", give="cut", least_width=8),
        Column("address", give="wrap", least_width=20),
        Column("waiting", "right"),
        Column("last arrived"),
        Column("trouble", give="wrap", least_width=20),
    )
    rows = []
    for channel in channels:
        arrived = output.time(time_of(channel.last_delivery_time)) or Text("never", style="dim")
        waiting = Text(f"{channel.waiting_count:,}", style="yellow" if channel.waiting_count else "dim")
        lost = f"{channel.failed_count:,} given up" if channel.failed_count else ""
        trouble = Text(printable("; ".join(filter(None, (lost, channel.last_error)))), style="red")
        rows.append((channel.name, _address(channel), waiting, arrived, trouble))
    return output.table(columns, rows, empty="no channels: `penstock alert channel set NAME --webhook URL` makes one")


def _changes_table(output: Output, changes: Sequence[pb.ChannelChange]) -> RenderableType:
    columns = (
        Column("when"),
        Column("who", give="cut", least_width=8),
        Column("channel", give="cut", least_width=8),
        Column("what"),
        Column("address", give="wrap", least_width=20),
    )
    rows = [(output.time(time_of(each.time)), each.changed_by, each.name, *_change(each)) for each in changes]
    return output.table(columns, rows, empty="nothing was done to channels")


def _change(change: pb.ChannelChange) -> tuple[str, str]:
    """Say what was done, and of which address."""
    said = change.after if change.HasField("after") else change.before
    changed = "replaced" if change.HasField("after") else "deleted"
    return changed if change.HasField("before") else "made", _address(said)


def _address(channel: pb.Channel) -> str:
    """Say where it goes: webhooks are https as a rule, and all else is what apprise calls it."""
    if channel.HasField("webhook"):
        return channel.webhook.url + (", signed" if channel.webhook.signed else "")
    return channel.apprise.url
