"""`penstock generate` against a real server in this process whose answers are scripted."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.api.inference.v1 import inference_pb2 as pb
from penstock.cli.__main__ import run
from services.common import errors
from tests.cli_script import Script, script

__all__ = ["script"]

END = pb.GenerateResponse(
    inference_id="7",
    completion=pb.Completion(
        finish_reason=pb.FINISH_REASON_STOP, prompt_token_count=2, output_token_count=3, first_token_ms=1.5,
        latency_ms=2.5, model="writer", version="1",
    ),
)  # fmt: skip


@pytest.fixture
def written(script: Script) -> Script:
    pieces = (pb.GenerateResponse(inference_id="7", text=text) for text in ("one\n", "\x1b[2Jtwo"))
    script.answers["Generate"] = [*pieces, END]
    return script


def test_the_text_is_the_answer_and_the_rest_a_note(written: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "writer", "count", "--max-tokens", "5", "--stop", ".", "--temperature", "0"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "one\n\x1b[2Jtwo\n", "piped, the text goes out as it is"
    assert "3 tokens" in printed.err
    assert "inference 7" in printed.err
    (request,) = written.asked
    assert (request.prompt, list(request.messages)) == ("count", [])
    assert (request.options.max_tokens, list(request.options.stop)) == (5, ["."])
    assert request.options.HasField("temperature")


def test_a_terminal_obeys_nothing_that_a_model_writes(
    written: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run(["generate", "writer", "count"]) == 0
    assert capsys.readouterr().out == "one\n [2Jtwo\n"


def test_with_json_each_piece_is_a_line(written: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "writer", "count", "--json"]) == 0
    first, second, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first, second["text"]) == ({"text": "one\n"}, "\x1b[2Jtwo")
    assert (end["inference_id"], end["finish_reason"], end["output_token_count"]) == ("7", "stop", 3)


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--chat", "why?"], [("user", "why?")]),
        (["--message", "system=Be brief=.", "why?"], [("system", "Be brief=."), ("user", "why?")]),
        (["--message", "user=why?"], [("user", "why?")]),
    ],
)
def test_messages_make_a_conversation(written: Script, arguments: list[str], messages: list[tuple[str, str]]) -> None:
    assert run(["generate", "talker", *arguments]) == 0
    (request,) = written.asked
    assert request.prompt == ""
    assert [(each.role, each.content) for each in request.messages] == messages


def test_the_prompt_may_come_from_a_file_or_from_stdin(
    written: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompt.txt").write_text("of a file")
    monkeypatch.setattr("sys.stdin", io.StringIO("of stdin"))
    for arguments in (["@prompt.txt"], ["-"]):
        assert run(["generate", "writer", *arguments]) == 0
    assert [request.prompt for request in written.asked] == ["of a file", "of stdin"]


def test_a_message_without_a_role_is_refused(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "talker", "--message", "hello"]) == 2
    assert "role=text" in capsys.readouterr().err
    assert script.asked == []


def test_a_model_of_the_other_mode_says_which_option_helps(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.answers["Generate"] = errors.FailedPrecondition("it takes `messages`", reason="WRONG_MODE")
    assert run(["generate", "talker", "hello"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "penstock: it takes `messages`; --chat sends the prompt as a message [WRONG_MODE]\n"


class StruckAsItWrites(io.StringIO):
    """A terminal whose Ctrl-C comes the moment that the first piece is out."""

    def __init__(self) -> None:
        super().__init__()
        self._struck = False

    def flush(self) -> None:
        super().flush()
        if self.getvalue() and not self._struck:
            self._struck = True
            raise KeyboardInterrupt


def test_ctrl_c_right_after_the_first_piece_ends_the_line_too(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script.answers["Generate"] = lambda request: iter([pb.GenerateResponse(inference_id="7", text="more ")] * 2)
    stdout = StruckAsItWrites()
    monkeypatch.setattr("sys.stdout", stdout)
    assert run(["generate", "writer", "count"]) == 130
    assert stdout.getvalue() == "more \n"


@pytest.mark.slow
def test_ctrl_c_ends_the_generation_and_leaves_the_cursor_on_a_line_of_its_own(script: Script) -> None:
    asked_on = threading.Event()

    def endless(request: pb.GenerateRequest) -> Iterator[pb.GenerateResponse]:
        try:
            while not asked_on.wait(0.01):
                yield pb.GenerateResponse(inference_id="7", text="more ")
        finally:
            asked_on.set()  # grpc lets go of a call that was cancelled

    script.answers["Generate"] = endless
    command = [sys.executable, "-m", "penstock.cli", "generate", "writer", "count"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == "more "
        process.send_signal(signal.SIGINT)
        rest, notes = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest.endswith("\n")
    assert "Traceback" not in notes
    assert asked_on.wait(60)
