from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.common.errors import (
    DeadlineExceeded,
    DomainError,
    FailedPrecondition,
    ResourceExhausted,
    Unavailable,
)
from services.inference.sessions import sessions as sessions_module
from services.inference.sessions.cached_session import SessionLimits
from services.inference.sessions.sessions import SessionCache
from tests.serving import PlainLoader, plain_version, wait_until


@pytest.fixture(autouse=True)
def _sizes_as_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    # What this process grows by meanwhile is noise of hundreds of kilobytes; these sessions say their own sizes.
    monkeypatch.setattr(sessions_module, "resident_bytes", lambda: 0)


@pytest.fixture
def loader() -> PlainLoader:
    return PlainLoader()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(loader: PlainLoader, clock: Clock) -> Iterator[SessionCache]:
    cache = SessionCache(loader, SessionLimits(budget_bytes=300, max_sessions=10, drain_s=0.2), clock=clock)
    yield cache
    loader.gate.set()
    cache.close(60)


def loaded(cache: SessionCache) -> list[str]:
    return [info.version.model for info in cache.list_sessions()]


def test_two_hundred_threads_that_ask_for_one_cold_model_cause_one_load(
    cache: SessionCache, loader: PlainLoader
) -> None:
    version = plain_version("a")
    loader.gate.clear()
    with ThreadPoolExecutor(200) as pool:
        futures = [pool.submit(cache.acquire, version, 60) for _ in range(200)]
        wait_until(lambda: cache.counters.misses == 200)
        loader.gate.set()
        entries = [future.result() for future in futures]
    assert loader.began == 1
    assert len({id(entry) for entry in entries}) == 1
    assert entries[0].users == 200
    for entry in entries:
        cache.release(entry)
    assert cache.list_sessions()[0].in_flight == 0
    assert (cache.counters.loads, cache.counters.failed_loads) == (1, 0)


def test_a_hit_loads_nothing(cache: SessionCache, loader: PlainLoader) -> None:
    for _ in range(3):
        with cache.use(plain_version("a"), 60):
            pass
    assert (loader.began, cache.counters.hits, cache.counters.misses) == (1, 2, 1)


def test_the_least_recently_used_goes_first(cache: SessionCache, loader: PlainLoader) -> None:
    for name in ("a", "b", "c", "a", "d"):
        with cache.use(plain_version(name), 60):
            pass
    assert loaded(cache) == ["c", "a", "d"]
    assert loader.of("b").closed.wait(60)
    assert cache.counters.evictions == 1


def test_a_session_in_use_is_evicted_but_closed_only_by_its_last_user(cache: SessionCache, loader: PlainLoader) -> None:
    first, second = cache.acquire(plain_version("a"), 60), cache.acquire(plain_version("a"), 60)
    assert cache.unload(plain_version("a").key)
    assert not cache.is_loaded(plain_version("a").key)
    cache.release(first)
    assert not loader.of("a").closed.is_set()
    assert cache.used_bytes == 100
    cache.release(second)
    assert loader.of("a").closed.wait(60)
    wait_until(lambda: cache.used_bytes == 0)


def test_idle_sessions_are_evicted_before_busy_ones(cache: SessionCache) -> None:
    busy = cache.acquire(plain_version("busy"), 60)
    for name in ("b", "c", "d"):
        with cache.use(plain_version(name), 60):
            pass
    assert "busy" in loaded(cache)
    cache.release(busy)


def test_a_pinned_session_stays_and_an_unpinned_one_may_go(cache: SessionCache) -> None:
    for name in ("pinned", "b", "c", "d", "e"):
        with cache.use(plain_version(name, pinned=name == "pinned"), 60):
            pass
    assert "pinned" in loaded(cache)
    assert cache.pin(plain_version("pinned").key, pinned=False)
    for name in ("f", "g", "h"):
        with cache.use(plain_version(name), 60):
            pass
    assert "pinned" not in loaded(cache)
    assert not cache.pin("nobody", pinned=True)


def test_a_model_over_the_budget_is_refused_and_evicts_nobody(cache: SessionCache, loader: PlainLoader) -> None:
    with cache.use(plain_version("a"), 60):
        pass
    with pytest.raises(ResourceExhausted, match="budget") as caught:
        cache.acquire(plain_version("huge", size_bytes=301), 60)
    assert caught.value.reason == "SESSION_BUDGET_EXCEEDED"
    assert loaded(cache) == ["a"]
    assert loader.began == 1


