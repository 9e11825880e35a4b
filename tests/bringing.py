"""Downloads over real HTTP into a real database and folder, by as many connections as a test says."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from penstock.ids import uuid7
from services.common.addresses import AddressRules, AllowedHosts
from services.common.blobs import Blob, FileBlobStore
from services.common.jobs import Concurrency, JobRun, JobStore, NewJob
from services.common.postgres import Database
from services.fetcher.downloading.downloader import Downloader, DownloadLimits
from services.fetcher.models import FetchSpec, Reference, RemoteFile
from services.fetcher.sources.http import GuardedHttp, HttpLimits
from services.fetcher.sources.source import Stopping
from services.fetcher.sources.url import UrlSource
from services.fetcher.store.downloads import DownloadStore
from tests.ranges import Ranges, serving_ranges

PART = 64 * 1024
COUNT = 10
LEASE_S = 600.0
PATIENT = HttpLimits(connect_s=600, silence_s=600, floor_s=600)


class Watched(FileBlobStore):
    """A folder of blobs that counts what is put at once, may hold it up, and has as much room as it is told."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.before_put: Callable[[], None] = lambda: None
        self.after_put: Callable[[], None] = lambda: None
        self.free: int | None = None

    def put(self, *args: Any, **more: Any) -> Blob:
        self.before_put()
        blob = super().put(*args, **more)
        self.after_put()
        return blob

    def free_bytes(self) -> int | None:
        return super().free_bytes() if self.free is None else self.free


class Bench:
    """Downloads over real HTTP into a real database and folder, by as many connections as a test says."""

    def __init__(self, url: str, database: Database, blobs: Watched, ranges: Ranges) -> None:
        self.url = url
        self.jobs = JobStore(database, "fetcher", "fetch_jobs")
        self.downloads = DownloadStore(database)
        self.blobs = blobs
        self.ranges = ranges
        self.source = UrlSource(GuardedHttp(AddressRules(AllowedHosts.parse("127.0.0.1")), PATIENT))

    def claim(self) -> JobRun:
        self.jobs.create(NewJob(UUID(uuid7()), "tests", FetchSpec(Reference("url", "x"), b"").columns()))
        claimed = self.jobs.claim("tests", LEASE_S, Concurrency())
        assert claimed is not None
        return JobRun(self.jobs, *claimed, LEASE_S)

    def find(self, url: str, sha256: str = "") -> RemoteFile:
        (file,) = self.source.find(Reference("url", url, sha256=sha256), Stopping()).plan.files
        return file

    def bring(
        self,
        run: JobRun,
        *files: RemoteFile,
        connections: int = 4,
        part_bytes: int = PART,
        reserve_bytes: int = 0,
        told: Callable[[int], None] = lambda _: None,
        came: Callable[[int], None] = lambda _: None,
    ) -> list[str]:
        limits = DownloadLimits(part_bytes, 1024 * PART, reserve_bytes, connections)
        downloader = Downloader(self.downloads, self.blobs, limits)
        brought = downloader.bring(run, self.source, files, told, came=came)
        return [brought[file.path].sha256 for file in files]

    def parts(self) -> list[int]:
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT part_number FROM fetcher.download_parts ORDER BY part_number").fetchall()
        return [row[0] for row in rows]


@contextmanager
def bringing(database_url: str, folder: Path) -> Iterator[Bench]:
    """Make all of it; afterwards no thread of a download may be left, save one that is just about to see its end."""
    blobs = Watched(folder)
    blobs.prepare()
    with Database(database_url, pool_size=8) as database, serving_ranges() as ranges:
        yield Bench(database_url, database, blobs, ranges)
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("fetch-")]
    assert [name for name in names if not name.startswith("fetch-floor")] == []


def sha256_of(content: bytes) -> str:
    """Give a digest in hex."""
    return hashlib.sha256(content).hexdigest()
