"""The registry in a process of its own, over a PostgreSQL of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import penstock
from benchmarks.harness import memory_growth_bytes, running, wait_until
from penstock.cli.embedded.health import is_serving
from penstock.cli.embedded.ports import free_port
from penstock.cli.embedded.postgres import PostgresCluster


@dataclass(frozen=True, slots=True)
class RunningRegistry:
    """A registry that runs, and a client of it."""

    client: penstock.Client
    address: str
    database_url: str
    pid: int

    def memory_growth_bytes(self, work: Callable[[], object]) -> int:
        """Do this, and give the peak of the registry's memory meanwhile, above what it held before."""
        return memory_growth_bytes(self.pid, work)


@contextmanager
def running_registry(folder: Path, environment: Mapping[str, str]) -> Iterator[RunningRegistry]:
    """Run PostgreSQL in a folder, and a registry on it with these settings beside."""
    with ExitStack() as stack:
        cluster, database_port, port = PostgresCluster(folder / "cluster"), free_port(), free_port()
        cluster.create()
        command, log = cluster.command(database_port), folder / "registry.log"
        stack.enter_context(running(command, cluster.environment, folder / "postgres.log"))
        wait_until(lambda: cluster.is_ready(database_port), "PostgreSQL did not come up")
        settings = {
            **os.environ,
            **environment,
            "PENSTOCK_DATABASE_URL": cluster.url(database_port),
            "PENSTOCK_PORT": str(port),
            "PENSTOCK_METRICS_PORT": "0",
        }
        pid = stack.enter_context(running([sys.executable, "-m", "services.registry"], settings, log))
        address = f"127.0.0.1:{port}"
        wait_until(lambda: is_serving(address), f"the registry does not serve; see {log}")
        client = stack.enter_context(penstock.Client(registry=address))
        yield RunningRegistry(client, address, cluster.url(database_port), pid)
