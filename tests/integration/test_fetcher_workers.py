"""A worker that lost its lease while bytes came, and sources that do not keep to what they announced."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from uuid import UUID

import psycopg
import pytest

from penstock.ids import uuid7
from services.common.blobs import open_blobs
from services.common.errors import DomainError
from services.common.jobs import Concurrency, JobRun, JobStore, LeaseLost, NewJob
from services.common.postgres import Database
from services.fetcher.downloading.downloader import Awaited, Downloader, DownloadLimits
from services.fetcher.faults import FileTooLarge, NetworkError, SourceChanged
from services.fetcher.models import FetchSpec, Reference, RemoteFile
from services.fetcher.sources.source import Source, Stopping
from services.fetcher.store.downloads import DownloadStore

pytestmark = pytest.mark.slow
CloneDatabase = Callable[[str], str]
PART = 1024
LEASE_S = 600.0


@dataclass
class Told:
    """A source that gives pieces, from a byte on; each may be held."""

    pieces: list[bytes]
    offset: int | None = 0
    hold: Callable[[int], None] = lambda _: None
    name: str = "told"

    @contextmanager
    def open(
        self, _file: RemoteFile, offset: int, _stopping: Stopping, *, end: int | None = None
    ) -> Iterator[ToldFlow]:
        yield ToldFlow(self, offset if self.offset is None else self.offset)


@dataclass
class ToldFlow:
    source: Told
    offset: int
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        self._coming = self._pieces()
        self._left = b""

    def readinto(self, buffer: memoryview) -> int:
        self._left = self._left or next(self._coming, b"")
        piece, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def _pieces(self) -> Iterator[bytes]:
        for number, piece in enumerate(self.source.pieces):
            self.source.hold(number)
            yield piece

    def shut(self) -> None:
        """Nothing here waits for anybody."""


@dataclass
class Bench:
    """Downloads on a real database and store, with workers as a test claims them."""

    url: str
    jobs: JobStore
    downloads: DownloadStore
    downloader: Downloader

    def queue(self) -> UUID:
        spec = FetchSpec(Reference("told", "x"), b"")
        return self.jobs.create(NewJob(UUID(uuid7()), "tests", spec.columns())).job_id

    def claim(self, worker: str) -> JobRun:
        claimed = self.jobs.claim(worker, LEASE_S, Concurrency())
        assert claimed is not None
        return JobRun(self.jobs, *claimed, LEASE_S)

    def bring(self, run: JobRun, told: Told, size_bytes: int | None, sha256: str = "") -> str:
        file = RemoteFile("model.onnx", "somewhere", "one", size_bytes, sha256)
        return self.downloader.bring(run, cast("Source", told), [file])[file.path].sha256

    def expire_lease(self, run: JobRun) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute(
                "UPDATE fetcher.fetch_jobs SET lease_expire_time = clock_timestamp() WHERE job_id = %s",
                [run.job.job_id],
            )
        assert self.jobs.sweep() == 1

    def parts(self) -> list[int]:
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT size_bytes FROM fetcher.download_parts ORDER BY part_number").fetchall()
        return [row[0] for row in rows]


@pytest.fixture
def bench(clone_database: CloneDatabase, tmp_path: Path) -> Iterator[Bench]:
    url = clone_database("fetcher")
    blobs = open_blobs(f"file://{tmp_path}", prefix="fetcher")
    with Database(url, pool_size=4) as database:
        downloads = DownloadStore(database)
        limits = DownloadLimits(part_bytes=PART, max_file_bytes=8 * PART)
        yield Bench(url, JobStore(database, "fetcher", "fetch_jobs"), downloads, Downloader(downloads, blobs, limits))
    blobs.close()


def test_who_lost_its_lease_can_neither_note_nor_finish_what_still_comes(bench: Bench) -> None:
    content = os.urandom(3 * PART)
    pieces = [content[start : start + PART] for start in range(0, len(content), PART)]
    arrived, go_on, fell = threading.Event(), threading.Event(), list[BaseException]()

    def hold(number: int) -> None:
        if number == 1:
            arrived.set()
            go_on.wait(60)

    bench.queue()
    late = bench.claim("late")

    def bring_late() -> None:
        try:
            # Wrong bytes after the first part: were they noted, the file would be another.
            bench.bring(late, Told([pieces[0], bytes(PART), bytes(PART)], hold=hold), len(content))
        except (DomainError, LeaseLost) as error:
            fell.append(error)

    thread = threading.Thread(target=bring_late)
    thread.start()
    assert arrived.wait(60)
    bench.expire_lease(late)
    next_one = bench.claim("next")
    assert next_one.job.job_id == late.job.job_id
    sha256 = bench.bring(next_one, Told(pieces), len(content))
    go_on.set()
    thread.join(60)
    assert [type(error) for error in fell] == [LeaseLost]
    assert (sha256, bench.parts()) == (hashlib.sha256(content).hexdigest(), [PART] * 3)
    assert bench.bring(next_one, Told([]), len(content)) == sha256, "it is whole, and is asked for no more"


def test_who_lost_its_lease_cannot_clear_what_another_brings(bench: Bench) -> None:
    bench.queue()
    late = bench.claim("late")
    with pytest.raises(NetworkError):
        bench.bring(late, Told([bytes(PART)]), 2 * PART)
    bench.expire_lease(late)
    with pytest.raises(LeaseLost):
        bench.bring(late, Told([bytes(3 * PART)], offset=None), 2 * PART)
    assert bench.parts() == [PART]


def test_a_job_is_told_to_come_again_while_another_brings_the_file(bench: Bench) -> None:
    bench.queue()
    bench.queue()
    one, other = bench.claim("one"), bench.claim("other")
    with pytest.raises(NetworkError):
        bench.bring(one, Told([bytes(PART)]), 2 * PART)
    with pytest.raises(Awaited):
        bench.bring(other, Told([]), 2 * PART)
    bench.expire_lease(one)
    bench.bring(other, Told([bytes(PART)], offset=None), 2 * PART)


@pytest.mark.parametrize(
    ("told", "size_bytes", "fault", "kept"),
    [
        (Told([bytes(PART), bytes(PART + 1)]), 2 * PART, SourceChanged, []),
        (Told([bytes(PART), bytes(8 * PART)]), None, FileTooLarge, []),
        (Told([bytes(PART), bytes(PART - 1)]), 2 * PART, NetworkError, [PART]),
        (Told([bytes(PART)], offset=9), 2 * PART, NetworkError, []),
    ],
    ids=["more than announced", "more than allowed", "fewer than announced", "from another byte on"],
)
def test_what_comes_is_not_kept_as_what_it_cannot_be(
    bench: Bench, told: Told, size_bytes: int | None, fault: type[DomainError], kept: list[int]
) -> None:
    bench.queue()
    run = bench.claim("one")
    with pytest.raises(fault):
        bench.bring(run, told, size_bytes)
    assert bench.parts() == kept
