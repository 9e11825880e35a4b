"""`penstock feature`: values of entities, as they are now and as they were known at any time."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from penstock.cli import feature_import, feature_join, feature_view
from penstock.cli.connection import Service, connect
from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.feature_rows import Block, ColumnNames, Format, format_of, read_blocks, time_us
from penstock.cli.feature_tables import (
    SHOWN_ROWS,
    Answer,
    history_rows,
    history_table,
    values_document,
    values_table,
)
from penstock.cli.feature_view import NamedView, versioned
from penstock.cli.formats import parse_scalar, say_count
from penstock.cli.options import Json, Limit, NoColor, Token, Url, Yes, moment, page_size, pairs
from penstock.cli.output import Output
from penstock.cli.predict import read_argument

if TYPE_CHECKING:
    from penstock.client import Client

EXAMPLES = """Examples:

penstock feature write spending '{"customer": "ada", "amount": 12.5}'

penstock feature write spending --file spending.parquet

penstock feature get spending ada bob

penstock feature get spending ada --as-of 2026-01-31T12:00
"""
MAX_WRITE_ROWS = 10_000
"""So many are written all or none."""
app = typer.Typer(
    no_args_is_help=True, help="Values of entities: as they are, and as they were known at any time.", epilog=EXAMPLES
)
app.add_typer(feature_view.app, name="view")
app.command("join", epilog=feature_join.EXAMPLES)(feature_join.join)
app.command("import", epilog=feature_import.EXAMPLES)(feature_import.import_)
Keys = Annotated[
    list[str],
    typer.Argument(metavar="KEY…", help="The entities; @FILE has one a line, - is stdin.", show_default=False),
]
Names = list[str] | None


@app.command(epilog=EXAMPLES)
def write(
    view: NamedView,
    rows: Annotated[
        str,
        typer.Argument(
            metavar="JSON | -",
            help="A row by name, or a list of rows, as JSON; - is stdin, written as --format says.",
            show_default=False,
        ),
    ] = "-",
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", metavar="FILE", exists=True, dir_okay=False, help="Rows: .json, .jsonl, .csv, .parquet."
        ),
    ] = None,
    row_format: Annotated[
        Format | None,
        typer.Option("--format", metavar="F", help="json, jsonl, csv, parquet. Default: by the suffix, else json."),
    ] = None,
    key: Annotated[str, typer.Option("--key", metavar="COLUMN", help="The entities. Default: the view's entity.")] = "",
    time_column: Annotated[
        str, typer.Option("--time", metavar="COLUMN", help="When each became true. Default: event_time, else now.")
    ] = "",
    known_column: Annotated[
        str, typer.Option("--known-time", metavar="COLUMN", help="When each was known elsewhere. Default: from now on.")
    ] = "",
    at: Annotated[
        datetime | None,
        typer.Option("--at", metavar="TIME", parser=moment, help="When all of it became true.", show_default=False),
    ] = None,
    ignore: Annotated[Names, typer.Option("--ignore", metavar="COLUMN", help="Leave out; again for more.")] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Write rows: up to 10,000 all or none, more of them block by block; the same again is written once."""
    output = Output(as_json=as_json, no_color=no_color)
    names = ColumnNames(key, time_column, known_column, frozenset(ignore or ()))
    with connect(Service.REGISTRY, url, token) as client:
        found = client.features.get_view(*versioned(view))
        exact = f"{found.name}@{found.version}"
        if file is not None:
            with file.open("rb") as stream, output.spinner(f"writing {file.name}"):
                blocks = read_blocks(stream, format_of(file, row_format), found, names)
                written = _write(client, exact, blocks, at)
        else:
            said = io.BytesIO(read_argument(rows, "rows").encode())
            written = _write(client, exact, read_blocks(said, row_format or Format.JSON, found, names), at)
    parts = [f"{say_count(written['written_count'], 'row')} written to {exact}"]
    if written["late_count"]:
        parts.append(f"{written['late_count']:,} of them older than their entity's latest")
    if written["duplicate_count"]:
        parts.append(f"{written['duplicate_count']:,} were there already")
    output.answer({"view": found.name, "version": found.version, **written}, Text("; ".join(parts)))


