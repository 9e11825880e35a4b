"""No sentence that a person reads at the command line names an RPC or a field of the contract."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from penstock.api.inference.v1 import prediction_jobs_pb2 as pb
from penstock.cli.application import app
from penstock.cli.job_views import job_facts
from penstock.cli.output import Output
from penstock.cli.predict import _cell
from penstock.cli.wording import COMMANDS, OF_THE_CALLERS_DATA, at_the_command_line

ROOT = Path(__file__).parents[2]
RPC = re.compile(r"^  rpc (\w+)", re.MULTILINE)
RPCS = frozenset(name for path in ROOT.glob("protos/penstock/**/*.proto") for name in RPC.findall(path.read_text()))
# Parts of uploads are the SDK's matter; a list of TensorFlow's operations.
NO_COMMAND = {"FinishUpload", "Rank"}


def sentences(path: Path) -> Iterator[str]:
    """Give the texts of a file with a space in them, save for docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    yield from (str(node.value) for node in texts if id(node) not in docs and " " in str(node.value))


def test_every_rpc_that_a_sentence_of_a_service_names_has_its_command() -> None:
    named = {
        word
        for path in ROOT.glob("services/**/*.py")
        for sentence in sentences(path)
        for word in re.findall(r"\w+", sentence)
        if word in RPCS
    }
    assert named - NO_COMMAND == named & set(COMMANDS), "penstock.cli.wording has no command for it"


def test_the_commands_are_commands() -> None:
    whole = typer.main.get_command(app)
    for line in COMMANDS.values():
        command = whole
        for word in line.split()[1:]:
            command = command.commands[word]  # type: ignore[attr-defined] # groups have them


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("no model 'x'; ListModels shows which", "no model 'x'; `penstock model list` shows which"),
        ("was deleted; call RestoreModel, or", "was deleted; run `penstock model restore`, or"),
        ("does not say it; give input_format: csv", "does not say it; give --input-format: csv"),
        ("give framework='onnx' (--framework onnx) or another", "give --framework onnx or another"),
        ("at_time: 2026-01-31T22:00 has passed", "--at: 2026-01-31T22:00 has passed"),
        ("required: at_time for once, or cron", "required: --at for once, or cron"),
        ("is live; say `force` to delete it", "is live; say --force to delete it"),
        ("metadata.fields.pooling: 'x' came", "--field pooling: 'x' came"),
        ("metadata.fields: too long", "--field: too long"),
        ("configuration.drift.alpha: got 7", "drift.alpha: got 7"),
        ("window: give from_time or window, not both", "window: give --from or --window, not both"),
        ("window.from_time: it is missing", "--from: it is missing"),
        ("columns.kinds: 'age' has kind 9", "--kind: 'age' has kind 9"),
        ("file.sha256: got 'x'", "--sha256: got 'x'"),
        (
            "no 'from_time' among the model's \"to_time x\", 'Embed a'; give an earlier from_time",
            "no 'from_time' among the model's \"to_time x\", 'Embed a'; give an earlier --from",
        ),
        ("model 'Predict' has no version", "model 'Predict' has no version"),
        ("X_input_format: shape [1]", "X_input_format: shape [1]"),
    ],
)
def test_a_sentence_names_commands_and_options(sentence: str, said: str) -> None:
    assert at_the_command_line(sentence, "ANY") == said


def test_what_a_service_says_of_a_callers_own_names_stays() -> None:
    sentence = "from_time: this input is missing; the model takes 'from_time', \"it's to_time\", Embed, approved_by"
    assert at_the_command_line(sentence, "MISSING_INPUT") == sentence
    reasons = {
        ast.unparse(keyword.value).strip("'")
        for path in ROOT.glob("services/inference/**/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "InvalidArgument.field"
        if re.fullmatch(r"name|shown|\w+\.name", ast.unparse(node.args[0]))
        for keyword in node.keywords
    }
    assert "MISSING_INPUT" in reasons
    assert reasons - {"INVALID_FIELD", "reason"} <= OF_THE_CALLERS_DATA


def test_a_failed_job_says_why_in_a_sentence_and_shows_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    error = pb.JobError(reason="TOO_MANY_FAILED_ROWS", message="3 rows failed, and max_failed_rows allows 1")
    error.traceback = 'Traceback (most recent call last):\n  File "work.py", line 1'
    output = Output(as_json=False, no_color=True)
    output.answer({}, job_facts(output, pb.PredictionJob(id="j", state=pb.JOB_STATE_FAILED, error=error)))
    printed = capsys.readouterr().out
    assert "3 rows failed, and --max-failed-rows allows 1 [TOO_MANY_FAILED_ROWS]" in printed
    assert "Traceback" not in printed
    error.reason = "INTERNAL"
    output.answer({}, job_facts(output, pb.PredictionJob(id="j", state=pb.JOB_STATE_FAILED, error=error)))
    assert "its traceback  shown by --json" in capsys.readouterr().out


def test_a_long_vector_is_shown_by_its_beginning() -> None:
    assert _cell([0.5] * 8) == "[" + ", ".join(["0.5"] * 8) + "]"
    assert _cell([float(n) for n in range(384)]) == "[0, 1, 2, 3, … 380 more]"
    assert _cell([[1.0] * 9] * 10).endswith("[1, 1, 1, 1, … 5 more], … 6 more]")
