from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from services.common.errors import FailedPrecondition, ResourceExhausted, Unavailable
from services.inference.sessions import sessions as sessions_module
from services.inference.sessions.cached_session import SessionLimits
from services.inference.sessions.caches import SessionCaches
from services.inference.sessions.sessions import SessionCache
from tests.serving import PlainLoader, plain_version

GRAPH = plain_version("graph")
SAVED = replace(plain_version("saved"), framework="tensorflow")


@pytest.fixture(autouse=True)
def _sizes_as_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "resident_bytes", lambda: 0)


class TwoRuntimes:
    """Two caches of plain sessions, with room for one model each."""

    def __init__(self) -> None:
        self.loaders = {"onnx": PlainLoader(), "tensorflow": PlainLoader()}
        limits = SessionLimits(budget_bytes=150, drain_s=0.1)
        self.caches = SessionCaches({name: SessionCache(loader, limits) for name, loader in self.loaders.items()})

    def touch(self) -> None:
        """Load one model of each."""
        for version in (GRAPH, SAVED):
            self.caches.release(self.caches.acquire(version, 60))


@pytest.fixture
def two() -> Iterator[TwoRuntimes]:
    two = TwoRuntimes()
    yield two
    two.caches.close(60)


def test_each_runtime_has_a_budget_of_its_own(two: TwoRuntimes) -> None:
    two.touch()
    assert [info.version.model for info in two.caches.list_sessions()] == ["graph", "saved"]
    assert two.caches.used_bytes == 200, "more than either budget"
    two.caches.release(two.caches.acquire(plain_version("other"), 60))
    assert [info.version.model for info in two.caches.list_sessions()] == ["saved", "other"]
    assert (two.caches.counters.loads, two.caches.counters.evictions) == (3, 1)


def test_a_framework_that_is_not_served_is_refused_and_says_what_is(two: TwoRuntimes) -> None:
    with pytest.raises(FailedPrecondition, match="no runtime for fortran; it has onnx, tensorflow") as caught:
        two.caches.acquire(replace(GRAPH, framework="fortran"), 60)
    assert caught.value.reason == "FRAMEWORK_NOT_SERVED"


def test_a_model_is_pinned_unloaded_and_looked_for_in_whichever_cache_has_it(two: TwoRuntimes) -> None:
    two.touch()
    for version in (GRAPH, SAVED):
        assert two.caches.pin(version.key, pinned=True)
        with pytest.raises(ResourceExhausted, match="pinned"):
            two.caches.acquire(replace(plain_version("more"), framework=version.framework), 60)
        assert two.caches.is_loaded(version.key)
        assert two.caches.unload(version.key)
        assert not two.caches.unload(version.key)
        assert not two.caches.is_loaded(version.key)
    assert not two.caches.pin("nobody", pinned=True)


def test_a_failed_load_is_found_and_forgotten(two: TwoRuntimes) -> None:
    two.loaders["tensorflow"].failures.append(FailedPrecondition("it is broken", reason="MODEL_LOAD_FAILED"))
    with pytest.raises(FailedPrecondition, match="it is broken"):
        two.caches.acquire(SAVED, 60)
    failure = two.caches.find_failure(SAVED.key)
    assert failure is not None
    assert failure.reason == "MODEL_LOAD_FAILED"
    two.caches.forget_failure(SAVED.key)
    assert two.caches.find_failure(SAVED.key) is None
    two.touch()


def test_closing_refuses_everywhere_before_it_waits_anywhere(two: TwoRuntimes) -> None:
    entry = two.caches.acquire(GRAPH, 60)
    two.caches.close(0.01)
    for version in (GRAPH, SAVED):
        with pytest.raises(Unavailable):
            two.caches.acquire(version, 60)
    two.caches.release(entry)
    assert two.loaders["onnx"].of("graph").closed.wait(60)


def test_what_the_runtime_takes_by_itself_is_not_counted_as_its_first_models(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = 0

    def import_runtime() -> None:
        nonlocal resident
        resident = 10**9

    monkeypatch.setattr(sessions_module, "resident_bytes", lambda: resident)
    cache = SessionCache(PlainLoader(), SessionLimits(budget_bytes=150), prepare=import_runtime)
    with cache.use(GRAPH, 60):
        assert cache.used_bytes == 100
    cache.close(60)
