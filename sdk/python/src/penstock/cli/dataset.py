"""`penstock dataset`: rows to learn from and to judge by, in versions that never change."""

from __future__ import annotations

import enum
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from penstock.api.trainer.v1 import datasets_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.dataset_views import (
    columns_table,
    dataset_facts,
    datasets_table,
    preview_table,
    split_facts,
    splits_table,
)
from penstock.cli.documents import document_of
from penstock.cli.formats import say_bytes, say_count
from penstock.cli.ids import whole_id
from penstock.cli.options import (
    Force,
    From,
    Json,
    Limit,
    Model,
    NoColor,
    Token,
    Until,
    Url,
    Yes,
    duration,
    page_size,
    pairs,
    refuse_to_replace,
)
from penstock.cli.output import Output

if TYPE_CHECKING:
    from penstock.client import Client

EXAMPLES = """Examples:

penstock dataset upload iris iris.csv

penstock dataset from-traffic churn --into churn-labelled --window 30d --labelled

penstock dataset show iris --rows 5
"""
app = typer.Typer(no_args_is_help=True, help="Rows to learn from, in versions that never change.", epilog=EXAMPLES)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name.", show_default=False)]
Named = Annotated[
    str,
    typer.Argument(metavar="NAME[/VERSION]", help="The dataset. Default: its newest version.", show_default=False),
]
Description = Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is.")]
Labels = Annotated[list[str] | None, typer.Option("--label", "-l", metavar="K=V", help="For search; again for more.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until its rows are gathered.")]


class Format(enum.StrEnum):
    """How a file of rows is written."""

    PARQUET = "parquet"
    CSV = "csv"
    JSON = "json"


class By(enum.StrEnum):
    """What decides where a row goes."""

    SEED = "seed"
    TIME = "time"
    KEY = "key"


class Part(enum.StrEnum):
    """A part of a split."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@app.command(epilog=EXAMPLES)
def upload(
    name: Name,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help=".parquet, .csv, .json or .jsonl.", show_default=False
        ),
    ],
    file_format: Annotated[
        Format | None, typer.Option("--format", help="Default: by the file's suffix.", show_default=False)
    ] = None,
    delimiter: Annotated[
        str,
        typer.Option(
            "--delimiter", metavar="CHARACTER", help="Between a CSV's cells: ',', ';', tab or '|'. Default: a comma."
        ),
    ] = "",
    column_type: Annotated[
        list[str] | None,
        typer.Option(
            "--type", "-t", metavar="COLUMN=TYPE",
            help="float64, int64, bool, string, timestamp or float64_list, where the rows do not say what is meant.",
        ),
    ] = None,
    description: Description = "",
    label: Labels = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:  # fmt: skip
    """Make the next version of a dataset of a file; the same rows again are the version that is there."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client, output.transfer(f"uploading {file.name}") as bar:
        answer = client.datasets.upload(
            name,
            file,
            file_format=file_format,
            delimiter="\t" if delimiter in ("tab", r"\t") else delimiter,
            column_types=pairs(column_type, "--type"),
            description=description,
            labels=pairs(label, "--label"),
            progress=bar.reach,
        )
    found = answer.dataset
    document = {**document_of(found), "existed": answer.existed}
    output.answer(document, dataset_facts(output, found), Text(""), columns_table(output, found))
    if answer.existed:
        output.note(f"these rows were there already, as {found.name}/{found.version}")


