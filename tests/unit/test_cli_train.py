"""`penstock train` against a scripted trainer: what is asked, what is shown, and what to do next."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.style import Style
from rich.text import Text

from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.cli import train_advice
from penstock.cli.__main__ import run
from penstock.cli.train_advice import next_step
from penstock.values import from_value, to_struct, to_value
from services.common import errors
from services.trainer import faults
from services.trainer.settings import TrainerSettings
from tests.sdk import ScriptedServer, answer, fail, scripted_server, stream

ID = "01934a1e-7c00-7000-8000-000000000001"
BEST = "bold color(2)"
"""How a terminal has what is bold green."""
OTHER = "01934a1f-7c00-7000-8000-000000000002"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        monkeypatch.setenv("PENSTOCK_TRAINER_ADDRESS", server.address)
        monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let rich believe in a terminal of 80 columns; tests set others."""
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def run_in(state: str, reason: str = "", **more: Any) -> pb.TrainingRun:
    given = {"id": ID, "model": "iris", "recipe": "sklearn", "message": "it went wrong" if reason else ""} | more
    made = pb.TrainingRun(state=pb.TrainingRunState.Value(f"TRAINING_RUN_STATE_{state}"), reason=reason, **given)
    made.create_time.GetCurrentTime()
    if state in ("COMPLETED", "FAILED", "CANCELLED"):
        made.end_time.GetCurrentTime()
    return made


def completed(**more: Any) -> pb.TrainingRun:
    return run_in("COMPLETED", **{"new_version": "v7", "validation_passed": True, **more})


def going(epoch_count: int = 20) -> list[pb.WatchTrainingRunResponse]:
    """Give a run as it goes on: queued, running, an epoch at a time, done."""
    answers = [pb.WatchTrainingRunResponse(run=run_in("QUEUED"))]
    for number in range(1, epoch_count + 1):
        epoch = pb.TrainingEpoch(number=number, metrics={"loss": 1 / number})
        at = run_in("RUNNING", done_epochs=number, total_epochs=epoch_count)
        answers.append(pb.WatchTrainingRunResponse(run=at, epochs=[epoch]))
    return [*answers, pb.WatchTrainingRunResponse(run=completed(done_epochs=epoch_count, total_epochs=epoch_count))]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert run(["train", *arguments]) == exit_code
    said = capsys.readouterr()
    return Text.from_ansi(said.out).plain, Text.from_ansi(said.err).plain


def test_a_start_says_all_that_was_asked_for(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("CreateTrainingRun", answer(pb.CreateTrainingRunResponse(run=run_in("QUEUED"))))
    Path("told.yaml").write_text("epochs: 3\nactivation: relu\nclass_weights: {0: 1, 1: 2.5}\n")
    _, err = printed(
        capsys, "start", "iris", "--recipe", "keras-mlp", "--params-file", "told.yaml", "--param", "hidden=[8,4]",
        "-p", "activation=tanh", "--param", "scaling=standard", "--data", "flowers/2+traffic:7d", "--type", "finetune",
        "--parent", "v1", "--version", "v2", "--executor", "ray", "--note", "why not", "--request-id", "once",
    )  # fmt: skip
    (asked,) = server.calls["CreateTrainingRun"]
    told = {name: from_value(value) for name, value in asked.parameters.fields.items()}
    weights = {"0": 1, "1": 2.5}
    assert told == {
        "epochs": 3, "activation": "tanh", "class_weights": weights, "hidden": [8, 4], "scaling": "standard"
    }  # fmt: skip
    assert (asked.model, asked.recipe, asked.data_source) == ("iris", "keras-mlp", "flowers/2+traffic:7d")
    assert (asked.type, asked.executor) == (pb.TRAINING_TYPE_FINETUNE, pb.TRAINING_EXECUTOR_RAY)
    assert (asked.parent_version, asked.version, asked.trigger.note) == ("v1", "v2", "why not")
    assert asked.request_id == "once"
    assert f"penstock train watch {ID}" in err


@pytest.mark.parametrize(
    ("content", "reason", "exit_code"),
    [
        (b"a: [1", "INVALID_FILE", 1),
        (b"- 1", "INVALID_FILE", 1),
        (b"", "INVALID_FILE", 1),
        (b"1: 2", "INVALID_FILE", 1),
        (b"a: 2020-01-01", "INVALID_FILE", 1),
        (b"a: .nan", "INVALID_FILE", 1),
        (b"\xff\xfe\xff", "INVALID_FILE", 1),
        (None, "FILE_NOT_FOUND", 3),
    ],
)
def test_a_file_that_holds_no_parameters_is_refused_by_its_name(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], content: bytes | None, reason: str, exit_code: int
) -> None:
    if content is not None:
        Path("told.yaml").write_bytes(content)
    _, err = printed(capsys, "start", "iris", "--params-file", "told.yaml", exit_code=exit_code)
    assert err.startswith("penstock: told.yaml")
    assert f"[{reason}]" in err
    assert not server.calls


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["start", "iris", "--param", "x"], "'x' is not of the form NAME=VALUE"),
        (["start", "iris", "--type", "again"], "'initial', 'retrain', 'finetune'"),
        (["list", "--state", "done"], "'completed'"),
        (["compare", ID], "name two runs or more"),
        (["get", "019"], "at least 4 characters"),
    ],
)
def test_what_is_written_wrongly_is_refused_before_anything_is_asked(
    server: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], sentence: str,
) -> None:  # fmt: skip
    terminal.setenv("COLUMNS", "200")
    assert sentence in printed(capsys, *arguments, exit_code=2)[1]
    assert not server.calls


