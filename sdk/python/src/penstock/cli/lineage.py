"""`penstock lineage`: what led to a prediction, an alert or a version, and what came of it, as a tree."""

from __future__ import annotations

import enum
import re
from collections import deque
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text
from rich.tree import Tree

from penstock.api.monitoring.v1 import lineage_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of, enum_word
from penstock.cli.formats import say_pairs, say_time, say_value
from penstock.cli.ids import LOOKED_THROUGH, is_beginning, whole_id
from penstock.cli.model_views import time_of
from penstock.cli.options import Json, NoColor, Token, Url
from penstock.cli.output import Output, printable
from penstock.cli.wording import at_the_command_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from penstock.api.monitoring.v1.alerts_pb2 import Alert
    from penstock.api.monitoring.v1.drift_pb2 import DriftCheck
    from penstock.api.monitoring.v1.quality_pb2 import QualityCheck
    from penstock.api.monitoring.v1.retraining_pb2 import RetrainingRequest
    from penstock.client import Client

    _Listed = Alert | RetrainingRequest | DriftCheck | QualityCheck

EXAMPLES = """Examples

  penstock lineage 0193…                 a prediction, alert, retraining request, check or training run, by its id
  penstock lineage iris/2.0.0            a version
"""
_ID = re.compile(r"[0-9a-fA-F-]+")
"""An id, or how one begins."""
_SENTENCES = ("message", "summary", "shortfalls")
"""What a node says of itself in a sentence."""
MAX_SENTENCE = 160
_STYLES = {
    "inference": "cyan",
    "version": "bold",
    "alert": "red",
    "check": "magenta",
    "retraining request": "yellow",
    "evaluation": "blue",
    "transition": "bold",
}
_VERDICTS = {"yes": ("passed", "green"), "no": ("not passed", "yellow")}
_NUMBERED = (pb.LINEAGE_KIND_EVALUATION, pb.LINEAGE_KIND_TRANSITION)
"""Their ids are the registry's numbers, which say nothing beside the title; `--json` has them."""


class Kind(enum.StrEnum):
    """What an id is of."""

    PREDICTION = "prediction"
    ALERT = "alert"
    REQUEST = "request"
    CHECK = "check"
    RUN = "run"


def lineage(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="ID | MODEL/VERSION",
            help="An id, of an alert, a check or a retraining request how it begins will do, or a version.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        Kind | None,
        typer.Option(
            "--kind",
            metavar="K",
            help="prediction, alert, request, check or run. Default: they are tried.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Of a prediction also what came of its version: checks, alerts, requests.")
    ] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show what led to something, and what came of it: prediction, version, training; check, alert, retraining."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        found = _find(client, subject, kind)
    of_prediction = bool(found.nodes) and found.nodes[0].kind == pb.LINEAGE_KIND_INFERENCE
    shown = found if every or not of_prediction else what_led_to_it(found)
    output.answer(document_of(found), tree_of(shown))
    if len(shown.nodes) < len(found.nodes):
        more = len(found.nodes) - len(shown.nodes)
        version = next((node.id for node in shown.nodes if node.kind == pb.LINEAGE_KIND_VERSION), "")
        output.note(f"{more} more of its version, such as checks and alerts: penstock lineage {version}, or --all")


def what_led_to_it(found: pb.GetLineageResponse) -> pb.GetLineageResponse:
    """Keep of a graph its first node, and what led there: causes, and theirs."""
    kept = [0]
    for here in kept:
        causes = dict.fromkeys(edge.from_node for edge in found.edges if edge.to_node == here)
        kept += [cause for cause in causes if cause not in kept]
    places = {number: place for place, number in enumerate(kept)}
    return pb.GetLineageResponse(
        nodes=[found.nodes[number] for number in kept],
        edges=[
            pb.LineageEdge(from_node=places[edge.from_node], to_node=places[edge.to_node], relation=edge.relation)
            for edge in found.edges
            if edge.from_node in places and edge.to_node in places
        ],
    )


def tree_of(found: pb.GetLineageResponse) -> Tree:
    """Draw a graph from its first node on: each hangs where it is reached first, causes with ↑ and effects with ↓."""
    branches: dict[int, Tree] = {0: Tree(_words(found.nodes[0]), guide_style="dim")} if found.nodes else {}
    root = branches.get(0) or Tree(Text("nothing is known of it", style="dim"))
    waiting = deque(branches)
    while waiting:
        here = waiting.popleft()
        for edge in sorted(found.edges, key=lambda edge: edge.to_node != here):  # causes first
            for near, far, arrow in ((edge.to_node, edge.from_node, "↑"), (edge.from_node, edge.to_node, "↓")):
                if near != here or far in branches or not 0 <= far < len(found.nodes):
                    continue
                label = Text.assemble(
                    (f"{arrow} ", "bold"), (f"{printable(edge.relation)}  ", "dim"), _words(found.nodes[far])
                )
                branches[far] = branches[here].add(label)
                waiting.append(far)
    for number, node in enumerate(found.nodes):
        if number not in branches:
            root.add(Text.assemble(("· ", "dim"), _words(node)))
    return root


