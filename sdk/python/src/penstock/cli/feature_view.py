"""`penstock feature view`: which features there are of which entities."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.feature_tables import features_table, view_facts, views_table
from penstock.cli.options import Json, Limit, NoColor, Token, Url, Yes, duration, page_size, pairs
from penstock.cli.output import Output
from penstock.cli.suites.reading import Fields, Problems, read_fields
from penstock.durations import parse_duration

EXAMPLES = """Examples:

penstock feature view create spending --entity customer --feature amount=float64 --feature visits=int64 --ttl 30d

penstock feature view create --file spending.yaml
"""
app = typer.Typer(no_args_is_help=True, help="Which features there are of which entities.", epilog=EXAMPLES)
NamedView = Annotated[
    str, typer.Argument(metavar="VIEW", help="The view; NAME@2 is version 2. Default: the newest.", show_default=False)
]
Pairs = list[str] | None


class Kind(enum.StrEnum):
    """The type of a feature."""

    FLOAT64 = "float64"
    INT64 = "int64"
    BOOL = "bool"
    STRING = "string"
    FLOAT64_LIST = "float64_list"
    TIMESTAMP = "timestamp"


class Computed(enum.StrEnum):
    """When a feature with an expression is computed."""

    ON_WRITE = "on_write"
    ON_READ = "on_read"


@dataclass(slots=True)
class _Asked:
    """A view to make."""

    name: str = ""
    entity: str = ""
    features: dict[str, str] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)
    expressions: dict[str, str] = field(default_factory=dict)
    on_read: list[str] = field(default_factory=list)
    request_values: dict[str, str] = field(default_factory=dict)
    ttl: timedelta = timedelta()
    owner: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


ViewName = Annotated[str, typer.Argument(metavar="NAME", help="The view's name.", show_default=False)]
WholeView = Annotated[
    Path | None,
    typer.Option("--file", "-f", metavar="FILE", exists=True, dir_okay=False, help="All of it as YAML."),
]
Entity = Annotated[str, typer.Option("--entity", metavar="NAME", help="What its keys name, such as customer.")]
Feature = Annotated[Pairs, typer.Option("--feature", metavar="NAME=TYPE", help=f"{', '.join(Kind)}; again for more.")]
Expression = Annotated[
    Pairs,
    typer.Option("--expression", metavar="NAME=EXPRESSION", help="Computes a feature as it is written."),
]
OnRead = Annotated[Pairs, typer.Option("--on-read", metavar="NAME=EXPRESSION", help="Computes a feature at each read.")]
RequestValue = Annotated[
    Pairs,
    typer.Option("--request-value", metavar="NAME=TYPE", help="What who reads may bring along for those."),
]
Ttl = Annotated[
    timedelta | None,
    typer.Option(
        "--ttl",
        metavar="DURATION",
        parser=duration,
        help="How long values hold. Default: for ever.",
        show_default=False,
    ),
]
Owner = Annotated[str, typer.Option("--owner", metavar="NAME", help="Who answers for it.")]
Description = Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is.")]
Labels = Annotated[Pairs, typer.Option("--label", "-l", metavar="K=V", help="For search; again for more.")]


@app.command(epilog=EXAMPLES)
def create(
    name: ViewName = "",
    file: WholeView = None,
    entity: Entity = "",
    feature: Feature = None,
    expression: Expression = None,
    on_read: OnRead = None,
    request_value: RequestValue = None,
    ttl: Ttl = None,
    owner: Owner = "",
    description: Description = "",
    label: Labels = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:  # fmt: skip
    """Make a view, or its next version; the same features again give the version that is there.

    Give --file, or NAME, --entity and at least one --feature.
    """
    output = Output(as_json=as_json, no_color=no_color)
    if file is None:
        on_read_of = pairs(on_read, "--on-read")
        asked = _Asked(
            name,
            entity,
            pairs(feature, "--feature"),
            expressions={**pairs(expression, "--expression"), **on_read_of},
            on_read=list(on_read_of),
            request_values=pairs(request_value, "--request-value"),
            ttl=ttl or timedelta(),
            owner=owner,
            description=description,
            labels=pairs(label, "--label"),
        )
    elif name or entity or feature or expression or on_read or request_value:
        raise typer.BadParameter("give --file, or the view by options, not both", param_hint="--file")
    else:
        asked = _read(file)
    if not (asked.name and asked.entity and asked.features):
        raise typer.BadParameter("give NAME, --entity and at least one --feature, or --file")
    with connect(Service.REGISTRY, url, token) as client:
        view = client.features.create_view(
            asked.name,
            entity=asked.entity,
            features=asked.features,
            descriptions=asked.descriptions,
            expressions=asked.expressions,
            on_read=asked.on_read,
            request_values=asked.request_values,
            ttl_ms=round(asked.ttl.total_seconds() * 1_000),
            owner=asked.owner,
            description=asked.description,
            labels=asked.labels,
        )
    output.answer(document_of(view), view_facts(output, view), Text(""), features_table(output, view))
    output.note(f"to write to it: penstock feature write {view.name} --file rows.csv")


@app.command("list")
def list_views(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="All versions of this one.", show_default=False)
    ] = "",
    entity: Annotated[str, typer.Option("--entity", metavar="NAME", help="Only those about it.")] = "",
    limit: Limit = 50,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:  # fmt: skip
    """List views, each in its newest version, or all versions of one."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        listed = client.features.list_views(entity=entity, name=name, page_size=page_size(limit))
        found = list(islice(listed, limit))
    output.answer([document_of(view) for view in found], views_table(output, found))


