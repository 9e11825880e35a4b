"""The response cache by itself: what counts as the same question, the bounds, and that it never changes an answer."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from pydantic import SecretStr, ValidationError

from services.common.counters import Counters, create_file
from services.common.errors import InvalidArgument
from services.inference.caching.address import check_url
from services.inference.caching.answers import AnswerKey, KeptAnswer
from services.inference.caching.breaker import FAILURES, CircuitBreaker
from services.inference.caching.cache import CacheDefaults, CacheDesk, ResponseCache
from services.inference.caching.counts import CacheStatistics
from services.inference.caching.engine import CachingEngine
from services.inference.caching.memory import MemoryAnswers
from services.inference.caching.request_digest import RequestDigests
from services.inference.caching.shared_format import TICKET_BYTES, decode, encode
from services.inference.engine.engine import Engine
from services.inference.engine.requests import InferenceAnswer, InferenceRequest
from services.inference.models import (
    Metadata,
    OllamaReference,
    ResolvedVersion,
    ResponseCachePolicy,
    ServingSettings,
)
from services.inference.sessions.sessions import SessionCache
from services.inference.settings import InferenceSettings
from services.inference.tensors import Tensor
from services.inference.workers.commands import Commands, OneProcess
from tests.inference import fp32
from tests.serving import BlobShelf, PlainLoader, Versions, onnx_loader
from tests.testdata import models

KEEPING = ServingSettings(response_cache=ResponseCachePolicy(enabled=True))
SHELF = BlobShelf()
IRIS = SHELF.version({"model.onnx": models.linear()}, serving=KEEPING)
X = np.ones((2, 4), np.float32)
TICKET = bytes(range(TICKET_BYTES))


class Clock:
    """A clock that is set by hand."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def statistics() -> CacheStatistics:
    return CacheStatistics(Counters())


def caching(
    engine: Engine, *, max_bytes: int = 10**6, max_answer_bytes: int = 10**5
) -> tuple[CachingEngine, ResponseCache]:
    cache = ResponseCache(MemoryAnswers(max_bytes), statistics(), CacheDefaults(60_000, max_answer_bytes))
    return CachingEngine(engine, cache), cache


def request(version: ResolvedVersion, x: Tensor = X, **more: object) -> InferenceRequest:
    return InferenceRequest(version.model, "", {"x": x}, resolved=version, **more)  # type: ignore[arg-type]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    sessions = SessionCache(onnx_loader(SHELF, tmp_path))
    yield Engine(Versions(IRIS), sessions)
    sessions.close(60)


