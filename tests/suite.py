"""The whole suite, as `penstock up --detach` runs it, and callers that keep it busy: what its tests share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import psutil
import psycopg
import pytest

import penstock
from penstock.cli.embedded.folder import DataFolder, State
from penstock.cli.embedded.health import is_serving
from penstock.cli.embedded.ports import Ports
from penstock.cli.embedded.postgres import PostgresCluster
from penstock.cli.embedded.processes import is_alive
from tests.commands import run_penstock, run_process
from tests.embedded import DEADLINE_S, all_gone, eventually
from tests.testdata import models

FREE_PORTS = {f"PENSTOCK_{field.name.upper()}_PORT": "0" for field in fields(Ports)}
FLOWER = {"X": [5.1, 3.5, 1.4, 0.2]}


class RunningSuite:
    """A suite on a data folder, driven by the command as a person would, with a grip on its processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = DataFolder(folder)
        self.started: list[psutil.Process] = []

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a `penstock` command, in this process where it can be; whatever its exit code."""
        return run_penstock([*map(str, arguments)], **self._surroundings(environment))

    def run_process(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a `penstock` command as a process of its own; whatever its exit code."""
        return run_process([*map(str, arguments)], **self._surroundings(environment))

    def _surroundings(self, said: dict[str, str]) -> dict[str, Any]:
        environment = {**os.environ, **FREE_PORTS, "PENSTOCK_DATA_DIR": str(self.folder.path), **said}
        return {"folder": self.folder.path.parent, "environment": environment, "timeout_s": 2 * DEADLINE_S}

    def json(self, *arguments: str | Path, **environment: str) -> Any:
        """Run a `penstock` command that must succeed, and give the document that it prints."""
        done = self.run(*arguments, "--json", **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def up(self) -> None:
        """Start it, in the background."""
        done = self.run("up", "--detach")
        assert done.returncode == 0, done.stderr
        supervisor = psutil.Process(self.state.supervisor.pid)
        self.started += [supervisor, *supervisor.children(recursive=True)]

    @property
    def state(self) -> State:
        """What it says of itself."""
        state = self.folder.find_running()
        assert state is not None, (self.folder.logs / "up.log").read_text()
        return state

    def process(self, name: str) -> psutil.Process:
        """Find a child of it."""
        return psutil.Process(self.state.children[name].pid)

    def kill(self, name: str) -> None:
        """End a child by SIGKILL, and wait until it is dead."""
        process = self.process(name)
        process.kill()
        eventually(lambda: not is_alive(process))

    @contextmanager
    def unsupervised(self) -> Iterator[None]:
        """Inside, what dies stays dead."""
        supervisor = psutil.Process(self.state.supervisor.pid)
        supervisor.send_signal(signal.SIGSTOP)
        eventually(lambda: supervisor.status() == psutil.STATUS_STOPPED)
        try:
            yield
        finally:
            supervisor.send_signal(signal.SIGCONT)

    def is_serving(self, name: str) -> bool:
        """Ask a service for its health."""
        return is_serving(self.state.addresses[name])

    def metrics(self, name: str) -> dict[str, float]:
        """Read a service's metrics page; a sample with labels counts towards its name's sum."""
        with urlopen(f"http://{self.state.metrics_addresses[name]}/metrics", timeout=60) as page:
            text = page.read().decode()
        return read_metrics(text)

    def client(self, **more: Any) -> penstock.Client:
        """Open a client of it; the caller closes it."""
        return penstock.Client(**{**self.state.addresses, **more})

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask its database, past the services."""
        port = int((self.folder.postgres / "postmaster.pid").read_text().splitlines()[3])
        with psycopg.connect(PostgresCluster(self.folder.postgres).url(port)) as connection:
            return connection.execute(statement.encode()).fetchall()

    def close(self) -> None:
        """Stop it as a person would; nothing of it may be left."""
        assert self.run("down").returncode == 0
        eventually(lambda: all_gone(self.started))


def read_metrics(text: str) -> dict[str, float]:
    """Sum a metrics page's samples by name.

    Not by the parser of Prometheus' client: whoever waits for a number reads the page again and again, and that takes
    the processor from those who are waited for.
    """
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            name = sample.partition("{")[0]
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


@pytest.fixture
def start_suite() -> Iterator[Callable[[Path], RunningSuite]]:
    """`start_suite(folder)` gives a running suite; each is stopped at the end."""
    started: list[RunningSuite] = []

    def start(folder: Path) -> RunningSuite:
        started.append(RunningSuite(folder))
        started[-1].up()
        return started[-1]

    yield start
    for each in reversed(started):
        each.close()


@pytest.fixture
def suite(start_suite: Callable[[Path], RunningSuite], tmp_path: Path) -> RunningSuite:
    """A suite that serves one tiny model, called `tiny`."""
    running = start_suite(tmp_path / "data")
    serve_tiny_model(running.client)
    return running


def serve_tiny_model(connect: Callable[[], penstock.Client]) -> None:
    """Register a tiny model, and wait until inference answers with it."""
    with connect() as client:
        client.registry.register_version("tiny", "1", models.classifier(), framework="onnx")
        eventually(lambda: answers(client))


def answers(client: penstock.Client) -> bool:
    """Say whether the tiny model answers."""
    try:
        client.inference.predict("tiny", FLOWER)
    except (penstock.NotFound, penstock.Unavailable):
        return False
    return True


class Callers:
    """Threads that predict without pause, each prediction once, and remember what they were told."""

    def __init__(self, connect: Callable[[], penstock.Client], count: int = 4) -> None:
        self._client = connect()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=[number]) for number in range(count)]
        self.answered: list[list[str]] = [[] for _ in range(count)]
        """The inference ids, in order, of each caller."""
        self.failures: list[list[Exception]] = [[] for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    @property
    def answer_count(self) -> int:
        """How many predictions were answered."""
        return sum(map(len, self.answered))

    @property
    def all_failures(self) -> list[Exception]:
        """What went wrong, of all callers."""
        return [failure for each in self.failures for failure in each]

    def wait_for(self, more_count: int) -> None:
        """Wait until so many more predictions were answered, for as long as any is."""
        enough = self.answer_count + more_count
        while (so_far := self.answer_count) < enough:
            eventually(lambda: self.answer_count > so_far)

    def wait_for_refusals(self) -> None:
        """Wait until every caller has heard a no: what it hears from then on, nobody said before."""
        known = [len(each) for each in self.failures]
        eventually(lambda: all(len(each) > before for each, before in zip(self.failures, known, strict=True)))

    def _call(self, number: int) -> None:
        count = 0
        while not self._stopping.is_set():
            count += 1
            try:
                answer = self._client.inference.predict(
                    "tiny", FLOWER, user_id=f"caller-{number}", request_id=f"{number}-{count}", timeout_s=20
                )
            except penstock.PenstockError as error:
                self.failures[number].append(error)
                self._stopping.wait(0.02)  # a caller with manners
            else:
                self.answered[number].append(answer.inference_id)
