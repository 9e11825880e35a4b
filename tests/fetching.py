"""A fetcher with all that a fetch needs, in this process: a registry, PostgreSQL, an origin and a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from blake3 import blake3
from pydantic import SecretStr

import penstock
from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from services.fetcher.__main__ import build
from services.fetcher.settings import FetcherSettings
from tests import origins
from tests.origins import Origin
from tests.postgres import PostgresServer
from tests.services import Running, running, running_registry


@dataclass(frozen=True)
class Place:
    """All that a fetch needs. `root` may be fetched from; `blobs` is where downloads are kept.

    `addresses` are the services', as the settings of the command; `settings` the fetcher's.
    """

    client: penstock.Client
    origin: Origin
    root: Path
    blobs: Path
    database_url: str
    metrics_port: int
    addresses: dict[str, str]
    settings: FetcherSettings

    def end(self, job: pb.FetchJob) -> pb.FetchJob:
        """Wait for a job's end."""
        with closing(self.client.fetcher.watch(job.id)) as watched:
            *_, last = watched
        return last

    def fetch(self, source: str, reference: str, **more: Any) -> pb.FetchJob:
        """Fetch, and wait for the end."""
        return self.end(self.client.fetcher.start(source, reference, **more))

    def blob(self, content: bytes) -> Path:
        """Find the blob of a part among the downloads."""
        (found,) = self.blobs.rglob(blake3(content).hexdigest())
        return found

    @contextmanager
    def replica(self, **more: Any) -> Iterator[Running]:
        """Run another fetcher on the same database."""
        with running(build, self.settings.model_copy(update=more)) as fetcher:
            yield fetcher

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the fetcher's database."""
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(query.encode(), values).fetchall()


@contextmanager
def fetching(postgres_server: PostgresServer, folder: Path, **more: Any) -> Iterator[Place]:
    """Run them."""
    (folder / "models").mkdir()
    database_url = postgres_server.clone("fetcher")
    with running_registry(postgres_server.clone("registry"), folder) as registry, origins.serving() as origin:
        settings = FetcherSettings(
            **{
                "port": 0,
                "metrics_port": 0,
                "database_url": SecretStr(database_url),
                "blob_url": f"file://{folder}/downloads",
                "registry_address": registry.address,
                "fetcher_roots": frozenset({f"file://{folder}/models"}),
                "fetcher_allowed_hosts": "127.0.0.1",
                "fetcher_backoff_ms": 1,
                "poll_interval_ms": 100,
                "fetcher_host_burst": 10_000,  # all origins of the tests are one host
                **more,
            }
        )
        with (
            running(build, settings) as fetcher,
            penstock.Client(registry=registry.address, fetcher=fetcher.address) as client,
        ):
            addresses = {"PENSTOCK_REGISTRY_ADDRESS": registry.address, "PENSTOCK_FETCHER_ADDRESS": fetcher.address}
            root, blobs = folder / "models", folder / "downloads"
            yield Place(client, origin, root, blobs, database_url, fetcher.metrics_port, addresses, settings)