def same(version: ResolvedVersion, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    digests = RequestDigests()
    return digests.digest(version, one, ()) == digests.digest(version, other, ())


def test_the_same_question_has_one_digest_and_another_has_another() -> None:
    a, b = fp32([[1, 2]]), fp32([[3]])
    assert same(IRIS, {"a": a, "b": b}, {"b": b, "a": a})
    assert same(IRIS, {"a": a}, {"a": np.asfortranarray(np.repeat(a, 1, axis=0))})
    assert same(IRIS, {"t": np.array(["é"], object)}, {"t": np.array(["é".encode()], object)})
    for other in (
        {"a": a.reshape(2, 1)}, {"a": a.view(np.int32)}, {"b": a}, {"a": fp32([[1, 3]])}, {"a": a, "b": b},
        {"a": a.astype(np.float64)},
    ):  # fmt: skip
        assert not same(IRIS, {"a": a}, other)
    texts = np.array(["ab", "c"], object), np.array(["a", "bc"], object)
    assert not same(IRIS, {"t": texts[0]}, {"t": texts[1]})
    assert not same(IRIS, {"a": fp32([0.0])}, {"a": fp32([-0.0])})
    quiet, other_nan = (np.array([bits], np.uint32).view(np.float32) for bits in (0x7FC00000, 0x7FC00001))
    assert same(IRIS, {"a": quiet}, {"a": quiet.copy()})
    assert not same(IRIS, {"a": quiet}, {"a": other_nan})


def test_the_version_its_bytes_what_is_said_of_it_and_the_outputs_are_part_of_the_question() -> None:
    digests = RequestDigests()
    asked = digests.digest(IRIS, {"x": X}, ())
    others = (
        SHELF.version({"model.onnx": models.linear(seed=1)}, serving=KEEPING),
        replace(IRIS, version="2.0.0"),
        replace(IRIS, metadata=Metadata("embedding", {"pooling": "cls"})),
    )
    assert len({asked, *(digests.digest(other, {"x": X}, ()) for other in others)}) == 4
    assert digests.digest(IRIS, {"x": X}, ()) == asked
    assert (
        len({digests.digest(IRIS, {"x": X}, outputs) for outputs in ((), ("y",), ("y", "z"), ("z", "y"), ("yz",))}) == 5
    )
    with pytest.raises(InvalidArgument):
        digests.digest(IRIS, {"x": np.zeros(1, complex)}, ())


def test_a_repeated_request_is_answered_without_the_model_and_alike(engine: Engine) -> None:
    answering, cache = caching(engine)
    first = answering.infer(request(IRIS))
    second = answering.infer(request(IRIS, X.copy()))
    assert (first.cache, second.cache) == ("MISS", "HIT")
    np.testing.assert_array_equal(first.outputs["y"], second.outputs["y"])
    assert (second.version, second.row_count, second.error) == (IRIS, 2, None)
    with pytest.raises(ValueError, match="read-only"):
        second.outputs["y"][0] = 0
    first.outputs["y"][:] = 7
    np.testing.assert_array_equal(answering.infer(request(IRIS)).outputs["y"], second.outputs["y"])
    (counts,) = engine.statistics()
    assert (counts.executions, counts.successes, counts.cache_hits, counts.cache_misses) == (1, 3, 2, 1)
    assert counts.cache_hit_ns > 0
    assert counts.cache_miss_ns > 0
    (kept,) = cache.statistics.all()
    assert (kept.hits, kept.misses, kept.stored) == (2, 1, 1)


def test_submit_keeps_and_finds_as_infer_does(engine: Engine) -> None:
    answering, _ = caching(engine)
    found: list[str] = []
    for _ in range(2):
        answered: SimpleQueue[InferenceAnswer] = SimpleQueue()
        answering.submit(request(IRIS), answered.put)
        found.append(answered.get(timeout=60).cache)
    assert found == ["MISS", "HIT"]


def test_without_the_policy_or_where_the_request_says_so_nothing_is_looked_for_or_kept(engine: Engine) -> None:
    answering, cache = caching(engine)
    plain = replace(IRIS, serving=ServingSettings())
    for _ in range(2):
        assert answering.infer(request(plain)).cache == ""
        assert answering.infer(request(IRIS, skip_cache=True)).cache == ""
    assert cache.store.held().entry_count == 0
    assert answering.infer(request(IRIS)).cache == "MISS"


def test_a_failure_and_an_answer_that_is_too_large_are_not_kept(engine: Engine) -> None:
    answering, cache = caching(engine, max_answer_bytes=2_000)
    for _ in range(2):
        refused = answering.infer(request(IRIS, np.ones((1, 5), np.float32)))
        assert (refused.cache, type(refused.error)) == ("MISS", InvalidArgument)
        assert answering.infer(request(IRIS, np.ones((1_000, 4), np.float32))).cache == "MISS"
    assert cache.store.held().entry_count == 0
    wide = replace(IRIS, serving=replace(KEEPING, response_cache=ResponseCachePolicy(True, 0, 10**5)))
    assert [answering.infer(request(wide, np.ones((1_000, 4), np.float32))).cache for _ in range(2)] == ["MISS", "HIT"]


def test_what_a_model_writes_anew_each_time_is_never_kept() -> None:
    _, cache = caching(Engine(Versions(), SessionCache(PlainLoader())))
    for mode, kept in (("chat", False), ("generate", False), ("embed", True)):
        version = replace(IRIS, framework="ollama", ollama=OllamaReference("llama3.2", mode))
        assert (cache.look(request(version), version) is not None) is kept


def key(name: str, counts: CacheStatistics, model: str = "iris") -> AnswerKey:
    return AnswerKey(model, name.encode(), counts.of(model, "1"))


def answer_of(size: int = 100) -> KeptAnswer:
    return KeptAnswer.of({"y": np.zeros(size, np.uint8)}, 1)


def test_the_bound_holds_in_real_bytes_and_the_least_recently_used_go_first() -> None:
    counts = statistics()
    store = MemoryAnswers(400_000)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(2_000):
        store.keep(key(f"k{number}", counts), answer_of(random.Random(number).randint(0, 1_000)), bytes(8), 60_000)
        store.find(key("k0", counts))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    held = store.held()
    assert 350_000 < held.size_bytes <= 400_000
    assert grown < 1.1 * 400_000
    assert store.find(key("k0", counts)).answer is not None
    assert store.find(key("k1", counts)).answer is None
    (found,) = counts.all()
    assert found.stored == 2_000
    assert found.evicted == 2_000 - held.entry_count
    store.keep(key("huge", counts), answer_of(500_000), bytes(8), 60_000)
    assert store.held().entry_count == held.entry_count, "what never fits pushes nothing out"


def test_an_answer_grows_too_old_on_the_monotonic_clock() -> None:
    counts, clock = statistics(), Clock()
    store = MemoryAnswers(10**6, clock)
    store.keep(key("a", counts), answer_of(), bytes(8), 1_000)
    clock.now_ns = 999_999_999
    assert store.find(key("a", counts)).answer is not None
    clock.now_ns += 1
    assert store.find(key("a", counts)).answer is None
    assert store.held().size_bytes == 0
    assert counts.all()[0].evicted == 1


def test_a_purge_takes_one_model_and_what_is_being_worked_out() -> None:
    counts = statistics()
    store = MemoryAnswers(10**6)
    for name in ("a", "b"):
        store.keep(key(name, counts), answer_of(), bytes(8), 60_000)
    store.keep(key("c", counts, "other"), answer_of(), bytes(8), 60_000)
    looked = store.find(key("late", counts))
    assert looked.ticket is not None
    assert store.purge("iris") == 2
    store.keep(key("late", counts), answer_of(), looked.ticket, 60_000)
    assert store.find(key("late", counts)).answer is None
    assert store.find(key("c", counts, "other")).answer is not None
    assert (store.purge(""), store.held().size_bytes) == (1, 0)


def test_operators_hear_of_it_and_reset_and_purge_it(engine: Engine) -> None:
    answering, cache = caching(engine)
    commands = Commands()
    desk = CacheDesk(cache, commands, OneProcess(commands))
    for _ in range(3):
        answering.infer(request(IRIS))
    (counts,) = desk.counts("iris")
    assert (counts.version, counts.hits, counts.misses) == ("1.0.0", 2, 1)
    assert desk.counts("other") == []
    assert (desk.held().entry_count, desk.held().max_bytes) == (1, 10**6)
    desk.reset()
    assert desk.counts("") == []
    assert answering.infer(request(IRIS)).cache == "HIT"
    assert desk.purge("iris") == 1
    assert answering.infer(request(IRIS)).cache == "MISS"


def test_workers_add_up_and_a_reset_reaches_what_a_dead_one_counted() -> None:
    files = [create_file() for _ in range(2)]
    first, second = (CacheStatistics(Counters(files, slot)) for slot in range(2))
    first.of("iris", "1").hit()
    second.of("iris", "1").hit()
    second.of("iris", "2").error()
    assert [(each.version, each.hits, each.errors) for each in first.all()] == [("1", 2, 0), ("2", 0, 1)]
    replacement = CacheStatistics(Counters(files, 1))
    assert replacement.all() == first.all()
    first.reset()
    assert [(each.hits, each.errors) for each in first.all()] == [(1, 0), (0, 1)], "each worker resets its own"
    replacement.reset()
    assert [(each.hits, each.errors) for each in first.all()] == [(0, 0), (0, 0)]
    for file in files:
        os.close(file)


TENSORS: dict[str, Tensor] = {
    "floats": fp32([[1.5, np.nan], [np.inf, -0.0]]),
    "texts": np.array([b"\x00\xff", "é", ""], object),
    "none": np.zeros((0, 3), np.int64),
    "scalar": np.array(True),
}


def test_an_answer_travels_and_comes_back_alike_and_read_only() -> None:
    found = decode(encode(KeptAnswer(TENSORS, 2), TICKET), TICKET)
    assert found is not None
    assert (found.row_count, list(found.outputs)) == (2, list(TENSORS))
    for name, tensor in found.outputs.items():
        assert not tensor.flags.writeable
        assert tensor.shape == TENSORS[name].shape
    np.testing.assert_array_equal(found.outputs["floats"], TENSORS["floats"])
    assert found.outputs["texts"].tolist() == [b"\x00\xff", "é".encode(), b""]


def test_whatever_else_lies_there_is_no_answer() -> None:
    value = encode(KeptAnswer(TENSORS, 2), TICKET)
    assert decode(value, bytes(TICKET_BYTES)) is None
    for wrong in (b"", b"PSRC", value[:-1], value + b"\x00", b"\x80\x04cos\nsystem\n.", value[::-1], bytes(len(value))):
        assert decode(wrong, TICKET) is None
    for position in range(len(value)):
        damaged = bytearray(value)
        damaged[position] ^= 0x20
        assert decode(bytes(damaged), TICKET) is None, position


@pytest.mark.parametrize(
    "url", ["", "redis://:secret@cache:6379/0", "rediss://cache:6379", "unix:///run/valkey.sock?db=1"]
)
def test_the_address_of_a_shared_cache_is_taken(url: str) -> None:
    assert check_url(SecretStr(url)).get_secret_value() == url


@pytest.mark.parametrize("url", ["cache:6379", "http://:secret@cache", "redis:secret@cache", "memcached://secret"])
def test_another_address_is_refused_without_repeating_its_password(url: str) -> None:
    with pytest.raises(ValidationError, match="write redis://HOST:PORT/0") as caught:
        InferenceSettings(response_cache_url=SecretStr(url))
    assert "secret" not in str(caught.value)


def test_the_breaker_opens_after_some_failures_and_lets_one_try() -> None:
    now = [0.0]
    breaker = CircuitBreaker(lambda: now[0])
    for _ in range(FAILURES - 1):
        assert not breaker.failed()
    assert breaker.allows()
    assert breaker.failed()
    for _ in range(40):  # those that were on their way
        assert not breaker.failed()
    assert not breaker.allows()
    now[0] = 1.3
    assert [breaker.allows() for _ in range(5)] == [True, False, False, False, False]
    assert not breaker.failed()
    now[0] += 1.9
    assert not breaker.allows(), "the second wait is longer"
    now[0] += 0.6
    assert breaker.allows()
    assert breaker.succeeded()
    assert [breaker.allows() for _ in range(3)] == [True] * 3
    assert not breaker.succeeded()
