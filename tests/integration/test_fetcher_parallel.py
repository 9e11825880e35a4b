"""Several parts of a file at once, over connections that stay open; what goes wrong with one, and what is kept."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from penstock.ids import uuid7
from services.common.addresses import AddressRules, AllowedHosts
from services.common.blobs import Blob, FileBlobStore
from services.common.errors import DomainError
from services.common.jobs import Concurrency, JobRun, JobStore, NewJob, Stopped, StopReason
from services.common.postgres import Database
from services.fetcher.downloading.downloader import Downloader, DownloadLimits
from services.fetcher.faults import DigestMismatch, NetworkError, RateLimited, SourceChanged, StorageError
from services.fetcher.models import FetchSpec, Reference, RemoteFile
from services.fetcher.sources.http import GuardedHttp, HttpLimits
from services.fetcher.sources.source import Stopping
from services.fetcher.sources.url import UrlSource
from services.fetcher.store.downloads import DownloadStore
from tests.ranges import Answer, Asked, Ranges, empty, serving_ranges

pytestmark = pytest.mark.slow
CloneDatabase = Callable[[str], str]
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
        self, run: JobRun, *files: RemoteFile, connections: int = 4, part_bytes: int = PART, reserve_bytes: int = 0
    ) -> list[str]:
        limits = DownloadLimits(part_bytes, 1024 * PART, reserve_bytes, connections)
        brought = Downloader(self.downloads, self.blobs, limits).bring(run, self.source, files)
        return [brought[file.path].sha256 for file in files]

    def parts(self) -> list[int]:
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT part_number FROM fetcher.download_parts ORDER BY part_number").fetchall()
        return [row[0] for row in rows]


@pytest.fixture
def bench(clone_database: CloneDatabase, tmp_path: Path) -> Iterator[Bench]:
    url = clone_database("fetcher")
    blobs = Watched(tmp_path)
    blobs.prepare()
    with Database(url, pool_size=8) as database, serving_ranges() as ranges:
        yield Bench(url, database, blobs, ranges)


@pytest.fixture(autouse=True)
def _no_thread_is_left(bench: Bench) -> Iterator[None]:
    yield
    left = {thread.name for thread in threading.enumerate() if thread.name.startswith("fetch-")}
    assert not {name for name in left if not name.startswith("fetch-floor")}


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_parts_come_at_once_over_connections_that_stay_open(bench: Bench) -> None:
    content = os.urandom(COUNT * PART + 9)
    four = threading.Barrier(4, timeout=60)

    def script(asked: Asked, answer: Answer) -> Answer:
        if 1 <= asked.number <= 4:
            four.wait()  # passed by four that are asked for at once, and by no fewer
        return answer

    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    assert bench.bring(bench.claim(), file) == [sha256_of(content)]
    assert sorted(bench.ranges.begins("/model.onnx")) == [number * PART for number in range(COUNT + 1)]
    assert len({asked.connection for asked in bench.ranges.asked["/model.onnx"][1:]}) == 4
    assert all(asked.headers["If-Range"] == '"one"' for asked in bench.ranges.asked["/model.onnx"][1:])
    assert bench.parts() == list(range(COUNT + 1))


def test_parts_that_come_last_to_first_are_one_file_in_order(bench: Bench) -> None:
    content = os.urandom(4 * PART)
    came = [threading.Event() for _ in range(5)]
    came[4].set()

    def script(asked: Asked, answer: Answer) -> Answer:
        if asked.number:
            assert came[asked.begin // PART + 1].wait(60)
            noted = asked.begin // PART
            bench.blobs.after_put = lambda: came[noted].set()
        return answer

    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    assert bench.bring(bench.claim(), file) == [sha256_of(content)]


def test_no_more_parts_are_in_memory_than_connections_and_two_while_the_store_is_slow(bench: Bench) -> None:
    content = os.urandom(4 * COUNT * PART)
    lock, stored, most = threading.Lock(), [0], [0]

    def before() -> None:
        with lock:
            most[0] = max(most[0], len(bench.ranges.begins("/model.onnx")) - stored[0])

    def after() -> None:
        with lock:
            stored[0] += 1

    bench.blobs.before_put, bench.blobs.after_put = before, after
    file = bench.find(bench.ranges.serve("/model.onnx", content))
    assert bench.bring(bench.claim(), file) == [sha256_of(content)]
    # Four more may be asked for already, whose bytes nobody reads yet.
    assert most[0] <= 4 + 2 + 4


def test_a_part_that_is_late_holds_up_no_other(bench: Bench) -> None:
    content = os.urandom(4 * COUNT * PART)
    others = threading.Event()
    stored = [0]

    def after() -> None:
        stored[0] += 1
        if stored[0] == 4 * COUNT - 1:
            others.set()

    def script(asked: Asked, answer: Answer) -> Answer:
        if asked.number and asked.begin == 0:
            assert others.wait(60), "all others come before the first, in the memory of six parts"
        return answer

    bench.blobs.after_put = after
    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    assert bench.bring(bench.claim(), file) == [sha256_of(content)]


def test_a_source_that_ignores_ranges_after_the_look_is_read_by_one_stream(bench: Bench) -> None:
    content = os.urandom(COUNT * PART)

    def script(asked: Asked, answer: Answer) -> Answer:
        if asked.number == 0:
            return answer
        return 200, {"ETag": '"one"', "Content-Length": str(len(content))}, content

    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    assert bench.bring(bench.claim(), file) == [sha256_of(content)]
    assert len(bench.ranges.begins("/model.onnx")) <= 5


def test_one_connection_that_is_reset_ends_the_others_and_no_part_is_lost(bench: Bench) -> None:
    content = os.urandom(COUNT * PART)
    three = threading.Event()
    stored = [0]

    def after() -> None:
        stored[0] += 1
        if stored[0] == 3:
            three.set()

    def broken(asked: Asked, answer: Answer) -> Answer:
        if asked.number and asked.begin == PART:
            status, headers, body = answer
            assert three.wait(60)
            return status, headers, body[: PART // 2]
        return answer

    bench.blobs.after_put = after
    run = bench.claim()
    file = bench.find(bench.ranges.serve("/model.onnx", content, broken))
    with pytest.raises(NetworkError):
        bench.bring(run, file)
    noted = bench.parts()
    assert len(noted) >= 3
    assert 1 not in noted, "with a gap"
    before = len(bench.ranges.begins("/model.onnx"))
    bench.ranges.files["/model.onnx"] = content, lambda _, answer: answer
    assert bench.bring(run, file) == [sha256_of(content)]
    again = [begin // PART for begin in bench.ranges.begins("/model.onnx")[before:]]
    assert sorted(again) == sorted(set(range(COUNT)) - set(noted)), "what lacked, and nothing else"


def test_an_etag_that_changes_midway_begins_the_file_anew(bench: Bench) -> None:
    content, other = os.urandom(COUNT * PART), os.urandom(COUNT * PART)

    def script(asked: Asked, answer: Answer) -> Answer:
        if asked.begin == 6 * PART:
            return 200, {"ETag": '"two"', "Content-Length": str(len(other))}, other
        return answer

    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    run = bench.claim()
    with pytest.raises(SourceChanged):
        bench.bring(run, file)
    assert bench.parts() == []


def test_a_source_with_patience_for_one_connection_is_read_by_one(bench: Bench) -> None:
    content = os.urandom(COUNT * PART)
    lock, first = threading.Lock(), list[int]()
    refused = threading.Semaphore(0)

    def script(asked: Asked, answer: Answer) -> Answer:
        if asked.number == 0:
            return answer
        with lock:
            first.append(asked.connection)
        if asked.connection != first[0]:
            refused.release()
            return empty(429)
        if len(first) == 1:
            for _ in range(3):
                assert refused.acquire(timeout=60)
        return answer

    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    assert bench.bring(bench.claim(), file) == [sha256_of(content)]
    assert bench.ranges.connections == 5, "one for the look, one that was let in, three that were not and stood down"


def test_who_has_patience_for_nobody_is_left_alone(bench: Bench) -> None:
    content = os.urandom(COUNT * PART)
    script = lambda asked, answer: empty(429, **{"Retry-After": "7"}) if asked.number else answer  # noqa: E731
    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    with pytest.raises(RateLimited) as refused:
        bench.bring(bench.claim(), file)
    assert refused.value.retry_after_s == 7
    assert len(bench.ranges.begins("/model.onnx")) <= 5


def test_where_a_redirect_led_is_asked_directly_until_it_refuses(bench: Bench) -> None:
    content = os.urandom(COUNT * PART)
    signed = iter(range(1, 100))
    lock = threading.Lock()
    good = [0]

    def lead(_asked: Asked, _answer: Answer) -> Answer:
        with lock:
            good[0] = next(signed)
            path = f"/signed-{good[0]}"
            bench.ranges.serve(path, content, expiring(good[0]))
        return empty(302, Location=path)

    def expiring(number: int) -> Callable[[Asked, Answer], Answer]:
        def script(asked: Asked, answer: Answer) -> Answer:
            return empty(403) if number == 2 and asked.number >= 3 else answer

        return script

    url = bench.ranges.serve("/hub.onnx", content, lead)
    file = RemoteFile("hub.onnx", url, '"one"', len(content), "", ranges=True)
    assert bench.bring(bench.claim(), file, connections=1, part_bytes=PART) == [sha256_of(content)]
    assert len(bench.ranges.asked["/hub.onnx"]) == 1
    other = RemoteFile("again.onnx", url, '"one"', len(content), "", ranges=True)
    run = bench.claim()
    with psycopg.connect(bench.url) as connection:
        connection.execute("DELETE FROM fetcher.downloads")
    assert bench.bring(run, other, connections=2) == [sha256_of(content)]
    asked = len(bench.ranges.asked["/hub.onnx"]) - 1
    assert asked < COUNT, f"the hub was asked {asked} times for {COUNT} parts, one of them since its URL had expired"
    assert good[0] > 2


def test_parts_of_another_size_are_gone_on_with(bench: Bench) -> None:
    content = os.urandom(COUNT * PART + 5)

    def script(asked: Asked, answer: Answer) -> Answer:
        return empty(500) if asked.begin >= 3 * PART else answer

    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    run = bench.claim()
    with pytest.raises(NetworkError):
        bench.bring(run, file, connections=2)
    noted = bench.parts()
    bench.ranges.files["/model.onnx"] = content, lambda _, answer: answer
    assert bench.bring(run, file, part_bytes=PART // 2 + 1) == [sha256_of(content)]
    assert bench.parts() == list(range(COUNT + 1)), "in the size that they began with"
    assert set(noted) < set(range(COUNT + 1))


def test_several_small_files_come_at_once(bench: Bench) -> None:
    four = threading.Barrier(4, timeout=60)

    def script(asked: Asked, answer: Answer) -> Answer:
        if asked.number:
            four.wait()
        return answer

    contents = [os.urandom(900 + number) for number in range(8)]
    files = [bench.find(bench.ranges.serve(f"/{n}.json", content, script)) for n, content in enumerate(contents)]
    assert bench.bring(bench.claim(), *files) == [sha256_of(content) for content in contents]


def test_the_same_file_under_two_paths_comes_once(bench: Bench) -> None:
    content = os.urandom(3 * PART)
    file = bench.find(bench.ranges.serve("/layer", content))
    brought = bench.bring(bench.claim(), *(replace(file, path=f"{number}.bin") for number in range(4)))
    assert brought == [sha256_of(content)] * 4
    assert sorted(bench.ranges.begins("/layer")) == [0, PART, 2 * PART]


def test_a_file_that_fails_ends_the_others_and_what_came_whole_stays(bench: Bench) -> None:
    small = os.urandom(100)
    whole = threading.Event()

    def held(asked: Asked, answer: Answer) -> Answer:
        if asked.number:
            assert whole.wait(60)
            return empty(404)
        return answer

    gone = bench.find(bench.ranges.serve("/gone.bin", os.urandom(3 * PART), held))
    here = bench.find(bench.ranges.serve("/here.json", small))
    bench.blobs.after_put = whole.set
    run = bench.claim()
    with pytest.raises(DomainError, match="nothing is there"):
        bench.bring(run, gone, here)
    asked = len(bench.ranges.asked["/here.json"])
    assert bench.bring(run, here) == [sha256_of(small)]
    assert len(bench.ranges.asked["/here.json"]) <= asked + 1


def test_a_cancelled_run_ends_all_connections_at_once(bench: Bench) -> None:
    content = os.urandom(COUNT * PART)
    four, never = threading.Barrier(5, timeout=60), threading.Event()

    def script(asked: Asked, answer: Answer) -> Answer:
        if asked.number:
            four.wait()
            never.wait(60)
        return answer

    run = bench.claim()
    file = bench.find(bench.ranges.serve("/model.onnx", content, script))

    def cancel() -> None:
        four.wait()
        run.stop(StopReason.CANCELLED)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises((NetworkError, Stopped)):
        bench.bring(run, file)
    assert not never.is_set(), "while the source still says nothing"
    never.set()
    canceller.join()


@pytest.mark.parametrize("connections", [1, 4])
def test_a_wrong_digest_is_found_whatever_order_the_parts_came_in(bench: Bench, connections: int) -> None:
    content = os.urandom(COUNT * PART)
    file = bench.find(bench.ranges.serve("/model.onnx", content), sha256="0" * 64)
    with pytest.raises(DigestMismatch):
        bench.bring(bench.claim(), file, connections=connections)
    assert bench.parts() == []


def test_more_than_was_asked_for_is_not_taken(bench: Bench) -> None:
    content = os.urandom(COUNT * PART)

    def script(asked: Asked, answer: Answer) -> Answer:
        if asked.begin != 2 * PART:
            return answer
        body = content[asked.begin : asked.begin + 2 * PART]
        span = f"bytes {asked.begin}-{asked.begin + len(body) - 1}/{len(content)}"
        return 206, {"ETag": '"one"', "Content-Length": str(len(body)), "Content-Range": span}, body

    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    with pytest.raises(NetworkError):
        bench.bring(bench.claim(), file)
    assert 2 not in bench.parts()


def test_a_disk_without_room_for_what_lacks_is_said_before_anything_is_asked_for(bench: Bench) -> None:
    content = os.urandom(COUNT * PART)
    file = bench.find(bench.ranges.serve("/model.onnx", content))
    run = bench.claim()
    bench.blobs.free = COUNT * PART + 99
    with pytest.raises(StorageError, match=r"lacks 1 bytes: 655,459 are free, of which 100 stay so"):
        bench.bring(run, file, reserve_bytes=100)
    assert bench.ranges.begins("/model.onnx") == []
    bench.blobs.free += 1
    assert bench.bring(run, file, reserve_bytes=100) == [sha256_of(content)]
    bench.blobs.free = 100
    assert bench.bring(run, file, reserve_bytes=100) == [sha256_of(content)], "nothing lacks, so no room is needed"
