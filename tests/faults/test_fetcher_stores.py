"""Disks that are full, an S3 store and a registry that are away: what was fetched is kept, and becomes a model."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from tests import origins
from tests.faults.proxy import Proxy
from tests.held_fetches import HeldFetch, ended, faulted, held_fetch, noted_parts
from tests.registry import wait_until
from tests.s3 import S3Bucket, S3Server
from tests.services import Running, running_registry

pytestmark = pytest.mark.slow
CloneDatabase = Callable[[str], str]
COMPLETED, PENDING = pb.FETCH_JOB_STATE_COMPLETED, pb.FETCH_JOB_STATE_PENDING
PATIENT = {"fetcher_backoff_ms": 3_600_000}
"""Attempts come when a test lets the time pass."""


@pytest.fixture
def registry(clone_database: CloneDatabase, tmp_path: Path) -> Iterator[Running]:
    with running_registry(clone_database("registry"), tmp_path) as running:
        yield running


@pytest.fixture
def fetch(clone_database: CloneDatabase, tmp_path: Path, registry: Running) -> Iterator[HeldFetch]:
    with origins.serving() as origin, held_fetch(origin, tmp_path, clone_database, registry.address) as held:
        yield held


@pytest.fixture
def s3_bucket(s3: S3Server) -> S3Bucket:
    return s3.make_bucket()


@dataclass(frozen=True)
class Room:
    """How to take the room for blobs away from a process, by its pid, and to give it back."""

    take: Callable[[int], None]
    give: Callable[[int], None]


@contextmanager
def full_tmpfs(blobs: Path) -> Iterator[Room]:
    """A disk of its own, filled by a file that is not ours."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs takes root; the other case does the same by a limit on the files' size")
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(blobs)]
    mounted = subprocess.run(mount, capture_output=True, check=False, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here ({mounted.stderr.strip()}); the other case stands in for it")
    ballast = blobs / "ballast"

    def fill(_pid: int) -> None:
        with ballast.open("wb", buffering=0) as file, suppress(OSError):  # in the end: No space left on device
            while True:
                file.write(bytes(64 * 1024))

    try:
        yield Room(fill, lambda _pid: ballast.unlink())
    finally:
        subprocess.run(["umount", str(blobs)], check=True)


@contextmanager
def limited_files(_blobs: Path) -> Iterator[Room]:
    """Files that may not grow: the system refuses each write with EFBIG."""

    def limit(pid: int, size_bytes: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))

    yield Room(lambda pid: limit(pid, 1), lambda pid: limit(pid, resource.RLIM_INFINITY))


@pytest.mark.parametrize("disk", [full_tmpfs, limited_files])
def test_a_disk_that_is_full_is_told_and_nothing_that_was_safe_is_lost(
    fetch: HeldFetch, tmp_path: Path, disk: Callable[[Path], AbstractContextManager[Room]]
) -> None:
    blobs = tmp_path / "downloads"
    blobs.mkdir()
    with disk(blobs) as room, fetch.process(blob_url=f"file://{blobs}", fetcher_reserve_bytes=0) as (fetcher, client):
        job = fetch.start(client, max_attempts=1)
        room.take(fetcher.process.pid)
        fetch.go_on.set()
        full = ended(client, job)
        assert (full.state, full.error.reason) == (pb.FETCH_JOB_STATE_FAILED, "STORAGE_ERROR"), full.error
        assert full.error.retryable
        room.give(fetcher.process.pid)
        asked = len(fetch.origin.asked)
        done = ended(client, client.fetcher.retry(job.id))
    assert done.state == COMPLETED, done.error
    assert fetch.asked_again(asked) == [], "it went on after what was safe"


def s3_settings(bucket: S3Bucket, port: int, **more: Any) -> dict[str, Any]:
    server = bucket.server
    return {
        "blob_url": f"s3://{bucket.name}?endpoint=http://127.0.0.1:{port}",
        "blob_access_key": server.access_key,
        "blob_secret_key": server.secret_key,
        **more,
    }


def test_an_s3_store_that_is_cut_for_a_while_costs_an_attempt_and_no_part(
    fetch: HeldFetch, s3_bucket: S3Bucket
) -> None:
    with (
        Proxy(int(s3_bucket.server.endpoint.rpartition(":")[2])) as proxy,
        fetch.process(**s3_settings(s3_bucket, proxy.port, **PATIENT)) as (_, client),
    ):
        job = client.fetcher.start("url", fetch.url, framework="onnx", max_attempts=20)
        assert fetch.arrived.wait(60)
        wait_until(lambda: noted_parts(fetch.database) or None)
        proxy.cut()
        fetch.go_on.set()
        waits = faulted(client, job, "STORAGE_ERROR")
        assert (waits.state, waits.attempt_count, waits.error.retryable) == (PENDING, 1, True)
        proxy.heal()
        done = fetch.ended_by_turns(client, job)
    assert (done.state, done.attempt_count >= 2, done.result.version) == (COMPLETED, True, "v1"), done.error
    assert fetch.whole()


def test_a_registry_that_goes_in_mid_upload_is_waited_for_and_there_is_one_version(
    fetch: HeldFetch, registry: Running
) -> None:
    fetch.go_on.set()
    with Proxy(int(registry.address.rpartition(":")[2])) as proxy:
        proxy.deafen()
        with fetch.process(registry_address=proxy.address, **PATIENT) as (_, client):
            job = client.fetcher.start("url", fetch.url, framework="onnx", max_attempts=20)
            processing = pb.FETCH_JOB_STATE_PROCESSING
            wait_until(lambda: client.fetcher.get(job.id).state == processing or None)
            wait_until(lambda: proxy.link_count or None)
            proxy.cut()
            waits = faulted(client, job, "REGISTRY_UNAVAILABLE")
            assert (waits.state, waits.error.retryable) == (PENDING, True)
            asked = len(fetch.origin.asked)
            proxy.heal()
            done = fetch.ended_by_turns(client, job)
    assert (done.state, done.attempt_count >= 2, done.result.existed) == (COMPLETED, True, False), done.error
    assert len(fetch.origin.asked) == asked, "what is here is not asked for again"
    with penstock.Client(registry=registry.address) as client:
        assert [version.version for version in client.registry.list_versions("model")] == ["v1"]
