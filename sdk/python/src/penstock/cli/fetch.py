"""`penstock fetch`: models brought from elsewhere into the registry."""

from __future__ import annotations

import enum
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.cli import fetch_schedules
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.exits import CommandError
from penstock.cli.fetch_advice import command_of, next_step
from penstock.cli.fetch_options import (
    Field,
    FrameworkOrNone,
    Into,
    IntoFilter,
    Label,
    Priority,
    Reference,
    Revision,
    Sha256,
    SourceName,
    StageApprover,
    StageNote,
    StageOrNone,
    Variant,
    Webhook,
    WebhookEnv,
    WebhookFile,
    WebhookSecretEnv,
    WebhookSecretFile,
    later,
    metadata_of,
    say_if_past,
    told_of,
)
from penstock.cli.fetch_views import fetch_facts, fetches_table, inspection, sources_table
from penstock.cli.ids import whole_uuid
from penstock.cli.options import Json, Limit, NoColor, Token, Url, Yes, page_size, pairs
from penstock.cli.output import Output
from penstock.cli.watching import Watch

if TYPE_CHECKING:
    from penstock.client import Client

EXAMPLES = """Examples:

penstock fetch start url https://example.org/flowers.onnx --watch

penstock fetch start filesystem /srv/models/churn --name churn --version 2026-11 --stage candidate
"""


class State(enum.StrEnum):
    """How far a fetch has come."""

    PENDING = "pending"
    QUEUED = "queued"
    DOWNLOADING = "downloading"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


app = typer.Typer(no_args_is_help=True, help="Bring models from elsewhere into the registry.", epilog=EXAMPLES)
app.add_typer(fetch_schedules.app, name="schedule")
_WATCH = Watch("fetch", "penstock fetch", "the fetcher")
Fetch = Annotated[str, typer.Argument(metavar="FETCH", help="The fetch's id, or how it begins.", show_default=False)]


