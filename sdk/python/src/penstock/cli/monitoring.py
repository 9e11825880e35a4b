"""`penstock monitoring`: how models are watched, and who changed it."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from google.protobuf.descriptor import FieldDescriptor
from rich.console import RenderableType
from rich.text import Text

from penstock.api.monitoring.v1 import configuration_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of, flattened
from penstock.cli.formats import parse_names, say_names, say_value
from penstock.cli.model_audit import change_words
from penstock.cli.model_views import time_of
from penstock.cli.options import Json, Limit, ModelOrAll, NoColor, Note, Token, Url, pairs
from penstock.cli.output import Column, Output

if TYPE_CHECKING:
    from penstock.client import Client

EXAMPLES = """Examples

  penstock monitoring get                                       the defaults for all models
  penstock monitoring get iris
  penstock monitoring set drift.interval=1h drift.alpha=0.01 --model iris --note "a busy model"
  penstock monitoring set drift.alpha= --model iris             back to what holds for all
  penstock monitoring set 'drift.ignored_features=\\[id,"street, number"]' --model iris
  penstock monitoring set retraining.enabled=false
"""
app = typer.Typer(
    no_args_is_help=True, help="How models are watched: intervals, windows, levels, on and off.", epilog=EXAMPLES
)
UNSET: Container[Any] = (None, "", [])
"""What a setting is that says nothing; `false` and 0 say something."""
_COLUMNS = (Column("setting"), Column("value", give="wrap", least_width=20), Column("said by"))
_CHANGES = (
    Column("when"),
    Column("who", give="cut", least_width=9),
    Column("of", give="cut", least_width=10),
    Column("change", give="wrap", least_width=24),
    Column("why", give="wrap", optional=True),
)
_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_REALS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_LISTS = ("ignored_features",)
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
        table = _settings(output, client, found, Scope(model, version))
    output.answer(document_of(found), _title(model, version), table)
    output.warn(found.warnings)
    scope = f" --model {model}" if model else ""
    output.note(f"to change one: penstock monitoring set NAME=VALUE{scope} --note …")


@app.command("set")
def set_(
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=VALUE…",
            help="Such as drift.window=6h, quality.tolerance=0.02, retraining.min_labels=2000, alerts.enabled=false or "
            "drift.ignored_features=\\[age,income], a name with a comma in quotes; an empty value: back to what holds "
            "above; [] empties a list. `penstock monitoring get` lists all there are, docs/monitoring-settings.md says "
            "what each means.",
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
        names = {f"{part}.{name}" for part, said in changes.items() for name in said}
        table = _settings(output, client, found, Scope(model, version), names)
    output.answer(document_of(found), _title(model, version), table)
    output.warn([each for each in found.warnings if _setting_of(each) in ("", *names)])


def _setting_of(warning: str) -> str:
    """Name the setting that a warning is about; empty: it is about none."""
    found = re.match(r"([a-z_]+\.[a-z_]+): ", warning)
    return found[1] if found else ""


@app.command("changes")
def list_changes(
    model: ModelOrAll = "",
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
            change_words(_said(change.before), _said(change.after), nothing=UNSET),
            change.note,
        )
        for change in found
    ]
    table = output.table(_CHANGES, rows, empty="nothing was changed: what is built in holds")
    output.answer([document_of(change) for change in found], table)
    if len(found) == limit:
        output.note(f"the newest {limit}; --limit shows more")


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
        if field.name in _LISTS:
            return parse_names(text)
    except (ValueError, KeyError) as error:
        if field.name in _LISTS:
            raise typer.BadParameter(f"{path}: {error}") from error
        kind = "true or false" if isinstance(error, KeyError) else "a number"
        raise typer.BadParameter(f"{text!r} is not {kind}, which {path} takes") from error
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


class Scope(NamedTuple):
    """Whom settings are for: a version, a model (no version), or all (neither)."""

    model: str
    version: str

    def above(self) -> list[Scope]:
        """Give the scopes that say what this one leaves unset, the nearest first."""
        wider = [Scope(self.model, ""), Scope("", "")]
        return wider if self.version else wider[1:] if self.model else []

    def __str__(self) -> str:
        """Write it for people."""
        return f"{self.model} {self.version}".strip() or "all models"


def _settings(
    output: Output,
    client: Client,
    found: pb.GetConfigurationResponse | pb.SetConfigurationResponse,
    scope: Scope,
    names: Container[str] | None = None,
) -> RenderableType:
    """Lay out what holds and who says it, all or of some names."""
    if output.as_json:
        return Text()
    above = [(each, _said(client.monitoring.configurations.get(*each).own)) for each in scope.above()]
    own = _said(found.own)

    def said_by(name: str) -> Text:
        if name in own:
            return Text(str(scope), style="cyan")
        return Text(next((str(each) for each, said in above if name in said), "built in"), style="dim")

    rows = [
        (name, Text(words, style="bold" if name in own else ""), said_by(name))
        for name, words in _in_words(found.effective).items()
        if names is None or name in names
    ]
    return output.table(_COLUMNS, rows, empty="nothing is configured")


def _in_words(configuration: pb.Configuration) -> dict[str, str]:
    """Write the settings of a configuration, by their paths, as `set` takes them."""
    return {
        name: say_names(filter(None, value)) if isinstance(value, list) else say_value(value)
        for name, value in flattened(document_of(configuration)).items()
    }


def _said(configuration: pb.Configuration) -> dict[str, Any]:
    """Give the settings that are there, as above; what a configuration leaves unset is not among them."""
    words = _in_words(configuration)
    return {
        name: words[name] if isinstance(value, list) else value
        for name, value in flattened(document_of(configuration)).items()
        if value not in UNSET
    }
