"""`penstock model promote|rollback|history`: moving versions from stage to stage, and how they moved."""

from __future__ import annotations

import getpass
from itertools import islice
from typing import Annotated

import typer
from rich.text import Text

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.model_views import move_words, stage_number, stage_word, transitions_table
from penstock.cli.options import ExactVersion, Json, Limit, Model, NoColor, Stage, Token, Url, page_size
from penstock.cli.output import Output

Approver = Annotated[
    str | None,
    typer.Option("--approver", metavar="NAME", help="Who approves it. Default: your login name.", show_default=False),
]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; required into production.")]
_WAY_UP = (pb.STAGE_DEVELOPMENT, pb.STAGE_CANDIDATE, pb.STAGE_STAGING, pb.STAGE_PRODUCTION)


def promote(
    model: Model,
    version: ExactVersion,
    to: Annotated[
        Stage | None,
        typer.Option(
            "--to",
            metavar="STAGE",
            help="development, candidate, staging, production, archived. Default: the next.",
            show_default=False,
        ),
    ] = None,
    note: Note = "",
    approver: Approver = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Move a version to the next stage, or through each stage on the way to another.

    Into production it replaces what is live there; the replaced version is archived.
    """
    output = Output(as_json=as_json, no_color=no_color)
    approved_by = approver or login_name()
    if to is Stage.PRODUCTION and not note.strip():
        # The registry would say so too, but only after the moves on the way there.
        raise typer.BadParameter("what goes live needs a reason: give --note", param_hint="--note")
    moves: list[dict[str, str]] = []
    with connect(Service.REGISTRY, url, token) as client:
        now = client.registry.get_version(model, version)
        if to is not None and now.stage == stage_number(to):
            raise CommandError(f"{model} {version} is in {to.value} already", reason="ALREADY_THERE")
        for step in steps(now.stage, to):
            try:
                answer = client.registry.promote(model, version, step, approved_by=approved_by, note=note)
            except Exception as error:
                if moves:
                    error.add_note(f"{model} {version} came as far as {stage_word(now.stage)}")
                raise
            moves.append(_move_document(now, answer))
            output.say(_move_sentence(now, answer))
            now = answer.version
    output.answer({"moves": moves, "version": document_of(now)})


def rollback(
    model: Model,
    note: Note = "",
    approver: Approver = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Make the predecessor of the live version live again; twice: the predecessor's predecessor."""
    output = Output(as_json=as_json, no_color=no_color)
    if not note.strip():
        raise typer.BadParameter("what goes live needs a reason: give --note", param_hint="--note")
    with connect(Service.REGISTRY, url, token) as client:
        answer = client.registry.rollback(model, approved_by=approver or login_name(), note=note)
    output.answer(
        {"version": document_of(answer.version), "replaced": document_of(answer.replaced)},
        Text.assemble(
            (f"{model} {answer.version.version}", "bold"),
            " is live again; ",
            (answer.replaced.version, "bold"),
            " is archived",
        ),
    )


def history(
    model: Model,
    version: Annotated[str, typer.Option("--version", "-v", metavar="V", help="Only this version's moves.")] = "",
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List a model's stage moves, the newest first: when, who, why."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        moves = list(islice(client.registry.transitions(model, version, page_size=page_size(limit)), limit))
    output.answer([document_of(move) for move in moves], transitions_table(output, moves))


def login_name() -> str:
    """Find who sits at this terminal."""
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise CommandError(
            "this system does not know your name: give --approver", reason="APPROVER_UNKNOWN", exit_code=ExitCode.USAGE
        ) from error


def steps(now: pb.Stage.ValueType, to: Stage | None) -> tuple[pb.Stage.ValueType, ...]:
    """List the moves that lead there: one a stage on the way up, a single one for all others."""
    if to is None:
        return (pb.STAGE_UNSPECIFIED,)
    target = stage_number(to)
    if now in _WAY_UP and target in _WAY_UP and now < target:
        return tuple(stage for stage in _WAY_UP if now < stage <= target)
    return (target,)


def _move_document(before: pb.ModelVersion, answer: pb.PromoteVersionResponse) -> dict[str, str]:
    document = {"from_stage": stage_word(before.stage), "to_stage": stage_word(answer.version.stage)}
    return {**document, "replaced": answer.replaced.version} if answer.HasField("replaced") else document


def _move_sentence(before: pb.ModelVersion, answer: pb.PromoteVersionResponse) -> Text:
    said = Text.assemble((f"{before.model} {before.version}", "bold"), "  ")
    said.append_text(move_words(before.stage, answer.version.stage))
    if answer.HasField("replaced"):
        said.append(f"  in place of {answer.replaced.version}, which is archived")
    return said
