"""Sources that never end, as callers meet them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from penstock import fetcher
from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.errors import DeadlineExceeded
from tests.fetching import Place, fetching
from tests.origins import answering
from tests.postgres import PostgresServer

pytestmark = pytest.mark.slow
MOST = 1024 * 1024


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with fetching(postgres_server, tmp_path_factory.mktemp("fetcher"), fetcher_max_file_bytes=MOST) as running:
        yield running


def test_a_body_without_an_end_is_ended_at_the_cap(place: Place) -> None:
    sent: list[int] = []

    def say(connection: socket.socket, _: str) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: "x"\r\n\r\n')
        while True:
            connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            sent.append(0x10000)

    with answering(say) as url:
        job = place.fetch("url", f"{url}/endless.onnx")
    assert (job.state, job.error.reason, job.attempt_count) == (pb.FETCH_JOB_STATE_FAILED, "FILE_TOO_LARGE", 1)
    assert sum(sent) < 64 * MOST, "what the sockets hold, and no more"


def test_who_leaves_ends_the_look_that_they_asked_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ended = threading.Event(), threading.Event()

    def say(connection: socket.socket, _: str) -> None:
        asked.set()
        connection.recv(1)
        ended.set()

    monkeypatch.setattr(fetcher, "INSPECT_TIMEOUT_S", 0.5)
    with answering(say) as url:
        while not asked.is_set():
            with pytest.raises(DeadlineExceeded):
                place.client.fetcher.inspect("url", f"{url}/silent.onnx")
        assert ended.wait(20), "the fetcher let go, long before the 30 s of silence"
