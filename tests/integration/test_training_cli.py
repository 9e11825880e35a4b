"""`penstock train`, as people type it: a real trainer, registry, inference and monitoring behind it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands import PENSTOCK, run_penstock, run_process
from tests.postgres import PostgresServer
from tests.training import TrainingPlace, training

pytestmark = pytest.mark.slow
Command = Callable[..., subprocess.CompletedProcess[str]]
DEADLINE_S = 300
TELLS = """
def train(context):
    print("hello from the script")
    for epoch in (1, 2):
        context.report(epoch, {"loss": 1.0 / epoch}, total=2)
    raise ValueError("that is all")
"""
WAITS = """
import time
def train(context):
    context.report(1, {"loss": 1.0})
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingPlace]:
    """All services, a dataset whose label is plain to see, and scripts allowed."""
    folder = tmp_path_factory.mktemp("trainer")
    rows = [{"width": number / 10, "height": number % 7, "label": "ab"[number >= 40]} for number in range(80)]
    with training(postgres_server, folder, trainer_scripts_enabled=True) as place:
        place.client.datasets.upload("flowers", rows)
        yield place


@pytest.fixture
def environment(place: TrainingPlace) -> dict[str, str]:
    addresses = {f"PENSTOCK_{name.upper()}_ADDRESS": address for name, address in place.addresses.items()}
    return {**os.environ, **addresses, "NO_COLOR": "1"}


@pytest.fixture
def train(environment: dict[str, str], tmp_path: Path) -> Command:
    """`train(…)` runs a command here; with `process` as one of its own. Its exit code must be as is said."""

    def call(*arguments: str, exit_code: int = 0, process: bool = False) -> subprocess.CompletedProcess[str]:
        runs = run_process if process else run_penstock
        done = runs(["train", *arguments], folder=tmp_path, environment=environment, timeout_s=DEADLINE_S)
        assert done.returncode == exit_code, done.stdout + done.stderr
        return done

    return call


def test_rows_become_a_version_while_lines_tell_how_and_another_run_is_compared_with_it(
    train: Command, tmp_path: Path
) -> None:
    started = ("start", "flowers", "--recipe", "sklearn", "--data", "flowers", "--note", "a tree", "--watch")
    done = train(*started, "-p", "estimator=DecisionTreeClassifier", process=True)
    run = done.stdout.split()[0]
    assert done.stdout.startswith(f"{run}  completed\n")
    assert re.search(r"^ +told +estimator=DecisionTreeClassifier$", done.stdout, re.MULTILINE)
    *told, advice = done.stderr.splitlines()
    assert told[-1] == f"{run}: completed, version 1.0.0 passed validation, since the model has no success criteria"
    assert advice == "to roll it out: penstock model promote flowers 1.0.0"
    (tmp_path / "told.json").write_text(json.dumps({"code": TELLS, "sizes": [8, 4]}))
    told_by_file = ("start", "told", "--recipe", "script", "--params-file", "told.json", "--watch", "--json")
    failed = json.loads(train(*told_by_file, exit_code=1).stdout)
    assert (failed["state"], failed["reason"], failed["done_epochs"]) == ("failed", "TRAINING_FAILED", 2)
    compared = train("compare", run, failed["id"][:18]).stdout
    assert re.search(r"^estimator +DecisionTreeClassifier +–$", compared, re.MULTILINE)  # noqa: RUF001
    assert re.search(r"^sizes +– +\[8, 4\]$", compared, re.MULTILINE)  # noqa: RUF001
    assert re.search(r"^test accuracy +[01]\S*$", compared, re.MULTILINE)
    listed = json.loads(train("list", "--state", "completed", "--model", "flowers", "--json").stdout)
    assert [each["id"] for each in listed] == [run]
    assert train("list", "--state", "failed", "--model", "flowers").stdout.startswith("no run")


def test_a_run_that_fails_is_followed_shown_and_forgotten(train: Command) -> None:
    started = train("start", "told", "--recipe", "script", "--param", f"code={TELLS}", "--json")
    run = json.loads(started.stdout)["id"]
    log = train("logs", run, "--follow", process=True).stdout
    assert "hello from the script" in log
    assert "ValueError: that is all" in log
    documents = [json.loads(line) for line in train("watch", run, "--json", exit_code=1).stdout.splitlines()]
    assert documents[-1]["run"]["state"] == "failed"
    assert [epoch["number"] for each in documents for epoch in each["epochs"]] == [1, 2]
    shown = train("get", run)
    for words in ("that is all", "[TRAINING_FAILED]", "2 of 2"):
        assert words in shown.stdout
    assert f"what helps: `penstock train logs {run}` shows what it printed" in shown.stderr
    assert "[JOB_ENDED]" in train("cancel", run, exit_code=1).stderr
    train("delete", run, "--yes")
    assert "[RUN_NOT_FOUND]" in train("get", run, exit_code=3).stderr


def test_who_presses_ctrl_c_ends_the_watching_and_only_cancel_ends_the_run(
    train: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["train", "start", "waits", "--recipe", "script", "--param", f"code={WAITS}", "--watch"]
    with subprocess.Popen(
        [*PENSTOCK, *arguments], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stderr is not None
        line = next(line for line in watching.stderr if "epoch 1" in line)
        watching.send_signal(signal.SIGINT)
        said = watching.stderr.read()
        assert watching.wait(DEADLINE_S) == 130
    run = line.partition(":")[0]
    assert f"it goes on; to see it again: penstock train watch {run}; to end it: penstock train cancel {run}" in said
    assert json.loads(train("get", run, "--json").stdout)["state"] == "running"
    train("cancel", run)
    assert f"run {run} was cancelled" in train("watch", run, exit_code=1).stderr


def test_what_cannot_be_trained_says_why(train: Command) -> None:
    assert "[UNKNOWN_RECIPE]" in train("start", "new", "--recipe", "magic", exit_code=1).stderr
    refused = train("start", "new", "--recipe", "sklearn", "--data", "nothing", exit_code=3)
    assert "[DATASET_NOT_FOUND]" in refused.stderr
    refused = train("start", "new", "--recipe", "sklearn", "--data", "flowers", "--param", "estimater=x", exit_code=1)
    assert "the recipe sklearn has no such parameter; it has label_column" in refused.stderr
    assert "no answer from 127.0.0.1:1" in train("list", "--url", "127.0.0.1:1", exit_code=6).stderr
    layers = train("recipes", "keras-mlp").stdout
    assert "hidden_units" in layers
    assert "sklearn" in train("recipes").stdout