@app.command()
def show(
    view: NamedView, url: Url = None, token: Token = None, as_json: Json = False, no_color: NoColor = False
) -> None:
    """Show a version of a view with its features."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        found = client.features.get_view(*versioned(view))
    output.answer(document_of(found), view_facts(output, found), Text(""), features_table(output, found))


@app.command()
def update(
    view: NamedView,
    ttl: Annotated[
        timedelta | None,
        typer.Option("--ttl", metavar="DURATION", parser=duration, help="0s: for ever.", show_default=False),
    ] = None,
    owner: Annotated[str | None, typer.Option("--owner", metavar="NAME", help="Who answers for it.")] = None,
    description: Annotated[str | None, typer.Option("--description", metavar="TEXT", help="What it is.")] = None,
    label: Annotated[
        Pairs, typer.Option("--label", "-l", metavar="K=V", help="Replaces all labels; again for more.")
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Change what leaves the values' meaning alone; what is not given stays."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.REGISTRY, url, token) as client:
        changed = client.features.update_view(
            *versioned(view),
            ttl_ms=None if ttl is None else round(ttl.total_seconds() * 1_000),
            owner=owner,
            description=description,
            labels=None if label is None else pairs(label, "--label"),
        )
    output.answer(document_of(changed), view_facts(output, changed))


@app.command()
def delete(
    view: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The version.", show_default=False)],
    yes: Yes = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Delete a version of a view with all its values."""
    output = Output(as_json=as_json, no_color=no_color)
    name, version = versioned(view)
    if not version:
        raise typer.BadParameter("name the version, such as spending@1: the newest is never deleted by chance")
    if not yes:
        typer.confirm(f"Delete {view} with all its values?", abort=True, err=True)
    with connect(Service.REGISTRY, url, token) as client:
        client.features.delete_view(name, version)
    output.answer({"name": name, "version": version, "deleted": True}, Text(f"deleted {view}"))


def versioned(view: str) -> tuple[str, int]:
    """Read `name` or `name@2`; raises CommandError (INVALID_NAME)."""
    name, mark, version = view.partition("@")
    if mark and not (version.isascii() and version.isdigit() and int(version)):
        sentence = f"{view!r} names no version; write {name or 'spending'}@2"
        raise CommandError(sentence, reason="INVALID_NAME", exit_code=ExitCode.USAGE)
    return name, int(version) if mark else 0


def _read(file: Path) -> _Asked:
    """Read a view from YAML; raises CommandError with all that is wrong."""
    problems = Problems(file)
    fields = read_fields(file, problems)
    asked = _Asked(
        name=fields.text("name", required=True) or "",
        entity=fields.text("entity", required=True) or "",
        owner=fields.text("owner") or "",
        description=fields.text("description") or "",
        labels=fields.pairs("labels") or {},
    )
    if ttl := fields.text("ttl"):
        try:
            asked.ttl = parse_duration(ttl)
        except ValueError as error:
            fields.complain("ttl", str(error))
    features = fields.fields("features", required=True)
    for name in features.names() if features else ():
        _read_feature(features, name, asked)
    brought = fields.fields("request_values")
    for name in brought.names() if brought else ():
        kind = brought.choice(name, Kind) if brought else None
        asked.request_values[name] = str(kind or "")
    fields.done()
    problems.raise_any()
    return asked


def _read_feature(features: Any, name: str, asked: _Asked) -> None:
    """Read a feature: its type, or fields."""
    if isinstance(features.value(name), str):
        asked.features[name] = str(features.choice(name, Kind) or "")
        return
    feature: Fields = features.fields(name)
    asked.features[name] = str(feature.choice("type", Kind, required=True) or "")
    if said := feature.text("description"):
        asked.descriptions[name] = said
    if expression := feature.text("expression"):
        asked.expressions[name] = expression
    if feature.choice("computed", Computed) is Computed.ON_READ:
        asked.on_read.append(name)
    feature.done()