@app.command("from-traffic", epilog=EXAMPLES)
def from_traffic(
    model: Model,
    into: Annotated[
        str, typer.Option("--into", metavar="NAME", help="The dataset. Default: MODEL-traffic.", show_default=False)
    ] = "",
    version: Annotated[
        list[str] | None, typer.Option("--version", "-v", metavar="V", help="Only this version; again for more.")
    ] = None,
    window: Annotated[
        timedelta | None,
        typer.Option("--window", "-w", metavar="DURATION", parser=duration, help="How far back. Default: 7d.",
                     show_default=False),
    ] = None,
    from_time: From = None,
    to_time: Until = None,
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Only rows of which it is known what really happened.")
    ] = False,
    max_rows: Annotated[
        int, typer.Option("--max-rows", metavar="N", min=0, help="At most so many, the same each time. 0: all.")
    ] = 0,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="FEATURE=VALUE", help="Only rows with this value; again for more."),
    ] = None,
    description: Description = "",
    label: Labels = None,
    wait: Wait = True,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:  # fmt: skip
    """Make a version of what a model was asked, what it answered, and what really happened."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client:
        begun = client.datasets.from_traffic(
            into or f"{model}-traffic",
            model,
            versions=version or (),
            from_time=from_time,
            to_time=to_time,
            window=window,
            labelled_only=labelled,
            max_rows=max_rows,
            where=pairs(where, "--where"),
            description=description,
            labels=pairs(label, "--label"),
        )
        _gathered(client, output, begun, wait=wait)


@app.command("from-features")
def from_features(
    name: Name,
    rows: Annotated[str, typer.Option("--rows", metavar="NAME[/VERSION]", help="The rows; their columns stay.")],
    key: Annotated[str, typer.Option("--key", metavar="COLUMN", help="Its column that names the entity.")],
    time: Annotated[str, typer.Option("--time", metavar="COLUMN", help="Its column with each row's time.")],
    feature: Annotated[
        list[str], typer.Option("--feature", metavar="VIEW[:FEATURE]", help="A view or a feature; again for more.")
    ],
    description: Description = "",
    label: Labels = None,
    wait: Wait = True,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Make a version of another dataset's rows with features beside them, as they were known at each row's time."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client:
        begun = client.datasets.from_features(
            name, rows, feature, key_column=key, time_column=time, description=description,
            labels=pairs(label, "--label"),
        )  # fmt: skip
        _gathered(client, output, begun, wait=wait)


@app.command("list")
def list_datasets(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="All versions of this one.", show_default=False)
    ] = "",
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:  # fmt: skip
    """List datasets, each in its newest version, or all versions of one."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client:
        found = list(islice(client.datasets.list(name, page_size=page_size(limit)), limit))
    output.answer([document_of(dataset) for dataset in found], datasets_table(output, found))


