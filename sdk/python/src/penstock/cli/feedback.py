"""`penstock feedback`: say what really happened."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from penstock.cli.connection import Service, connect
from penstock.cli.documents import document_of
from penstock.cli.formats import parse_scalar
from penstock.cli.options import Json, NoColor, Token, Url
from penstock.cli.output import Output


def feedback(
    inference_id: Annotated[str, typer.Argument(help="The id that the prediction gave.", show_default=False)],
    outcome: Annotated[
        str | None,
        typer.Option(
            "--outcome",
            metavar="X",
            help="What really happened: a number, true, false, or else a text ('\"1\"' is the text 1).",
        ),
    ] = None,
    correct: Annotated[
        bool | None,
        typer.Option(
            "--correct/--incorrect", help="Whether the prediction was right. Default: the outcome is compared with it."
        ),
    ] = None,
    row: Annotated[int, typer.Option("--row", min=0, help="Which row of the request, from 0.")] = 0,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Say what really happened to a prediction; early and again is fine, the latest word counts."""
    if outcome is None and correct is None:
        raise typer.BadParameter("give --outcome, or --correct or --incorrect, or both")
    output = Output(as_json=as_json, no_color=no_color)
    with connect(Service.MONITORING, url, token) as client:
        answer = client.monitoring.record_feedback(
            inference_id, None if outcome is None else parse_scalar(outcome), correct=correct, row=row
        )
    judged = "right" if answer.feedback.correct else "wrong"
    verdict = f"the prediction was {judged}" if answer.feedback.HasField("correct") else "not judged (yet)"
    known = "" if answer.matched else "; the inference is not known yet, they are joined when it comes"
    output.warn(answer.warnings)
    output.answer(document_of(answer), Text(f"recorded for row {answer.feedback.row}: {verdict}{known}"))
