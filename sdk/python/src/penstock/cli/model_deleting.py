"""`penstock model delete|restore|gc`: what goes, what comes back, and what takes up room for nothing."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.text import Text

from penstock.api.registry.v1 import administration_pb2 as admin
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.formats import say_bytes, say_count, say_time
from penstock.cli.model_views import time_of
from penstock.cli.options import Json, Model, NoColor, Token, Url, Yes
from penstock.cli.output import Column, Output

_BLOB_COLUMNS = (Column("blob"), Column("size", "right"), Column("fate"), Column("deleted from"))
_FATE_STYLES = {"condemned": "yellow", "waiting": "dim", "deleted": "red"}
_Version = Annotated[
    str, typer.Argument(metavar="VERSION", help="The exact version. Default: the model.", show_default=False)
]


def delete(
    model: Model,
    version: _Version = "",
    force: Annotated[
        bool, typer.Option("--force", help="Delete the model also while a version of it is in PRODUCTION.")
    ] = False,
    yes: Yes = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Delete a version, or a model with all its versions; for a while it can be restored, then its files go."""
    output = Output(as_json=as_json, no_color=no_color)
    if force and version:
        raise typer.BadParameter("a version in PRODUCTION is not deleted: promote another, or roll back, first")
    with connect(Service.REGISTRY, url, token) as client:
        if version:
            found = client.registry.get_version(model, version)
            confirm(output, f"delete {model} {version}?", yes=yes)
            gone: pb.Model | pb.ModelVersion = client.registry.delete_version(model, version, etag=found.etag)
        else:
            whole = client.registry.get_model(model)
            live = f"; {whole.production_version} is in PRODUCTION" if whole.production_version else ""
            count = 0 if yes else sum(1 for _ in client.registry.list_versions(model, page_size=1_000))
            confirm(output, f"delete {model} with {_versions(count)}{live}?", yes=yes)
            gone = client.registry.delete_model(model, force=force, etag=whole.etag)
    output.answer(document_of(gone), Text(f"deleted {_named(model, version)}"))
    until = say_time(time_of(gone.purge_time))
    output.note(f"until {until} it comes back by: penstock model restore {_named(model, version)}")


def restore(
    model: Model,
    version: _Version = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Bring a deleted version back, or a deleted model with the versions that went with it."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        registry = client.registry
        back = registry.restore_version(model, version) if version else registry.restore_model(model)
    output.answer(document_of(back), Text(f"restored {_named(model, version)}"))


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    scan: Annotated[
        bool, typer.Option("--scan", help="Read the whole blob store too, for what no row knows. Slow.")
    ] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Collect garbage now: purge what was deleted long ago, and the files that nothing names any more.

    The registry does the same by itself now and then. What is condemned waits before it is deleted.
    """
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client, output.spinner("collecting garbage"):
        done = client.registry.collect_garbage(dry_run=dry_run, scan_store=scan)
    known = _garbage_facts(done)
    facts = (
        output.facts("would do" if done.dry_run else "done", known) if known else Text("there is nothing to collect")
    )
    rows = [_blob_row(output, blob) for blob in done.blobs]
    output.answer(document_of(done), facts, *([output.table(_BLOB_COLUMNS, rows, empty="")] if rows else []))
    count = done.condemned_count + done.deleted_count + done.waiting_count
    if count > len(rows):
        output.note(f"{len(rows)} of {count:,} blobs are shown")


def confirm(output: Output, question: str, *, yes: bool) -> None:
    """Ask on a terminal; where nobody can answer, `--yes` must have.

    Raises:
        CommandError: the answer is no (DECLINED), or there is nobody to ask (CONFIRMATION_REQUIRED).
    """
    if yes:
        return
    if output.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CommandError(
            f"{question.rstrip('?')}: nobody is there to confirm it; --yes says so",
            reason="CONFIRMATION_REQUIRED",
            exit_code=ExitCode.USAGE,
        )
    if not typer.confirm(question, err=True):
        raise CommandError("nothing was changed", reason="DECLINED")


def _garbage_facts(done: admin.CollectGarbageResponse) -> list[tuple[str, str | Text]]:
    counts = (
        ("versions purged", done.purged_version_count, None),
        ("models purged", done.purged_model_count, None),
        ("uploads forgotten", done.expired_upload_count, None),
        ("blobs condemned", done.condemned_count, done.condemned_bytes),
        ("blobs waiting", done.waiting_count, done.waiting_bytes),
        ("blobs deleted", done.deleted_count, done.deleted_bytes),
    )
    return [
        (name, f"{count:,}" + ("" if size_bytes is None else f", {say_bytes(size_bytes)}"))
        for name, count, size_bytes in counts
        if count
    ]


def _blob_row(output: Output, blob: admin.GarbageBlob) -> tuple[str | Text, ...]:
    fate = admin.GarbageFate.Name(blob.fate).removeprefix("GARBAGE_FATE_").lower()
    sha256 = f"{blob.sha256[:12]}…" if output.stdout.is_terminal else blob.sha256
    when = output.time(time_of(blob.delete_time))
    return (sha256, say_bytes(blob.size_bytes), Text(fate, style=_FATE_STYLES.get(fate, "")), when)


def _versions(count: int) -> str:
    return f"its {say_count(count, 'version')}" if count else "no versions"


def _named(model: str, version: str) -> str:
    return f"{model} {version}".rstrip()
