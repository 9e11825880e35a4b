"""`penstock embed`: texts as vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from penstock.cli.connection import Service, connect
from penstock.cli.formats import say_ms
from penstock.cli.options import Json, Model, NoColor, Token, Url, Version
from penstock.cli.output import Column, Output
from penstock.cli.predict import read_argument

if TYPE_CHECKING:
    from penstock.texts import Embeddings

EXAMPLES = """Examples

  penstock embed minilm "The cat sits outside" "A man is playing guitar"
  penstock embed minilm --file sentences.txt --json > vectors.json
  cut -f2 reviews.tsv | penstock embed minilm --file -
"""
SHOWN_ROWS = 100
SHOWN_VALUES = 4


def embed(
    model: Model,
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT…", help="The texts.", show_default=False)] = None,
    file: Annotated[
        str, typer.Option("--file", "-f", metavar="FILE", help="More texts, one a line; - reads stdin.")
    ] = "",
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
    """Turn texts into vectors, with any model that embeds; --json has them whole."""
    output = Output(as_json=as_json, no_color=no_color)
    wanted = [*(texts or ()), *_lines(file)]
    if not wanted:
        raise typer.BadParameter("give texts, or --file", param_hint="TEXT…")
    with connect(Service.INFERENCE, url, token) as client:
        found = client.inference.embed(
            model,
            wanted,
            version=version or "",
            user_id=user,
            session_id=session,
            request_id=request_id,
            timeout_s=timeout_s,
        )
    columns = [Column("row", "right"), Column("text", give="cut"), Column(f"vector of {found.vectors.shape[1]}")]
    rows = [
        [str(row), text, _beginning(vector)]
        for row, (text, vector) in enumerate(zip(wanted[:SHOWN_ROWS], found.vectors.tolist(), strict=False))
    ]
    answered = Text.assemble((f"{found.model} {found.version}", "bold"))
    answered.append(f"  {say_ms(found.latency_ms)}, inference {found.inference_id}")
    output.answer(_document(found), output.table(columns, rows, empty="no texts"), answered)
    if len(wanted) > SHOWN_ROWS:
        output.note(f"{SHOWN_ROWS} of {len(wanted):,} texts shown; --json gives all")


def _lines(file: str) -> list[str]:
    """Read a file's lines, those with nothing but spaces left out."""
    if not file:
        return []
    content = read_argument(file if file == "-" else f"@{file}", "texts")
    return [line.strip() for line in content.splitlines() if line.strip()]


def _beginning(vector: list[float]) -> str:
    more = ", …" if len(vector) > SHOWN_VALUES else ""
    return "[" + ", ".join(f"{value:.4f}" for value in vector[:SHOWN_VALUES]) + more + "]"


def _document(found: Embeddings) -> dict[str, Any]:
    return {
        "inference_id": found.inference_id,
        "model": found.model,
        "version": found.version,
        "latency_ms": found.latency_ms,
        "dimensions": found.vectors.shape[1],
        "embeddings": found.vectors.tolist(),
    }
