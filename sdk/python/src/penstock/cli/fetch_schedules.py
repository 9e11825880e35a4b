"""`penstock fetch schedule`: fetches that begin by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as jobs
from penstock.api.fetcher.v1 import fetch_schedules_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
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
    told_of,
)
from penstock.cli.formats import say_time
from penstock.cli.ids import whole_uuid
from penstock.cli.model_views import time_of
from penstock.cli.options import Json, Limit, NoColor, Token, Url, Yes, page_size, pairs
from penstock.cli.output import Column, Output, styled
from penstock.cli.wording import at_the_command_line

if TYPE_CHECKING:
    from penstock.client import Client

EXAMPLES = """Examples:

penstock fetch schedule create huggingface Xenova/all-MiniLM-L6-v2 --name minilm --cron "0 3 * * *" --auto-update

penstock fetch schedule create url https://example.org/flowers.onnx --at 2026-12-01T03:00+01:00
"""
app = typer.Typer(no_args_is_help=True, help="Fetches that begin by themselves, once or again and again.")
Schedule = Annotated[
    str, typer.Argument(metavar="SCHEDULE", help="The schedule's id, or how it begins.", show_default=False)
]
_COLUMNS = (
    Column("schedule", give="id"),
    Column("state"),
    Column("next"),
    Column("into", give="cut", least_width=8),
    Column("last fetch", optional=True),
    Column("when", give="cut", least_width=12, optional=True),
    Column("reference", give="cut", least_width=16, optional=True),
    Column("source", optional=True),
)
_STYLES = {"on": "green", "off": "dim", "over": "dim", "failing": "bold red", "failed": "bold red"}
At = Annotated[
    datetime | None,
    typer.Option(
        "--at",
        metavar="TIME",
        parser=later,
        help="Once: in so long, such as 2h, or 2026-01-31T22:00+01:00; in this machine's zone without +01:00.",
        show_default=False,
    ),
]
Cron = Annotated[
    str, typer.Option("--cron", metavar="FIELDS", help='Again and again: "minute hour day month weekday".')
]
TimeZone = Annotated[
    str, typer.Option("--time-zone", metavar="ZONE", help="That cron is read in, such as Europe/Berlin.")
]
AutoUpdate = Annotated[
    bool, typer.Option("--auto-update", help="Only what is new, into candidate; people take it further.")
]
VersionName = Annotated[str, typer.Option("--version", metavar="V", help="With --at. Default: v1, v2 and so on.")]
MaxAttempts = Annotated[
    int, typer.Option("--max-attempts", metavar="N", min=1, max=20, help="Tries before a fetch fails.")
]
RequestId = Annotated[str, typer.Option("--request-id", metavar="ID", help="The same again makes no second schedule.")]


@app.command(epilog=EXAMPLES)
def create(
    source: SourceName,
    reference: Reference,
    at: At = None,
    cron: Cron = "",
    time_zone: TimeZone = "",
    auto_update: AutoUpdate = False,
    name: Into = None,
    version: VersionName = "",
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
    webhook: Webhook = "",
    webhook_file: WebhookFile = "",
    webhook_env: WebhookEnv = "",
    secret_file: WebhookSecretFile = "",
    secret_env: WebhookSecretEnv = "",
    request_id: RequestId = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Have a model fetched at a time (--at), or again and again (--cron).

    Of times that pass while no fetcher runs one is made up for; one at which the last fetch still runs is left out.
    """
    output = Output(as_json=as_json, no_color=no_color)
    if (at is None) == (not cron):
        raise typer.BadParameter("give one of --at and --cron")
    posted_to, secret = told_of(webhook, webhook_file, webhook_env, secret_file, secret_env)
    with connect(Service.FETCHER, url, token) as client:
        made = client.fetcher.schedules.create(
            source,
            reference,
            at=at,
            cron=cron,
            time_zone=time_zone,
            auto_update=auto_update,
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
            webhook=posted_to,
            webhook_secret=secret,
            request_id=request_id,
        )
    _show(output, made)