def test_where_nobody_watches_ten_lines_tell_of_the_epochs_and_the_loss(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("CreateTrainingRun", answer(pb.CreateTrainingRunResponse(run=run_in("QUEUED"))))
    server.on("WatchTrainingRun", stream(*(each for each in going() for _ in range(2))))
    out, err = printed(capsys, "start", "iris", "--watch")
    lines = [line.removeprefix(f"{ID}: ") for line in err.splitlines()]
    assert lines[:3] == ["queued", "running, epoch 1 of 20, loss 1", "running, epoch 2 of 20, loss 0.5"]
    assert lines[-3] == "running, epoch 20 of 20, loss 0.05"
    assert lines[-2:] == ["completed, epoch 20 of 20, loss 0.05", "to roll it out: penstock model promote iris v7"]
    assert len(lines) == 14
    assert out.startswith(f"{ID}  completed")


def test_on_a_terminal_a_bar_and_the_curves_are_shown_within_its_width(
    server: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("WatchTrainingRun", stream(*going(200)))
    _, err = printed(capsys, "watch", ID)
    assert "epoch 200 of 200" in err
    curve = re.findall(r"^loss +(\S+) 0.005$", err, re.MULTILINE)[-1]
    assert 20 <= len(curve) <= 48, "a picture of all epochs, and no longer than its place"


def test_scripts_have_a_document_a_line_and_the_exit_code(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("WatchTrainingRun", stream(*going(2)))
    out, err = printed(capsys, "watch", ID, "--json")
    documents = [json.loads(line) for line in out.splitlines()]
    assert [each["run"]["state"] for each in documents] == ["queued", "running", "running", "completed"]
    assert documents[1]["epochs"][0]["metrics"] == {"loss": 1.0}
    assert err == ""
    server.on("CreateTrainingRun", answer(pb.CreateTrainingRunResponse(run=run_in("QUEUED"))))
    out, err = printed(capsys, "start", "iris", "--watch", "--json")
    assert (json.loads(out)["state"], err) == ("completed", "")


@pytest.mark.parametrize(
    ("ended", "last"),
    [
        (run_in("FAILED", "LOSS_NOT_FINITE"), f"penstock: run {ID} failed [LOSS_NOT_FINITE]"),
        (run_in("CANCELLED"), f"penstock: run {ID} was cancelled [RUN_NOT_COMPLETED]"),
    ],
)
def test_a_run_that_did_not_complete_ends_its_watching_with_1(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], ended: pb.TrainingRun, last: str
) -> None:
    server.on("WatchTrainingRun", stream(pb.WatchTrainingRunResponse(run=ended)))
    server.on("GetTrainingRun", answer(pb.GetTrainingRunResponse(run=ended)))
    _, err = printed(capsys, "watch", ID, exit_code=1)
    assert err.splitlines()[-1] == last
    printed(capsys, "watch", ID, "--json", exit_code=1)
    printed(capsys, "get", ID)


def test_who_stops_watching_is_told_that_the_run_goes_on(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    server.on("WatchTrainingRun", stream(pb.WatchTrainingRunResponse(run=run_in("RUNNING"))))
    monkeypatch.setattr("penstock.cli.train_progress.follow", interrupt)
    _, err = printed(capsys, "watch", ID, exit_code=130)
    assert f"it goes on; to see it again: penstock train watch {ID}; to end it: penstock train cancel {ID}" in err
    assert "CancelTrainingRun" not in server.calls


def test_a_watch_says_once_that_the_trainer_is_away_and_how_to_see_the_run_again(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("penstock.training.WATCH_PATIENCE_S", 0.0)
    monkeypatch.setattr("time.sleep", lambda _: None)
    gone = errors.Unavailable("the trainer stops")
    server.on("WatchTrainingRun", stream(pb.WatchTrainingRunResponse(run=run_in("QUEUED")), then=gone), fail(gone))
    for more in ([], ["--json"]):
        _, err = printed(capsys, "watch", ID, *more, exit_code=6)
        assert err.count("the trainer gives no answer, trying again") == (not more)
        assert f"run {ID} goes on when it is back: `penstock train watch {ID}` shows it again" in err


def test_runs_are_listed_by_state_and_model_and_found_by_how_they_begin(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = pb.ListTrainingRunsResponse(runs=[run_in("FAILED", "TIME_LIMIT"), completed(id=OTHER)])
    server.on("ListTrainingRuns", answer(listed))
    out, _ = printed(capsys, "list", "-s", "failed", "--status", "completed", "-m", "iris", "-n", "7")
    (asked,) = server.calls["ListTrainingRuns"]
    assert list(asked.states) == [pb.TRAINING_RUN_STATE_FAILED, pb.TRAINING_RUN_STATE_COMPLETED]
    assert (asked.model, asked.page_size) == ("iris", 7)
    assert re.search(rf"{ID} +failed +iris +TIME_LIMIT +sklearn", out)
    server.on("CancelTrainingRun", answer(pb.CancelTrainingRunResponse(run=run_in("CANCELLED", id=OTHER))))
    out, err = printed(capsys, "cancel", OTHER[:8])
    assert server.calls["CancelTrainingRun"][0].id == OTHER
    assert "to train again: penstock train start iris" in err
    assert "2 ids begin with 01934" in printed(capsys, "cancel", "01934", exit_code=2)[1]


def test_what_was_printed_comes_as_it_is_and_gaps_are_told(
    server: ScriptedServer, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    pieces = [pb.ReadTrainingLogResponse(chunk=b"a\xff\x1b[1m\n"), pb.ReadTrainingLogResponse(chunk=b"z", offset=4_007)]
    server.on("ReadTrainingLog", stream(*pieces), stream())
    assert run(["train", "logs", ID, "--follow"]) == 0
    assert capsysbinary.readouterr() == (b"a\xff\x1b[1m\nz", b"4,000 bytes were not kept here\n")
    assert server.calls["ReadTrainingLog"][0].follow
    assert run(["train", "logs", ID]) == 0
    assert capsysbinary.readouterr() == (b"", b"it has printed nothing\n")


def test_what_the_recipe_says_of_a_run_is_shown(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    notes = ["the estimator is Ridge", "2 rows without a label were left out"]
    server.on("GetTrainingRun", answer(pb.GetTrainingRunResponse(run=completed(notes=notes))))
    lines = printed(capsys, "get", ID)[0].splitlines()
    assert [line.split() for line in lines if "estimator" in line] == [["notes", *notes[0].split()]]
    assert notes[1] in [line.strip() for line in lines]


def test_what_differs_is_set_side_by_side_with_the_best_in_bold(
    server: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = completed(parameters=to_struct({"hidden": [8, 4], "same": 1, "estimator": "RandomForestClassifier"}))
    one.test_metrics.update({"accuracy": 0.9, "loss": 0.5})
    other = completed(id=OTHER, parameters=to_struct({"hidden": [16], "same": 1}), duration_ms=90_000)
    other.test_metrics.update({"accuracy": 0.8, "loss": 0.4})
    server.on("GetTrainingRun", *[answer(pb.GetTrainingRunResponse(run=each)) for each in (one, other)] * 2)
    assert run(["train", "compare", ID, OTHER]) == 0
    shown = Text.from_ansi(capsys.readouterr().out)
    rows = [re.split(r" {2,}", line) for line in shown.plain.splitlines()]
    for row in (["hidden", "[8, 4]", "[16]"], ["estimator", "RandomForestClassifier", "–"], ["took", "1m 30s"]):  # noqa: RUF001
        assert row in rows
    assert not any(row[0] == "same" for row in rows)
    assert max(map(len, shown.plain.splitlines())) <= 80
    bold = [shown.plain[each.start : each.end].strip() for each in shown.spans if each.style == Style.parse(BEST)]
    assert bold == ["0.4", "0.9"], "the lower loss, the higher accuracy"
    terminal.setenv("NO_COLOR", "1")
    assert len(json.loads(printed(capsys, "compare", ID, OTHER, "--json")[0])) == 2


def test_piped_runs_are_compared_below_ids_that_can_be_copied(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [completed(), completed(id=OTHER)]
    server.on("GetTrainingRun", *[answer(pb.GetTrainingRunResponse(run=each)) for each in runs])
    assert printed(capsys, "compare", ID, OTHER)[0].splitlines()[0].split() == ["RUN", ID, OTHER]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_what_is_shown_fits_the_terminal_and_why_it_failed_stays(
    server: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    terminal.setenv("COLUMNS", str(width))
    code = to_struct({"code": "import time\n" * 40, "estimator_parameters": {"max_depth": 3}})
    failed = run_in(
        "FAILED", "REGISTRATION_FAILED", model="m" * 128, parameters=code, dataset="d" * 128 + "/1",
        feature_columns=[f"column_{number}" for number in range(300)], environment={"numpy": "2", "python": "3" * 90},
    )  # fmt: skip
    done = completed(id=OTHER, parameters=code, done_epochs=1_000_000, total_epochs=2_000_000)
    done.train_metrics.update({"accuracy": 0.123456789, "f1[a-rather-long-name-of-a-class]": 1e-9})
    server.on("ListTrainingRuns", answer(pb.ListTrainingRunsResponse(runs=[failed, done])))
    server.on("GetTrainingRun", *[answer(pb.GetTrainingRunResponse(run=each)) for each in (failed, done)] * 2)
    for arguments in (["list"], ["get", ID], ["get", OTHER], ["compare", ID, OTHER]):
        out, err = printed(capsys, *arguments)
        lines = [line for line in (out + err).splitlines() if "penstock " not in line]  # to be copied
        assert max(Text(line).cell_len for line in lines) <= width, out
        if width >= 80 and arguments != ["get", OTHER]:
            assert "REGISTRATION_FAILED" in out or arguments[0] == "compare"
        assert "3.0" not in out, "what was told as a whole number is one"


def test_a_recipe_is_shown_with_what_it_takes(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    layers = pb.RecipeParameter(name="hidden", description="Units.", default_value=to_value("hidden", [64, 32]))
    needed = pb.RecipeParameter(name="code", description="Python.")
    known = [
        pb.Recipe(name="keras-mlp", description="Dense layers.", allowed=True, parameters=[layers, needed]),
        pb.Recipe(name="script", description="Your own.", refusal="scripts are off"),
    ]
    server.on("ListRecipes", answer(pb.ListRecipesResponse(recipes=known)))
    out, _ = printed(capsys, "recipes", "keras-mlp")
    assert re.search(r"^hidden +\[64, 32\] +Units\.$", out, re.MULTILINE)
    assert re.search(r"^code +required +Python\.$", out, re.MULTILINE)
    out, _ = printed(capsys, "recipes")
    assert re.search(r"^script +no +Your own\. +scripts are off$", out, re.MULTILINE)
    _, err = printed(capsys, "recipes", "keras", exit_code=1)
    assert "there is no recipe 'keras'; there are keras-mlp, script [UNKNOWN_RECIPE]" in err


def test_a_run_is_forgotten_once_it_is_wished_twice(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("DeleteTrainingRun", answer(pb.DeleteTrainingRunResponse()))
    monkeypatch.setattr("typer.confirm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    printed(capsys, "delete", ID, exit_code=130)
    assert not server.calls
    out, _ = printed(capsys, "delete", ID, "--yes", "--json")
    assert json.loads(out) == {"id": ID, "deleted": True}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (run_in("QUEUED"), f"penstock train watch {ID}"),
        (completed(), "penstock model promote iris v7"),
        (completed(validation_passed=False), "penstock predict iris --version v7"),
        (run_in("CANCELLED"), "penstock train start iris"),
        (run_in("FAILED", "TRAINING_FAILED"), f"penstock train logs {ID}"),
        (run_in("FAILED", "INVALID_PARAMETERS"), "penstock train recipes sklearn"),
        (run_in("FAILED", "INVALID_DATA", dataset="flowers/2"), "penstock dataset show flowers/2"),
        (run_in("FAILED", "INVALID_DATA", data_source="traffic:7d"), "the error names, or choose others"),
        (run_in("FAILED", "DATABASE_TIMEOUT", retryable=True), "the same again may help"),
    ],
)
def test_the_next_thing_to_do_is_said_of_every_state(made: pb.TrainingRun, said: str) -> None:
    assert said in next_step(made)


def test_every_reason_has_its_help_and_every_setting_that_it_names_exists() -> None:
    settings = {f"PENSTOCK_{name.upper()}" for name in TrainerSettings.model_fields}
    for reason in faults.RECIPE_REASONS | faults.RETRYABLE | set(train_advice._BY_REASON):
        advice = next_step(run_in("FAILED", reason, retryable=reason in faults.RETRYABLE))
        assert set(re.findall(r"PENSTOCK_[A-Z0-9_]+", advice)) <= settings, advice
        assert not re.search(r"[{}]", advice)
