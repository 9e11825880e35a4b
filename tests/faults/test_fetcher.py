"""Fetchers that die, stores that are S3, workers that lose their lease: a real process, MinIO and PostgreSQL."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

import penstock
from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from services.fetcher.__main__ import build
from services.fetcher.settings import FetcherSettings
from tests import origins
from tests.faults.proxy import Proxy
from tests.origins import Origin
from tests.postgres import PostgresServer
from tests.registry import RegistryProcess, wait_until
from tests.s3 import S3Bucket, s3_server
from tests.services import running, running_registry
from tests.testdata import models

pytestmark = pytest.mark.slow
PART = 8 * 1024 * 1024
CloneDatabase = Callable[[str], str]


@pytest.fixture
def origin() -> Iterator[Origin]:
    with origins.serving() as served:
        yield served


@pytest.fixture
def s3_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Bucket]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server.make_bucket()


@dataclass(frozen=True)
class Fetched:
    """A fetch that waits for `go_on` in the middle of its file."""

    registry: str
    database: str
    url: str
    sha256: str
    arrived: threading.Event
    go_on: threading.Event

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "module": "services.fetcher",
            "registry_address": self.registry,
            "fetcher_allowed_hosts": "127.0.0.1",
            "fetcher_lease_ms": 3_000,
        }

    def whole(self) -> bool:
        with psycopg.connect(self.database) as connection:
            query = "SELECT FROM fetcher.downloads WHERE sha256 = %s"
            return connection.execute(query, [self.sha256]).fetchone() is not None


def ended(client: penstock.Client, job: pb.FetchJob) -> pb.FetchJob:
    with closing(client.fetcher.watch(job.id)) as watched:
        *_, last = watched
    return last


def noted_parts(database: str) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT count(*) FROM fetcher.download_parts").fetchone()
    return int(row[0]) if row else 0


def test_a_killed_fetcher_goes_on_where_it_was_and_asks_for_one_part_again_at_most(
    clone_database: CloneDatabase, tmp_path: Path, origin: Origin
) -> None:
    size = 6 * PART
    arrived, go_on = threading.Event(), threading.Event()

    def hold(position: int) -> None:
        if position >= 4 * PART + 1024 * 1024:
            arrived.set()
            go_on.wait(60)

    url = origin.serve("/model.onnx", os.urandom(size), hold=hold)
    with running_registry(clone_database("registry"), tmp_path) as registry:
        settings: dict[str, Any] = {
            "module": "services.fetcher",
            "registry_address": registry.address,
            "fetcher_allowed_hosts": "127.0.0.1",
            "fetcher_lease_ms": 3_000,
        }
        database = clone_database("fetcher")
        first = RegistryProcess(database, tmp_path, **settings)
        with penstock.Client(fetcher=first.address()) as client:
            job = client.fetcher.start("url", url, model="big")
            assert arrived.wait(60)
            wait_until(lambda: noted_parts(database) == 4 or None)
        first.end(signal.SIGKILL)
        sent = origin.sent_bytes
        go_on.set()
        second = RegistryProcess(database, tmp_path, **settings)
        try:
            with penstock.Client(fetcher=second.address()) as client:
                done = ended(client, job)
        finally:
            second.end()
    assert (done.attempt_count >= 2, done.error.reason) == (True, "REGISTRATION_REFUSED"), "random bytes are no model"
    begins = [int(headers["Range"][6:-1]) for _, headers in origin.asked if headers.get("Range", "").endswith("-")]
    assert min(begins) == 4 * PART, "all parts that had come were kept"
    assert origin.sent_bytes - sent <= 4 * PART, "what was left, and what the dead one had been sent"


@pytest.fixture
def fetched(clone_database: CloneDatabase, tmp_path: Path, origin: Origin) -> Iterator[Fetched]:
    """A download held once its first two parts have come."""
    content, arrived, go_on = os.urandom(4 * PART), threading.Event(), threading.Event()

    def hold(position: int) -> None:
        if position >= 3 * PART:
            arrived.set()
            go_on.wait(60)

    url = origin.serve("/model.onnx", content, hold=hold)
    with running_registry(clone_database("registry"), tmp_path) as registry:
        yield Fetched(
            registry.address, clone_database("fetcher"), url, hashlib.sha256(content).hexdigest(), arrived, go_on
        )


def test_a_database_that_is_cut_in_mid_transfer_costs_an_attempt_and_no_part(
    fetched: Fetched, tmp_path: Path, origin: Origin, postgres_server: PostgresServer
) -> None:
    with Proxy(postgres_server.port) as proxy:
        through = fetched.database.replace(f":{postgres_server.port}", f":{proxy.port}")
        assert through != fetched.database
        process = RegistryProcess(through, tmp_path, **fetched.settings)
        try:
            with penstock.Client(fetcher=process.address()) as client:
                job = client.fetcher.start("url", fetched.url)
                assert fetched.arrived.wait(60)
                wait_until(lambda: noted_parts(fetched.database) >= 2 or None)
                proxy.cut()
                fetched.go_on.set()
                late = "SELECT 1 FROM fetcher.fetch_jobs WHERE lease_expire_time < clock_timestamp()"
                with psycopg.connect(fetched.database, autocommit=True) as eyes:
                    wait_until(lambda: eyes.execute(late).fetchone())
                proxy.heal()
                wait_until(lambda: fetched.whole() or None)
                done = ended(client, job)
        finally:
            process.end()
    assert (done.error.reason, done.attempt_count >= 2) == ("REGISTRATION_REFUSED", True), "random bytes are no model"
    begins = [int(headers["Range"][6:-1]) for _, headers in origin.asked if headers.get("Range", "").endswith("-")]
    assert min(begins) >= 2 * PART, "what was noted was kept"


def test_a_store_that_is_full_is_tried_again_and_nothing_is_lost(
    fetched: Fetched, tmp_path: Path, origin: Origin
) -> None:
    process = RegistryProcess(fetched.database, tmp_path, **fetched.settings, fetcher_backoff_ms=1)
    try:
        with penstock.Client(fetcher=process.address()) as client:
            job = client.fetcher.start("url", fetched.url, max_attempts=1)
            assert fetched.arrived.wait(60)
            wait_until(lambda: noted_parts(fetched.database) >= 2 or None)
            resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
            fetched.go_on.set()
            full = ended(client, job)
            assert (full.error.reason, full.error.retryable) == ("STORAGE_ERROR", True), full.error
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, unlimited)
            ended(client, client.fetcher.retry(job.id))
    finally:
        process.end()
    assert fetched.whole()
    begins = [int(headers["Range"][6:-1]) for _, headers in origin.asked if headers.get("Range", "").endswith("-")]
    assert [begin >= 2 * PART for begin in begins] == [True], "it went on after what was safe"


def test_parts_are_kept_in_s3_and_a_model_comes_of_them(
    clone_database: CloneDatabase, tmp_path: Path, origin: Origin, s3_bucket: S3Bucket
) -> None:
    content = models.classifier()
    url = origin.serve("/flowers.onnx", content)
    server = s3_bucket.server
    with (
        running_registry(clone_database("registry"), tmp_path) as registry,
        running(
            build,
            FetcherSettings(
                port=0,
                metrics_port=0,
                database_url=SecretStr(clone_database("fetcher")),
                blob_url=f"s3://{s3_bucket.name}?endpoint={server.endpoint}",
                blob_access_key=SecretStr(server.access_key),
                blob_secret_key=SecretStr(server.secret_key),
                registry_address=registry.address,
                fetcher_allowed_hosts="127.0.0.1",
                fetcher_backoff_ms=1,
            ),
        ) as fetcher,
        penstock.Client(registry=registry.address, fetcher=fetcher.address) as client,
    ):
        done = ended(client, client.fetcher.start("url", url))
        assert (done.state, done.result.version) == (pb.FETCH_JOB_STATE_COMPLETED, "v1"), done.error
        large = origin.serve("/large.onnx", os.urandom(12 * 1024 * 1024), cut_after=[11 * 1024 * 1024])
        refused = ended(client, client.fetcher.start("url", large))
        assert origin.asked[-1][1]["Range"] == f"bytes={10 * 1024 * 1024}-", "two parts of 5 MiB were safe"
        assert refused.error.reason == "REGISTRATION_REFUSED", "random bytes are no model"
