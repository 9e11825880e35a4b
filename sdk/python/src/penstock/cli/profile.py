"""`penstock profile`: what a version's data looked like when it was good."""

from __future__ import annotations

import enum
import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.ids import whole_id
from penstock.cli.options import (
    ExactVersion,
    Json,
    Limit,
    Model,
    ModelOrAll,
    NoColor,
    Token,
    Until,
    Url,
    VersionFilter,
    duration,
    moment,
    pairs,
)
from penstock.cli.output import Output
from penstock.cli.profile_views import features_table, profile_facts, profiles_table

if TYPE_CHECKING:
    from penstock.api.monitoring.v1 import profiles_pb2 as pb
    from penstock.client import Client
    from penstock.profiles import Columns

EXAMPLES = """Examples

  penstock profile create iris 2.0.0 --file training.csv --prediction species --label truth
  penstock profile create iris 2.0.0 --window 7d
  penstock profile create view:spending 1 --window 7d      of a feature view
  penstock profile show iris 2.0.0
"""
app = typer.Typer(
    no_args_is_help=True, help="What data looked like when it was good: the reference of every check.", epilog=EXAMPLES
)
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
Names = list[str] | None


class Format(enum.StrEnum):
    """How rows are written."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    CSV = "csv"


Rows = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Rows of training data, .csv, .parquet or .jsonl, sent from here.",
        show_default=False,
    ),
]
Uri = Annotated[
    str,
    typer.Option(
        "--uri", metavar="URI", help="dataset:NAME; or the same in a blob store, file:// or s3:// (with --sha256)."
    ),
]
LiveWindow = Annotated[
    timedelta | None,
    typer.Option(
        "--window",
        "-w",
        metavar="DURATION",
        parser=duration,
        help="Live traffic of so long, up to now: 1h, 24h, 7d; 14d at most.",
        show_default=False,
    ),
]
LiveFrom = Annotated[
    datetime | None,
    typer.Option("--from", metavar="TIME", parser=moment, help="Live traffic from then on.", show_default=False),
]
Sha256 = Annotated[str, typer.Option("--sha256", metavar="HEX", help="The digest of a URI's bytes.")]
RowFormat = Annotated[
    Format | None,
    typer.Option("--format", metavar="F", help="jsonl, parquet, csv. Default: by the suffix.", show_default=False),
]
Predictions = Annotated[
    Names, typer.Option("--prediction", "-p", metavar="COLUMN", help="The model's output; again for more.")
]
Label = Annotated[
    str, typer.Option("--label", metavar="COLUMN", help="What really happened: gives the reference's accuracy.")
]
Group = Annotated[
    str,
    typer.Option("--group", metavar="COLUMN", help="The user, or what else rows belong together by."),
]
Ignored = Annotated[Names, typer.Option("--ignore", metavar="COLUMN", help="Leave out: ids, times; again for more.")]
Kinds = Annotated[
    Names,
    typer.Option(
        "--kind",
        metavar="COLUMN=KIND",
        help="numeric, categorical, boolean, text_length or embedding, where values don't say it.",
    ),
]
ForPeople = Annotated[str, typer.Option("--note", metavar="TEXT", help="For people.")]


@app.command(epilog=EXAMPLES)
def create(
    model: Model,
    version: ExactVersion,
    file: Rows = None,
    uri: Uri = "",
    window: LiveWindow = None,
    begin: LiveFrom = None,
    until: Until = None,
    sha256: Sha256 = "",
    row_format: RowFormat = None,
    prediction: Predictions = None,
    label: Label = "",
    group: Group = "",
    ignore: Ignored = None,
    kind: Kinds = None,
    note: ForPeople = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Make a profile of training data, or of live traffic that was good, and compare the version with it from now on.

    Give one of --file, --uri, and --window or --from.
    """
    from penstock.profiles import Columns

    output = Output(as_json=as_json, no_color=no_color)
    _check_source(file, uri, sha256, window, begin)
    columns = Columns(
        kinds=pairs(kind, "--kind"), ignored=ignore or (), predictions=prediction or (), label=label, group=group
    )
    with connect(Service.MONITORING, url, token) as client:
        if file is not None:
            made = _send(client, output, model, version, file, columns, row_format, note)
        else:
            with output.spinner(f"making a profile of {uri or 'live traffic'}"):
                if uri:
                    made = client.monitoring.profiles.create_from_uri(
                        model,
                        version,
                        uri,
                        sha256=sha256,
                        columns=columns,
                        row_format=row_format and row_format.value,
                        note=note,
                    )
                else:
                    end = until or datetime.now(UTC)
                    since = begin or end - (window or timedelta())
                    made = client.monitoring.profiles.create_from_window(
                        model, version, from_time=since, to_time=end, columns=columns, note=note
                    )
    output.answer(document_of(made), profile_facts(output, made), Text(""), features_table(output, made.features))
    output.warn(made.warnings)
    output.note(
        f"{model} {version} is compared with it from now on; once there is traffic: penstock drift check {model}"
    )


