"""`penstock model register|revalidate|download|url`: files into the registry and out of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from rich.text import Text

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.formats import parse_scalar, say_bytes, say_time
from penstock.cli.model_stages import Approver, Note, login_name
from penstock.cli.model_views import time_of, version_facts
from penstock.cli.options import (
    ExactVersion,
    Framework,
    Json,
    Model,
    NoColor,
    OllamaMode,
    Stage,
    Token,
    Url,
    duration,
    pairs,
)
from penstock.cli.output import Output

NewModel = Annotated[str, typer.Argument(metavar="NAME", help="The model; created if new.", show_default=False)]
Files = Annotated[
    Path | None,
    typer.Argument(
        metavar="PATH",
        exists=True,
        readable=True,
        help="The model's file, or its folder. None with --ollama.",
        show_default=False,
    ),
]
Version = Annotated[str, typer.Option("--version", "-v", metavar="V", help="The new version.", show_default=False)]
FrameworkOrNone = Annotated[
    Framework | None,
    typer.Option(
        "--framework",
        metavar="F",
        help="onnx, tensorflow, transformers, ollama. Default: by the files' names.",
        show_default=False,
    ),
]
BeginsIn = Annotated[
    Stage | None,
    typer.Option(
        "--stage",
        metavar="STAGE",
        help="development, candidate, staging, production. Default: the first.",
        show_default=False,
    ),
]
Columns = Annotated[str, typer.Option("--columns", metavar="A,B,C", help="What the input's columns mean, in order.")]
Description = Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is.")]
Label = Annotated[list[str] | None, typer.Option("--label", "-l", metavar="K=V", help="A label; again for more.")]
Tag = Annotated[list[str] | None, typer.Option("--tag", metavar="T", help="A tag; again for more.")]
TaskType = Annotated[
    str,
    typer.Option("--task-type", metavar="TASK", help="What it does, such as text-classification or embedding."),
]
Group = Annotated[
    str,
    typer.Option("--group", metavar="NAME", help="Its equivalence_group: versions that answer the same question."),
]
Field = Annotated[
    list[str] | None,
    typer.Option("--field", metavar="K=V", help="A field of the metadata, such as pooling=cls; again for more."),
]
Unpack = Annotated[
    bool, typer.Option("--unpack", help="PATH is an archive (zip, tar, tar.gz …): register what it holds.")
]
Ollama = Annotated[
    str, typer.Option("--ollama", metavar="NAME", help="A model that Ollama keeps, such as llama3.2:1b.")
]
Mode = Annotated[
    OllamaMode | None,
    typer.Option("--mode", metavar="MODE", help="With --ollama: chat, generate, embed.", show_default=False),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is validated.")]


def register(
    model: NewModel,
    path: Files = None,
    *,
    version: Version,
    framework: FrameworkOrNone = None,
    stage: BeginsIn = None,
    columns: Columns = "",
    description: Description = "",
    label: Label = None,
    tag: Tag = None,
    task_type: TaskType = "",
    group: Group = "",
    field: Field = None,
    unpack: Unpack = False,
    ollama: Ollama = "",
    mode: Mode = None,
    note: Note = "",
    approver: Approver = None,
    wait: Wait = True,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Upload a new version, and wait until it is validated."""
    from penstock.values import to_struct  # numpy takes 100 ms, which `--help` must not wait for

    output = Output(as_json=as_json, no_color=no_color)
    _check_new_version(path, ollama, mode, stage, note)
    fields = {name: parse_scalar(value) for name, value in pairs(field, "--field").items()}
    with connect(Service.REGISTRY, url, token) as client:
        with output.transfer(f"uploading {path.name}" if path else f"registering {ollama}") as bar:
            registered = client.registry.register_version(
                model,
                version,
                path,
                unpack=unpack,
                ollama=ollama_reference(ollama, mode) if mode else None,
                description=description,
                labels=pairs(label, "--label"),
                framework=framework,
                stage=stage,
                approved_by=approver or (login_name() if stage else ""),
                note=note,
                columns=[column.strip() for column in columns.split(",")] if columns else (),
                metadata=pb.Metadata(
                    task_type=task_type, equivalence_group=group, tags=tag or (), fields=to_struct(fields)
                ),
                progress=bar.reach,
                wait=False,
            )
        if wait:
            with output.spinner(f"validating {model} {version}"):
                registered = client.registry.wait_until_ready(model, version)
    output.answer(document_of(registered), version_facts(output, registered))
    if registered.stage != pb.STAGE_PRODUCTION:
        output.note(f"to make it live: penstock model promote {model} {version} --to production --note …")


