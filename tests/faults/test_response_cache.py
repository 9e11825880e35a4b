"""Answers shared through a real Redis: what processes have in common, and that its faults are never a caller's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.common.counters import Counters
from services.common.errors import Unavailable
from services.inference.caching import breaker, shared
from services.inference.caching.answers import AnswerKey, KeptAnswer
from services.inference.caching.cache import CacheDefaults, ResponseCache
from services.inference.caching.counts import CacheStatistics, VersionCounts
from services.inference.caching.engine import CachingEngine
from services.inference.caching.shared import PREFIX, SharedAnswers
from services.inference.engine.engine import Engine
from services.inference.engine.requests import InferenceRequest
from services.inference.models import ResponseCachePolicy, ServingSettings
from services.inference.sessions.sessions import SessionCache
from tests.redis_server import RedisServer, running_redis
from tests.serving import PlainLoader, Versions, plain_version, wait_until

pytestmark = pytest.mark.slow
VERSION = replace(plain_version("iris"), serving=ServingSettings(response_cache=ResponseCachePolicy(enabled=True)))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        yield server


class Process:
    """What one process of the service has of the cache, with a model that answers zeros."""

    def __init__(self, url: str, *, timeout_ms: int = 30_000) -> None:
        self.store = SharedAnswers(url, timeout_ms=timeout_ms)
        self.store.open()
        self._statistics = CacheStatistics(Counters())
        cache = ResponseCache(self.store, self._statistics, CacheDefaults(60_000, 10**6))
        self._engine = CachingEngine(Engine(Versions(VERSION), SessionCache(PlainLoader())), cache)

    def ask(self, number: int = 0) -> str:
        inputs = {"x": np.full((1, 4), number, np.float32)}
        answer = self._engine.infer(InferenceRequest("iris", "", inputs, resolved=VERSION))
        assert answer.error is None
        assert answer.outputs["y"].shape == (1, 3)
        return answer.cache

    def flushed(self, number: int = 0) -> str:
        """Ask, and wait until what is to be kept lies there."""
        found = self.ask(number)
        self.store.flush()
        return found

    @property
    def counts(self) -> VersionCounts:
        return self._statistics.all()[0]


@pytest.fixture
def process(server: RedisServer) -> Iterator[Process]:
    process = Process(server.url)
    yield process
    process.store.close()


def test_two_processes_share_their_answers(server: RedisServer, process: Process) -> None:
    other = Process(server.url)
    assert process.flushed() == "MISS"
    assert (other.ask(), process.ask(), other.ask(1)) == ("HIT", "HIT", "MISS")
    assert (process.counts.hits, process.counts.misses, process.counts.stored) == (1, 1, 1)
    assert other.store.purge("iris") >= 1
    assert process.flushed() == "MISS"
    # Another's purge holds for what is being worked out here.
    looked = process.store.find(AnswerKey("iris", b"late", CacheStatistics(Counters()).of("iris", "1")))
    assert looked.ticket is not None
    other.store.purge("")
    key = AnswerKey("iris", b"late", CacheStatistics(Counters()).of("iris", "1"))
    process.store.keep(key, KeptAnswer.of({"y": np.zeros(3)}, 1), looked.ticket, 60_000)
    process.store.flush()
    assert other.store.find(key).answer is None
    assert other.ask() == "MISS"
    other.store.close()


def test_a_process_of_its_own_finds_what_this_one_kept(server: RedisServer, process: Process) -> None:
    process.flushed()
    code = f"from tests.faults.test_response_cache import Process; print(Process({server.url!r}).ask())"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.strip() == "HIT"


def test_a_purge_takes_the_answers_of_its_model_and_nothing_else(server: RedisServer, process: Process) -> None:
    for number in range(50):
        process.ask(number)
    process.store.flush()
    client = server.client()
    client.set("theirs", "something")
    counts = CacheStatistics(Counters()).of("iris-2", "1")
    near = AnswerKey("iris-2", b"near", counts)
    ticket = process.store.find(near).ticket
    assert ticket is not None
    process.store.keep(near, KeptAnswer.of({"y": np.zeros(3)}, 1), ticket, 60_000)
    process.store.flush()
    assert process.store.purge("iris") == 50
    assert client.get("theirs") == b"something"
    assert process.store.find(near).answer is not None
    assert process.store.purge("") == 1


def test_an_answer_lives_as_long_as_it_is_told(server: RedisServer, process: Process) -> None:
    process.flushed()
    (name,) = server.client().keys(f"{PREFIX}:of:*")
    assert 50_000 < server.client().pttl(name) <= 60_000
    server.client().pexpire(name, 1)
    wait_until(lambda: server.client().exists(name) == 0)
    assert process.flushed() == "MISS"


@pytest.mark.parametrize("garbage", [b"", b"junk", b"PSRC" + bytes(100), b"\x80\x05cos\nsystem\n(S'exit'\ntR."])
def test_a_foreign_or_damaged_value_is_a_miss_and_replaced(
    server: RedisServer, process: Process, garbage: bytes
) -> None:
    process.flushed()
    (name,) = server.client().keys(f"{PREFIX}:of:*")
    server.client().set(name, garbage)
    assert process.flushed() == "MISS"
    assert process.ask() == "HIT"
    server.client().delete(name)
    server.client().lpush(name, "of another type")
    assert process.flushed() == "MISS"
    assert process.ask() == "HIT"


def test_a_server_that_is_stopped_midway_is_a_miss_and_found_again(
    server: RedisServer, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_WAIT_S", 0.05)
    process.flushed()
    assert process.ask() == "HIT"
    server.stop()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(process.ask, range(200))) == {"MISS"}
    assert process.counts.errors >= 200
    assert not process.store.held().reachable
    with pytest.raises(Unavailable) as caught:
        process.store.purge("iris")
    assert caught.value.reason == "CACHE_UNREACHABLE"
    server.start()
    wait_until(lambda: process.flushed() == "HIT")
    assert process.store.held().reachable


def test_a_server_that_hangs_costs_a_few_short_waits_and_then_nothing(
    server: RedisServer, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = Process(server.url, timeout_ms=20)
    quick.flushed()
    asked = count_looks(quick, monkeypatch)
    server.hang()
    try:
        for number in range(500):
            assert quick.ask(number) == "MISS"
        assert len(asked) <= breaker.FAILURES + 3, "it is left alone, but for a try now and then"
        assert quick.counts.errors >= 500
    finally:
        server.go_on()
    wait_until(lambda: quick.ask() == "HIT")
    quick.store.close()


def test_a_server_that_never_was_there_stops_nobody(tmp_path: Path) -> None:
    process = Process("redis://127.0.0.1:1/0", timeout_ms=20)
    began = time.monotonic()
    assert [process.ask(number) for number in range(20)] == ["MISS"] * 20
    process.store.close()
    assert time.monotonic() - began < shared.PURGE_LIMIT_S


def count_looks(process: Process, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Note each look that reaches for the server."""
    looks: list[object] = []
    client = process.store._client._redis
    mget = client.mget

    def noted(names: object) -> object:
        looks.append(names)
        return mget(names)

    monkeypatch.setattr(client, "mget", noted)
    return looks
