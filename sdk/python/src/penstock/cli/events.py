"""`penstock events`: what was predicted lately."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.text import Text

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.formats import say_ms, say_number, say_share
from penstock.cli.model_views import time_of
from penstock.cli.options import Json, Limit, NoColor, Since, Token, Url
from penstock.cli.output import Column, Output

_COLUMNS = (
    Column("time"),
    Column("model", give="cut"),
    Column("version", give="cut", optional=True),
    Column("outcome", give="cut", least_width=20),
    Column("conf.", "right", optional=True),
    Column("latency", "right", optional=True),
    Column("feedback"),
    Column("user", give="cut", optional=True),
    Column("inference id"),
)
_TRACE = Column("trace", give="cut", optional=True)
SHOWN_OUTCOMES = 5


def events(
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="Only this model.")] = "",
    version: Annotated[str, typer.Option("--version", "-v", metavar="V", help="Only this version.")] = "",
    user: Annotated[str, typer.Option("--user", metavar="ID", help="Only this user.")] = "",
    session: Annotated[str, typer.Option("--session", metavar="ID", help="Only this session.")] = "",
    since: Since = timedelta(hours=1),
    errors: Annotated[bool, typer.Option("--errors", help="Only failed predictions.")] = False,
    limit: Limit = 100,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """List predictions, the newest first."""
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        inferences = client.monitoring.list_inferences(
            model=model,
            version=version,
            user_id=user,
            session_id=session,
            from_time=datetime.now(UTC) - since,
            errors_only=errors,
            limit=limit,
        )
        found = list(inferences)
    traced = any(inference.event.trace_id for inference in found)
    columns = (*_COLUMNS, _TRACE) if traced else _COLUMNS
    rows = [_row(output, inference, traced=traced) for inference in found]
    output.answer(
        [document_of(inference) for inference in found], output.table(columns, rows, empty="no predictions match")
    )
    if len(found) == limit:
        output.note(f"the newest {limit}; --limit shows more, --since looks further back")


def _row(output: Output, inference: pb.Inference, *, traced: bool) -> tuple[str | Text, ...]:
    event = inference.event
    return (
        output.time(time_of(inference.time)),
        event.model,
        event.version,
        Text(event.error_code, style="bold red") if event.error_code else _outcomes(inference),
        say_share(event.confidence) if event.HasField("confidence") else "",
        say_ms(event.latency_ms),
        _verdict(inference),
        event.user_id,
        event.inference_id,
        *((event.trace_id,) if traced else ()),
    )


def _outcomes(inference: pb.Inference) -> str:
    outcomes: list[Any] = [document_of(outcome) for outcome in inference.outcomes[:SHOWN_OUTCOMES]]
    more = ", …" if len(inference.outcomes) > SHOWN_OUTCOMES else ""
    return ", ".join(map(say_number, outcomes)) + more


def _verdict(inference: pb.Inference) -> Text:
    judged = [feedback.correct for feedback in inference.feedback if feedback.HasField("correct")]
    if not judged:
        return Text("not judged" if inference.feedback else "", style="dim")
    if len(judged) == 1:
        return Text("right", style="green") if judged[0] else Text("wrong", style="red")
    right = sum(judged)
    return Text(f"{right} of {len(judged)} right", style="green" if right == len(judged) else "yellow")