@app.command("list")
def list_(
    model: ModelOrAll = "",
    version: VersionFilter = "",
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List profiles, the newest first, with the versions that are compared with them."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = list(islice(client.monitoring.profiles.list(model=model, version=version, limit=limit), limit))
    output.answer([document_of(profile) for profile in found], profiles_table(output, found))


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="PROFILE | MODEL", help="Its id, or the model.", show_default=False)],
    version: Annotated[
        str,
        typer.Argument(metavar="VERSION", help="Of a model: the version that is compared with it.", show_default=False),
    ] = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show a profile with all its features."""
    output = Output(as_json=as_json, no_color=no_color)
    if not version and not _ID.fullmatch(name):
        raise typer.BadParameter("give a profile's id, or MODEL and VERSION; `penstock profile list` has them")
    with connect(Service.MONITORING, url, token) as client:
        profiles = client.monitoring.profiles
        found = profiles.of_version(name, version) if version else profiles.get(name)
    output.answer(document_of(found), profile_facts(output, found), Text(""), features_table(output, found.features))


@app.command()
def attach(
    profile: Annotated[
        str, typer.Argument(metavar="PROFILE", help="The profile's id, or how it begins.", show_default=False)
    ],
    version: ExactVersion,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Compare another version of the model with a profile from now on: live data is counted anew against it."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = client.monitoring.profiles.attach(whole_id(profile, client.monitoring.profiles.list), version)
    said = Text.assemble((f"{found.model} {version}", "bold"), f" is compared with profile {found.number} from now on")
    output.answer(document_of(found), said)
    output.warn(found.warnings)
    output.note(f"to see how it does: penstock drift check {found.model} --version {version}")


def _check_source(file: Path | None, uri: str, sha256: str, window: timedelta | None, begin: datetime | None) -> None:
    if (file is not None) + bool(uri) + bool(window or begin) != 1:
        raise typer.BadParameter("give one of --file, --uri, and --window (or --from): what the profile is made of")
    if window and begin:
        raise typer.BadParameter("give --window or --from, not both")
    if uri and not (sha256 or uri.startswith("dataset:")):
        raise typer.BadParameter("a URI needs --sha256: the service makes sure of what it reads", param_hint="--uri")


def _send(
    client: Client,
    output: Output,
    model: str,
    version: str,
    file: Path,
    columns: Columns,
    row_format: Format | None,
    note: str,
) -> pb.Profile:
    suffixes = {".csv", ".jsonl", ".ndjson", ".parquet"}
    if row_format is None and file.suffix.lower() not in suffixes:
        raise CommandError(
            f"{file.name} does not say how it is written: give --format",
            reason="FORMAT_REQUIRED",
            exit_code=ExitCode.USAGE,
        )
    with output.transfer(f"sending {file.name}") as bar:
        return client.monitoring.profiles.create(
            model,
            version,
            file,
            columns=columns,
            row_format=row_format and row_format.value,
            note=note,
            progress=bar.reach,
        )
