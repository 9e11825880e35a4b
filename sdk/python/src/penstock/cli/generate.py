"""`penstock generate`: have a model write, and read along."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from penstock.cli.connection import Service, connect
from penstock.cli.formats import say_count, say_ms
from penstock.cli.options import Json, Model, NoColor, Token, Url, Version
from penstock.cli.output import Output, printable
from penstock.cli.predict import read_argument

if TYPE_CHECKING:
    from penstock.generation import Completion, Generated

EXAMPLES = """Examples

  penstock generate writer "Once upon a time" --max-tokens 200
  penstock generate talker --chat "Why is the sky blue?"
  penstock generate talker --message "system=Answer in one word." --message "user=Is water wet?"
  cat letter.txt | penstock generate writer - --json
"""


def generate(
    model: Model,
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT | @FILE | -",
            help="The text to go on from. @FILE reads a file, - stdin.",
            show_default="-, or nothing with --message",
        ),
    ] = "",
    chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a user's message.")] = False,
    message: Annotated[
        list[str] | None,
        typer.Option("--message", metavar="ROLE=TEXT", help="A message before the prompt's; again for more."),
    ] = None,
    version: Version = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", metavar="N", help="Write at most so many.")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="X", help="0 (always the likeliest) to 2.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", metavar="X", help="The share of probability to draw from.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="N", help="How many of the likeliest to draw from.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="For the same text again.")] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help="Ends it; again for more.")] = None,
    user: Annotated[str, typer.Option("--user", metavar="ID", help="Who it is for; kept with the event.")] = "",
    session: Annotated[str, typer.Option("--session", metavar="ID", help="Kept with the event.")] = "",
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="Your own id of it. Default: the inference id.")
    ] = "",
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="End it after so long.", min=0.001)
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Have a model write a text, shown as it comes; Ctrl-C ends it. With --json a line of JSON for each piece."""
    output = Output(as_json=as_json, no_color=no_color)
    messages = [_message(text) for text in message or ()]
    said = read_argument(prompt or "-", "text") if prompt or not messages else ""
    if (chat or messages) and said:
        messages.append({"role": "user", "content": said})
    with connect(Service.INFERENCE, url, token) as client:
        generated = client.inference.generate(
            model,
            None if messages else said,
            messages=messages or None,
            version=version or "",
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            stop=stop or (),
            user_id=user,
            session_id=session,
            request_id=request_id,
            timeout_s=timeout_s,
        )
        with generated:
            _show(generated, output)


def _message(text: str) -> dict[str, str]:
    role, equals, content = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} has no =; write role=text, such as user=hello", param_hint="--message")
    return {"role": role, "content": content}


def _show(generated: Generated, output: Output) -> None:
    """Write each piece as it comes; the cursor is left on a line of its own, whatever happens."""
    out = output.stdout.file
    ended_line = True
    try:
        for piece in generated:
            if output.as_json:
                _write_line({"text": piece}, output)
                continue
            ended_line = piece.endswith("\n")  # first: a Ctrl-C may come as soon as the piece is out
            out.write(_shown(piece) if output.stdout.is_terminal else piece)
            out.flush()
    finally:
        if not ended_line:
            out.write("\n")
            out.flush()
    completion = generated.completion
    if completion is None:  # pragma: no cover - reading to the end raises where there is none
        return
    if output.as_json:
        _write_line({"inference_id": generated.inference_id, **dataclasses.asdict(completion)}, output)
    output.note(_summary(generated.inference_id, completion))


def _write_line(document: dict[str, Any], output: Output) -> None:
    output.stdout.file.write(json.dumps(document, ensure_ascii=False) + "\n")
    output.stdout.file.flush()


def _shown(piece: str) -> str:
    """Keep lines and tabs; what else would move the cursor, a model may write and a terminal must not obey."""
    return "\t".join("\n".join(printable(line) for line in part.split("\n")) for part in piece.split("\t"))


def _summary(inference_id: str, completion: Completion) -> Text:
    summary = Text.assemble((f"{completion.model} {completion.version}", "bold"))
    if completion.finish_reason == "length":
        summary.append("  cut at its length", style="yellow")
    counted = (
        say_count(completion.output_token_count, "token") if completion.output_token_count else "tokens not counted"
    )
    times = f"first piece after {say_ms(completion.first_token_ms)}, all in {say_ms(completion.latency_ms)}"
    return summary.append(f"  {counted}, {times}, inference {inference_id}")
