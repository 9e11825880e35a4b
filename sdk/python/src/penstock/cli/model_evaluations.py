"""`penstock model evaluate|evaluations`: how well versions did, and whether that suffices."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer
from rich.text import Text

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.formats import say_number
from penstock.cli.model_views import time_of
from penstock.cli.options import ExactVersion, Json, Limit, Model, NoColor, Token, Url, page_size, pairs
from penstock.cli.output import Column, Output, lines

_COLUMNS = (
    Column("when"),
    Column("version", give="cut"),
    Column("verdict"),
    Column("metrics", give="wrap"),
    Column("dataset", give="cut", optional=True),
    Column("by", give="cut", optional=True),
)


def evaluate(
    model: Model,
    version: ExactVersion,
    metric: Annotated[
        list[str], typer.Option("--metric", "-m", metavar="M=X", help="A metric; again for more.", show_default=False)
    ],
    dataset: Annotated[str, typer.Option("--dataset", metavar="NAME", help="On what data.")] = "",
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="What else there is to say.")] = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Record how well a version did, and say whether it meets the model's success criteria.

    The exit code is 0 either way: recording succeeded. `--json` has `passed`.
    """
    output = Output(as_json=as_json, no_color=no_color)
    metrics = {name: _number(name, text) for name, text in pairs(metric, "--metric").items()}
    with connect(Service.REGISTRY, url, token) as client:
        recorded = client.registry.record_evaluation(model, version, metrics, dataset=dataset, note=note)
    heading = Text.assemble((f"{model} {version}", "bold"), "  ", _verdict(recorded))
    output.answer(document_of(recorded), heading, *([lines(recorded.shortfalls)] if recorded.shortfalls else []))


def evaluations(
    model: Model,
    version: Annotated[str, typer.Option("--version", "-v", metavar="V", help="Only this version's.")] = "",
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List how well the versions of a model did, the newest first."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        found = list(islice(client.registry.evaluations(model, version, page_size=page_size(limit)), limit))
    rows = [
        (
            output.time(time_of(each.evaluate_time)),
            each.version,
            _verdict(each),
            ", ".join(f"{name}={say_number(value)}" for name, value in sorted(each.metrics.items())) or each.failure,
            each.dataset,
            each.evaluated_by,
        )
        for each in found
    ]
    empty = "no evaluations yet; `penstock model evaluate MODEL VERSION --metric accuracy=0.9` records one"
    output.answer([document_of(each) for each in found], output.table(_COLUMNS, rows, empty=empty))


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{name} is {text!r}, which is no number", param_hint="--metric") from error


def _verdict(evaluation: pb.Evaluation) -> Text:
    return Text("passed", style="green") if evaluation.passed else Text("falls short", style="bold red")
