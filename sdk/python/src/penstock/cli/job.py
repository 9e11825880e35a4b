"""`penstock job`: predict many rows in the background."""

from __future__ import annotations

import enum
import json
from contextlib import closing
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from penstock.api.inference.v1 import prediction_jobs_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.formats import say_bytes, say_count
from penstock.cli.ids import whole_uuid
from penstock.cli.job_views import follow, job_facts, jobs_table, workers_table
from penstock.cli.options import Json, Limit, Model, NoColor, Token, Url, Version, Yes, duration, page_size
from penstock.cli.output import Output
from penstock.cli.predict import read_argument
from penstock.cli.wording import at_the_command_line

if TYPE_CHECKING:
    from penstock.client import Client


class Format(enum.StrEnum):
    """How rows are written."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    CSV = "csv"


class State(enum.StrEnum):
    """How far a job has come."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


app = typer.Typer(no_args_is_help=True, help="Predict many rows in the background.")
Job = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, or how it begins.", show_default=False)]
Input = Annotated[
    str,
    typer.Option(
        "--input",
        "-i",
        metavar="FILE | URI",
        help="A file of rows, uploaded first; dataset:NAME; or file:// or s3://, read by the service (--sha256).",
    ),
]
Rows = Annotated[
    str, typer.Option("--rows", metavar="JSON | @FILE | -", help="Rows as a JSON list of objects, up to 10,000.")
]
InputFormat = Annotated[
    Format | None,
    typer.Option(
        "--input-format", metavar="F", help="jsonl, parquet, csv. Default: by the suffix.", show_default=False
    ),
]
OutputFormat = Annotated[Format, typer.Option("--output-format", "-f", metavar="F", help="jsonl, parquet, csv.")]
Sha256 = Annotated[str, typer.Option("--sha256", metavar="HEX", help="The digest of a URI's bytes.")]
OutputName = Annotated[
    list[str] | None, typer.Option("--output", metavar="NAME", help="Only this output; again for more.")
]
Priority = Annotated[int, typer.Option("--priority", metavar="1-9", min=1, max=9, help="1 goes first.")]
MaxFailedRows = Annotated[
    int | None,
    typer.Option("--max-failed-rows", metavar="N", min=0, help="More fail the job. Default: all.", show_default=False),
]
RecordEvents = Annotated[bool, typer.Option("--events/--no-events", help="Leave events in monitoring.")]
SoftLimit = Annotated[
    timedelta | None,
    typer.Option("--soft-limit", metavar="DURATION", parser=duration, help="Ask it to end.", show_default=False),
]
HardLimit = Annotated[
    timedelta | None,
    typer.Option("--hard-limit", metavar="DURATION", parser=duration, help="End it.", show_default=False),
]
RequestId = Annotated[str, typer.Option("--request-id", metavar="ID", help="The same again makes no second job.")]
Wait = Annotated[bool, typer.Option("--wait", help="Show it until it has ended.")]


