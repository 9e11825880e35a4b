"""`penstock key`: make, list and revoke API keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from penstock.cli.connection import keys_path, surroundings
from penstock.cli.formats import say_iso, say_time
from penstock.cli.keys_file import Key, KeysFile, Role
from penstock.cli.options import Json, NoColor, duration
from penstock.cli.output import Column, Output

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")

_COLUMNS = (
    Column("id"),
    Column("name", give="cut"),
    Column("role"),
    Column("kind"),
    Column("created"),
    Column("expires"),
    Column("a minute"),
)

KeysPath = Annotated[
    Path | None,
    typer.Option("--keys-file", metavar="FILE", help="Default: PENSTOCK_KEYS_FILE, then keys.json in the data folder."),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.", show_default=False)],
    role: Annotated[Role, typer.Option("--role", help="What its bearer may do.", show_default=False)],
    expires: Annotated[
        timedelta | None,
        typer.Option("--expires", metavar="DURATION", parser=duration, help="For example 90d. Default: never."),
    ] = None,
    requests_per_minute: Annotated[
        int | None,
        typer.Option(
            "--requests-per-minute",
            metavar="N",
            min=1,
            help="How many calls each service's process takes. Default: any.",
        ),
    ] = None,
    bytes_per_minute: Annotated[
        int | None,
        typer.Option(
            "--bytes-per-minute", metavar="N", min=1, help="How many bytes may come and go there. Default: any."
        ),
    ] = None,
    keys_file: KeysPath = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Make a key and print it, this once; the file keeps its SHA-256 alone."""
    output = Output(as_json=as_json, no_color=no_color)
    file = KeysFile(keys_path(keys_file, surroundings()))
    first = not any(key.kind == "user" for key in file.list())
    key, token = file.create(
        name,
        role,
        expire_time=datetime.now(UTC) + expires if expires else None,
        requests_per_minute=requests_per_minute,
        bytes_per_minute=bytes_per_minute,
    )
    # The key alone on stdout, so that KEY=$(penstock key create …) holds it and nothing else.
    output.answer({**_document(key), "token": token}, Text(token))
    until = f", until {say_time(key.expire_time)}" if key.expire_time else ""
    output.note(f"key {key.id} ({key.name}, {key.role}{until}) is in {file.path}; it is shown this once, keep it safe")
    if first:
        output.note("it is the first: from now on the services that read this file want a key with every call")


@app.command("list")
def list_keys(keys_file: KeysPath = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """List the keys, the oldest first, without the keys themselves."""
    output = Output(as_json=as_json, no_color=no_color)
    keys = KeysFile(keys_path(keys_file, surroundings())).list()
    output.answer(
        [_document(key) for key in keys],
        output.table(
            _COLUMNS,
            [_row(output, key) for key in keys],
            empty="no keys yet; `penstock key create NAME --role admin` makes one",
        ),
    )


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID|NAME", help="Which key.", show_default=False)],
    keys_file: KeysPath = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Revoke a key at once; running services refuse it within seconds."""
    output = Output(as_json=as_json, no_color=no_color)
    gone = KeysFile(keys_path(keys_file, surroundings())).revoke(key)
    output.answer(_document(gone), Text(f"revoked key {gone.id} ({gone.name}, {gone.role})"))


def _document(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role.value,
        "kind": key.kind.value,
        "create_time": say_iso(key.create_time),
        "expire_time": say_iso(key.expire_time) if key.expire_time else None,
        "requests_per_minute": key.requests_per_minute,
        "bytes_per_minute": key.bytes_per_minute,
    }


def _row(output: Output, key: Key) -> tuple[str | Text, ...]:
    if key.expire_time is None:
        expires = Text("never", style="dim")
    elif key.has_expired(datetime.now(UTC)):
        expires = Text(f"expired {output.time(key.expire_time)}", style="red")
    else:
        expires = Text(output.time(key.expire_time))
    return (key.id, key.name, key.role.value, key.kind.value, output.time(key.create_time), expires, _limits(key))


def _limits(key: Key) -> Text:
    limits = ((key.requests_per_minute, "requests"), (key.bytes_per_minute, "bytes"))
    said = ", ".join(f"{count:,} {what}" for count, what in limits if count is not None)
    return Text(said) if said else Text("any", style="dim")
