"""`penstock retraining`: requests, and who decides on them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from penstock.api.monitoring.v1 import retraining_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of, enum_word, flattened
from penstock.cli.formats import say_count, say_time, say_value
from penstock.cli.ids import whole_id
from penstock.cli.model_views import time_of
from penstock.cli.options import Json, Limit, Model, ModelFilter, NoColor, Note, Token, Url
from penstock.cli.output import Column, Output, lines, styled

EXAMPLES = """Examples

  penstock retraining list --state pending
  penstock retraining approve REQUEST --note "two weeks of new labels"
  penstock retraining request iris --note "a new season"
"""
app = typer.Typer(no_args_is_help=True, help="Requests for a retraining: see, ask, approve, reject.", epilog=EXAMPLES)
STATE_STYLES = {
    "pending": "yellow",
    "approved": "cyan",
    "rejected": "dim",
    "expired": "dim",
    "training": "cyan",
    "completed": "green",
    "failed": "bold red",
}
_COLUMNS = (
    Column("request", give="id"),
    Column("state"),
    Column("model", give="wrap", least_width=20),
    Column("reason"),
    Column("asked", "right", optional=True),
    Column("labels", "right", optional=True),
    Column("by", optional=True),
    Column("what goes on", give="wrap", optional=True, least_width=20),
)
_HISTORY = (Column("when"), Column("state"), Column("by", give="cut"), Column("why", give="wrap"))


class State(enum.StrEnum):
    """How far a request has come."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    TRAINING = "training"
    COMPLETED = "completed"
    FAILED = "failed"


_NAMES = {"feature_count": "features drifted", "from_time": "from", "to_time": "until", "summary": "in short"}
"""Details that people call something else."""
_EXPIRING = (pb.RETRAINING_STATE_PENDING, pb.RETRAINING_STATE_APPROVED)
RejectNote = Annotated[
    str, typer.Option("--note", metavar="TEXT", help="Why; required, for those who asked. Kept with who and when.")
]
Request = Annotated[
    str, typer.Argument(metavar="REQUEST", help="The request's id, or how it begins.", show_default=False)
]


