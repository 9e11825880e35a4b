"""What a team does with a model that drifts, by the command alone, on a suite that `penstock up` runs."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from pyarrow import parquet

import penstock
from penstock.api.monitoring.v1.monitoring_pb2 import InferenceEvent
from penstock.cli.__main__ import run
from tests.e2e.test_cli_suite import Terminal, eventually

pytestmark = pytest.mark.slow
NOW = datetime.now(UTC)
COLOURS = ["red", "blue", "green"]
EVENTS = 1_200


class Quick(Terminal):
    """The command in this process, which saves a second for each of many: what is looked at is the suite."""

    def run(self, *arguments: str, exit_code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        out, error = io.StringIO(), io.StringIO()
        surroundings = patch.dict(os.environ, {**self.environment, **environment}, clear=True)
        with surroundings, contextlib.chdir(self.folder), redirect_stdout(out), redirect_stderr(error):
            ended = run(arguments)
        assert ended == exit_code, out.getvalue() + error.getvalue()
        return subprocess.CompletedProcess(arguments, ended, out.getvalue(), error.getvalue())


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    folder = tmp_path_factory.mktemp("watched")
    suite = Terminal(folder)
    suite.environment["PENSTOCK_ALERT_INTERVAL_MS"] = "500"
    try:
        addresses = suite.read("up", "--detach")["addresses"]
        terminal = Quick(folder)
        write_training(terminal.folder / "training.csv")
        with penstock.Client(monitoring=addresses["monitoring"]) as client:
            events = list(traffic())
            results = list(client.monitoring.record_events(events))
            assert all(not result.reason for result in results)
            for number, event in enumerate(events):
                client.monitoring.record_feedback(event.inference_id, correct=number % 20 != 0)
        yield terminal
    finally:
        suite.run("down")


def write_training(path: Path) -> None:
    rng = np.random.default_rng(7)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "age", "income", "colour", "stays", "truth"])
        for row in range(4_000):
            age = rng.normal(40, 10)
            colour = rng.choice(COLOURS, p=[0.6, 0.3, 0.1])
            stays = int(age > 40)
            truth = stays if rng.random() < 0.95 else 1 - stays
            writer.writerow([row, f"{age:.3f}", f"{rng.lognormal(10, 0.5):.2f}", colour, stays, truth])


def traffic() -> Iterator[InferenceEvent]:
    """Two hours of it: the second is a whole σ older, and misses an income in ten."""
    rng = np.random.default_rng(11)
    for number in range(EVENTS):
        late = number >= EVENTS // 2
        age = float(rng.normal(50 if late else 40, 10))
        income = None if late and rng.random() < 0.1 else float(rng.lognormal(10, 0.5))
        yield penstock.make_event(
            "churn",
            version="1.0.0",
            time=NOW - timedelta(minutes=110 - 110 * number / EVENTS),
            features={"age": age, "income": income, "colour": str(rng.choice(COLOURS, p=[0.6, 0.3, 0.1]))},
            prediction={"stays": int(age > 40)},
            confidence=0.9,
            latency_ms=float(rng.lognormal(1.5, 0.6)),
        )


def test_a_team_watches_a_model_that_drifts(terminal: Terminal) -> None:
    profile = terminal.read(
        "profile", "create", "churn", "1.0.0", "--file", "training.csv", "--prediction", "stays", "--label", "truth",
        "--ignore", "row",
    )  # fmt: skip
    assert (profile["row_count"], profile["attached_versions"]) == (4_000, ["1.0.0"])
    assert 0.9 < profile["accuracy"] < 1
    assert terminal.read("profile", "show", "churn", "1.0.0")["id"] == profile["id"]
    assert [each["number"] for each in terminal.read("profile", "list", "churn")] == [1]

    def series() -> int:
        """Count what the rollups have: they are made within seconds."""
        found = terminal.read("metrics", "churn", "-g", "5m", "--since", "3h")["series"]
        return sum(each["total"]["inference_count"] for each in found)

    eventually(lambda: series() == EVENTS)
    (by_version,) = eventually(lambda: with_all_labels(terminal))
    assert by_version["version"] == "1.0.0"
    assert by_version["total"]["accuracy"] == pytest.approx(0.95)

    drift = eventually(lambda: drifted(terminal))
    worst = {result["feature"]: result for result in drift["results"]}
    assert worst["age"]["status"] == "drifted"
    assert worst["colour"]["status"] == "ok"
    terminal.run("monitoring", "set", "drift.window=50m", "--model", "churn")
    scheduled = terminal.read("drift", "check", "churn", "--scheduled")
    assert (scheduled["status"], scheduled["trigger"]) == ("drifted", "schedule")
    assert "[DRIFTED]" in terminal.run("drift", "check", "churn", "--window", "50m", "--fail", exit_code=1).stderr
    assert terminal.read("drift", "show", drift["id"])["summary"] == drift["summary"]
    assert drift["id"] in {each["id"] for each in terminal.read("drift", "list", "--status", "drifted")}

    quality = terminal.read("quality", "check", "churn", "--window", "50m")
    assert ("missing", "income") in {(each["issue"], each["feature"]) for each in quality["findings"]}
    assert terminal.read("quality", "show", quality["id"])["status"] == "violated"


def with_all_labels(terminal: Terminal) -> list[Any] | None:
    """Read the metrics by version; None while labels wait to be counted."""
    found = terminal.read("metrics", "churn", "--by-version", "--since", "3h")["series"]
    return found if sum(each["total"]["feedback_count"] for each in found) == EVENTS else None


def drifted(terminal: Terminal) -> dict[str, object] | None:
    """Check the second hour; None while its bins are not counted yet."""
    found: dict[str, object] = terminal.read("drift", "check", "churn", "--window", "50m")
    return found if found["status"] == "drifted" else None


def test_what_was_found_becomes_an_alert_and_a_retraining(terminal: Terminal) -> None:
    # The rule came with the service.
    alert = eventually(lambda: terminal.read("alert", "list", "--type", "drift", "--state", "firing"))[0]
    assert (alert["rule_name"], alert["model"], alert["version"]) == ("drift", "churn", "1.0.0")
    assert terminal.read("alert", "show", alert["id"])["history"]
    taken = terminal.read("alert", "ack", alert["id"], "--note", "new customers")
    assert taken["acknowledge_note"] == "new customers"
    assert "raised" in terminal.run("lineage", alert["id"]).stdout

    silence = terminal.read("alert", "silence", alert["id"], "--for", "1h", "--note", "it is known")
    assert terminal.read("alert", "show", alert["id"])["silenced"]
    terminal.run("alert", "unsilence", silence["id"])
    assert terminal.read("alert", "silences") == []

    (request,) = eventually(lambda: terminal.read("retraining", "list", "--model", "churn"))
    assert (request["state"], request["reason"]) == ("pending", "drift_detected")
    assert "[RETRAINING_OPEN]" in terminal.run("retraining", "request", "churn", exit_code=1).stderr
    approved = terminal.read("retraining", "approve", request["id"], "--note", "enough new labels")
    assert (approved["state"], approved["decision_note"]) == ("approved", "enough new labels")
    assert approved["message"]  # it waits for the trainer, and says so
    terminal.run("retraining", "approve", request["id"], "--note", "again", exit_code=1)
    nodes = terminal.read("lineage", request["id"])["nodes"]
    assert nodes[0]["kind"] == "retraining_request"
    assert {node["kind"] for node in nodes} >= {"retraining_request", "version", "check"}
    listed = ("retraining", "list", "--model", "churn")
    refused = eventually(lambda: [each for each in terminal.read(*listed) if each["state"] == "failed"])[0]
    assert "there is no model 'churn'" in refused["message"]


def test_rules_channels_and_settings_are_kept(terminal: Terminal) -> None:
    rule = ("alert", "rule")
    made = terminal.read(*rule, "create", "slow", "--when", "p95_latency_ms > 1", "--window", "3h", "--model", "churn")
    assert made["type"] == "latency"
    terminal.run(*rule, "create", "slow", "--when", "p95_latency_ms > 2", "--model", "churn", exit_code=4)
    alert = eventually(lambda: terminal.read("alert", "list", "--type", "latency", "--state", "firing"))[0]
    assert alert["rule_id"] == made["id"]
    assert terminal.read(*rule, "update", "slow", "--when", "p95_latency_ms > 9000")["threshold"] == 9_000
    eventually(lambda: not terminal.read("alert", "list", "--type", "latency"))
    terminal.run(*rule, "delete", "slow", "--yes")
    terminal.run(*rule, "show", "slow", exit_code=3)
    assert {each["name"] for each in terminal.read(*rule, "list")} >= {"errors", "drift", "data-quality"}

    (terminal.folder / "hook.key").write_text("a-secret-of-the-team")
    channel = ("alert", "channel")
    hook = ("--webhook", "https://127.0.0.1:9/hook", "--secret-file", "hook.key")
    assert "[URL_NOT_ALLOWED]" in terminal.run(*channel, "set", "here", *hook, exit_code=1).stderr
    kept = terminal.read(*channel, "set", "ops", "--webhook", "https://example.org/hook", "--secret-file", "hook.key")
    assert "a-secret" not in str(kept)
    assert [each["name"] for each in terminal.read(*channel, "list")] == ["ops"]
    terminal.run(*rule, "update", "drift", "--channel", "ops")
    assert "[CHANNEL_IN_USE]" in terminal.run(*channel, "delete", "ops", "--yes", exit_code=1).stderr
    terminal.run(*rule, "update", "drift", "--no-channel")
    terminal.run(*channel, "delete", "ops", "--yes")

    changed = terminal.read("monitoring", "set", "quality.interval=30m", "-m", "churn", "--note", "a busy model")
    assert changed["effective"]["quality"]["interval"] == "30m"
    assert re.search(r"quality\.interval +30m +churn", terminal.run("monitoring", "get", "churn").stdout)
    change, _ = terminal.read("monitoring", "changes", "churn")
    assert change["note"] == "a busy model"
    assert "[INVALID_CONFIGURATION]" in terminal.run("monitoring", "set", "drift.alpha=3", exit_code=1).stderr
    terminal.run("monitoring", "set", "quality.interval=", "-m", "churn")


def test_events_and_metrics_leave_as_files(terminal: Terminal) -> None:
    terminal.read("events", "export", "churn", "--from", "3h", "--out", "events.csv")
    with (terminal.folder / "events.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == EVENTS
    assert rows[0]["time"] < rows[-1]["time"]
    terminal.run("events", "export", "churn", "--out", "events.csv", exit_code=4)
    terminal.read("events", "export", "churn", "--from", "3h", "--out", "events.parquet", "--payloads")
    assert parquet.read_table(terminal.folder / "events.parquet").num_rows == EVENTS
    terminal.read("metrics", "churn", "-g", "5m", "--since", "3h", "--out", "metrics.parquet")
    points = parquet.read_table(terminal.folder / "metrics.parquet").to_pydict()
    assert sum(points["inference_count"]) == EVENTS
    live = terminal.read("events", "--model", "churn", "--limit", "3")
    assert len(live) == 3
