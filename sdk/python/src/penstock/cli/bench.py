"""`penstock bench compare|history`: which of several equal models is the quickest here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from penstock.cli.connection import Service, connect, data_dir, surroundings
from penstock.cli.formats import parse_time, say_ms
from penstock.cli.options import DataDir, Json, NoColor, Token
from penstock.cli.output import Column, Output
from penstock.cli.predict import parse_features, read_argument

if TYPE_CHECKING:
    from penstock.api.registry.v1 import registry_pb2
    from penstock.client import Client
    from penstock.comparison import Score

app = typer.Typer(no_args_is_help=True, help="Measure models against one another.")
HISTORY_FILE = "bench.jsonl"
MAX_LOOKED_AT = 10_000
BENCH_USER = "penstock-bench"
EXAMPLES = """Examples

  penstock bench compare sentences:1.0.0 sentences:2.0.0 --input '{"text": ["Good morning."]}'
  penstock bench compare --group english-embeddings --input @rows.json --requests 1000 --concurrency 8
"""
_COLUMNS = (
    Column("model", give="cut"),
    Column("version", give="cut"),
    Column("answered", "right"),
    Column("failed", "right"),
    Column("average", "right"),
    Column("p50", "right"),
    Column("p95", "right"),
    Column("p99", "right"),
    Column(""),
)
_HISTORY_COLUMNS = (Column("when"), Column("group", give="cut"), *_COLUMNS)


@app.command(epilog=EXAMPLES)
def compare(
    versions: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL[:VERSION]…", help="Two or more; without a version the default one."),
    ] = None,
    group: Annotated[
        str, typer.Option("--group", metavar="NAME", help="Every READY version of this equivalence_group.")
    ] = "",
    features: Annotated[
        str,
        typer.Option(
            "--input", "-i", metavar="JSON | @FILE | -", help="Features by name, or a list of such rows: one a request."
        ),
    ] = "-",
    requests: Annotated[int, typer.Option("--requests", "-n", min=1, max=1_000_000, help="Of each version.")] = 200,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, max=256, help="Requests in flight.")] = 1,
    registry: Annotated[str | None, typer.Option("--registry", metavar="HOST:PORT", help="The registry.")] = None,
    inference: Annotated[
        str | None, typer.Option("--inference", metavar="HOST:PORT", help="The inference service.")
    ] = None,
    folder: DataDir = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Ask models of one equivalence_group the same, in turns, and say which answers best.

    The winner failed least, and of those that failed alike has the lowest p95. Times are the caller's, in ms. The
    requests are recorded as every prediction is, for the user `penstock-bench`; they pass the response cache by. What
    was measured is kept in the data folder of this machine: `penstock bench history`.
    """
    from penstock.comparison import check_comparable, winner_of
    from penstock.comparison import compare as measure

    output = Output(as_json=as_json, no_color=no_color)
    rows = parse_rows(read_argument(features))
    with connect(Service.REGISTRY, registry, token) as client:
        found = list(find_group(client, group)) if group else [find_version(client, name) for name in versions or ()]
    said = check_comparable(found)
    with connect(Service.INFERENCE, inference, token) as client, output.spinner("measuring"):

        def predict(model: str, version: str, row: Mapping[str, Any]) -> object:
            return client.inference.predict(model, row, version=version, user_id=BENCH_USER, skip_cache=True)

        scores = measure(found, rows, predict, requests=requests, concurrency=concurrency)
    document = document_of(said, scores, winner_of(scores), concurrency)
    keep(history_path(folder), document)
    output.answer(document, output.table(_COLUMNS, table_of(document), empty="nothing was measured"))


@app.command()
def history(
    group: Annotated[str, typer.Option("--group", metavar="NAME", help="Only of this equivalence_group.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many comparisons.")] = 20,
    folder: DataDir = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show what was measured on this machine before, the newest first."""
    output = Output(as_json=as_json, no_color=no_color)
    kept = [each for each in read(history_path(folder)) if not group or each["group"] == group][::-1][:limit]
    rows = [[output.time(parse_time(each["time"])), each["group"], *row] for each in kept for row in table_of(each)]
    output.answer(kept, output.table(_HISTORY_COLUMNS, rows, empty="nothing was compared yet"))


def parse_rows(text: str) -> list[dict[str, Any]]:
    """Read the inputs: an object is one request, a list of objects one for each."""
    rows = json.loads(text) if text.lstrip().startswith("[") else [parse_features(text)]
    return [parse_features(json.dumps(row)) for row in rows]


def find_version(client: Client, name: str) -> registry_pb2.ModelVersion:
    """Find what `MODEL` or `MODEL:VERSION` means."""
    model, _, version = name.partition(":")
    return client.registry.resolve(model, version)


def find_group(client: Client, group: str) -> Iterator[registry_pb2.ModelVersion]:
    """Find the READY versions of an equivalence group, among the newest ten thousand."""
    ready = client.registry.list_versions(state="ready", page_size=1_000)
    return (each for each in islice(ready, MAX_LOOKED_AT) if each.metadata.equivalence_group == group)


def document_of(group: str, scores: Sequence[Score], winner: Score | None, concurrency: int) -> dict[str, Any]:
    """Write what was measured, for `--json` and for the history."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "group": group,
        "concurrency": concurrency,
        "winner": None if winner is None else {"model": winner.model, "version": winner.version},
        "scores": [
            {
                "model": score.model,
                "version": score.version,
                "answered_count": score.answered_count,
                "failures": dict(score.failures),
                **{name: number(getattr(score, name)) for name in ("average_ms", "p50_ms", "p95_ms", "p99_ms")},
            }
            for score in scores
        ],
    }


def number(value: float) -> float | None:
    """Round to a µs; nothing where there is no number."""
    return None if math.isnan(value) else round(value, 3)


def table_of(document: Mapping[str, Any]) -> list[list[str | Text]]:
    """Lay a comparison out, a version a row."""
    winner = document["winner"]
    return [
        [
            score["model"],
            score["version"],
            f"{score['answered_count']:,}",
            f"{sum(score['failures'].values()):,}",
            *(say_ms(score[name]) for name in ("average_ms", "p50_ms", "p95_ms", "p99_ms")),
            Text("winner", style="bold green")
            if winner == {"model": score["model"], "version": score["version"]}
            else ", ".join(score["failures"]),
        ]
        for score in document["scores"]
    ]


def history_path(folder: Path | None) -> Path:
    """Find the file in which comparisons are kept."""
    return data_dir(folder, surroundings()) / HISTORY_FILE


def keep(path: Path, document: Mapping[str, Any]) -> None:
    """Add a comparison to the history, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(document, ensure_ascii=False) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Read the history, the oldest first; a line that was cut short is passed over."""
    kept = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            kept.append(json.loads(line))
        except ValueError:
            continue
    return kept
