"""`penstock cache`: the answers that are kept, how often they helped, and forgetting them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from penstock.api.inference.v1 import response_cache_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.formats import say_bytes, say_share
from penstock.cli.options import Json, NoColor, Token, Url, Yes
from penstock.cli.output import Column, Output

app = typer.Typer(no_args_is_help=True, help="Show and forget the answers that are kept for repeated requests.")
_COLUMNS = (
    Column("model", give="cut"),
    Column("version", give="cut"),
    Column("hits", "right"),
    Column("misses", "right"),
    Column("hit rate", "right"),
    Column("stored", "right", optional=True),
    Column("evicted", "right", optional=True),
    Column("errors", "right"),
)
_Model = Annotated[str, typer.Argument(metavar="MODEL", help="Only this model. Default: all.", show_default=False)]


@app.command()
def stats(
    model: _Model = "", url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False
) -> None:
    """Show what is kept, and how often it helped."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.INFERENCE, url, token) as client:
        found = client.inference.cache_stats(model)
    rows = [_row(each) for each in found.versions]
    table = output.table(_COLUMNS, rows, empty="no version has asked the cache yet")
    output.answer(document_of(found), Group(Text(_held(found)), table))


@app.command()
def reset(url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Set the counts to zero; what is kept stays."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.INFERENCE, url, token) as client:
        client.inference.reset_cache_stats()
    output.answer({"reset": True}, Text("the cache's counts are zero"))


@app.command()
def purge(
    model: _Model = "",
    yes: Yes = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Forget the answers of a model, or all: the next requests go to the models."""
    output = Output(as_json=as_json, no_color=no_color)
    if not (model or yes):
        raise typer.BadParameter("name a model, or give --yes to forget the answers of all")
    with connect(Service.INFERENCE, url, token) as client:
        count = client.inference.purge_cache(model)
    whose = f" of {model}" if model else ""
    words = Text(f"forgot {count:,} answers{whose}" if count != 1 else f"forgot 1 answer{whose}")
    output.answer({"model": model, "entry_count": count}, words)


def _held(found: pb.GetCacheStatsResponse) -> str:
    if found.backend != "memory":
        return f"{found.backend}, {'which answers' if found.reachable else 'which does not answer'}"
    return f"{found.entry_count:,} answers in memory: {say_bytes(found.size_bytes)} of {say_bytes(found.max_bytes)}"


def _row(each: pb.VersionCacheStats) -> tuple[str, ...]:
    asked = each.hit_count + each.miss_count
    return (
        each.model,
        each.version,
        f"{each.hit_count:,}",
        f"{each.miss_count:,}",
        say_share(each.hit_count / asked) if asked else "",
        f"{each.stored_count:,}",
        f"{each.evicted_count:,}",
        f"{each.error_count:,}",
    )