def _check_new_version(path: Path | None, ollama: str, mode: OllamaMode | None, stage: Stage | None, note: str) -> None:
    if bool(path) == bool(ollama):
        raise typer.BadParameter("give the model's PATH, or --ollama NAME")
    if bool(ollama) != bool(mode):
        raise typer.BadParameter("--ollama and --mode go together: chat, generate or embed", param_hint="--mode")
    if stage is Stage.PRODUCTION and not note.strip():
        # The registry would say so too, but a large file would have been read through by then.
        raise typer.BadParameter("what goes live needs a reason: give --note", param_hint="--note")


def revalidate(
    model: Model,
    version: ExactVersion,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is validated.")] = True,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Validate a FAILED version again, after what it failed for was mended: a runtime, its limits, Ollama."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        found = client.registry.revalidate(model, version)
        if wait:
            with output.spinner(f"validating {model} {version}"):
                found = client.registry.wait_until_ready(model, version)
    output.answer(document_of(found), version_facts(output, found))


def url(
    model: Model,
    version: Annotated[
        str, typer.Argument(help="An exact version, a stage, or `latest`. Default: what is live.", show_default=False)
    ] = "",
    file: Annotated[str, typer.Option("--file", metavar="PATH", help="Which file of the version.")] = "",
    lifetime: Annotated[
        timedelta,
        typer.Option("--for", metavar="DURATION", parser=duration, help="How long it works.", show_default="15m"),
    ] = timedelta(minutes=15),
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Print a URL that reads one file of a version for a while, without a key."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        found = client.registry.resolve(model, version)
        answer = client.registry.download_url(
            model, found.version, file, lifetime_s=max(1, int(lifetime.total_seconds()))
        )
    if not answer.url:
        raise CommandError(
            "this registry keeps its files where no URL reads them: `penstock model download` streams them",
            reason="NO_DOWNLOAD_URL",
        )
    # The URL alone on stdout, so that curl "$(penstock model url …)" works.
    output.answer(document_of(answer), Text(answer.url))
    output.note(f"whoever has it can read {answer.file.path} until {say_time(time_of(answer.expire_time))}")


def ollama_reference(name: str, mode: OllamaMode) -> pb.OllamaReference:
    """Name a model that Ollama keeps, and the call that answers."""
    return pb.OllamaReference(model=name, mode=pb.OllamaMode.Value(f"OLLAMA_MODE_{mode.name}"))


def download(
    model: Model,
    version: Annotated[
        str, typer.Argument(help="An exact version, a stage, or `latest`. Default: what is live.", show_default=False)
    ] = "",
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where to.")] = Path(),
    file: Annotated[str, typer.Option("--file", metavar="PATH", help="Only this file of the version.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Download a version's files, each verified by its SHA-256."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        found = client.registry.resolve(model, version)
        wanted = [each for each in found.files if file in ("", each.path)]
        if not wanted:
            raise CommandError(
                f"{model} {found.version} has no file {file!r}; it has {', '.join(each.path for each in found.files)}",
                reason="FILE_NOT_FOUND",
                exit_code=ExitCode.NOT_FOUND,
            )
        targets = {each.path: _target(to, each.path, force=force) for each in wanted}
        for each in wanted:
            target = targets[each.path]
            target.parent.mkdir(parents=True, exist_ok=True)
            with output.transfer(f"downloading {each.path}") as bar:
                client.registry.download(model, found.version, target, path=each.path, progress=bar.reach)
    output.answer(
        {"model": model, "version": found.version, "files": [str(path.absolute()) for path in targets.values()]},
        *(Text(f"{targets[each.path]}  {say_bytes(each.size_bytes)}, SHA-256 verified") for each in wanted),
    )


def _target(folder: Path, path: str, *, force: bool) -> Path:
    """Find where a file goes. What a server calls it must not lead out of the folder."""
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise CommandError(f"the registry names a file {path!r}, which leads out of the folder", reason="UNSAFE_PATH")
    target = folder / relative
    if target.exists() and not force:
        raise CommandError(
            f"{target} is there already; --force replaces it, --to takes another folder",
            reason="FILE_EXISTS",
            exit_code=ExitCode.ALREADY_EXISTS,
        )
    return target
