"""`penstock monitoring`: how models are watched, and who changed it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any

import typer
from google.protobuf.descriptor import FieldDescriptor
from rich.console import RenderableType
from rich.text import Text

from penstock.api.monitoring.v1 import configuration_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of, flattened
from penstock.cli.formats import say_value
from penstock.cli.model_audit import change_words
from penstock.cli.model_views import time_of
from penstock.cli.options import Json, Limit, NoColor, Note, Token, Url, pairs
from penstock.cli.output import Column, Output

EXAMPLES = """Examples

  penstock monitoring get                                       the defaults for all models
  penstock monitoring get iris
  penstock monitoring set drift.interval=1h drift.alpha=0.01 --model iris --note "a busy model"
  penstock monitoring set drift.alpha= --model iris             back to what holds for all
  penstock monitoring set retraining.enabled=false
"""
app = typer.Typer(
    no_args_is_help=True, help="How models are watched: intervals, windows, levels, on and off.", epilog=EXAMPLES
)
UNSET: Container[Any] = (None, "", [])
"""What a setting is that says nothing; `false` and 0 say something."""
_COLUMNS = (Column("setting"), Column("value", give="cut", least_width=12), Column("said by"))
_CHANGES = (
    Column("when"),
    Column("who", give="cut", least_width=9),
    Column("of", give="cut", least_width=10),
    Column("change", give="wrap", least_width=24),
    Column("why", give="wrap", optional=True),
)
_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_REALS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_INTEGERS = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_INT32)

ScopeModel = Annotated[
    str, typer.Option("--model", "-m", metavar="MODEL", help="For this model. Default: for all.", show_default=False)
]
ScopeVersion = Annotated[
    str,
    typer.Option("--version", "-v", metavar="V", help="For this version of the model.", show_default=False),
]


@app.command()
def get(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model. Default: what holds for all.", show_default=False)
    ] = "",
    version: ScopeVersion = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show what holds for a model, and which of it the model says itself."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = client.monitoring.configurations.get(model, version)
    output.answer(document_of(found), _title(model, version), _settings(output, found, model, version))
    scope = f" --model {model}" if model else ""
    output.note(f"to change one: penstock monitoring set NAME=VALUE{scope} --note …")


@app.command("set")
def set_(
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=VALUE…",
            help="Such as drift.window=6h; an empty value: back to what holds above; [] empties a list.",
            show_default=False,
        ),
    ],
    model: ScopeModel = "",
    version: ScopeVersion = "",
    note: Note = "",
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Change how models are watched: all of them, a model, or a version of it. It holds within seconds."""
    output = Output(as_json=as_json, no_color=no_color)
    changes = parse_changes(settings)
    with connect(Service.MONITORING, url, token) as client:
        found = client.monitoring.configurations.change(changes, model=model, version=version, note=note)
    output.answer(document_of(found), _title(model, version), _settings(output, found, model, version))


@app.command("changes")
def list_changes(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Only this model's. Default: all.", show_default=False)
    ] = "",
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List what was changed, by whom and why, the newest first."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = list(islice(client.monitoring.configurations.changes(model, limit=limit), limit))
    rows = [
        (
            output.time(time_of(change.time)),
            change.changed_by,
            f"{change.model} {change.version}".strip() or "all",
            change_words(document_of(change.before), document_of(change.after), nothing=UNSET),
            change.note,
        )
        for change in found
    ]
    table = output.table(_CHANGES, rows, empty="nothing was changed: what is built in holds")
    output.answer([document_of(change) for change in found], table)


def parse_changes(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read `part.name=value`s, each as its setting's type has it; an empty value is None.

    Raises:
        BadParameter: there is no such setting, or the value is none of it.
    """
    changes: dict[str, dict[str, Any]] = {}
    for path, text in pairs(list(settings), "NAME=VALUE").items():
        part, _, name = path.partition(".")
        field = find_setting(path)
        if field is None:
            raise typer.BadParameter(f"there is no {path!r}; there are {', '.join(_names())}")
        changes.setdefault(part, {})[name] = read_setting(path, field, text) if text else None
    return changes


def find_setting(path: str) -> FieldDescriptor | None:
    """Find a setting, `part.name`; None where there is none."""
    part, _, name = path.partition(".")
    section = pb.Configuration.DESCRIPTOR.fields_by_name.get(part)
    return section.message_type.fields_by_name.get(name) if section is not None and section.message_type else None


def read_setting(path: str, field: FieldDescriptor, text: str) -> Any:
    """Read a setting's value as its type has it; raises BadParameter."""
    try:
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return _TRUTHS[text.lower()]
        if field.cpp_type in _REALS:
            return float(text)
        if field.cpp_type in _INTEGERS:
            return int(text)
    except (ValueError, KeyError) as error:
        kind = "true or false" if isinstance(error, KeyError) else "a number"
        raise typer.BadParameter(f"{text!r} is not {kind}, which {path} takes") from error
    if field.name == "ignored_features":
        if text == "[]":
            return []
        return [each.strip() for each in text.split(",") if each.strip()]
    return text


def _names() -> list[str]:
    return [
        f"{part.name}.{field.name}"
        for part in pb.Configuration.DESCRIPTOR.fields
        if part.message_type is not None
        for field in part.message_type.fields
    ]


def _title(model: str, version: str) -> Text:
    whose = f"{model} {version}".strip()
    return Text(f"how {whose} is watched" if whose else "how models are watched", style="bold")


def _settings(
    output: Output, found: pb.GetConfigurationResponse | pb.SetConfigurationResponse, model: str, version: str
) -> RenderableType:
    effective, own = _said(found.effective), _said(found.own)
    here = f"{model} {version}".strip() or "all models"
    rows = [
        (
            name,
            Text(say_value(value) if value != [""] else "none", style="bold" if name in own else ""),
            Text(here, style="cyan") if name in own else Text("above" if model else "built in", style="dim"),
        )
        for name, value in {**own, **effective}.items()
    ]
    return output.table(_COLUMNS, rows, empty="nothing is configured")


def _said(configuration: pb.Configuration) -> Mapping[str, Any]:
    """Give the settings that are there, by their paths; what a configuration leaves unset is not among them."""
    documents = flattened(document_of(configuration))
    return {name: value for name, value in documents.items() if value not in UNSET}