def test_a_model_that_turns_out_too_big_is_closed_again(
    cache: SessionCache, loader: PlainLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = iter([0, 1000])
    monkeypatch.setattr(sessions_module, "resident_bytes", lambda: next(readings))
    with pytest.raises(ResourceExhausted, match="1000 bytes"):
        cache.acquire(plain_version("a"), 60)
    assert loader.of("a").closed.wait(60)
    wait_until(lambda: cache.used_bytes == 0)


def test_the_measured_growth_counts_against_the_budget(
    cache: SessionCache, loader: PlainLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cache.use(plain_version("a"), 60):
        pass
    readings = iter([0, 250])
    monkeypatch.setattr(sessions_module, "resident_bytes", lambda: next(readings))
    with cache.use(plain_version("b"), 60):
        pass
    assert loaded(cache) == ["b"]
    assert cache.list_sessions()[0].size_bytes == 250


def test_the_number_of_sessions_is_bounded(loader: PlainLoader) -> None:
    cache = SessionCache(loader, SessionLimits(max_sessions=2))
    for name in ("a", "b", "c"):
        with cache.use(plain_version(name), 60):
            pass
    assert loaded(cache) == ["b", "c"]
    cache.close(60)


def test_when_every_session_is_pinned_a_new_one_is_refused(loader: PlainLoader) -> None:
    cache = SessionCache(loader, SessionLimits(max_sessions=1))
    with cache.use(plain_version("a", pinned=True), 60):
        pass
    with pytest.raises(ResourceExhausted, match="unpin"):
        cache.acquire(plain_version("b"), 60)
    cache.close(60)


def test_a_failed_load_is_remembered_with_its_reason_and_then_tried_again(
    cache: SessionCache, loader: PlainLoader, clock: Clock
) -> None:
    version = plain_version("a")
    loader.failures = [FailedPrecondition("bad file", reason="MODEL_LOAD_FAILED")]
    for _ in range(3):
        with pytest.raises(FailedPrecondition, match="bad file") as caught:
            cache.acquire(version, 60)
    assert caught.value.reason == "MODEL_LOAD_FAILED"
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 1
    assert loader.began == 1
    failure = cache.find_failure(version.key)
    assert failure is not None
    assert failure.retry_after_s is None
    clock.now += 1.1
    with cache.use(version, 60):
        pass
    assert loader.began == 2
    assert cache.find_failure(version.key) is None


def test_a_load_that_panics_strands_nobody(cache: SessionCache, loader: PlainLoader, clock: Clock) -> None:
    """Rust's panics are no `Exception`: all who wait hear of one, and the next request may try again."""

    class PanicException(BaseException):
        """As of pyo3."""

    version = plain_version("a")
    loader.gate.clear()
    loader.failures = [PanicException("index out of bounds")]
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(cache.acquire, version, 60) for _ in range(2)]
        wait_until(lambda: cache.counters.misses == 2)
        loader.gate.set()
        for future in waiting:
            with pytest.raises(FailedPrecondition, match="log says why") as caught:
                future.result(60)
            assert caught.value.reason == "MODEL_LOAD_FAILED"
    clock.now += 1.1
    with cache.use(version, 60):
        pass
    assert loader.began == 2


def test_the_pause_after_failures_doubles_and_an_operator_can_end_it(
    cache: SessionCache, loader: PlainLoader, clock: Clock
) -> None:
    version = plain_version("a")
    loader.failures = [RuntimeError("/secret/path"), RuntimeError("again")]
    with pytest.raises(FailedPrecondition, match="log says why") as caught:
        cache.acquire(version, 60)
    assert "secret" not in str(caught.value)
    clock.now += 1.1
    with pytest.raises(FailedPrecondition):
        cache.acquire(version, 60)
    clock.now += 1.1  # the second pause is two seconds
    with pytest.raises(FailedPrecondition):
        cache.acquire(version, 60)
    assert loader.began == 2
    cache.forget_failure(version.key)
    with cache.use(version, 60):
        pass


def test_a_waiter_gives_up_at_its_deadline_and_the_load_goes_on(cache: SessionCache, loader: PlainLoader) -> None:
    version = plain_version("a")
    loader.gate.clear()
    with pytest.raises(DeadlineExceeded, match="Request timeout expired"):
        cache.acquire(version, 0.01)
    loader.gate.set()
    wait_until(lambda: cache.is_loaded(version.key))
    assert cache.list_sessions()[0].in_flight == 0


def test_loads_are_bounded_in_number(loader: PlainLoader) -> None:
    cache = SessionCache(loader, SessionLimits(parallel_loads=1, max_waiting_loads=1))
    loader.gate.clear()
    errors: list[DomainError] = []

    def ask(name: str) -> None:
        try:
            cache.release(cache.acquire(plain_version(name), 60))
        except DomainError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcde"]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(errors) == 3)
    assert loader.began == 1
    loader.gate.set()
    for thread in threads:
        thread.join(60)
    assert {error.reason for error in errors} == {"LOAD_QUEUE_FULL"}
    assert len(cache.list_sessions()) == 2
    cache.close(60)


def test_the_new_version_is_loaded_before_the_old_one_goes(cache: SessionCache, loader: PlainLoader) -> None:
    old, new = plain_version("old"), plain_version("new")
    with cache.use(old, 60):
        pass
    loader.gate.clear()
    thread = threading.Thread(target=cache.replace, args=(old.key, new, 60))
    thread.start()
    wait_until(lambda: loader.began == 2)
    assert cache.is_loaded(old.key)
    loader.gate.set()
    thread.join(60)
    assert loaded(cache) == ["new"]
    assert loader.of("old").closed.wait(60)


def test_if_the_new_version_fails_the_old_one_stays(cache: SessionCache, loader: PlainLoader) -> None:
    with cache.use(plain_version("old"), 60):
        pass
    loader.failures = [FailedPrecondition("bad file")]
    with pytest.raises(FailedPrecondition):
        cache.replace(plain_version("old").key, plain_version("new"), 60)
    assert loaded(cache) == ["old"]


def test_closing_waits_for_running_requests_and_refuses_new_ones(cache: SessionCache, loader: PlainLoader) -> None:
    entry = cache.acquire(plain_version("a"), 60)
    cache.close(0.01)
    assert not loader.of("a").closed.is_set()
    with pytest.raises(Unavailable):
        cache.acquire(plain_version("b"), 60)
    cache.release(entry)
    assert loader.of("a").closed.wait(60)


def test_under_eviction_pressure_no_session_is_run_after_it_was_closed(loader: PlainLoader) -> None:
    cache = SessionCache(loader, SessionLimits(budget_bytes=300, drain_s=10))
    versions = [plain_version(name) for name in "abcdefgh"]

    def work(seed: int) -> None:
        chooser = random.Random(seed)
        for _ in range(150):
            with cache.use(chooser.choice(versions), 60) as session:
                session.run({})

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, seed) for seed in range(8)]:
            future.result(60)
    cache.close(60)
    assert cache.used_bytes == 0
    assert all(session.closed.is_set() for _, session in loader.sessions)
