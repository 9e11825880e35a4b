"""What a model that cannot be loaded costs the others: as little as can be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from services.common.errors import DomainError, FailedPrecondition, ResourceExhausted, Unavailable
from services.inference.models import ResolvedVersion
from services.inference.sessions import sessions as sessions_module
from services.inference.sessions.cached_session import SessionLimits
from services.inference.sessions.sessions import SessionCache
from tests.serving import PlainLoader, PlainSession, plain_version

BROKEN = plain_version("broken", size_bytes=390)
OTHERS = [plain_version(f"m{number}", size_bytes=40) for number in range(8)]
NAMES = {version.model for version in OTHERS}


class Service:
    """A cache with room for `OTHERS`, or for `BROKEN`, whose fetch or load fails as told; its clock stands still."""

    def __init__(self) -> None:
        self.loader = PlainLoader()
        self.fetch_error: DomainError | None = None
        self.load_error: DomainError | None = FailedPrecondition("no such graph", reason="MODEL_LOAD_FAILED")
        self.fetched: list[str] = []
        self.now = 0.0
        limits = SessionLimits(budget_bytes=400, max_sessions=10, failure_backoff_s=1, drain_s=10)
        self.cache = SessionCache(self.load, limits, fetch=self.fetch, clock=self.clock)

    def clock(self) -> float:
        """Give a time that is later than any before."""
        self.now += 1e-6
        return self.now

    def fetch(self, version: ResolvedVersion, resources: ExitStack) -> None:
        """Fetch, and be told when it is let go."""
        if version.model == BROKEN.model and self.fetch_error is not None:
            raise self.fetch_error
        self.fetched.append(version.model)
        resources.callback(self.fetched.remove, version.model)

    def load(self, version: ResolvedVersion, resources: ExitStack) -> PlainSession:
        """Load."""
        if version.model == BROKEN.model and self.load_error is not None:
            raise self.load_error
        return self.loader(version, resources)

    def use(self, *versions: ResolvedVersion) -> None:
        """Use these, which loads them where need be."""
        for version in versions:
            with self.cache.use(version, 60):
                pass

    def fail(self, reason: str) -> None:
        """Ask for the broken one."""
        with pytest.raises(DomainError) as caught:
            self.use(BROKEN)
        assert caught.value.reason == reason

    @property
    def loaded(self) -> set[str]:
        """Name what is in memory."""
        return {info.version.model for info in self.cache.list_sessions()}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(sessions_module, "resident_bytes", lambda: 0)
    service = Service()
    service.use(*OTHERS)
    yield service
    service.cache.close(60)


@pytest.mark.parametrize(
    "error",
    [
        FailedPrecondition("the stored bytes are wrong", reason="ARTIFACT_CORRUPT"),
        Unavailable("the store is down", reason="BLOB_STORE_UNAVAILABLE"),
        ResourceExhausted("no room on disk", reason="DISK_FULL"),
    ],
)
def test_one_whose_files_cannot_be_had_evicts_nobody(service: Service, error: DomainError) -> None:
    service.fetch_error = error
    service.fail(error.reason)
    assert service.loaded == NAMES


def test_one_that_can_never_fit_is_not_fetched(service: Service) -> None:
    with pytest.raises(ResourceExhausted):
        service.use(plain_version("huge", size_bytes=401))
    assert set(service.fetched) == service.loaded == NAMES


def test_what_was_fetched_is_let_go_with_the_load_that_fails(service: Service) -> None:
    service.fail("MODEL_LOAD_FAILED")
    assert BROKEN.model not in service.fetched


def test_one_that_is_broken_does_not_empty_the_cache_again_and_again(service: Service) -> None:
    service.fail("MODEL_LOAD_FAILED")
    assert service.loaded == set(), "nobody could know that it would fail"
    for _ in range(5):
        service.use(*OTHERS)
        evictions = service.cache.counters.evictions
        service.now += 100
        service.fail("MODEL_LOAD_FAILED")
        assert service.loaded == NAMES
        assert service.cache.counters.evictions == evictions


def test_what_nobody_has_used_since_makes_room_for_another_try(service: Service) -> None:
    service.fail("MODEL_LOAD_FAILED")
    service.use(*OTHERS)
    service.now += 1.1
    service.fail("MODEL_LOAD_FAILED")
    service.load_error = None
    service.now += 2.1
    service.use(BROKEN)
    assert service.loaded == {BROKEN.model}


def test_what_is_in_use_is_spared_however_long_ago_that_began(service: Service) -> None:
    service.load_error = FailedPrecondition("it fails on its own rows", reason="WARM_UP_FAILED")
    service.fail("WARM_UP_FAILED")
    with ExitStack() as users:
        for version in OTHERS:
            users.enter_context(service.cache.use(version, 60))
        for entry in service.cache._entries.values():
            entry.last_used = 0.0
        service.now += 100
        service.fail("WARM_UP_FAILED")
        assert service.loaded == NAMES


@pytest.mark.parametrize("reason", ["OLLAMA_UNREACHABLE", "SESSION_BUDGET_EXCEEDED"])
def test_a_fault_that_passes_does_not_keep_a_model_out(service: Service, reason: str) -> None:
    service.load_error = Unavailable("not now", reason=reason)
    service.fail(reason)
    service.use(*OTHERS)
    service.now += 100
    service.load_error = None
    service.use(BROKEN)
    assert service.loaded == {BROKEN.model}


def test_an_operator_may_have_it_tried_at_the_others_cost(service: Service) -> None:
    service.fail("MODEL_LOAD_FAILED")
    service.use(*OTHERS)
    service.load_error = None
    service.cache.forget_failure(BROKEN.key)
    service.use(BROKEN)
    assert service.loaded == {BROKEN.model}
