"""`penstock job` on a suite that `penstock up` runs, from a model to a result on disk."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.e2e.test_cli_suite import Terminal
from tests.testdata.models import linear

pytestmark = pytest.mark.slow


def test_a_file_is_predicted_in_the_background_followed_and_fetched(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    try:
        _whole_way(terminal)
    finally:
        terminal.run("down")


def _whole_way(terminal: Terminal) -> None:
    (terminal.folder / "linear.onnx").write_bytes(linear())
    terminal.read("up", "--detach")
    terminal.read("model", "register", "linear", "linear.onnx", "--version", "1.0.0")
    with (terminal.folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x"])
        writer.writerows([[json.dumps([float(row), 0, 0, 0])] for row in range(500)])

    job = terminal.read("job", "create", "linear", "--input", "rows.csv", "--wait", "--output-format", "csv")
    assert (job["state"], job["result"]["row_count"], job["resolved_version"]) == ("completed", 500, "1.0.0")
    target = terminal.read("job", "download", job["id"], "--to", "result.csv")["file"]
    with Path(target).open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 500
    terminal.run("job", "download", job["id"], "--to", "result.csv", exit_code=4)

    status = terminal.read("status")
    (worker,) = status["job_workers"]
    assert worker["live"]
    assert worker["id"] == job["worker_id"]
    assert {service["name"]: service["state"] for service in status["services"]}["jobs"] == "healthy"

    failed = terminal.read("job", "create", "linear", "--rows", '[{"x": "bad"}]')
    terminal.run("job", "watch", failed["id"], exit_code=1)
    assert terminal.read("job", "get", failed["id"])["error"]["reason"] == "ALL_ROWS_FAILED"
    assert [each["id"] for each in terminal.read("job", "list")] == [failed["id"], job["id"]]
    assert [each["id"] for each in terminal.read("job", "list", "--state", "completed")] == [job["id"]]
    assert terminal.read("job", "retry", failed["id"])["state"] in ("queued", "running", "failed")
    terminal.run("job", "cancel", job["id"], exit_code=1)
    terminal.run("job", "delete", job["id"], "--yes")
    terminal.run("job", "get", job["id"], exit_code=3)
