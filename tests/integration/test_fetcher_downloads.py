"""Bytes that come wrong, twice, torn or slowly, and those that were damaged where they are kept."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from services.common.jobs import JobConnection
from services.fetcher import __main__ as fetcher
from services.fetcher import telling
from services.fetcher.store.fetches import FetchStore
from tests.fetching import Place, fetching
from tests.origins import Say, answering
from tests.postgres import PostgresServer
from tests.registry import wait_until
from tests.testdata import models

pytestmark = pytest.mark.slow
PART = 64 * 1024
SIZE = 5 * PART // 2
_BEGIN = re.compile(r"\r\nrange: bytes=(\d+)-", re.IGNORECASE)

Script = Callable[[int, int], tuple[int, bytes]]
"""Of the n-th answer from a byte on: from which byte on it says to be, and its bytes."""


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetcher, "FILE_PART_BYTES", PART)
        # One after the other, so that a script knows which answer is which.
        with fetching(postgres_server, tmp_path_factory.mktemp("fetcher"), fetcher_connections=1) as running:
            yield running


def told(size: int, script: Script, *, etag: str = '"x"', begins: list[int] | None = None) -> Say:
    """Answer looks as one should, and all else as a script says."""
    asked = [] if begins is None else begins

    def say(connection: socket.socket, head: str) -> None:
        if "bytes=0-0" in head:
            begin, body, end = 0, b"x", 0
        else:
            found = _BEGIN.search(head)
            asked.append(int(found[1]) if found else 0)
            begin, body = script(len(asked), asked[-1])
            end = size - 1
        partial = "bytes=" in head
        lines = [f"HTTP/1.1 {206 if partial else 200} X", f"ETag: {etag}", f"Content-Length: {end + 1 - begin}"]
        lines += [f"Content-Range: bytes {begin}-{end}/{size}"] if partial else []
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    return say


def whole(place: Place, sha256: str) -> bool:
    return bool(place.rows("SELECT FROM fetcher.downloads WHERE sha256 = %s", sha256))


def test_an_answer_that_leaves_bytes_out_is_not_glued_to_what_came_before(place: Place) -> None:
    content = os.urandom(SIZE)
    script: list[tuple[int, bytes]] = [
        (0, content[: PART + 9]),
        (PART + 100, content[PART + 100 :]),
        (PART, content[PART:]),
    ]
    begins: list[int] = []
    with answering(told(SIZE, lambda number, _: script[number - 1], begins=begins)) as url:
        place.fetch("url", f"{url}/gap.onnx")
    assert begins == [0, PART, PART], "the gap brought nothing that was kept"
    assert whole(place, hashlib.sha256(content).hexdigest())


def test_a_weak_etag_does_not_vouch_for_the_rest_of_a_file(place: Place) -> None:
    one, other = os.urandom(SIZE), os.urandom(SIZE)
    begins: list[int] = []

    def script(number: int, begin: int) -> tuple[int, bytes]:
        return (0, one[: PART + 9]) if number == 1 else (begin, other[begin:])

    with answering(told(SIZE, script, etag='W/"x"', begins=begins)) as url:
        place.fetch("url", f"{url}/weak.onnx")
    assert begins == [0, 0]
    assert whole(place, hashlib.sha256(other).hexdigest())


def test_a_bad_mirror_spoils_the_same_digest_for_nobody(place: Place) -> None:
    content = models.classifier(seed=1)
    sha256 = hashlib.sha256(content).hexdigest()
    with answering(told(SIZE, lambda *_: (0, os.urandom(PART + 9)))) as bad:
        broken = place.fetch("url", f"{bad}/mirror.onnx", sha256=sha256, max_attempts=1)
    assert broken.error.reason == "NETWORK_ERROR"
    url = place.origin.serve("/true.onnx", content)
    done = place.fetch("url", url, sha256=sha256, max_attempts=1)
    assert (done.state, done.progress.reused_bytes) == (pb.FETCH_JOB_STATE_COMPLETED, 0), done.error
    sent = place.origin.sent_bytes
    again = place.fetch("url", place.origin.serve("/elsewhere.onnx", content), sha256=sha256, model="elsewhere")
    assert (again.state, again.result.downloaded_bytes) == (pb.FETCH_JOB_STATE_COMPLETED, 0), again.error
    assert place.origin.sent_bytes == sent + 1, "what is here whole is shared, wherever it came from"


def test_a_digest_that_older_parts_break_is_tried_anew_before_it_is_called_wrong(place: Place) -> None:
    one, other = os.urandom(SIZE), os.urandom(SIZE)
    begins: list[int] = []

    def script(number: int, begin: int) -> tuple[int, bytes]:
        return (0, one[: PART + 9]) if number == 1 else (begin, other[begin:])

    with answering(told(SIZE, script, begins=begins)) as url:
        job = place.fetch("url", f"{url}/torn.onnx", sha256=hashlib.sha256(other).hexdigest())
    assert begins == [0, PART, 0]
    assert (job.error.reason, job.attempt_count) == ("REGISTRATION_REFUSED", 3), "random bytes are no model"


def test_a_body_cut_short_unseen_is_not_used_again_once_it_was_refused(place: Place) -> None:
    content, answers = models.classifier(), list[int]()

    def say(connection: socket.socket, _: str) -> None:
        answers.append(len(answers))
        body = content[:100] if len(answers) == 2 else content  # after the look
        connection.sendall(b'HTTP/1.0 200 OK\r\nETag: "e"\r\n\r\n' + body)

    with answering(say) as url:
        refused = place.fetch("url", f"{url}/short.onnx")
        assert refused.error.reason == "REGISTRATION_REFUSED"
        mended = place.end(place.client.fetcher.retry(refused.id))
    assert mended.state == pb.FETCH_JOB_STATE_COMPLETED, mended.error
    assert mended.result.downloaded_bytes == len(content)


def test_a_part_damaged_in_the_store_is_brought_anew_at_once(place: Place) -> None:
    content, begins = os.urandom(SIZE), list[int]()
    with answering(
        told(SIZE, lambda n, begin: (begin, content[begin : 2 * PART + 9 if n == 1 else SIZE]), begins=begins)
    ) as url:
        job = place.fetch("url", f"{url}/damaged.onnx", max_attempts=1)
        assert job.error.reason == "NETWORK_ERROR"
        place.blob(content[:PART]).write_bytes(b"x" * PART)
        again = place.fetch("url", f"{url}/damaged.onnx", max_attempts=2)
    assert (again.error.reason, again.attempt_count) == ("REGISTRATION_REFUSED", 2), "random bytes are no model"
    assert (begins[0], begins[-1]) == (0, 0)


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_file_damaged_in_the_store_heals_by_itself(place: Place, damage: str) -> None:
    content = models.classifier()
    url = place.origin.serve(f"/{damage}.onnx", content, etag=f'"{damage}"')
    assert place.fetch("url", url).state == pb.FETCH_JOB_STATE_COMPLETED
    blob = place.blob(content)
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(bytes(len(content)))
    job = place.fetch("url", url, model=f"{damage}-again")
    assert (job.state, job.attempt_count) == (pb.FETCH_JOB_STATE_COMPLETED, 2), job.error
    assert job.result.downloaded_bytes == len(content)


def test_what_a_job_brought_in_an_earlier_attempt_is_not_called_reused(place: Place) -> None:
    content = os.urandom(SIZE)
    with answering(told(SIZE, lambda n, begin: (begin, content[begin : 2 * PART + 9 if n == 1 else SIZE]))) as url:
        job = place.fetch("url", f"{url}/counted.onnx")
        assert (job.attempt_count, job.progress.done_bytes, job.progress.reused_bytes) == (2, SIZE, 0)
        other = place.fetch("url", f"{url}/counted.onnx", model="other")
    assert (other.progress.done_bytes, other.progress.reused_bytes) == (SIZE, SIZE)


def test_a_stall_is_told_with_all_that_came_before_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "INTERVAL_S", 0.05)
    speeds, flows, go_on = list[int](), FetchStore.flows, threading.Event()

    def flowing(store: FetchStore, connection: JobConnection, job_id: UUID, bytes_per_second: int) -> None:
        flows(store, connection, job_id, bytes_per_second)
        speeds.append(bytes_per_second)

    monkeypatch.setattr(FetchStore, "flows", flowing)

    def say(connection: socket.socket, head: str) -> None:
        looks = "bytes=0-0" in head
        size = 1 if looks else SIZE
        begins = f"Content-Range: bytes 0-0/{SIZE}\r\n" if looks else ""
        status = f"HTTP/1.1 {206 if looks else 200} X\r\n"
        connection.sendall(f'{status}ETag: "x"\r\nContent-Length: {size}\r\n{begins}\r\n'.encode())
        connection.sendall(bytes(min(size, 2 * PART)))
        if not looks:
            go_on.wait(60)
            connection.sendall(bytes(SIZE - 2 * PART))

    with answering(say) as url:
        job = place.client.fetcher.start("url", f"{url}/stalls.onnx", max_attempts=1)
        wait_until(lambda: (any(speeds) and not speeds[-1]) or None)
        seen = wait_until(lambda: stalled(place.client.fetcher.get(job.id)))
        assert (seen.state, seen.progress.HasField("remaining_ms")) == (pb.FETCH_JOB_STATE_DOWNLOADING, False)
        go_on.set()
        assert place.end(job).progress.done_bytes == SIZE


def stalled(job: pb.FetchJob) -> pb.FetchJob | None:
    return job if (job.progress.done_bytes, job.progress.bytes_per_second) == (2 * PART, 0) else None


def test_who_waits_for_anothers_download_leaves_its_slot_to_others(place: Place) -> None:
    go_on = threading.Event()
    url = place.origin.serve("/slow.onnx", models.classifier(), etag='"slow"', hold=lambda _: go_on.wait(60))
    waiting = [place.client.fetcher.start("url", url) for _ in range(4)]
    quick = place.fetch("url", place.origin.serve("/quick.onnx", models.classifier(), etag='"quick"'))
    assert quick.state == pb.FETCH_JOB_STATE_COMPLETED, quick.error
    state = pb.FETCH_JOB_STATE_PENDING
    wait_until(lambda: sum(place.client.fetcher.get(job.id).state == state for job in waiting) == 3 or None)
    go_on.set()
    ended = [place.end(job) for job in waiting]
    assert {(job.state, job.attempt_count) for job in ended} == {(pb.FETCH_JOB_STATE_COMPLETED, 1)}


def test_a_look_says_what_would_be_downloaded_now(place: Place) -> None:
    content, inspect = os.urandom(SIZE), place.client.fetcher.inspect
    with answering(told(SIZE, lambda n, begin: (begin, content[begin : 2 * PART + 9 if n == 1 else SIZE]))) as url:
        reference = f"{url}/looked-at.onnx"
        assert inspect("url", reference).download_size_bytes == SIZE
        place.fetch("url", reference, max_attempts=1)
        assert inspect("url", reference).download_size_bytes == SIZE - 2 * PART, "two parts are here"
        place.fetch("url", reference)
        looked = inspect("url", reference)
    assert (looked.download_size_bytes, looked.variants[0].size_bytes) == (0, SIZE)
    elsewhere = place.origin.serve("/looked-at-elsewhere.onnx", content)
    assert inspect("url", elsewhere).download_size_bytes == SIZE
    sha256 = hashlib.sha256(content).hexdigest()
    assert inspect("url", elsewhere, sha256=sha256).download_size_bytes == 0, "whole, by its digest"
