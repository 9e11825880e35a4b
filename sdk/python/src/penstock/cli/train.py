"""`penstock train`: runs that make versions of models."""

from __future__ import annotations

import enum
import json
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.cli import train_script
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.exits import CommandError
from penstock.cli.formats import parse_value
from penstock.cli.ids import whole_uuid
from penstock.cli.options import Json, Limit, Model, ModelFilter, NoColor, Token, Url, Yes, page_size, pairs
from penstock.cli.output import Output
from penstock.cli.train_advice import next_step
from penstock.cli.train_views import comparison, recipe_facts, recipes_table, run_facts, runs_table
from penstock.cli.watching import Watch

if TYPE_CHECKING:
    from penstock.client import Client

EXAMPLES = """Examples:

penstock train start flowers --recipe sklearn --param estimator=LogisticRegression --data flowers --watch

penstock train start flowers --data traffic:7d --type retrain

penstock train compare RUN RUN
"""
app = typer.Typer(no_args_is_help=True, help="Train versions of models: start, watch, compare.", epilog=EXAMPLES)
app.add_typer(train_script.app, name="script")
_WATCH = Watch("run", "penstock train", "the trainer")
Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or how it begins.", show_default=False)]


class State(enum.StrEnum):
    """How far a run has come."""

    QUEUED = "queued"
    RUNNING = "running"
    VALIDATING = "validating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Type(enum.StrEnum):
    """What a run begins with."""

    INITIAL = "initial"
    RETRAIN = "retrain"
    FINETUNE = "finetune"


class Executor(enum.StrEnum):
    """Where a recipe runs."""

    LOCAL = "local"
    RAY = "ray"
    KUBERNETES = "kubernetes"
    REMOTE = "remote"


Recipe = Annotated[
    str, typer.Option("--recipe", metavar="NAME", help="Default: the model's. `penstock train recipes` lists them.")
]
Param = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", metavar="K=V", help="What the recipe is told, in JSON or plain; again for more."),
]
ParamsFile = Annotated[
    Path | None,
    typer.Option("--params-file", metavar="FILE", help="The same from a file, YAML or JSON.", show_default=False),
]
Data = Annotated[
    str,
    typer.Option(
        "--data", metavar="SOURCE", help="A dataset as NAME or NAME/VERSION, traffic:7d, or several with + between."
    ),
]
TypeOrNone = Annotated[
    Type | None,
    typer.Option("--type", help="Default: retrain where there is a version, else initial.", show_default=False),
]
Parent = Annotated[
    str,
    typer.Option("--parent", metavar="V", help="Whose weights a finetune begins with. Default: what is in production."),
]
Version = Annotated[str, typer.Option("--version", metavar="V", help="Default: a name is generated.")]
ExecutorOrNone = Annotated[
    Executor | None, typer.Option("--executor", help="Where it runs. Default: local.", show_default=False)
]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why.")]
RequestId = Annotated[str, typer.Option("--request-id", metavar="ID", help="The same again makes no second run.")]
Watching = Annotated[bool, typer.Option("--watch", "-w", help="Show it until it has ended.")]