@app.command(epilog=EXAMPLES)
def get(
    view: Annotated[
        str,
        typer.Argument(metavar="VIEW", help="The view, or several: spending,visits@2.", show_default=False),
    ],
    keys: Keys,
    feature: Annotated[
        Names, typer.Option("--feature", "-c", metavar="NAME", help="Only this one, of one view; again for more.")
    ] = None,
    value: Annotated[
        Names,
        typer.Option("--value", metavar="NAME=VALUE", help="For features computed on read; the same for all keys."),
    ] = None,
    as_of: Annotated[
        datetime | None,
        typer.Option("--as-of", metavar="TIME", parser=moment, help="As was known then.", show_default=False),
    ] = None,
    known: Annotated[
        datetime | None,
        typer.Option(
            "--known", metavar="TIME", parser=moment, help="As of --as-of, with what was known then instead.",
            show_default=False,
        ),
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:  # fmt: skip
    """Read entities, with how old what is known of each is."""
    output = Output(as_json=as_json, no_color=no_color)
    if known and not as_of:
        raise typer.BadParameter("--known goes with --as-of", param_hint="--known")
    wanted = view.split(",")
    if feature and len(wanted) > 1:
        raise typer.BadParameter("--feature goes with one view", param_hint="--feature")
    entities = list(chain.from_iterable(map(_entities, keys)))
    with connect(Service.REGISTRY, url, token) as client:
        views = [client.features.get_view(*versioned(each)) for each in wanted]
        selections = {f"{each.name}@{each.version}": feature or () for each in views}
        brought: dict[str, Any] = {
            name: [parse_scalar(said)] * len(entities) for name, said in pairs(value, "--value").items()
        }
        if as_of is None:
            read = client.features.get(selections, entities, request_values=brought)
            times = [time.time_ns() // 1_000] * len(entities)
            answers = [Answer(each, read[each.name], times) for each in views]
        else:
            at_us = time_us(as_of)
            blocks = client.features.get_as_of(
                selections, entities, [at_us] * len(entities), known_time=known, request_values=brought
            )
            answers = [Answer(each, block[each.name], [at_us] * len(entities)) for block in blocks for each in views]
    output.answer(values_document(answers), values_table(output, answers))
    if len(entities) * len(views) > SHOWN_ROWS:
        output.note(f"{SHOWN_ROWS} of {len(entities) * len(views):,} rows shown; --json gives all")


@app.command()
def history(
    view: NamedView,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The entity.", show_default=False)],
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List what was ever written of an entity, the latest event first, corrections beside what they correct."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        found = client.features.get_view(*versioned(view))
        listed = client.features.history(f"{found.name}@{found.version}", key, page_size=page_size(limit))
        rows = history_rows(found, list(islice(listed, limit)))
    output.answer(rows, history_table(output, found, rows))


@app.command()
def delete(
    view: NamedView,
    keys: Keys,
    yes: Yes = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Forget entities, their history too: in all versions of a view, or in one."""
    output = Output(as_json=as_json, no_color=no_color)
    entities = list(chain.from_iterable(map(_entities, keys)))
    if not yes:
        typer.confirm(f"Forget {say_count(len(entities), 'key')} in {view}, history included?", abort=True, err=True)
    with connect(Service.REGISTRY, url, token) as client:
        deleted = client.features.delete(view, entities)
    output.answer({"deleted_count": deleted}, Text(f"{deleted:,} of {say_count(len(entities), 'key')} had values"))


def _entities(said: str) -> Iterable[str]:
    """Give the entities that an argument names."""
    if said != "-" and not said.startswith("@"):
        return [said]
    return [line.strip() for line in read_argument(said, "keys").splitlines() if line.strip()]


def _write(client: Client, view: str, blocks: Iterator[Block], at: datetime | None) -> dict[str, int]:
    """Write blocks; gives the counts. Where it ends early, the error says what is written."""
    from penstock.errors import PenstockError

    now_us = time.time_ns() // 1_000 if at is None else time_us(at)
    counts = {"written_count": 0, "late_count": 0, "duplicate_count": 0}
    several = False
    for block in _checked(blocks, at):
        try:
            answer = _write_block(client, view, block, now_us)
        except PenstockError as error:
            if several:
                error.add_note(f"{counts['written_count']:,} rows before are written; writing all again is safe")
            raise
        counts = {name: count + getattr(answer, name) for name, count in counts.items()}
        several = True
    return counts


def _checked(blocks: Iterator[Block], at: datetime | None) -> Iterator[Block]:
    for block in blocks:
        if at is not None and block.event_times is not None:
            sentence = "the rows have times of their own: leave --at out, or --ignore their column"
            raise CommandError(sentence, reason="TWO_TIMES", exit_code=ExitCode.USAGE)
        yield block


def _write_block(client: Client, view: str, block: Block, now_us: int) -> Any:
    if len(block.keys) <= MAX_WRITE_ROWS and block.create_times is None:
        times: Any = now_us if block.event_times is None else block.event_times
        return client.features.write(view, block.keys, block.columns, event_times=times)
    times = [now_us] * len(block.keys) if block.event_times is None else block.event_times
    return client.features.load(view, block.keys, block.columns, event_times=times, create_times=block.create_times)
