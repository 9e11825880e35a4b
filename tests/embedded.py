"""The embedded suite in miniature, run as a process of its own: what its tests share."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from penstock.cli.embedded.folder import DataFolder, State
from penstock.cli.embedded.processes import is_alive
from tests.waiting import looks

DEADLINE_S = 120.0
TESTDATA = Path(__file__).parent / "testdata"
UP = (sys.executable, str(TESTDATA / "embedded_up.py"))


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true, for two minutes at most."""
    for _ in looks(DEADLINE_S, every_s=0.02):
        if condition():
            return
    raise AssertionError("the condition never came true")


class RunningUp:
    """A `penstock up` in miniature and the processes below it."""

    def __init__(self, folder: Path, command: Sequence[str] = UP) -> None:
        self.folder = DataFolder(folder)
        self.process = subprocess.Popen([*command, str(folder)], stderr=subprocess.PIPE, text=True)

    def ready(self) -> State:
        """Wait until it says that all is healthy."""
        deadline = time.monotonic() + DEADLINE_S
        while (
            (state := self.folder.find_running()) is None or not state.ready or state.supervisor.pid != self.process.pid
        ):
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            assert time.monotonic() < deadline, "it never became healthy"
            time.sleep(0.02)
        return state

    def descendants(self) -> list[psutil.Process]:
        """Every process below it."""
        return psutil.Process(self.process.pid).children(recursive=True)


def all_gone(processes: Sequence[psutil.Process]) -> bool:
    """Say whether none of them runs any more."""
    return not any(is_alive(process) for process in processes)


@pytest.fixture
def running_up() -> Iterator[Callable[..., RunningUp]]:
    """`running_up(folder)` starts one; all are killed at the end, and whatever they left."""
    started: list[RunningUp] = []
    below: list[psutil.Process] = []

    def start(folder: Path, command: Sequence[str] = UP) -> RunningUp:
        started.append(RunningUp(folder, command))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            below += each.descendants()
            each.process.kill()
        each.process.communicate()
    eventually(lambda: all_gone(below))
