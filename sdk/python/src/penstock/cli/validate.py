"""`penstock validate`: try a version as it is served, on rows that it has not seen, beside the live one."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.api.trainer.v1 import validations_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.exits import CommandError
from penstock.cli.ids import whole_uuid
from penstock.cli.options import Json, Limit, Model, NoColor, Token, Url, page_size
from penstock.cli.output import Output
from penstock.cli.validate_views import follow, history_table, metrics_table, sentences, validation_facts
from penstock.cli.wording import at_the_command_line

if TYPE_CHECKING:
    from penstock.client import Client

LIVE = "live"
EXAMPLES = """Examples:

penstock validate flowers 1.4.0 --dataset flowers --watch

penstock validate flowers latest --dataset fresh/3 --all-rows --against 1.2.0 --slice region

penstock validate flowers --history
"""
VersionOrNone = Annotated[
    str,
    typer.Argument(metavar="VERSION", help="An exact version, a stage, an alias or latest.", show_default=False),
]
Dataset = Annotated[
    str,
    typer.Option(
        "--dataset",
        "--data",
        metavar="SOURCE",
        help="NAME or NAME/VERSION, traffic:7d, or several with + between. Default: as the model is trained.",
    ),
]
Against = Annotated[
    str, typer.Option("--against", metavar="V", help="Compare it with this version; live: what is in production.")
]
Alone = Annotated[bool, typer.Option("--alone", help="Compare it with nothing.")]
AllRows = Annotated[
    bool, typer.Option("--all-rows", help="All rows, not only those held out: for rows that no run has seen.")
]
Label = Annotated[
    str, typer.Option("--label", metavar="COLUMN", help="Default: as the version's metadata say, else label.")
]
Slices = Annotated[
    list[str] | None,
    typer.Option("--slice", metavar="COLUMN", help="Judge each value of a column by itself; again for more."),
]
Why = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why.")]
RequestId = Annotated[
    str, typer.Option("--request-id", metavar="ID", help="The same again makes no second validation.")
]
Watching = Annotated[bool, typer.Option("--watch", "-w", help="Show it until it has ended.")]
History = Annotated[bool, typer.Option("--history", help="List the validations of the model, or version.")]
Shown = Annotated[str, typer.Option("--show", metavar="ID", help="Show one, by its id or how it begins.")]
Cancelled = Annotated[str, typer.Option("--cancel", metavar="ID", help="End one.")]


def validate(
    model: Model,
    version: VersionOrNone = "",
    dataset: Dataset = "",
    against: Against = LIVE,
    alone: Alone = False,
    all_rows: AllRows = False,
    label: Label = "",
    slices: Slices = None,
    note: Why = "",
    request_id: RequestId = "",
    watching: Watching = False,
    history: History = False,
    show: Shown = "",
    cancel: Cancelled = "",
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Try a version as it is served, on rows that it has not seen, and say whether it meets the success criteria.

    Only what passed reaches staging. Nothing of it counts as live traffic. Exit code where it was waited for: 0 passed;
    1 not passed, failed or cancelled.
    """
    output = Output(as_json=as_json, no_color=no_color)
    if sum((history, bool(show), bool(cancel))) > 1:
        raise typer.BadParameter("give one of --history, --show and --cancel")
    with connect(Service.TRAINER, url, token) as client:
        if history:
            found = client.validations.list(model=model, version=version, page_size=page_size(limit))
            validations = list(islice(found, limit))
            output.answer([document_of(each) for each in validations], history_table(output, validations))
            return
        if cancel:
            validation = client.validations.cancel(_whole(client, model, cancel))
        elif show:
            validation = client.validations.get(_whole(client, model, show))
        else:
            if not version:
                raise typer.BadParameter("name the version that is tried: an exact one, a stage, an alias or latest")
            validation = client.validations.create(
                model,
                version,
                dataset,
                rows="all" if all_rows else None,
                against="" if alone or against == LIVE else against,
                alone=alone,
                label_column=label,
                slices=slices or (),
                note=note,
                request_id=request_id,
            )
        if watching:
            with closing(client.validations.watch(validation.id, broken=output.away("the trainer"))) as watched:
                validation = follow(output, watched)
    _answer(output, validation, waited=watching)


def _answer(output: Output, validation: pb.Validation, *, waited: bool) -> None:
    done = validation.state == pb.VALIDATION_STATE_COMPLETED
    table = [metrics_table(output, validation)] if done else []
    output.answer(document_of(validation), validation_facts(output, validation), *table, *sentences(validation))
    model, version = validation.model, validation.version
    if done and validation.passed:
        output.note(f"to let it on: penstock model promote {model} {version}")
    elif not waited and validation.state in (pb.VALIDATION_STATE_QUEUED, pb.VALIDATION_STATE_RUNNING):
        output.note(f"to see it go on: penstock validate {model} --show {validation.id} --watch")
    if not waited or (done and validation.passed):
        return
    if done:
        sentence = f"{model} {version} did not pass: {'; '.join(validation.shortfalls)}"
        raise CommandError(at_the_command_line(sentence, ""), reason="VALIDATION_NOT_PASSED")
    ended = "failed" if validation.state == pb.VALIDATION_STATE_FAILED else "was cancelled"
    why = f": {at_the_command_line(validation.message, validation.reason)}" if validation.reason else ""
    raise CommandError(f"validation {validation.id} {ended}{why}", reason=validation.reason or "VALIDATION_CANCELLED")


def _whole(client: Client, model: str, validation_id: str) -> str:
    return whole_uuid(validation_id, lambda: client.validations.list(model=model))
