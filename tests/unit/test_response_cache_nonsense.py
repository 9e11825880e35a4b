"""A shared cache that answers nonsense, too much, or without end: a look in vain, never a caller's error."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from services.common.counters import Counters
from services.common.errors import Unavailable
from services.inference.caching import shared
from services.inference.caching.answers import AnswerKey, Found
from services.inference.caching.breaker import FAILURES
from services.inference.caching.counts import CacheStatistics
from services.inference.caching.shared import SharedAnswers

Answer = Callable[[socket.socket], None]
WITHIN_S = 60


@contextmanager
def answering(answer: Answer, *commands: bytes) -> Iterator[str]:
    """Listen as Redis does: whatever a connection begins with is well; each of these commands gets this answer."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        try:
            while asked := connection.recv(65536):
                if any(command in asked for command in commands):
                    answer(connection)
                else:
                    connection.sendall(b"+OK\r\n" * asked.count(b"CLIENT"))
        except OSError:
            pass
        finally:
            connection.close()

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


class Looker:
    """A cache at an address, and its counts."""

    def __init__(self, url: str, *, timeout_ms: int = 10_000) -> None:
        self.store = SharedAnswers(url, timeout_ms=timeout_ms)
        self.statistics = CacheStatistics(Counters())
        self.key = AnswerKey("iris", b"x" * 32, self.statistics.of("iris", "1"))

    def look(self) -> Found:
        return self.store.find(self.key)

    @property
    def errors(self) -> int:
        return self.statistics.all()[0].errors


def saying(reply: bytes) -> Answer:
    return lambda connection: connection.sendall(reply)


NONSENSE = {
    "an array whose length is no number": b"*x\r\n",
    "a text whose length is no number": b"$abc\r\n",
    "two of three": b"*2\r\n$-1\r\n$-1\r\n",
    "a number": b":5\r\n",
    "a number for a value": b"*3\r\n$-1\r\n$-1\r\n:7\r\n",
    "a number for a ticket": b"*3\r\n:7\r\n$-1\r\n$-1\r\n",
    "a word": b"+OK\r\n",
    "nothing": b"$-1\r\n",
    "arrays in arrays in arrays": b"*1\r\n" * 20_000,
    "an error": b"-ERR out of order\r\n",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("reply", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_a_miss_that_is_counted_and_soon_not_asked_for_any_more(reply: bytes) -> None:
    asked: list[None] = []

    def answer(connection: socket.socket) -> None:
        asked.append(None)
        connection.sendall(reply)

    with answering(answer, b"MGET") as url:
        looker = Looker(url)
        for _ in range(2 * FAILURES):
            assert looker.look() == Found(None, None)
        assert looker.errors == 2 * FAILURES
        assert len(asked) == FAILURES
        looker.store.close()


def test_an_answer_that_drips_in_without_end_holds_nobody_beyond_the_time_out() -> None:
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"*3\r\n$-1\r\n$-1\r\n$1000000\r\n")
        while not over.wait(0.001):
            connection.sendall(b"z")

    with answering(drip, b"MGET") as url, ThreadPoolExecutor(1) as pool:
        looker = Looker(url, timeout_ms=50)
        looking = pool.submit(looker.look)
        try:
            assert looking.result(WITHIN_S) == Found(None, None)
        finally:
            over.set()
        assert looker.errors == 1
        looker.store.close()


def test_an_answer_larger_than_any_that_is_kept_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MAX_REPLY_BYTES", 100_000)

    def pour(connection: socket.socket) -> None:
        connection.sendall(b"*3\r\n$-1\r\n$-1\r\n$1000000000\r\n")
        while True:  # until the other side hangs up
            connection.sendall(bytes(10_000))

    with answering(pour, b"MGET") as url, ThreadPoolExecutor(1) as pool:
        looker = Looker(url, timeout_ms=1000 * 3600)
        assert pool.submit(looker.look).result(WITHIN_S) == Found(None, None)
        assert looker.errors == 1
        looker.store.close()


def test_nonsense_for_a_purge_and_a_question_how_it_is_says_that_it_does_not_answer() -> None:
    with answering(saying(b"*x\r\n"), b"SET\r\n", b"PING") as url:
        looker = Looker(url)
        assert not looker.store.held().reachable
        with pytest.raises(Unavailable) as caught:
            looker.store.purge("iris")
        assert caught.value.reason == "CACHE_UNREACHABLE"
        looker.store.close()


def test_a_sound_answer_is_read_after_nonsense() -> None:
    replies = [b"*x\r\n", b"*3\r\n$-1\r\n$-1\r\n$-1\r\n"]
    with answering(lambda connection: connection.sendall(replies.pop(0)), b"MGET") as url:
        looker = Looker(url)
        assert looker.look().ticket is None
        assert looker.look().ticket == bytes(2 * shared.TICKET_BYTES)
        assert looker.errors == 1
        looker.store.close()
