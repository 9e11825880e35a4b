"""`penstock feature join`: rows with the features that were known of them at their time, to train on."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from penstock.cli.connection import Service, connect
from penstock.cli.documents import json_value
from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.feature_rows import EVENT_TIME, Format, format_of, missing_column, read_tables, time_us
from penstock.cli.feature_tables import kinds_of, told
from penstock.cli.feature_view import versioned
from penstock.cli.formats import say_count
from penstock.cli.options import Force, Json, NoColor, Token, Url, moment, refuse_to_replace
from penstock.cli.output import Output

if TYPE_CHECKING:
    from penstock.api.features.v1 import feature_views_pb2 as views_pb
    from penstock.client import Client

EXAMPLES = """Examples:

penstock feature join spending,visits --file labels.csv --time bought_at --out training.parquet
"""
Table = Mapping[str, Sequence[Any]]


def join(
    view: Annotated[
        str, typer.Argument(metavar="VIEW", help="The view, or several: spending,visits@2.", show_default=False)
    ],
    file: Annotated[
        Path,
        typer.Option(
            "--file", "-f", metavar="FILE", exists=True, dir_okay=False, help="Rows with entities and times."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help=".csv, .jsonl or .parquet.")],
    row_format: Annotated[
        Format | None, typer.Option("--format", metavar="F", help="Of --file. Default: by the suffix.")
    ] = None,
    key: Annotated[str, typer.Option("--key", metavar="COLUMN", help="The entities. Default: the view's entity.")] = "",
    time_column: Annotated[
        str, typer.Option("--time", metavar="COLUMN", help="As of when each row is asked for.")
    ] = EVENT_TIME,
    known: Annotated[
        datetime | None,
        typer.Option(
            "--known", metavar="TIME", parser=moment, help="With what was known then, for all rows. Default: at each "
            "row's own time, so that no later correction leaks into the past.", show_default=False,
        ),
    ] = None,
    force: Force = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:  # fmt: skip
    """Add to each row of a file what was known of its entity at its time, and write all of it to another file."""
    output = Output(as_json=as_json, no_color=no_color)
    refuse_to_replace(out, force=force)
    written_as = format_of(out, None)
    if written_as is Format.JSON:
        raise CommandError("give --out a .csv, .jsonl or .parquet", reason="FORMAT_REQUIRED", exit_code=ExitCode.USAGE)
    count = 0
    with connect(Service.REGISTRY, url, token) as client, ExitStack() as stack:
        views = [client.features.get_view(*versioned(each)) for each in view.split(",")]
        stream = stack.enter_context(file.open("rb"))
        partial = out.with_name(f"{out.name}.partial")
        stack.callback(partial.unlink, missing_ok=True)
        with _WRITERS[written_as](partial) as writer, output.spinner(f"joining {file.name}"):
            for table, rows in read_tables(stream, format_of(file, row_format)):
                writer.write(_joined(client, views, table, key or views[0].entity, time_column, known))
                count += rows
        partial.replace(out)
    output.answer({"file": str(out), "row_count": count}, Text(f"{say_count(count, 'row')} written to {out}"))


def _joined(
    client: Client,
    views: Sequence[views_pb.FeatureView],
    table: Table,
    key: str,
    time_column: str,
    known: datetime | None,
) -> Table:
    """Give the columns of a table with the features beside them; one whose name is taken bears its view's, too."""
    for named in (key, time_column):
        if named not in table:
            raise missing_column(named, table)
    times = [_time(value, row) for row, value in enumerate(table[time_column], 1)]
    selections = {f"{each.name}@{each.version}": () for each in views}
    keys = [str(each) for each in table[key]]
    joined: dict[str, Any] = dict(table)
    places: dict[tuple[str, str], str] = {}
    for block in client.features.get_as_of(selections, keys, times, known_time=known):
        for each in views:
            kinds, rows = kinds_of(each), list(block[each.name].rows())
            for name, kind in kinds.items():
                place = places.get((each.name, name))
                if place is None:
                    place = places[each.name, name] = name if name not in joined else f"{each.name}.{name}"
                    joined[place] = []
                joined[place].extend(told(row[name], kind) for row in rows)
    return joined


def _time(value: Any, row: int) -> int:
    try:
        return time_us(value)
    except ValueError as error:
        raise CommandError(f"row {row}: {error}", reason="MALFORMED_FILE") from error


class _Csv:
    """Writes CSV: what is missing is an empty field, a list JSON."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._lines = csv.writer(self._file)
        self._names: list[str] = []

    def __enter__(self) -> _Csv:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, table: Table) -> None:
        """Write rows, the names before the first."""
        if not self._names:
            self._names = list(table)
            self._lines.writerow(self._names)
        for row in zip(*(table[name] for name in self._names), strict=True):
            self._lines.writerow("" if value is None else _field(value) for value in row)


class _JsonLines:
    """Writes an object a line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def __enter__(self) -> _JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, table: Table) -> None:
        """Write rows."""
        for row in zip(*table.values(), strict=True):
            document = json_value({name: _plain(value) for name, value in zip(table, row, strict=True)})
            self._file.write(json.dumps(document, ensure_ascii=False) + "\n")


class _Parquet:
    """Writes Parquet, by pyarrow; a column's type is that of its first block."""

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import parquet
        except ImportError as error:
            sentence = "Parquet needs pyarrow: pip install pyarrow, or write .csv or .jsonl"
            raise CommandError(sentence, reason="PYARROW_NOT_INSTALLED") from error
        self._path, self._parquet = path, parquet
        self._writer: Any = None

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, table: Table) -> None:
        """Write rows as a row group."""
        import pyarrow

        columns = {name: list(values) for name, values in table.items()}
        if self._writer is None:
            made = pyarrow.table(columns)
            self._writer = self._parquet.ParquetWriter(self._path, made.schema)
        else:
            made = pyarrow.table(columns, schema=self._writer.schema)
        self._writer.write_table(made)


_WRITERS: dict[Format, Any] = {Format.CSV: _Csv, Format.JSONL: _JsonLines, Format.PARQUET: _Parquet}


def _field(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    return json.dumps(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