def _words(node: pb.LineageNode) -> Text:
    """Say what a node is: its title, its id where that says more, when, what happened, and the rest in short."""
    kind = str(enum_word(pb.LineageKind.DESCRIPTOR, node.kind) or "").replace("_", " ")
    said = Text.assemble((printable(node.title or f"{kind} {node.id}"), _STYLES.get(kind, "")))
    if node.title and node.id and node.id not in node.title and node.kind not in _NUMBERED:
        said.append(f"  {printable(node.id)}", style="dim")
    when = time_of(node.time)
    if when is not None:
        said.append(f"  {when.astimezone().strftime('%Y-%m-%d %H:%M')}", style="dim")
    attributes = {name: value for name, value in node.attributes.items() if value}
    if node.kind == pb.LINEAGE_KIND_EVALUATION and attributes.get("passed") in _VERDICTS:
        word, style = _VERDICTS[attributes.pop("passed")]
        said.append(f"  {word}", style=style)
    if node.kind == pb.LINEAGE_KIND_TRANSITION:
        attributes.pop("to_stage", None)  # as the title says
    sentences = [attributes.pop(name) for name in _SENTENCES if name in attributes]
    if sentences:
        said.append(f"\n{printable(_in_short(sentences[0]))}")
    if attributes:
        said.append(
            f"\n{printable(say_pairs({name: _said(name, value) for name, value in attributes.items()}))}", style="dim"
        )
    if node.missing:
        said.append(f"\nnot looked up: {printable(at_the_command_line(node.missing, reason=''))}", style="yellow")
    return said


def _said(name: str, value: str) -> str:
    """Write an attribute; a time as people read it here."""
    if name.endswith("_time"):
        with suppress(ValueError):  # a later service's word for it, which is shown as it came
            return say_time(datetime.fromisoformat(value))
    return say_value(value)


def _in_short(sentence: str) -> str:
    return sentence if len(sentence) <= MAX_SENTENCE else sentence[: MAX_SENTENCE - 1] + "…"


def _newest(client: Client, kind: Kind | None) -> Iterator[_Listed]:
    """List what an id's beginning may mean: predictions are too many to look through, and nobody lists runs."""
    lists: list[tuple[Kind, Callable[..., Iterator[_Listed]]]] = [
        (Kind.ALERT, client.monitoring.alerts.list),
        (Kind.REQUEST, client.monitoring.retraining.list),
        (Kind.CHECK, client.monitoring.drift.list),
        (Kind.CHECK, client.monitoring.quality.list),
    ]
    asked = [newest for of, newest in lists if kind in (None, of)]
    for newest in asked:
        yield from newest(limit=LOOKED_THROUGH // len(asked))


def _find(client: Client, subject: str, kind: Kind | None) -> pb.GetLineageResponse:
    """Ask for a version by its name, and for an id as each kind of thing until one has it."""
    from penstock.errors import InvalidArgument, NotFound

    lineage = client.monitoring.lineage
    if "/" in subject:
        model, _, version = subject.partition("/")
        return lineage.of_version(model, version)
    if kind is None and not _ID.fullmatch(subject):
        sentence = f"{subject} is no id, and of a model its version is asked for: penstock lineage {subject}/VERSION"
        raise InvalidArgument(sentence, reason="INVALID_ID")
    asks = {
        Kind.PREDICTION: lineage.of_inference,
        Kind.ALERT: lineage.of_alert,
        Kind.REQUEST: lineage.of_retraining_request,
        Kind.CHECK: lineage.of_check,
        Kind.RUN: lineage.of_training_run,
    }
    if kind in (None, Kind.ALERT, Kind.REQUEST, Kind.CHECK):
        begins, subject = subject, whole_id(subject, lambda: _newest(client, kind))
        if subject == begins and is_beginning(begins):
            raise NotFound(
                f"none of the newest {'alerts, retraining requests and checks' if kind is None else f'{kind}s'} has an "
                f"id that begins with {begins}; give all of it, of a prediction or a training run in any case",
                reason="SUBJECT_NOT_FOUND",
            )
    if kind is not None:
        return asks[kind](subject)
    for ask in asks.values():
        with suppress(NotFound):
            return ask(subject)
    raise NotFound(
        f"{subject} is the id of no prediction, alert, retraining request, check or training run",
        reason="SUBJECT_NOT_FOUND",
    )