@app.command()
def create(
    model: Model,
    input: Input = "",  # noqa: A002 - the option is named as people say it
    rows: Rows = "",
    version: Version = None,
    input_format: InputFormat = None,
    output_format: OutputFormat = Format.JSONL,
    sha256: Sha256 = "",
    output_name: OutputName = None,
    priority: Priority = 5,
    max_failed_rows: MaxFailedRows = None,
    record_events: RecordEvents = True,
    soft_limit: SoftLimit = None,
    hard_limit: HardLimit = None,
    request_id: RequestId = "",
    wait: Wait = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Queue a job over a file or over rows."""
    output = Output(as_json=as_json, no_color=no_color)
    if bool(input) == bool(rows):
        raise typer.BadParameter("give --input FILE, or --rows")
    said = _rows(read_argument(rows, "rows")) if rows else None
    path, reference = _source(input, sha256, input_format) if input else (None, None)
    with connect(Service.JOBS, url, token) as client:
        with output.transfer(f"uploading {path.name}" if path else "queueing") as bar:
            if path is not None:
                reference = client.jobs.upload(path, input_format=input_format, progress=bar.reach)
            job = client.jobs.create(
                model,
                file=reference,
                rows=said,
                version=version or "",
                output_format=output_format.value,
                outputs=output_name or (),
                priority=priority,
                max_failed_rows=max_failed_rows,
                record_events=record_events,
                soft_limit_s=soft_limit.total_seconds() if soft_limit else 0.0,
                hard_limit_s=hard_limit.total_seconds() if hard_limit else 0.0,
                request_id=request_id,
            )
        if wait:
            with closing(client.jobs.watch(job.id, broken=output.away("the service"))) as watched:
                job = follow(output, watched)
    output.answer(document_of(job), job_facts(output, job))
    _end_with(job, waited=wait)
    if job.state == pb.JOB_STATE_COMPLETED:
        output.note(f"its result: penstock job download {job.id}")
    elif not wait:
        output.note(f"to see it go on: penstock job watch {job.id}")


@app.command()
def get(job: Job, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Show a job as it stands."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.JOBS, url, token) as client:
        found = client.jobs.get(_whole(client, job))
    output.answer(document_of(found), job_facts(output, found))


@app.command()
def watch(job: Job, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Show a job until it has ended. Exit code 0: COMPLETED; 1: FAILED or CANCELLED."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.JOBS, url, token) as client:
        watching = client.jobs.watch(_whole(client, job), broken=output.away("the service"))
        with closing(watching) as watched:
            ended = follow(output, watched)
    output.answer(document_of(ended), job_facts(output, ended))
    _end_with(ended, waited=True)


@app.command("list")
def list_jobs(
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="Only this model.")] = "",
    state: Annotated[
        list[State] | None, typer.Option("--state", "-s", metavar="STATE", help="Only this state; again for more.")
    ] = None,
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List jobs, the newest first."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.JOBS, url, token) as client:
        states = [each.value for each in state or ()]
        found = list(islice(client.jobs.list(states=states, model=model, page_size=page_size(limit)), limit))
    output.answer([document_of(job) for job in found], jobs_table(output, found))


@app.command()
def cancel(job: Job, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """End a job that waits, or ask the one that runs to end."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.JOBS, url, token) as client:
        found = client.jobs.cancel(_whole(client, job))
    output.answer(document_of(found), job_facts(output, found))


@app.command()
def retry(job: Job, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Queue a failed or cancelled job again; it goes on after the rows that are done.

    Where too many rows had failed, these are predicted once more. No prediction is counted twice.
    """
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.JOBS, url, token) as client:
        found = client.jobs.retry(_whole(client, job))
    output.answer(document_of(found), job_facts(output, found))


@app.command()
def delete(
    job: Job, yes: Yes = False, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False
) -> None:
    """Delete a job that has ended, with its result."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.JOBS, url, token) as client:
        job = _whole(client, job)
        if not yes:
            typer.confirm(f"Delete job {job} and its result?", abort=True, err=True)
        client.jobs.delete(job)
    output.answer({"id": job, "deleted": True}, Text(f"deleted {job}"))


@app.command()
def download(
    job: Job,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="Where to. Default: JOB.jsonl and its like.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Download a job's result, verified by its SHA-256."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.JOBS, url, token) as client:
        job = _whole(client, job)
        suffix = pb.FileFormat.Name(client.jobs.get(job).output_format).removeprefix("FILE_FORMAT_").lower()
        target = to or Path(f"{job}.{suffix}")
        if target.exists() and not force:
            raise CommandError(
                f"{target} is there already; --force replaces it, --to takes another",
                reason="FILE_EXISTS",
                exit_code=ExitCode.ALREADY_EXISTS,
            )
        with output.transfer(f"downloading {target.name}") as bar:
            result = client.jobs.download(job, target, progress=bar.reach)
    said = f"{target}  {say_count(result.row_count, 'row')}, {say_bytes(result.size_bytes)}, SHA-256 verified"
    output.answer({**document_of(result), "file": str(target.absolute())}, Text(said))


@app.command()
def workers(url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """List the processes that work on jobs."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.JOBS, url, token) as client:
        found = client.jobs.workers()
    output.answer([document_of(worker) for worker in found], workers_table(output, found))


def _whole(client: Client, job: str) -> str:
    return whole_uuid(job, client.jobs.list)


def _source(source: str, sha256: str, input_format: Format | None) -> tuple[Path | None, pb.FileInput | None]:
    """Tell a file to upload from one that the service reads by itself."""
    if source.startswith("dataset:"):
        return None, pb.FileInput(uri=source)
    if "://" not in source:
        path = Path(source)
        if not path.is_file():
            raise typer.BadParameter(f"there is no file {source}", param_hint="--input")
        return path, None
    suffix = Path(source).suffix.lower().removeprefix(".")
    known = input_format or (Format(suffix) if suffix in {each.value for each in Format} else None)
    if known is None or not sha256:
        raise typer.BadParameter("a URI needs --sha256, and --input-format where its suffix does not say it")
    return None, pb.FileInput(uri=source, sha256=sha256, format=pb.FileFormat.Value(f"FILE_FORMAT_{known.name}"))


def _rows(text: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"the rows are no JSON: {error}", param_hint="--rows") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise typer.BadParameter('the rows are a JSON list of objects such as [{"X": [1, 2]}]', param_hint="--rows")
    return rows


def _end_with(job: pb.PredictionJob, *, waited: bool) -> None:
    """End the command as the job ended, where it was waited for."""
    if waited and job.state != pb.JOB_STATE_COMPLETED:
        why = f": {at_the_command_line(job.error.message, job.error.reason)}" if job.error.message else ""
        ended = "failed" if job.state == pb.JOB_STATE_FAILED else "was cancelled"
        raise CommandError(f"job {job.id} {ended}{why}", reason=job.error.reason or "JOB_NOT_COMPLETED")
