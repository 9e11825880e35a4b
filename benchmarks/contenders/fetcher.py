"""The fetcher in a process of its own, over a PostgreSQL of its own; what came is not used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.rows import TupleRow

import penstock
from benchmarks.harness import DEADLINE_S, running, wait_until
from penstock.cli.embedded.health import is_serving
from penstock.cli.embedded.ports import free_port
from penstock.cli.embedded.postgres import PostgresCluster

LOOK_S = 0.01
LONGEST_S = 3_600.0
# Of the database alone: asking the fetcher itself would be work that is measured.
_STANDS = """
SELECT EXISTS (SELECT FROM fetcher.downloads WHERE sha256 <> ''),
    (SELECT error_reason FROM fetcher.fetch_jobs WHERE job_id = %s)
"""


@dataclass(frozen=True, slots=True)
class RunningFetcher:
    """A fetcher that runs, a client of it, and eyes on its database."""

    client: penstock.Client
    database: psycopg.Connection[TupleRow]
    pid: int

    def fetch(self, url: str) -> float:
        """Fetch a file until it is whole, checked and noted; gives the seconds from the request on."""
        began = time.perf_counter()
        job = self.client.fetcher.start("url", url, model="fetched", framework="onnx", max_attempts=1)
        while not (stands := self._stands(job.id))[0]:
            if time.perf_counter() - began > LONGEST_S or stands[1]:
                raise SystemExit(f"nothing was fetched: {self.client.fetcher.get(job.id).error}")
            time.sleep(LOOK_S)
        seconds = time.perf_counter() - began
        self.client.fetcher.cancel(job.id)
        with closing(self.client.fetcher.watch(job.id)) as watched:
            for _ in watched:
                pass
        return seconds

    def _stands(self, job_id: str) -> tuple[bool, str]:
        """Say whether the file is whole, and why it is not to come."""
        (stands,) = self.database.execute(_STANDS, (job_id,)).fetchall()
        return bool(stands[0]), str(stands[1])

    def forget(self) -> None:
        """Forget what was fetched."""
        self.database.execute("DELETE FROM fetcher.downloads")


@contextmanager
def running_fetcher(folder: Path, environment: Mapping[str, str]) -> Iterator[RunningFetcher]:
    """Run PostgreSQL in a folder, and a fetcher on it with these settings beside."""
    with ExitStack() as stack:
        cluster, database_port, port = PostgresCluster(folder / "cluster"), free_port(), free_port()
        cluster.create()
        command, log = cluster.command(database_port), folder / "fetcher.log"
        stack.enter_context(running(command, cluster.environment, folder / "postgres.log"))
        wait_until(lambda: cluster.is_ready(database_port), "PostgreSQL did not come up")
        settings = {
            **os.environ,
            "PENSTOCK_DATABASE_URL": cluster.url(database_port),
            "PENSTOCK_REGISTRY_ADDRESS": f"127.0.0.1:{free_port()}",
            "PENSTOCK_FETCHER_ALLOWED_HOSTS": "127.0.0.1",
            "PENSTOCK_FETCHER_MAX_FILE_BYTES": str(1024**4),
            "PENSTOCK_PORT": str(port),
            "PENSTOCK_METRICS_PORT": "0",
            **environment,
        }
        subprocess.run(
            [sys.executable, "-m", "services.fetcher", "migrate"], env=settings, check=True, timeout=DEADLINE_S
        )
        pid = stack.enter_context(running([sys.executable, "-m", "services.fetcher"], settings, log))
        address = f"127.0.0.1:{port}"
        wait_until(lambda: is_serving(address), f"the fetcher does not serve; see {log}")
        client = stack.enter_context(penstock.Client(fetcher=address))
        eyes = stack.enter_context(psycopg.connect(cluster.url(database_port), autocommit=True))
        yield RunningFetcher(client, eyes, pid)
