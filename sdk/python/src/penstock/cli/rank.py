"""`penstock rank`: items in the order in which they suit somebody."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import typer
from rich.text import Text

from penstock.cli.connection import Service, connect
from penstock.cli.formats import say_ms
from penstock.cli.options import Json, Model, NoColor, Token, Url, Version, pairs
from penstock.cli.output import Column, Output
from penstock.cli.predict import read_argument

EXAMPLES = """Examples

  penstock rank minilm --context wants="a quiet weekend" --context likes="books, tea" --items items.jsonl
  penstock rank reranker --context query="waterproof shoes" --items shoes.jsonl --top 3 --json

Each line of the items is an object with id and at least one of name, description and category:

  {"id": "a1", "name": "Trail shoe", "description": "Light, and dry in any rain", "category": "shoes"}
"""
FIELDS = ("id", "name", "description", "category")


def rank(
    model: Model,
    items: Annotated[
        str,
        typer.Option(
            "--items", metavar="FILE", help="The items, a JSON object a line; - reads stdin.", show_default=False
        ),
    ],
    context: Annotated[
        list[str],
        typer.Option(
            "--context", "-c", metavar="KEY=TEXT", help="What is known of the user; again for more.", show_default=False
        ),
    ],
    top: Annotated[int, typer.Option("--top", metavar="N", min=0, help="So many of the best; 0: all.")] = 0,
    version: Version = None,
    user: Annotated[str, typer.Option("--user", metavar="ID", help="Who it is for; kept with the event.")] = "",
    session: Annotated[str, typer.Option("--session", metavar="ID", help="Kept with the event.")] = "",
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="Your own id of it. Default: the inference id.")
    ] = "",
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Wait so long. Default: 30.", min=0.001)
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Put items in the order in which they suit a user, best first, with a model that embeds or reranks."""
    output = Output(as_json=as_json, no_color=no_color)
    known = pairs(context, "--context")
    offered = read_items(read_argument(items if items == "-" else f"@{items}", "items"))
    with connect(Service.INFERENCE, url, token) as client:
        ranking = client.inference.rank(
            model,
            known,
            offered,
            top_k=top,
            version=version or "",
            user_id=user,
            session_id=session,
            request_id=request_id,
            timeout_s=timeout_s,
        )
    names = {item["id"]: item.get("name", "") for item in offered}
    columns = [Column("place", "right"), Column("item"), Column("score", "right"), Column("name", give="cut")]
    failed = any(item.error for item in ranking.items)
    columns += [Column("error", give="wrap")] if failed else []
    rows: list[list[str | Text]] = []
    for place, item in enumerate(ranking.items, 1):
        cells: list[str | Text] = [str(place), item.id, "" if item.error else f"{item.score:.4f}", names[item.id]]
        rows.append([*cells, Text(item.error, style="red")] if failed else cells)
    answered = Text.assemble((f"{ranking.model} {ranking.version}", "bold"))
    answered.append(f"  {say_ms(ranking.latency_ms)}, inference {ranking.inference_id}")
    output.answer(dataclasses.asdict(ranking), output.table(columns, rows, empty="no items"), answered)


def read_items(text: str) -> list[dict[str, str]]:
    """Read a JSON object a line; empty lines are left out.

    Raises:
        BadParameter: a line is no such object, has no id, or says something else of the item.
    """
    found = [_item(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not found:
        raise typer.BadParameter("there are no items in it", param_hint="--items")
    return found


def _item(number: int, line: str) -> dict[str, str]:
    try:
        item: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"line {number} is no JSON: {error}", param_hint="--items") from error
    if (
        not isinstance(item, dict)
        or "id" not in item
        or not set(item) <= set(FIELDS)
        or not all(isinstance(value, str) for value in item.values())
    ):
        allowed = ", ".join(FIELDS[1:])
        raise typer.BadParameter(
            f"line {number}: an item is an object with id, and {allowed} where there are; each is a string",
            param_hint="--items",
        )
    return item