@app.command("list")
def list_schedules(
    name: IntoFilter = "",
    source: Annotated[str, typer.Option("--source", metavar="SOURCE", help="Only of this source.")] = "",
    enabled: Annotated[
        bool | None, typer.Option("--on/--off", help="Only those that are on, or off.", show_default=False)
    ] = None,
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List schedules, the newest first."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.FETCHER, url, token) as client:
        listed = client.fetcher.schedules.list(model=name, source=source, enabled=enabled, page_size=page_size(limit))
        found = list(islice(listed, limit))
    output.answer([document_of(each) for each in found], _table(output, found))


@app.command()
def get(
    schedule: Schedule, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False
) -> None:
    """Show a schedule: when it comes next, and what came of its last time."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.FETCHER, url, token) as client:
        found = client.fetcher.schedules.get(_whole(client, schedule))
    _show(output, found)


@app.command()
def enable(
    schedule: Schedule, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False
) -> None:
    """Switch a schedule on; what passed while it was off is not made up for."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.FETCHER, url, token) as client:
        changed = client.fetcher.schedules.enable(_whole(client, schedule))
    _show(output, changed)


@app.command()
def disable(
    schedule: Schedule, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False
) -> None:
    """Switch a schedule off; a fetch of it that runs goes on."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.FETCHER, url, token) as client:
        changed = client.fetcher.schedules.disable(_whole(client, schedule))
    _show(output, changed)


@app.command()
def delete(
    schedule: Schedule,
    yes: Yes = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Delete a schedule; its fetches stay, and what they made."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.FETCHER, url, token) as client:
        schedule = _whole(client, schedule)
        if not yes:
            typer.confirm(f"Delete schedule {schedule}?", abort=True, err=True)
        client.fetcher.schedules.delete(schedule)
    output.answer({"id": schedule, "deleted": True}, Text(f"deleted {schedule}"))


def _whole(client: Client, schedule: str) -> str:
    return whole_uuid(schedule, client.fetcher.schedules.list)


def _show(output: Output, schedule: pb.FetchSchedule) -> None:
    output.answer(document_of(schedule), _facts(output, schedule))
    if schedule.last_job_id:
        output.note(f"its last fetch: penstock fetch get {schedule.last_job_id}")
    elif not schedule.enabled:
        output.note(f"to switch it on: penstock fetch schedule enable {schedule.id}")


def _table(output: Output, schedules: Sequence[pb.FetchSchedule]) -> RenderableType:
    rows = [
        (
            each.id,
            styled(_state(each), _STYLES),
            _with_zone(output.time(time_of(each.next_time)), time_of(each.next_time)),
            each.target.model,
            each.last_error.reason if _fails(each) else _last_state(each),
            _when(each),
            each.source.reference,
            each.source.source,
        )
        for each in schedules
    ]
    empty = "no schedule: `penstock fetch schedule create SOURCE REFERENCE --cron …` makes one"
    return output.table(_COLUMNS, rows, empty=empty)


def _facts(output: Output, schedule: pb.FetchSchedule) -> RenderableType:
    error, source = schedule.last_error, schedule.source
    said = f"{at_the_command_line(error.message, error.reason)} [{error.reason}]" if error.reason else ""
    last = f"{schedule.last_job_id} {_last_state(schedule)}".strip()
    known = [
        ("from", f"{source.source} {source.reference}"),
        ("revision", source.revision),
        ("variant", source.variant),
        ("into", f"{schedule.target.model} {schedule.target.version}".strip()),
        ("when", _when(schedule)),
        ("next", _said(time_of(schedule.next_time)) if schedule.enabled else ""),
        ("updates", "only what is new, into candidate" if schedule.auto_update else ""),
        ("last time", say_time(time_of(schedule.last_time))),
        ("last fetch", last),
        ("looked", say_time(time_of(schedule.last_check_time))),
        ("for revision", schedule.last_revision),
        ("error", said),
        ("tells", f"{schedule.webhook.url}{', signed' if schedule.webhook.signed else ''}"),
        ("created", f"{say_time(time_of(schedule.create_time))} by {schedule.created_by}"),
    ]
    return output.facts(Text.assemble((schedule.id, "bold"), "  ", styled(_state(schedule), _STYLES)), known)


def _state(schedule: pb.FetchSchedule) -> str:
    """Say how it stands: off, over, failing where its last try did nothing, failed where none follows, or on."""
    if not schedule.enabled:
        return "off"
    if not schedule.HasField("next_time"):
        return "failed" if _fails(schedule) else "over"
    return "failing" if _fails(schedule) else "on"


def _fails(schedule: pb.FetchSchedule) -> bool:
    return schedule.last_error.reason not in ("", "STILL_RUNNING")


def _last_state(schedule: pb.FetchSchedule) -> str:
    if not schedule.last_job_state:
        return "deleted" if schedule.last_job_id else ""
    return jobs.FetchJobState.Name(schedule.last_job_state).removeprefix("FETCH_JOB_STATE_").lower()


def _when(schedule: pb.FetchSchedule) -> str:
    if schedule.HasField("at_time"):
        return f"once, {_said(time_of(schedule.at_time))}"
    return f"{schedule.cron} {schedule.time_zone}"


def _said(time: datetime | None) -> str:
    return _with_zone(say_time(time), time)


def _with_zone(words: str, time: datetime | None) -> str:
    """Name the zone of a time: cron's may be another than that of whoever reads it."""
    return f"{words} {time.astimezone().tzname()}" if time else words
