"""`penstock model`: what is registered, and what is live."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from penstock.cli import model_files, model_stages
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.model_views import model_facts, models_table, version_facts, versions_table
from penstock.cli.options import Json, Limit, Model, NoColor, Stage, State, Token, Url, page_size
from penstock.cli.output import Output

app = typer.Typer(no_args_is_help=True, help="Register models, look at them, and move their versions.")
_SELECTORS = {*Stage, "latest"}


@app.command("list")
def list_models(
    limit: Limit = 1_000, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False
) -> None:
    """List the models by name."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        models = list(islice(client.registry.list_models(page_size=page_size(limit)), limit))
    output.answer([document_of(model) for model in models], models_table(output, models))


@app.command()
def get(
    model: Model,
    version: Annotated[
        str, typer.Argument(help="An exact version, a stage, or `latest`. Default: the model.", show_default=False)
    ] = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show a model, or one version of it with its signature and files."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        registry = client.registry
        if not version:
            found = registry.get_model(model)
            output.answer(document_of(found), model_facts(output, found))
            return
        exact = version.lower() not in _SELECTORS
        shown = registry.get_version(model, version) if exact else registry.resolve(model, version)
    output.answer(document_of(shown), version_facts(output, shown))


@app.command()
def versions(
    model: Model,
    stage: Annotated[
        Stage | None, typer.Option("--stage", metavar="STAGE", help="Only this stage.", show_default=False)
    ] = None,
    state: Annotated[State | None, typer.Option("--state", help="Only this state.", show_default=False)] = None,
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List a model's versions, the newest first."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        pages = client.registry.list_versions(model, stage=stage, state=state, page_size=page_size(limit))
        found = list(islice(pages, limit))
    output.answer([document_of(version) for version in found], versions_table(output, found))


app.command()(model_files.register)
app.command()(model_files.download)
app.command()(model_stages.promote)
app.command()(model_stages.rollback)
app.command()(model_stages.history)
