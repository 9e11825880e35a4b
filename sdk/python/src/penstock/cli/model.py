"""`penstock model`: what is registered, and what is live."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli import model_audit, model_deleting, model_editing, model_evaluations, model_files, model_stages
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.model_views import model_facts, models_table, version_facts, versions_table
from penstock.cli.options import (
    Deleted,
    Framework,
    Json,
    LabelFilter,
    Limit,
    Model,
    NoColor,
    Query,
    Stage,
    State,
    Token,
    Url,
    page_size,
    pairs,
)
from penstock.cli.output import Output

if TYPE_CHECKING:
    from penstock.api.registry.v1 import registry_pb2 as pb
    from penstock.registry import RegistryClient

app = typer.Typer(no_args_is_help=True, help="Register models, look at them, change them, and move their versions.")
_SELECTORS = {*Stage, "latest"}
_LOOK, _FILES, _STAGES, _CHANGE, _ADMIN = "Look", "Files", "Stages", "Change and judge", "Delete and account for"


@app.command("list", rich_help_panel=_LOOK)
def list_models(
    query: Query = "",
    label: LabelFilter = None,
    deleted: Deleted = False,
    limit: Limit = 1_000,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List the models by name."""
    output = Output(as_json=as_json, no_color=no_color)
    labels = pairs(label, "--label")
    with connect(Service.REGISTRY, url, token) as client:
        found = client.registry.list_models(
            labels=labels, query=query, show_deleted=deleted, page_size=page_size(limit)
        )
        models = list(islice(found, limit))
    filtered = bool(query or labels)
    empty = (
        "no models match" if filtered else "no models yet; `penstock model register NAME PATH --version V` makes one"
    )
    output.answer([document_of(model) for model in models], models_table(output, models, empty=empty))


@app.command(rich_help_panel=_LOOK)
def get(
    model: Model,
    version: Annotated[
        str,
        typer.Argument(
            metavar="VERSION",
            help="An exact version, a stage, an alias, or `latest`. Default: the model.",
            show_default=False,
        ),
    ] = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show a model, or one version of it with its signature and files."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        if not version:
            found = client.registry.get_model(model)
            output.answer(document_of(found), model_facts(output, found))
            return
        shown = _find(client.registry, model, version)
    output.answer(document_of(shown), version_facts(output, shown))


@app.command(rich_help_panel=_LOOK)
def versions(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model's name. Default: all models.", show_default=False)
    ] = "",
    stage: Annotated[
        Stage | None, typer.Option("--stage", metavar="STAGE", help="Only this stage.", show_default=False)
    ] = None,
    state: Annotated[
        State | None,
        typer.Option("--state", metavar="STATE", help="Only validating, ready or failed.", show_default=False),
    ] = None,
    framework: Annotated[
        Framework | None, typer.Option("--framework", metavar="F", help="Only this framework.", show_default=False)
    ] = None,
    query: Query = "",
    label: LabelFilter = None,
    deleted: Deleted = False,
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List the versions of a model, or of all, the newest first."""
    output = Output(as_json=as_json, no_color=no_color)
    labels = pairs(label, "--label")
    with connect(Service.REGISTRY, url, token) as client:
        pages = client.registry.list_versions(
            model,
            stage=stage,
            state=state,
            framework=framework,
            query=query,
            labels=labels,
            show_deleted=deleted,
            page_size=page_size(limit),
        )
        found = list(islice(pages, limit))
    output.answer([document_of(version) for version in found], versions_table(output, found, of_all=not model))
    if len(found) == limit:
        output.note(f"the first {limit}; --limit shows more")


def _find(registry: RegistryClient, model: str, selector: str) -> pb.ModelVersion:
    """Find an exact version in whatever state; else the READY one that a stage, `latest` or an alias means."""
    from penstock.errors import NotFound

    if selector.lower() in _SELECTORS:
        return registry.resolve(model, selector)
    try:
        return registry.get_version(model, selector)
    except NotFound as missing:
        if missing.reason != "VERSION_NOT_FOUND":
            raise
        try:
            return registry.resolve(model, selector)
        except NotFound:
            raise missing from None


app.command(rich_help_panel=_FILES)(model_files.register)
app.command(rich_help_panel=_FILES)(model_files.revalidate)
app.command(rich_help_panel=_FILES)(model_files.download)
app.command(rich_help_panel=_FILES)(model_files.url)
app.command(rich_help_panel=_STAGES)(model_stages.promote)
app.command(rich_help_panel=_STAGES)(model_stages.rollback)
app.command(rich_help_panel=_STAGES)(model_stages.history)
app.command("set", rich_help_panel=_CHANGE)(model_editing.change)
app.command(rich_help_panel=_CHANGE)(model_editing.alias)
app.command(rich_help_panel=_CHANGE)(model_evaluations.evaluate)
app.command(rich_help_panel=_CHANGE)(model_evaluations.evaluations)
app.command(rich_help_panel=_ADMIN)(model_deleting.delete)
app.command(rich_help_panel=_ADMIN)(model_deleting.restore)
app.command(rich_help_panel=_ADMIN)(model_deleting.gc)
app.command(rich_help_panel=_ADMIN)(model_audit.audit)
