"""`penstock fetch` on a suite that `penstock up` runs: from a URL to a prediction, and past a fetcher that dies."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

from penstock.cli.embedded.folder import DataFolder
from penstock.cli.embedded.health import is_serving
from tests import origins
from tests.commands import PENSTOCK
from tests.e2e.test_cli_suite import DEADLINE_S, Terminal, eventually
from tests.held_fetches import PART, archive
from tests.origins import Origin
from tests.testdata import models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with origins.serving() as origin:
        yield origin


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path_factory.mktemp("suite"))
    (terminal.folder / ".env").write_text(f"PENSTOCK_FETCHER_ROOTS={(terminal.folder / 'shelf').as_uri()}\n")
    try:
        terminal.run("up", "--detach", PENSTOCK_FETCHER_ALLOWED_HOSTS="127.0.0.1", PENSTOCK_FETCHER_LEASE_MS="3000")
        yield terminal
    finally:
        terminal.run("down")


def test_a_url_becomes_a_model_that_predicts(terminal: Terminal, origin: Origin) -> None:
    url = origin.serve("/plants/flowers.onnx", models.classifier())
    inspected = terminal.read("fetch", "inspect", "url", url)
    assert (inspected["suggested_model"], inspected["download_size_bytes"]) == ("flowers", len(models.classifier()))
    job = terminal.read("fetch", "start", "url", url, "--name", "plants", "--stage", "candidate", "--watch")
    assert (job["state"], job["result"]["model"], job["result"]["version"]) == ("completed", "plants", "v1")
    version = terminal.read("model", "get", "plants", "v1")
    assert (version["stage"], version["source"]["reference"]) == ("candidate", url)
    prediction = eventually(
        lambda: terminal.run("predict", "plants", '{"X": [5.1, 3.5, 1.4, 0.2]}', "--version", "v1", "--json").stdout
    )
    assert json.loads(prediction)["version"] == "v1"
    said = terminal.run("fetch", "get", job["id"][:13])
    assert "to predict with it: penstock predict plants --version v1" in said.stderr
    assert [each["id"] for each in terminal.read("fetch", "list", "--status", "completed", "--name", "plants")] == [
        job["id"]
    ]
    terminal.run("fetch", "start", "url", f"{origin.url}/missing.onnx", "--watch", exit_code=1)
    (failed,) = terminal.read("fetch", "list", "--status", "failed")
    assert failed["error"]["reason"] == "MODEL_NOT_FOUND"
    assert "did you mean url?" in terminal.run("fetch", "start", "ulr", url, exit_code=1).stderr


def test_a_line_of_env_beside_the_suite_lets_it_read_a_folder(terminal: Terminal) -> None:
    shelf = terminal.folder / "shelf"
    shelf.mkdir()
    (shelf / "shelved.onnx").write_bytes(models.classifier())
    enabled = {source["name"]: source.get("enabled", False) for source in terminal.read("fetch", "sources")}
    assert (enabled["filesystem"], enabled["s3"]) == (True, False), "of S3 nothing was said"
    job = terminal.read("fetch", "start", "filesystem", str(shelf / "shelved.onnx"), "--name", "shelved", "--watch")
    assert (job["state"], job["result"]["model"]) == ("completed", "shelved")


def test_neither_ctrl_c_at_the_watcher_nor_a_kill_of_the_fetcher_ends_a_fetch(
    terminal: Terminal, origin: Origin
) -> None:
    go_on = threading.Event()
    content = archive(4 * PART)
    url = origin.serve("/large.zip", content, hold=lambda at: at >= 2 * PART and bool(go_on.wait(DEADLINE_S)))
    job = terminal.read("fetch", "start", "url", url, "--framework", "onnx", "--max-attempts", "20")
    try:
        eventually(lambda: int(terminal.read("fetch", "get", job["id"])["progress"]["done_bytes"]) >= PART)
        _interrupt_a_watcher(terminal, job["id"])
        state = DataFolder(terminal.folder / ".penstock").find_running()
        assert state is not None
        process = psutil.Process(state.children["fetcher"].pid)
        watcher = _begin_to_watch(terminal, job["id"])
        process.kill()
        process.wait(DEADLINE_S)
        sent = origin.sent_bytes
    finally:
        go_on.set()
    eventually(lambda: is_serving(state.addresses["fetcher"]))
    said, complaint = watcher.communicate(timeout=DEADLINE_S)
    assert watcher.returncode == 0, complaint
    ended = json.loads(said.splitlines()[-1])
    assert (ended["state"], ended["result"]["model"]) == ("completed", "large")
    assert ended["attempt_count"] > 1
    assert origin.sent_bytes - sent < len(content), "what was safe did not come again"


def _begin_to_watch(terminal: Terminal, job_id: str) -> subprocess.Popen[str]:
    """Watch a fetch as a program does, and have heard of it once."""
    watcher = subprocess.Popen(
        [*PENSTOCK, "fetch", "watch", job_id, "--json"],
        cwd=terminal.folder,
        env=terminal.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watcher.stdout is not None
    assert json.loads(watcher.stdout.readline())["id"] == job_id
    return watcher


def _interrupt_a_watcher(terminal: Terminal, job_id: str) -> None:
    """Watch a fetch on a terminal until its bar is there, and press Ctrl-C."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PENSTOCK, "fetch", "watch", job_id],
        cwd=terminal.folder,
        env={**terminal.environment, "TERM": "xterm", "COLUMNS": "100"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown, told = b"", f"it goes on; to see it again: penstock fetch watch {job_id}; to end it: penstock fetch cancel"
    with closing(os.fdopen(ours, "rb", buffering=0)) as screen:
        while told not in " ".join(shown.decode(errors="replace").split()):
            part = screen.read(4096)
            assert part, shown.decode()
            if b" of " in shown + part and b" of " not in shown:
                process.send_signal(signal.SIGINT)
            shown += part
    assert process.wait(DEADLINE_S) == 130
