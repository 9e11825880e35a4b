"""`penstock feature import`: rows that the service reads itself, of files and of other databases."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer
from rich.text import Text

from penstock.api.features.v1 import features_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.feature_view import NamedView
from penstock.cli.formats import say_count
from penstock.cli.options import Json, NoColor, Token, Url
from penstock.cli.output import Output
from penstock.cli.predict import read_argument

EXAMPLES = """Examples:

penstock feature import spending --uri s3://warehouse/spending.parquet --key customer_id

penstock feature import spending --connection shop --query 'SELECT customer, amount, event_time FROM spending'

penstock feature import spending --bigquery my-project --query @spending.sql
"""


class Format(enum.StrEnum):
    """How the service's files are written."""

    CSV = "csv"
    PARQUET = "parquet"


def import_(
    view: NamedView,
    uri: Annotated[
        str, typer.Option("--uri", metavar="URI", help="A file, file:// or s3://, that the service may read.")
    ] = "",
    row_format: Annotated[
        Format | None, typer.Option("--format", metavar="F", help="csv or parquet. Default: by the suffix.")
    ] = None,
    connection: Annotated[
        str, typer.Option("--connection", metavar="NAME", help="A database, as the service's settings name it.")
    ] = "",
    project: Annotated[
        str, typer.Option("--bigquery", metavar="PROJECT", help="A project of BigQuery, which runs the query and pays.")
    ] = "",
    query: Annotated[
        str, typer.Option("--query", metavar="SQL | @FILE", help="One SELECT there; @FILE reads it from a file.")
    ] = "",
    key: Annotated[str, typer.Option("--key", metavar="COLUMN", help="The entities. Default: the view's entity.")] = "",
    time_column: Annotated[
        str, typer.Option("--time", metavar="COLUMN", help="When each became true. Default: event_time, else now.")
    ] = "",
    known_column: Annotated[
        str, typer.Option("--known-time", metavar="COLUMN", help="When each was known elsewhere. Default: from now on.")
    ] = "",
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="COLUMN", help="Leave out; again for more.")
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Have the service read a file or a query, and write its rows; Ctrl-C ends it, and again is safe.

    Give --uri, or --query with --connection or --bigquery.
    """
    from penstock.features import SourceColumns

    output = Output(as_json=as_json, no_color=no_color)
    asked = bool(connection or project)
    if (bool(uri), bool(connection), bool(project)).count(True) != 1 or asked != bool(query):
        raise typer.BadParameter("give --uri, or --connection and --query, or --bigquery and --query")
    columns = SourceColumns(key, time_column, known_column, ignore or ())
    reached = pb.ImportFeatureSourceResponse()
    with connect(Service.REGISTRY, url, token) as client:
        if uri:
            said = row_format.value if row_format else None
            coming = client.features.import_file(view, uri, file_format=said, columns=columns)
        else:
            sql = read_argument(query, "the query")
            if project:
                coming = client.features.import_bigquery(view, project, sql, columns=columns)
            else:
                coming = client.features.import_query(view, connection, sql, columns=columns)
        try:
            with closing(coming), _shown(output, f"importing into {view}") as show:
                for reached in coming:
                    show(f"{say_count(reached.row_count, 'row')} read, {reached.written_count:,} written")
        except KeyboardInterrupt:
            output.note(f"ended; {reached.written_count:,} rows are written, and again is safe")
            raise
    parts = [f"{say_count(reached.row_count, 'row')} read, {reached.written_count:,} written to {view}"]
    if reached.late_count:
        parts.append(f"{reached.late_count:,} of them older than their entity's latest")
    if reached.duplicate_count:
        parts.append(f"{reached.duplicate_count:,} were there already")
    output.answer(document_of(reached), Text("; ".join(parts)))


@contextmanager
def _shown(output: Output, text: str) -> Iterator[Callable[[str], None]]:
    """Show what is under way, and how far it is, where a person watches."""
    if output.as_json or not output.stderr.is_terminal:
        yield lambda _: None
        return
    with output.stderr.status(Text(text)) as status:
        yield lambda reached: status.update(Text(f"{text}: {reached}"))
