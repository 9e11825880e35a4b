"""Sources that misbehave towards several connections: what goes wrong with one, and what becomes of the others."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from services.fetcher.faults import DigestMismatch, NetworkError, RateLimited, SourceChanged, StorageError
from services.fetcher.models import RemoteFile
from tests.bringing import COUNT, PART, Bench, bringing, sha256_of
from tests.ranges import Answer, Asked, empty

pytestmark = pytest.mark.slow
CloneDatabase = Callable[[str], str]


@pytest.fixture
def bench(clone_database: CloneDatabase, tmp_path: Path) -> Iterator[Bench]:
    with bringing(clone_database("fetcher"), tmp_path) as made:
        yield made


def test_a_source_that_ignores_ranges_after_the_look_is_read_by_one_stream(bench: Bench) -> None:
    content = os.urandom(COUNT * PART)

    def script(asked: Asked, answer: Answer) -> Answer:
        if asked.number == 0:
            return answer
        return 200, {"ETag": '"one"', "Content-Length": str(len(content))}, content

    file = bench.find(bench.ranges.serve("/model.onnx", content, script))
    assert bench.bring(bench.claim(), file) == [sha256_of(content)]
    assert len(bench.ranges.begins("/model.onnx")) <= 5


def test_a_gap_in_a_file_of_unknown_size_is_not_taken_for_its_end(bench: Bench) -> None:
    content = os.urandom(5 * PART + 7)
    url = bench.ranges.serve("/model.onnx", content, lambda _, answer: (*answer[:2], answer[2][: 3 * PART]))
    file, run = RemoteFile("model.onnx", url, '"one"', None, ""), bench.claim()
    with pytest.raises(NetworkError):
        bench.bring(run, file)
    with psycopg.connect(bench.url) as connection:
        connection.execute("DELETE FROM fetcher.download_parts WHERE part_number = 1")
    assert bench.parts() == [0, 2]

    def script(asked: Asked, answer: Answer) -> Answer:
        return answer if asked.number < 9 else empty(404)  # who takes the gap's end for the file's asks for ever

    bench.ranges.files["/model.onnx"] = content, script
    assert bench.bring(run, file) == [sha256_of(content)]
    assert bench.ranges.asked["/model.onnx"][1].begin == PART
    assert bench.parts() == [0, 1, 2, 3, 4, 5]


def test_a_file_of_unknown_size_whose_last_part_is_safe_is_not_begun_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3 * PART + 7)
    url = bench.ranges.serve("/model.onnx", content)
    file, run = RemoteFile("model.onnx", url, '"one"', None, ""), bench.claim()
    with monkeypatch.context() as patch:
        patch.setattr(bench.downloads, "finish", raising(StorageError("as if it were killed here")))
        with pytest.raises(StorageError):
            bench.bring(run, file)
    safe = bench.parts()
    asked = len(bench.ranges.asked["/model.onnx"])
    assert bench.bring(run, file) == [sha256_of(content)]
    assert (bench.parts(), len(bench.ranges.asked["/model.onnx"])) == (safe, asked)


def test_what_is_here_is_told_at_once_and_what_comes_is_told_apart(bench: Bench) -> None:
    content = os.urandom(5 * PART)
    url = bench.ranges.serve("/model.onnx", content, lambda _, answer: (*answer[:2], answer[2][: 3 * PART]))
    first = bench.find(bench.ranges.serve("/first.onnx", b"first"))
    file, run = RemoteFile("model.onnx", url, '"one"', 5 * PART, ""), bench.claim()
    with pytest.raises(NetworkError):
        bench.bring(run, file)
    assert bench.parts() == [0, 1, 2]
    bench.ranges.serve("/model.onnx", content)
    told, came = list[int](), list[int]()
    bench.bring(run, first, file, connections=1, told=told.append, came=came.append)
    assert (told[0], min(told), told[-1]) == (3 * PART, 3 * PART, 5 * PART + 5)
    assert sum(came) == 2 * PART + 5


def test_what_is_begun_anew_is_here_no_more(bench: Bench) -> None:
    content = os.urandom(5 * PART)
    file = bench.find(bench.ranges.serve("/model.onnx", content), sha256="0" * 64)
    told = list[int]()
    with pytest.raises(DigestMismatch):
        bench.bring(bench.claim(), file, told=told.append)
    assert (max(told), told[-1]) == (5 * PART, 0)


def raising(error: Exception) -> Callable[..., None]:
    def raises(*_: object, **__: object) -> None:
        raise error

    return raises


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