@app.command("list")
def list_(
    model: ModelFilter = "",
    state: Annotated[
        list[State] | None,
        typer.Option(
            "--state",
            "-s",
            metavar="STATE",
            help="Only pending, approved, rejected, expired, training, completed, failed; again for more.",
        ),
    ] = None,
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List requests, the newest first."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        states = [each.value for each in state or ()]
        found = list(islice(client.monitoring.retraining.list(model=model, states=states, limit=limit), limit))
    empty = "no retraining was asked for: alerts, a schedule or `penstock retraining request MODEL` do"
    table = output.table(_COLUMNS, [_row(output, each) for each in found], empty=empty)
    output.answer([document_of(each) for each in found], table)
    pending = [each for each in found if each.state == pb.RETRAINING_STATE_PENDING]
    if pending:
        output.note(f"to decide: penstock retraining show {pending[0].id}, then approve or reject it")


@app.command()
def show(
    request: Request, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False
) -> None:
    """Show a request: what raised it, what was found, and how it went on."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = client.monitoring.retraining.get(whole_id(request, client.monitoring.retraining.list))
    output.answer(document_of(found), _facts(output, found))
    _say_next(output, found)


@app.command()
def request(
    model: Model,
    version: Annotated[
        str, typer.Option("--version", "-v", metavar="V", help="What does badly. Default: what is live.")
    ] = "",
    note: Note = "",
    force: Annotated[bool, typer.Option("--force", help="Though it is too soon, or labels are too few.")] = False,
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="The same again makes no second request.")
    ] = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Ask for a retraining by hand; an admin approves it."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        made = client.monitoring.retraining.create(model, version, note=note, force=force, request_id=request_id)
    output.answer(document_of(made), _facts(output, made))
    _say_next(output, made)


@app.command()
def approve(
    request: Request,
    note: Note = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Have the model trained, with its training config, as soon as there is a trainer."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = client.monitoring.retraining.approve(whole_id(request, client.monitoring.retraining.list), note=note)
    output.answer(document_of(found), _facts(output, found))
    _say_next(output, found)


@app.command()
def reject(
    request: Request,
    note: RejectNote = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Decline, or withdraw what was approved while no trainer has it, and say why."""
    output = Output(as_json=as_json, no_color=no_color)
    if not note.strip():
        raise typer.BadParameter("say why, for those who asked: --note", param_hint="--note")
    with connect(Service.MONITORING, url, token) as client:
        found = client.monitoring.retraining.reject(whole_id(request, client.monitoring.retraining.list), note=note)
    output.answer(document_of(found), _facts(output, found))


def _facts(output: Output, found: pb.RetrainingRequest) -> RenderableType:
    title = Text.assemble((f"retrain {found.model}  ", "bold"), _state(found))
    parts: list[RenderableType] = [
        output.facts(
            title,
            [
                ("request", found.id),
                ("because of", _reason(found)),
                ("version", found.version),
                ("what was found", _details(found)),
                ("alert", found.alert_id),
                ("check", found.check_id),
                ("new labels", f"{say_count(found.label_count, 'row')} since the last training"),
                ("asked", f"{say_time(time_of(found.create_time))} by {found.requested_by}"),
                ("expires", say_time(time_of(found.expire_time)) if found.state in _EXPIRING else ""),
                ("decided", _decision(found)),
                ("training run", found.training_run_id),
                ("new version", found.new_version),
                ("what goes on", found.message),
            ],
        )
    ]
    if found.history:
        rows: Sequence[tuple[str | Text, ...]] = [
            (
                output.time(time_of(event.time)),
                styled(_word(event.state), STATE_STYLES),
                event.actor or "monitoring",
                event.note,
            )
            for event in found.history
        ]
        parts += [Text("\nhow it went on", style="bold"), output.table(_HISTORY, rows, empty="")]
    return Group(*parts)


def _say_next(output: Output, found: pb.RetrainingRequest) -> None:
    if _pending(found):
        output.note(f"to decide: penstock retraining approve {found.id} (or reject), with --note")
    elif found.state == pb.RETRAINING_STATE_COMPLETED and found.new_version:
        output.note(f"the new version: penstock model get {found.model} {found.new_version}")
    elif found.state == pb.RETRAINING_STATE_APPROVED:
        output.note(f"to withdraw it, until a trainer has it: penstock retraining reject {found.id} --note …")
    elif found.state == pb.RETRAINING_STATE_TRAINING:
        output.note(f"how it goes on: penstock retraining show {found.id}")


def _row(output: Output, found: pb.RetrainingRequest) -> tuple[str | Text, ...]:
    return (
        found.id,
        _state(found),
        f"{found.model} {found.version}".rstrip(),
        _reason(found),
        output.age(time_of(found.create_time)),
        f"{found.label_count:,}",
        found.requested_by,
        found.message,
    )


def _pending(found: pb.RetrainingRequest) -> bool:
    return found.state == pb.RETRAINING_STATE_PENDING


def _word(state: pb.RetrainingState.ValueType) -> str:
    return str(enum_word(pb.RetrainingState.DESCRIPTOR, state) or "")


def _state(found: pb.RetrainingRequest) -> Text:
    return styled(_word(found.state), STATE_STYLES)


def _reason(found: pb.RetrainingRequest) -> str:
    return str(enum_word(pb.RetrainingReason.DESCRIPTOR, found.reason) or "").replace("_", " ")


def _details(found: pb.RetrainingRequest) -> Text:
    details = flattened(document_of(found.details))
    named = ((_NAMES.get(name) or name.replace("_", " "), _said(name, value)) for name, value in details.items())
    return lines(f"{name}: {said}" for name, said in named)


def _said(name: str, value: object) -> str:
    """Write a detail whole; a time as people read it here."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if not isinstance(value, str):
        return say_value(value)
    if name.endswith("_time"):
        with suppress(ValueError):  # a later service's word for it, which is shown as it came
            return say_time(datetime.fromisoformat(value))
    return value


def _decision(found: pb.RetrainingRequest) -> str:
    when = time_of(found.decide_time)
    why = f": {found.decision_note}" if found.decision_note else ""
    return f"{say_time(when)} by {found.decided_by}{why}" if when else ""
