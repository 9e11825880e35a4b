"""`penstock model audit`: who changed what, from what to what."""

from __future__ import annotations

from collections.abc import Container, Mapping
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

import typer

from penstock.api.registry.v1 import administration_pb2 as admin
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of, flattened
from penstock.cli.formats import say_value
from penstock.cli.model_views import time_of
from penstock.cli.options import Json, Limit, NoColor, Token, Url, moment, page_size
from penstock.cli.output import Column, Output

_COLUMNS = (
    Column("when"),
    Column("who", give="cut", least_width=9),
    Column("what"),
    Column("of", give="cut", least_width=14),
    Column("change", give="wrap", least_width=24),
    Column("why", give="wrap", optional=True),
)


NOTHING: Container[Any] = (None, "", [], {}, False, 0)
# Kept as the registry's own names; shown as the words that options take.
_ENUMS = {"framework", "ollama.mode", "stage", "state"}


def audit(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Only this model's, also one that is gone.", show_default=False)
    ] = "",
    version: Annotated[str, typer.Option("--version", "-v", metavar="V", help="Only this version's.")] = "",
    caller: Annotated[str, typer.Option("--caller", metavar="NAME", help="Only by this key.")] = "",
    action: Annotated[
        str, typer.Option("--action", metavar="RPC", help="Only these: UpdateModel, DeleteVersion, Purge …")
    ] = "",
    since: Annotated[
        datetime | None,
        typer.Option("--since", metavar="TIME", parser=moment, help="From then on: 15m, 7d, 2026-01-31T12:00."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", metavar="TIME", parser=moment, help="Before then, written likewise.")
    ] = None,
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List changes, the newest first: when, who, what, and the values before and after."""
    output = Output(as_json=as_json, no_color=no_color)
    if version and not model:
        raise typer.BadParameter("--version needs MODEL")
    with connect(Service.REGISTRY, url, token) as client:
        pages = client.registry.audit(
            model,
            version,
            caller=caller,
            action=action,
            start_time=since,
            end_time=until,
            page_size=page_size(limit),
        )
        entries = list(islice(pages, limit))
    table = output.table(_COLUMNS, [_row(output, entry) for entry in entries], empty="no changes match")
    output.answer([document_of(entry) for entry in entries], table)
    if len(entries) == limit:
        output.note(f"the newest {limit}; --limit shows more, --until looks further back")


def _row(output: Output, entry: admin.AuditEntry) -> tuple[str, ...]:
    return (
        output.time(time_of(entry.time)),
        entry.caller,
        entry.action,
        f"{entry.model} {entry.version}".rstrip(),
        change_words(document_of(entry.before), document_of(entry.after)),
        entry.note,
    )


def change_words(before: Mapping[str, Any], after: Mapping[str, Any], *, nothing: Container[Any] = NOTHING) -> str:
    """Write what changed: `stage: staging → production`; of what is new or gone what there was to say of it.

    Values that are `nothing` are as good as unset.
    """
    known, new = _in_words(before), _in_words(after)
    if not known:
        return "; ".join(f"{name}: {say_value(value)}" for name, value in sorted(new.items()) if value not in nothing)
    return "; ".join(
        f"{name}: {say_value(known.get(name))} → {say_value(new.get(name))}"
        for name in sorted(known.keys() | new.keys())
        if known.get(name) != new.get(name) and not (known.get(name) in nothing and new.get(name) in nothing)
    )


def _in_words(values: Mapping[str, Any]) -> dict[str, Any]:
    flat = flattened(values)
    return {name: value.lower() if name in _ENUMS and isinstance(value, str) else value for name, value in flat.items()}
