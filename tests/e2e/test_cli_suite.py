"""The penstock command and the whole suite, as a newcomer meets them: up, five moves, down."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock.cli.embedded.folder import DataFolder
from penstock.cli.embedded.suite import SERVICES
from tests.commands import PENSTOCK, run_penstock
from tests.embedded import all_gone
from tests.suite import FREE_PORTS
from tests.testdata.models import linear

pytestmark = pytest.mark.slow
DEADLINE_S = 240.0


class Terminal:
    """A folder, and the command run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        self.environment = {**clean, **FREE_PORTS, "HOME": str(folder)}

    def run(self, *arguments: str, exit_code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command, and see that it ends as it should."""
        result = run_penstock(
            arguments, folder=self.folder, environment={**self.environment, **environment}, timeout_s=DEADLINE_S
        )
        assert result.returncode == exit_code, result.stdout + result.stderr
        return result

    def read(self, *arguments: str) -> Any:
        """Run a command, and read its document."""
        return json.loads(self.run(*arguments, "--json").stdout)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.run("down")


def eventually(read: Any) -> Any:
    """Ask until there is an answer."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := read()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)
    return found


def test_a_newcomer_registers_serves_scores_and_rolls_back(terminal: Terminal) -> None:
    (terminal.folder / "linear.onnx").write_bytes(linear())
    terminal.run("status", exit_code=6)
    addresses = terminal.read("up", "--detach")["addresses"]
    assert set(addresses) == {"registry", "inference", "monitoring", "jobs", "fetcher", "trainer"}
    assert terminal.read("status")["healthy"]

    first = terminal.read("model", "register", "linear", "linear.onnx", "--version", "1.0.0")
    assert first["state"] == "ready"
    assert first["deployment_number"] == 1
    terminal.run("model", "register", "linear", "linear.onnx", "--version", "1.0.0", exit_code=4)
    terminal.run("model", "get", "linear", "9.9.9", exit_code=3)
    terminal.run("model", "promote", "linear", "1.0.0", "--to", "production", "--note", "the first")

    name, rows = first["signature"]["inputs"][0]["name"], json.dumps([[0.0] * 4, [1.0] * 4])
    prediction = terminal.read("predict", "linear", f'{{"{name}": {rows}}}', "--user", "ada")
    assert prediction["version"] == "1.0.0"
    inference_id = prediction["inference_id"]
    terminal.run("predict", "linear", '{"wrong": 1}', exit_code=1)

    (event,) = eventually(lambda: terminal.read("events", "--model", "linear", "--user", "ada"))
    assert event["event"]["inference_id"] == inference_id
    terminal.run("feedback", inference_id, "--correct")
    terminal.run("feedback", inference_id, "--row", "1", "--incorrect")
    metrics = terminal.read("metrics", "linear")
    assert (metrics["judged_count"], metrics["accuracy"]) == (2, 0.5)
    assert eventually(lambda: terminal.read("events", "--errors"))[0]["event"]["error_code"] != ""

    terminal.run("model", "register", "linear", "linear.onnx", "--version", "2.0.0")
    promoted = terminal.read("model", "promote", "linear", "2.0.0", "--to", "production", "--note", "better")
    assert promoted["moves"][-1]["replaced"] == "1.0.0"
    terminal.run("model", "rollback", "linear", "--note", "worse")
    assert terminal.read("model", "get", "linear")["production_version"] == "1.0.0"
    assert len(terminal.read("model", "history", "linear")) == 11

    terminal.run("model", "download", "linear", "--to", "copy")
    assert (terminal.folder / "copy" / "linear.onnx").read_bytes() == linear()
    terminal.run("down")
    terminal.run("status", exit_code=6)
    assert "nothing runs" in terminal.run("down").stdout


def test_up_on_a_terminal_shows_its_parts_and_ctrl_c_drains_them(terminal: Terminal) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PENSTOCK, "up"],
        cwd=terminal.folder,
        env={**terminal.environment, "TERM": "xterm", "COLUMNS": "80"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    with closing(os.fdopen(ours, "rb", buffering=0)) as screen:
        shown = _read_until(screen, b"Ctrl-C")
        below = psutil.Process(process.pid).children(recursive=True)
        assert all(part in shown for part in (b"postgres", *(name.encode() for name in SERVICES), "✔".encode()))
        terminal.run("up", exit_code=4)
        process.send_signal(signal.SIGINT)
        assert "stopped; the data stays" in _read_until(screen, b"data stays").decode()
    assert process.wait(DEADLINE_S) == 0
    assert all_gone(below)
    assert DataFolder(terminal.folder / ".penstock").find_running() is None


def _read_until(screen: Any, word: bytes) -> bytes:
    """Read what is shown until a word comes; the end of the process ends the wait."""
    shown = b""
    while word not in shown:
        part = screen.read(4096)
        assert part, shown.decode()
        shown += part
    return shown
