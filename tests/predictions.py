"""The jobs process for the tests: the real composition beside a real registry and monitoring, here or on its own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import penstock
from penstock.api.inference.v1 import prediction_jobs_pb2 as pb
from services.inference.jobs.__main__ import build
from services.inference.jobs.settings import JobsSettings
from tests.inference import register
from tests.postgres import PostgresServer
from tests.registry import DEADLINE_S, wait_until
from tests.services import Running, running, running_monitoring, running_registry
from tests.testdata import models

ROWS = [{"X": [0.1 * number, 0.2, 0.3, 0.4]} for number in range(10)]


@dataclass(frozen=True)
class Place:
    """Where a jobs process finds what it stands on."""

    registry: Running
    monitoring: Running
    database_url: str
    folder: Path

    def settings(self, **more: Any) -> dict[str, Any]:
        """Give the settings of a jobs process here."""
        values = {
            "database_url": self.database_url,
            "blob_url": f"file://{self.folder}/blobs",
            "registry_address": self.registry.address,
            "monitoring_address": self.monitoring.address,
            "cache_dir": str(self.folder / "jobs-cache"),
            "spool_dir": str(self.folder / "jobs-spool"),
            "port": 0,
            "metrics_port": 0,
            "drain_grace_ms": 2_000,
        }
        return {**values, **more}


@contextmanager
def place(server: PostgresServer, folder: Path) -> Iterator[Place]:
    """Run a registry and monitoring with a model to predict with, and a database for jobs."""
    with ExitStack() as stack:
        urls = {name: server.clone(name) for name in ("registry", "monitoring", "inference")}
        for url in urls.values():
            stack.callback(server.drop, url)
        registry = stack.enter_context(running_registry(urls["registry"], folder))
        monitoring = stack.enter_context(running_monitoring(urls["monitoring"]))
        with penstock.Client(registry=registry.address) as client:
            register(client, "iris", models.classifier())
        yield Place(registry, monitoring, urls["inference"], folder)


@contextmanager
def serving(here: Place, **more: Any) -> Iterator[Running]:
    """Run a jobs process in this one."""
    with running(build, JobsSettings.model_validate(here.settings(**more))) as service:
        yield service


@contextmanager
def connected(here: Place, jobs: str, **more: Any) -> Iterator[penstock.Client]:
    """Make a client of all."""
    with penstock.Client(
        registry=here.registry.address, monitoring=here.monitoring.address, jobs=jobs, **more
    ) as client:
        yield client


class JobsProcess:
    """A jobs process of its own, as it is run."""

    def __init__(self, here: Place, **more: Any) -> None:
        settings = here.settings(**more)
        environment = {**os.environ, **{f"PENSTOCK_{key.upper()}": str(value) for key, value in settings.items()}}
        self.log = here.folder / f"jobs-{secrets.token_hex(4)}.log"
        command = [sys.executable, "-m", "services.inference.jobs"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def address(self) -> str:
        """Wait until it listens, and say where."""

        def look() -> str | None:
            assert self.process.poll() is None, self.log.read_text()
            whole = [line for line in self.log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
            lines = [json.loads(line) for line in whole if line.startswith("{")]
            return next((line["address"] for line in lines if line["event"] == "listening"), None)

        return wait_until(look)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and give the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


def lines_of(client: penstock.Client, job: pb.PredictionJob, folder: Path) -> list[dict[str, Any]]:
    """Download a JSONL result."""
    client.jobs.download(job.id, folder / "result.jsonl")
    return [json.loads(line) for line in (folder / "result.jsonl").read_text().splitlines()]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def done(client: penstock.Client, job: pb.PredictionJob) -> pb.PredictionJob:
    """Wait until a job has ended."""
    return client.jobs.wait(job.id, timeout_s=DEADLINE_S)
