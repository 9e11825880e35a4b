"""A fetch by processes of their own, held in the middle of its file for as long as a test likes."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

import penstock
from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from tests.origins import Origin
from tests.registry import RegistryProcess, wait_until
from tests.testdata import models

PART = 8 * 1024 * 1024
SAFE = (0, 1, 2)
"""The parts of a held file that come before it is held."""


@dataclass(frozen=True)
class HeldFetch:
    """A model whose bytes wait for `go_on` after its first three parts."""

    origin: Origin
    url: str
    sha256: str
    folder: Path
    database: str
    registry: str
    arrived: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def process(self, **more: Any) -> Iterator[tuple[RegistryProcess, penstock.Client]]:
        """Run a fetcher, with a client of it; it is ended by SIGTERM unless it has ended."""
        settings: dict[str, Any] = {
            "module": "services.fetcher",
            "registry_address": self.registry,
            "fetcher_allowed_hosts": "127.0.0.1",
            "fetcher_lease_ms": 3_000,
            "fetcher_backoff_ms": 1,
            "fetcher_host_burst": 10_000,
            **more,
        }
        running = RegistryProcess(settings.pop("database", self.database), self.folder, **settings)
        try:
            with penstock.Client(fetcher=running.address()) as client:
                yield running, client
        finally:
            running.end()

    def start(self, client: penstock.Client, **more: Any) -> pb.FetchJob:
        """Begin, and wait until all is here that comes before it is held."""
        job = client.fetcher.start("url", self.url, framework="onnx", **more)
        assert self.arrived.wait(60)
        wait_until(lambda: noted_parts(self.database) == list(SAFE) or None)
        return job

    def ended_by_turns(self, client: penstock.Client, job: pb.FetchJob) -> pb.FetchJob:
        """Wait for a job's end, and let the time pass that it waits between its attempts."""
        with closing(client.fetcher.watch(job.id)) as watched:
            for seen in watched:
                if seen.state == pb.FETCH_JOB_STATE_PENDING:
                    due = (
                        "UPDATE fetcher.fetch_jobs SET due_time = clock_timestamp() WHERE state = 'QUEUED' RETURNING 1"
                    )
                    rows(self.database, due)
        return seen

    def asked_again(self, since: int, parts: Sequence[int] = SAFE) -> list[range]:
        """Give what was asked for from a request on although it was safe; looks at the first byte aside."""
        found = []
        for _, headers in self.origin.asked[since:]:
            begin, _, end = headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            asked = range(int(begin), int(end) + 1 if end else sys.maxsize)
            if len(asked) > 1 and any(asked.start < PART * (part + 1) and PART * part < asked.stop for part in parts):
                found.append(asked)
        return found

    def whole(self) -> bool:
        """Say whether the file is here, all of it as it was sent."""
        return bool(rows(self.database, "SELECT FROM fetcher.downloads WHERE sha256 = %s", self.sha256))


@contextmanager
def held_fetch(origin: Origin, folder: Path, databases: Callable[[str], str], registry: str) -> Iterator[HeldFetch]:
    """Serve a model of five parts, the last of them small; nothing waits any more afterwards."""
    content = archive(4 * PART)
    url = f"{origin.url}/model.zip"
    held = HeldFetch(origin, url, hashlib.sha256(content).hexdigest(), folder, databases("fetcher"), registry)

    def hold(position: int) -> None:
        if position >= PART * len(SAFE):
            held.arrived.set()
            held.go_on.wait(120)

    origin.serve("/model.zip", content, hold=hold)
    try:
        yield held
    finally:
        held.go_on.set()


def archive(size: int) -> bytes:
    """Make a model that can be served, of a little more than so many bytes, in a ZIP archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archived:
        archived.writestr("graph.onnx", models.classifier())
        archived.writestr("padding.bin", os.urandom(size))
    return packed.getvalue()


def ended(client: penstock.Client, job: pb.FetchJob) -> pb.FetchJob:
    """Wait for a job's end."""
    with closing(client.fetcher.watch(job.id)) as watched:
        *_, last = watched
    return last


def faulted(client: penstock.Client, job: pb.FetchJob, reason: str) -> pb.FetchJob:
    """Wait until a job was put back because of a fault."""
    with closing(client.fetcher.watch(job.id)) as watched:
        for seen in watched:
            if seen.error.reason == reason:
                return seen
    raise AssertionError(f"it ended without {reason}: {seen}")


def noted_parts(database: str) -> list[int]:
    """Give the numbers of the parts that are safe."""
    return [row[0] for row in rows(database, "SELECT part_number FROM fetcher.download_parts ORDER BY part_number")]


def rows(database: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Ask a fetcher's database."""
    with psycopg.connect(database) as connection:
        return connection.execute(query.encode(), values).fetchall()