@app.command()
def sources(url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """List where models can be fetched from, and what a reference looks like there."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.FETCHER, url, token) as client:
        found = client.fetcher.sources()
    output.answer([document_of(source) for source in found], sources_table(output, found))


@app.command()
def inspect(
    source: SourceName,
    reference: Reference,
    revision: Revision = "",
    variant: Variant = "",
    sha256: Sha256 = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show what a reference names, without downloading it: framework, variants, files, sizes, what it is."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.FETCHER, url, token) as client, output.spinner(f"looking at {reference}"):
        found = client.fetcher.inspect(source, reference, revision=revision, variant=variant, sha256=sha256)
    output.answer(document_of(found), inspection(output, found))
    output.warn(found.warnings)
    name = found.suggested_model or "NAME"
    framework = "" if found.framework else " --framework …"
    output.note(f"to fetch it: {command_of('start', found.source, '--name', name)}{framework}")


Version = Annotated[
    str, typer.Option("--version", metavar="V", help="Default: that of the same files, else v1, v2 and so on.")
]
MaxAttempts = Annotated[int, typer.Option("--max-attempts", metavar="N", min=1, max=20, help="Tries before it fails.")]
At = Annotated[
    datetime | None,
    typer.Option(
        "--at",
        metavar="TIME",
        parser=later,
        help="Not before: in so long, such as 2h, or 2026-01-31T22:00, in this machine's zone without +01:00.",
        show_default=False,
    ),
]
RequestId = Annotated[str, typer.Option("--request-id", metavar="ID", help="The same again makes no second fetch.")]
Watching = Annotated[bool, typer.Option("--watch", "-w", help="Show it until it has ended.")]


@app.command(epilog=EXAMPLES)
def start(
    source: SourceName,
    reference: Reference,
    name: Into = None,
    version: Version = "",
    revision: Revision = "",
    variant: Variant = "",
    sha256: Sha256 = "",
    framework: FrameworkOrNone = None,
    stage: StageOrNone = None,
    approver: StageApprover = "",
    note: StageNote = "",
    label: Label = None,
    field: Field = None,
    priority: Priority = 5,
    max_attempts: MaxAttempts = 3,
    at: At = None,
    webhook: Webhook = "",
    webhook_file: WebhookFile = "",
    webhook_env: WebhookEnv = "",
    secret_file: WebhookSecretFile = "",
    secret_env: WebhookSecretEnv = "",
    request_id: RequestId = "",
    watching: Watching = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Fetch a model and register it.

    The path of a webhook is often a secret itself: then name a file or a variable with its URL.
    """
    output = Output(as_json=as_json, no_color=no_color)
    posted_to, secret = told_of(webhook, webhook_file, webhook_env, secret_file, secret_env)
    say_if_past(output, at)
    with connect(Service.FETCHER, url, token) as client:
        job = client.fetcher.start(
            source,
            reference,
            model=name or "",
            version=version,
            revision=revision,
            variant=variant,
            sha256=sha256,
            framework=framework.value if framework else None,
            stage=stage.value if stage else None,
            approved_by=approver,
            note=note,
            labels=pairs(label, "--label"),
            metadata=metadata_of(field),
            priority=priority,
            max_attempts=max_attempts,
            due_time=at,
            webhook=posted_to,
            webhook_secret=secret,
            request_id=request_id,
        )
        if watching:
            job = _followed(client, output, job.id)
    _show(output, job, waited=watching)


@app.command()
def get(fetch: Fetch, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Show a fetch as it stands, and what to do next."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.FETCHER, url, token) as client:
        found = client.fetcher.get(_whole(client, fetch))
    _show(output, found)


@app.command()
def watch(fetch: Fetch, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Show a fetch until it has ended. Exit code 0: COMPLETED; 1: FAILED or CANCELLED.

    With --json a document a line, whenever it changes. Ctrl-C ends the watching, and not the fetch.
    """
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.FETCHER, url, token) as client:
        fetch = _whole(client, fetch)
        if not as_json:
            _show(output, _followed(client, output, fetch), waited=True)
            return
        ended = pb.FetchJob()
        with _WATCH.stream(output, fetch, client.fetcher.watch) as watched:
            for ended in watched:
                output.item(document_of(ended))
    _end_with(ended)


@app.command("list")
def list_fetches(
    state: Annotated[
        list[State] | None,
        typer.Option("--state", "--status", "-s", metavar="STATE", help="Only in this state; again for more."),
    ] = None,
    name: IntoFilter = "",
    source: Annotated[str, typer.Option("--source", metavar="SOURCE", help="Only of this source.")] = "",
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List fetches, the newest first."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.FETCHER, url, token) as client:
        states = [each.value for each in state or ()]
        listed = client.fetcher.list(states=states, model=name, source=source, page_size=page_size(limit))
        found = list(islice(listed, limit))
    output.answer([document_of(job) for job in found], fetches_table(output, found))


@app.command()
def cancel(
    fetch: Fetch, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False
) -> None:
    """End a fetch; its transfer stops within a second."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.FETCHER, url, token) as client:
        found = client.fetcher.cancel(_whole(client, fetch))
    _show(output, found)


@app.command()
def retry(fetch: Fetch, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Queue a failed or cancelled fetch again; what is here is not downloaded again."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.FETCHER, url, token) as client:
        found = client.fetcher.retry(_whole(client, fetch))
    _show(output, found)


@app.command()
def delete(
    fetch: Fetch,
    yes: Yes = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Forget a fetch that has ended; the version that it made stays."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.FETCHER, url, token) as client:
        fetch = _whole(client, fetch)
        if not yes:
            typer.confirm(f"Forget fetch {fetch}?", abort=True, err=True)
        client.fetcher.delete(fetch)
    output.answer({"id": fetch, "deleted": True}, Text(f"deleted {fetch}"))


def _whole(client: Client, fetch: str) -> str:
    return whole_uuid(fetch, client.fetcher.list)


def _followed(client: Client, output: Output, fetch: str) -> pb.FetchJob:
    """Show a fetch until it has ended."""
    from penstock.cli.fetch_progress import follow  # 30 ms that only watching needs

    with _WATCH.by_a_person(output, fetch), _WATCH.stream(output, fetch, client.fetcher.watch) as watched:
        return follow(output, watched)


def _show(output: Output, job: pb.FetchJob, *, waited: bool = False) -> None:
    """Show a fetch and what to do next; where it was waited for, the command ends as it did."""
    output.answer(document_of(job), fetch_facts(output, job))
    output.warn(job.result.warnings)
    output.note(next_step(job))
    if waited:
        _end_with(job)


def _end_with(job: pb.FetchJob) -> None:
    if job.state != pb.FETCH_JOB_STATE_COMPLETED:
        ended = "failed" if job.state == pb.FETCH_JOB_STATE_FAILED else "was cancelled"
        raise CommandError(f"fetch {job.id} {ended}", reason=job.error.reason or "FETCH_NOT_COMPLETED")
