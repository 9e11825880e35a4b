"""What a recipe can't do beside training, tried in the real sandbox; what a kernel lacks, the log says."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.trainer.executing.local import LocalLimits
from tests.executing import Ran

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="landlock and seccomp are Linux's"),
]
ATTEMPTS = """
import multiprocessing, os, signal, socket, subprocess, sys, tempfile
from pathlib import Path

def says(attempt):
    try:
        attempt()
    except OSError as error:
        return "refused"
    return "done"

def forked():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

def connected():
    with socket.create_connection(("127.0.0.1", context_port), timeout=1):
        pass

def train(context):
    global context_port
    context_port = context.parameters["port"]
    victim = Path(context.parameters["victim"])
    folder = context.folder.path
    attempts = {
        "read a file of somebody else's": victim.read_text,
        "write to a file of somebody else's": lambda: victim.write_text("mine"),
        "make a file beside the run's folder": lambda: (folder.parent / "mine").write_text("mine"),
        "make a file in the system's temporary folder": lambda: Path("/tmp/penstock-confinement").write_text("mine"),
        "change its rows": lambda: (folder / "data" / "train.parquet").write_text("mine"),
        "change its parent": lambda: (folder / "parent" / "model.onnx").write_text("mine"),
        "link to its rows": lambda: os.link(folder / "data" / "train.parquet", folder / "tmp" / "rows"),
        "list the root": lambda: os.listdir("/"),
        "read the trainer's environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        "kill its guard": lambda: os.kill(os.getppid(), signal.SIGCONT),
        "leave its session": os.setsid,
        "leave its group": lambda: os.setpgid(0, 0),
        "hold memory in a file of no folder": lambda: os.memfd_create("mine"),
        "connect": connected,
        "write a temporary file": lambda: tempfile.NamedTemporaryFile().close(),
        "write at home": lambda: (Path.home() / "mine").write_text("mine"),
        "write a checkpoint": lambda: (context.checkpoint / "state").write_text("mine"),
        "read its rows": (folder / "data" / "train.parquet").read_bytes,
        "start a process": forked,
        "start a program": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    }
    for name, attempt in attempts.items():
        print(f"{name}: {says(attempt)}")
    return left(context)
"""
REFUSED = {
    "read a file of somebody else's",
    "write to a file of somebody else's",
    "make a file beside the run's folder",
    "make a file in the system's temporary folder",
    "change its rows",
    "change its parent",
    "link to its rows",
    "list the root",
    "read the trainer's environment",
    "kill its guard",
    "leave its session",
    "leave its group",
    "hold memory in a file of no folder",
    "connect",
}
ALLOWED = {
    "write a temporary file",
    "write at home",
    "write a checkpoint",
    "read its rows",
    "start a process",
    "start a program",
}


SIGNALS = "kill its guard"


def attempts(path: Path, port: int, limits: LocalLimits) -> dict[str, str]:
    ran = Ran(path, limits)
    (ran.folder.path / "data" / "train.parquet").write_text("rows")
    (ran.folder.parent / "model.onnx").write_text("a model")
    victim = path / "victim"
    victim.write_text("a secret")
    ran.execute(ATTEMPTS, parameters={"victim": str(victim), "port": port})
    assert victim.read_text() == "a secret"
    lines = [line.split(": ") for line in ran.log.splitlines() if line.endswith((": refused", ": done"))]
    found = dict(lines)
    if "uid:" not in ran.log:
        found.pop(SIGNALS)  # landlock has it since its version 6
    return found


@pytest.fixture
def listening_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_a_recipe_reaches_nothing_but_its_own_folder(tmp_path: Path, listening_port: int) -> None:
    tried = attempts(tmp_path, listening_port, LocalLimits(require_sandbox=True))
    assert {name for name, result in tried.items() if result == "refused"} | {SIGNALS} == REFUSED
    assert {name for name, result in tried.items() if result == "done"} == ALLOWED


def test_a_script_connects_where_policy_lets_it_and_reaches_no_file_more(tmp_path: Path, listening_port: int) -> None:
    tried = attempts(tmp_path, listening_port, LocalLimits(require_sandbox=True, script_network=True))
    assert {name for name, result in tried.items() if result == "refused"} | {SIGNALS} == REFUSED - {"connect"}
    assert {name for name, result in tried.items() if result == "done"} == ALLOWED | {"connect"}