@app.command()
def show(
    dataset: Named,
    rows: Annotated[int, typer.Option("--rows", "-n", metavar="N", min=0, max=1000, help="So many rows as well.")] = 0,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show a version: its columns and what was counted of them, its splits, and some rows."""
    output = Output(as_json=as_json, no_color=no_color)
    name, version = named(dataset)
    with connect(Service.TRAINER, url, token) as client:
        found = client.datasets.get(name, version)
        ready = found.state == pb.DATASET_STATE_READY
        some = list(client.datasets.preview(name, found.version, limit=rows)) if rows and ready else []
    parts = [dataset_facts(output, found), Text(""), columns_table(output, found)]
    if found.splits:
        parts += [Text(""), splits_table(output, found)]
    if some:
        parts += [Text(""), preview_table(output, found, some)]
    document = {**document_of(found), "rows": some} if rows else document_of(found)
    output.answer(document, *parts)


@app.command()
def split(
    dataset: Named,
    by: Annotated[By, typer.Option("--by", help="What decides where a row goes.")] = By.SEED,
    train: Annotated[float, typer.Option("--train", metavar="SHARE", help="Of the rows, to learn from.")] = 0.7,
    validation: Annotated[float, typer.Option("--validation", metavar="SHARE", help="Of the rows.")] = 0.15,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another one divides otherwise.")] = 0,
    column: Annotated[str, typer.Option("--column", metavar="COLUMN", help="Of times or keys.")] = "",
    stratify: Annotated[
        str, typer.Option("--stratify", metavar="COLUMN", help="Its values are spread evenly over the parts.")
    ] = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Divide a version into training, validation and test, for good; what is left over is for the test."""
    output = Output(as_json=as_json, no_color=no_color)
    name, version = named(dataset)
    with connect(Service.TRAINER, url, token) as client, output.spinner(f"dividing {dataset}"):
        made = client.datasets.split(
            name, version, by=by, train_share=train, validation_share=validation, seed=seed, column=column,
            stratify_column=stratify,
        )  # fmt: skip
    output.answer(document_of(made), split_facts(output, made))
    output.note(f"to have a part of it: penstock dataset download {dataset} --split {made.id} --part test")


@app.command()
def download(
    dataset: Named,
    destination: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where to. Default: NAME-VERSION.parquet here.")
    ] = Path(),
    split_id: Annotated[
        str, typer.Option("--split", metavar="ID", help="The split, or how its id begins, for one of its parts.")
    ] = "",
    part: Annotated[
        Part | None, typer.Option("--part", help="The part of the split.", show_default=False)
    ] = None,
    force: Force = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:  # fmt: skip
    """Download a version, or one part of a split, as Parquet."""
    output = Output(as_json=as_json, no_color=no_color)
    name, version = named(dataset)
    with connect(Service.TRAINER, url, token) as client:
        found = client.datasets.get(name, version)
        if destination.is_dir():
            suffix = f"-{part}" if part else ""
            destination /= f"{found.name}-{found.version}{suffix}.parquet"
        refuse_to_replace(destination, force=force)
        with output.transfer(f"downloading {found.name}/{found.version}") as bar:
            path = client.datasets.download(
                name,
                destination,
                found.version,
                split_id=whole_id(split_id, lambda: found.splits),
                part=part,
                progress=bar.reach,
            )
    size_bytes = path.stat().st_size
    output.answer(
        {"name": found.name, "version": found.version, "file": str(path.absolute()), "size_bytes": size_bytes},
        Text(f"{path}  {say_bytes(size_bytes)}, SHA-256 verified"),
    )


@app.command()
def delete(
    dataset: Annotated[str, typer.Argument(metavar="NAME/VERSION", help="The version.", show_default=False)],
    force: Annotated[
        bool, typer.Option("--force", help="Also while a run reads it, which ends as if it were there.")
    ] = False,
    yes: Yes = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:  # fmt: skip
    """Delete a version; its number is never given again."""
    output = Output(as_json=as_json, no_color=no_color)
    name, version = named(dataset)
    if not version:
        raise typer.BadParameter("name the version, such as iris/1: the newest is never deleted by chance")
    if not yes:
        typer.confirm(f"Delete {dataset}?", abort=True, err=True)
    with connect(Service.TRAINER, url, token) as client:
        client.datasets.delete(name, version, force=force)
    output.answer({"name": name, "version": version, "deleted": True}, Text(f"deleted {dataset}"))


def named(text: str) -> tuple[str, int]:
    """Read NAME or NAME/VERSION; 0: the newest."""
    name, mark, version = text.partition("/")
    if mark and not (version.isascii() and version.isdigit() and len(version) < 10 and int(version)):
        raise typer.BadParameter(f"got {text!r}; write NAME, or NAME/VERSION such as iris/2")
    return name, int(version or 0)


def _gathered(client: Client, output: Output, begun: pb.Dataset, *, wait: bool) -> None:
    """Show a version that has been begun, by default once it is READY."""
    found = begun
    if wait:
        with output.spinner(f"gathering rows into {begun.name}/{begun.version}"):
            found = client.datasets.wait(begun.name, begun.version, timeout_s=24 * 3_600)
    output.answer(document_of(found), dataset_facts(output, found), Text(""), columns_table(output, found))
    if wait:
        output.note(f"{say_count(found.row_count, 'row')}: `penstock dataset show {found.name} --rows 5` shows some")
    else:
        output.note(f"its rows are being gathered: penstock dataset show {found.name}/{found.version}")