@app.command(epilog=EXAMPLES)
def start(
    model: Model,
    recipe: Recipe = "",
    param: Param = None,
    params_file: ParamsFile = None,
    data: Data = "",
    kind: TypeOrNone = None,
    parent: Parent = "",
    version: Version = "",
    executor: ExecutorOrNone = None,
    note: Note = "",
    request_id: RequestId = "",
    watching: Watching = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Train a version of a model, register it as a candidate, and validate it.

    How, is the model's training config (`penstock model set`); what is said here takes its place.
    """
    output = Output(as_json=as_json, no_color=no_color)
    parameters = _parameters(params_file) | {name: parse_value(text) for name, text in pairs(param, "--param").items()}
    with connect(Service.TRAINER, url, token) as client:
        run = client.training.create_run(
            model,
            type=kind.value if kind else None,
            parent_version=parent,
            note=note,
            data_source=data,
            parameters=parameters,
            version=version,
            recipe=recipe,
            executor=executor.value if executor else None,
            request_id=request_id,
        )
        if watching:
            run = _followed(client, output, run.id)
    _show(output, run, waited=watching)


@app.command()
def get(run: Run, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Show a run as it stands: what it learned from, its metrics, the version that it made, and what to do next."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client:
        found = client.training.get_run(_whole(client, run))
    _show(output, found)


@app.command()
def watch(run: Run, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Show a run, its epochs and its loss until it has ended. Exit code 0: COMPLETED; 1: FAILED or CANCELLED.

    With --json a document a line, whenever it changes. Ctrl-C ends the watching, and not the run.
    """
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client:
        run = _whole(client, run)
        if not as_json:
            _show(output, _followed(client, output, run), waited=True)
            return
        ended = pb.TrainingRun()
        with _WATCH.stream(output, run, client.training.watch_run) as watched:
            for answer in watched:
                ended = answer.run
                output.item(document_of(answer))
    _end_with(ended)


@app.command("list")
def list_runs(
    state: Annotated[
        list[State] | None,
        typer.Option("--state", "--status", "-s", metavar="STATE", help="Only in this state; again for more."),
    ] = None,
    model: ModelFilter = "",
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List runs, the newest first."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client:
        states = [each.value for each in state or ()]
        found = list(islice(client.training.list_runs(model=model, states=states, page_size=page_size(limit)), limit))
    output.answer([document_of(run) for run in found], runs_table(output, found))


@app.command()
def cancel(run: Run, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """End a run; its processes end within seconds."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client:
        found = client.training.cancel_run(_whole(client, run))
    _show(output, found)


@app.command()
def logs(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Print what a run printed."""
    output = Output(as_json=False, no_color=True)
    end = 0
    with connect(Service.TRAINER, url, token) as client:
        run = _whole(client, run)
        with closing(client.training.log(run, follow=follow, broken=output.away("the trainer"))) as pieces:
            for piece in pieces:
                if piece.offset > end:
                    output.note(f"{piece.offset - end:,} bytes were not kept here")
                sys.stdout.buffer.write(piece.chunk)
                sys.stdout.buffer.flush()
                end = piece.offset + len(piece.chunk)
    if not end:
        output.note("it has printed nothing")


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Two or more runs.", show_default=False)],
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Set runs side by side: what they were told, what they learned from, and how well they did."""
    output = Output(as_json=as_json, no_color=no_color)
    if len(runs) < 2:
        raise typer.BadParameter("name two runs or more")
    with connect(Service.TRAINER, url, token) as client:
        found = [client.training.get_run(_whole(client, run)) for run in runs]
    output.answer([document_of(run) for run in found], comparison(output, found))


@app.command()
def recipes(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Show what this one takes.")] = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List the recipes, or show what one takes."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client:
        found = client.training.recipes()
    if not name:
        output.answer([document_of(recipe) for recipe in found], recipes_table(output, found))
        return
    named = next((recipe for recipe in found if recipe.name == name), None)
    if named is None:
        known = ", ".join(recipe.name for recipe in found)
        raise CommandError(f"there is no recipe {name!r}; there are {known}", reason="UNKNOWN_RECIPE")
    output.answer(document_of(named), recipe_facts(output, named))


@app.command()
def delete(
    run: Run,
    yes: Yes = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Forget a run that has ended, its epochs and log; the version that it made stays."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.TRAINER, url, token) as client:
        run = _whole(client, run)
        if not yes:
            typer.confirm(f"Forget run {run}?", abort=True, err=True)
        client.training.delete_run(run)
    output.answer({"id": run, "deleted": True}, Text(f"deleted {run}"))


def _parameters(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml  # 20 ms that only files need

    try:
        with path.open(encoding="utf-8") as file:
            said = yaml.safe_load(file)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise CommandError(f"{path} can't be read: {error}", reason="INVALID_FILE") from error
    if not isinstance(said, dict) or not all(isinstance(name, str) for name in said):
        raise CommandError(f"{path} must hold parameters by name, such as `estimator: …`", reason="INVALID_FILE")
    try:
        # There and back: names that YAML reads as numbers, such as classes and their weights, are names.
        as_json: dict[str, Any] = json.loads(json.dumps(said, allow_nan=False))
    except (TypeError, ValueError) as error:
        sentence = f"{path} must hold what JSON can say, such as dates in quotes, and no NaN: {error}"
        raise CommandError(sentence, reason="INVALID_FILE") from error
    return as_json


def _whole(client: Client, run: str) -> str:
    return whole_uuid(run, client.training.list_runs)


def _followed(client: Client, output: Output, run: str) -> pb.TrainingRun:
    """Show a run until it has ended."""
    from penstock.cli.train_progress import follow  # 30 ms that only watching needs

    with _WATCH.by_a_person(output, run), _WATCH.stream(output, run, client.training.watch_run) as watched:
        return follow(output, watched)


def _show(output: Output, run: pb.TrainingRun, *, waited: bool = False) -> None:
    """Show a run and what to do next; where it was waited for, the command ends as it did."""
    output.answer(document_of(run), run_facts(output, run))
    output.warn(run.shortfalls)
    output.note(next_step(run))
    if waited:
        _end_with(run)


def _end_with(run: pb.TrainingRun) -> None:
    if run.state != pb.TRAINING_RUN_STATE_COMPLETED:
        ended = "failed" if run.state == pb.TRAINING_RUN_STATE_FAILED else "was cancelled"
        raise CommandError(f"run {run.id} {ended}", reason=run.reason or "RUN_NOT_COMPLETED")
