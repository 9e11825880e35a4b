"""`penstock train script`: Python of your own that the recipe `script` runs, in versions that never change."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from penstock.api.trainer.v1 import scripts_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.dataset import named
from penstock.cli.documents import document_of
from penstock.cli.formats import say_bytes, say_time
from penstock.cli.model_views import time_of
from penstock.cli.options import Force, Json, Limit, NoColor, Token, Url, Yes, page_size, refuse_to_replace
from penstock.cli.output import Column, Output

EXAMPLES = """Examples:

penstock train script upload trees train.py

penstock train script upload trees ./trees --entry trees/fit.py --description "with a depth of its own"

penstock train start flowers --recipe script --param script=trees --data flowers
"""
app = typer.Typer(no_args_is_help=True, help="Scripts that `--recipe script` runs by name.", epilog=EXAMPLES)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The script's name.", show_default=False)]
Named = Annotated[
    str, typer.Argument(metavar="NAME[/VERSION]", help="The script. Default: its newest version.", show_default=False)
]
_SCRIPTS = (
    Column("script", give="cut"),
    Column("version", "right"),
    Column("entry", give="cut"),
    Column("size", "right", optional=True),
    Column("made", optional=True),
    Column("by", give="cut", optional=True),
    Column("description", give="cut", optional=True),
)
_FILES = (Column("file", give="cut"), Column("size", "right"))


@app.command(epilog=EXAMPLES)
def upload(
    name: Name,
    source: Annotated[
        Path, typer.Argument(metavar="PATH", help="A Python file, a folder, or a zip of one.", show_default=False)
    ],
    entry: Annotated[
        str,
        typer.Option("--entry", metavar="FILE", help="The file with train(context). Default: train.py of the script."),
    ] = "",
    description: Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is.")] = "",
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="The same again makes no second version.")
    ] = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Make a version of a script; it is compiled, and not run. The same bytes as in the newest version are that."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client, output.transfer(f"uploading {source}") as bar:
        made = client.scripts.upload(
            name, source, entry=entry, description=description, request_id=request_id, progress=bar.reach
        )
    parts = [_facts(output, made.script)]
    if made.script.packed:
        parts += [Text(""), _files(output, made.script)]
    output.answer(document_of(made), *parts)
    if made.existed:
        output.note("these bytes are its newest version already")
    output.note(
        f"train with it: penstock train start MODEL --recipe script --param script={made.script.name} --data DATASET"
    )


@app.command("list")
def list_scripts(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="All versions of this one.", show_default=False)
    ] = "",
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:  # fmt: skip
    """List scripts, each in its newest version, or all versions of one."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client:
        found = list(islice(client.scripts.list(name, page_size=page_size(limit)), limit))
    output.answer([document_of(script) for script in found], _table(output, found))


@app.command()
def show(script: Named, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Show a version: its entry, its digest, and its files."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client:
        found = client.scripts.get(*named(script))
    output.answer(document_of(found), _facts(output, found), Text(""), _files(output, found))


@app.command()
def download(
    script: Named,
    destination: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where to. Default: NAME-VERSION.py or .zip here.")
    ] = Path(),
    force: Force = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Download a version as it was uploaded: a Python file, or a zip."""
    from penstock.scripts import file_name_of  # loads grpc, which `--help` must not wait for

    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client:
        found = client.scripts.get(*named(script))
        if destination.is_dir():
            destination /= file_name_of(found)
        refuse_to_replace(destination, force=force)
        with output.transfer(f"downloading {found.name}/{found.version}") as bar:
            path = client.scripts.download(found.name, destination, found.version, progress=bar.reach)
    output.answer(
        {"name": found.name, "version": found.version, "file": str(path.absolute()), "size_bytes": found.size_bytes},
        Text(f"{path}  {say_bytes(found.size_bytes)}, SHA-256 verified"),
    )


@app.command()
def delete(
    script: Annotated[str, typer.Argument(metavar="NAME/VERSION", help="The version.", show_default=False)],
    yes: Yes = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Delete a version that no run trains with now; its number is never given again."""
    output = Output(as_json=as_json, no_color=no_color)
    name, version = named(script)
    if not version:
        raise typer.BadParameter("name the version, such as trees/1: the newest is never deleted by chance")
    if not yes:
        typer.confirm(f"Delete {script}?", abort=True, err=True)
    with connect(Service.TRAINER, url, token) as client:
        client.scripts.delete(name, version)
    output.answer({"name": name, "version": version, "deleted": True}, Text(f"deleted {script}"))


def _table(output: Output, found: Sequence[pb.Script]) -> RenderableType:
    rows = [
        (
            script.name,
            str(script.version),
            script.entry,
            say_bytes(script.size_bytes),
            output.time(time_of(script.create_time)),
            script.created_by,
            script.description,
        )
        for script in found
    ]
    return output.table(_SCRIPTS, rows, empty="no script: `penstock train script upload NAME PATH` makes one")


def _facts(output: Output, script: pb.Script) -> RenderableType:
    return output.facts(
        f"{script.name}/{script.version}",
        [
            ("entry", script.entry),
            ("description", script.description),
            ("size", say_bytes(script.size_bytes)),
            ("digest", script.sha256),
            ("made", f"{say_time(time_of(script.create_time))} by {script.created_by}"),
        ],
    )


def _files(output: Output, script: pb.Script) -> RenderableType:
    rows = [(file.path, say_bytes(file.size_bytes)) for file in script.files]
    return output.table(_FILES, rows, empty="no file")
