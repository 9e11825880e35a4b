"""`penstock metrics`: how good a model is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.text import Text

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.formats import say_ms, say_share, say_time
from penstock.cli.model_views import time_of
from penstock.cli.options import Json, Model, NoColor, Since, Token, Url
from penstock.cli.output import Output


def metrics(
    model: Model,
    version: Annotated[str, typer.Option("--version", "-v", metavar="V", help="Only this version.")] = "",
    since: Since = timedelta(hours=1),
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show counts, errors, latencies and accuracy over a window."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        answer = client.monitoring.get_metrics(model, version=version, from_time=datetime.now(UTC) - since)
    window = f"  {say_time(time_of(answer.from_time))} to {say_time(time_of(answer.to_time))}"
    title = Text.assemble((f"{model} {version}".rstrip(), "bold"), (window, "dim"))
    output.answer(document_of(answer), output.facts(title, _facts(answer)))


def _facts(answer: pb.GetMetricsResponse) -> list[tuple[str, str | Text]]:
    errors = f"{answer.error_count:,}"
    if answer.HasField("error_rate"):
        errors += f" ({say_share(answer.error_rate)})"
    latencies = (
        ("average", answer.HasField("average_latency_ms"), answer.average_latency_ms),
        ("p50", answer.HasField("p50_latency_ms"), answer.p50_latency_ms),
        ("p95", answer.HasField("p95_latency_ms"), answer.p95_latency_ms),
        ("p99", answer.HasField("p99_latency_ms"), answer.p99_latency_ms),
    )
    known = [f"{name} {say_ms(value)}" for name, is_known, value in latencies if is_known]
    return [
        ("predictions", f"{answer.inference_count:,} ({answer.row_count:,} rows)"),
        ("throughput", f"{answer.throughput_per_s:.3g} per second"),
        ("errors", Text(errors, style="bold red" if answer.error_count else "")),
        ("latency", ", ".join(known)),
        ("confidence", say_share(answer.average_confidence) if answer.HasField("average_confidence") else ""),
        ("accuracy", _accuracy(answer)),
    ]


def _accuracy(answer: pb.GetMetricsResponse) -> Text:
    if not answer.HasField("accuracy"):
        return Text("not known: no feedback could be judged", style="dim")
    judged = f"  {answer.correct_count:,} of {answer.judged_count:,} judged right"
    return Text.assemble((say_share(answer.accuracy), "bold"), (judged, "dim"))
