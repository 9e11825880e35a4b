from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from services.common.errors import FailedPrecondition, Unavailable
from services.inference.following.catalog import Catalog, CatalogVersion
from services.inference.following.preloading import Preloader
from services.inference.models import ServingSettings
from services.inference.sessions.sessions import SessionCache
from tests.serving import PlainLoader, plain_version, wait_until


def ready(model: str, *, stage: str = "development", **serving: bool) -> CatalogVersion:
    resolved = replace(plain_version(model), serving=ServingSettings(**serving))  # type: ignore[arg-type]
    return CatalogVersion(model, "1", 1, stage, "READY", resolved)


def validating(model: str) -> CatalogVersion:
    return CatalogVersion(model, "1", 1, "development", "VALIDATING", None)


class Service:
    """A catalog, a cache, and preloaders over both."""

    def __init__(self) -> None:
        self.loader = PlainLoader()
        self.catalog = Catalog()
        self.sessions = SessionCache(self.loader)
        self.preloaders: list[Preloader] = []

    def preload(self, *names: str, retry_s: float = 60.0) -> None:
        """Begin to load."""
        self.preloaders.append(Preloader(self.catalog, self.sessions, names, load_wait_s=5, retry_s=retry_s))
        self.preloaders[-1].open()

    def until_loaded(self, *models: str) -> None:
        """Wait until exactly these are in memory."""
        wait_until(lambda: {each.version.model for each in self.sessions.list_sessions()} == set(models))


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    for preloader in service.preloaders:
        preloader.close()
    service.sessions.close(60)


def test_what_is_to_be_preloaded_or_kept_is_loaded_at_the_start_and_nothing_else(service: Service) -> None:
    service.catalog.replace([ready("wanted", preload=True), ready("kept", pinned=True), ready("other")])
    service.preload()
    service.until_loaded("wanted", "kept")


def test_it_is_loaded_as_soon_as_it_is_ready(service: Service) -> None:
    service.preload()
    service.catalog.replace([validating("wanted")])
    service.catalog.update([ready("wanted", preload=True)])
    service.until_loaded("wanted")


def test_what_the_server_was_told_to_load_is_loaded_by_name_and_by_selector(service: Service) -> None:
    service.catalog.replace([ready("plain"), ready("staged", stage="staging"), ready("other")])
    service.preload("plain", " staged/staging", "", "unknown")
    service.until_loaded("plain", "staged")
    service.catalog.update([ready("unknown")])
    service.until_loaded("plain", "staged", "unknown")


def test_what_was_evicted_comes_back_with_its_next_request_only(service: Service) -> None:
    service.catalog.replace([ready("wanted", preload=True)])
    service.preload()
    service.until_loaded("wanted")
    service.sessions.unload(plain_version("wanted").key)
    service.catalog.update([ready("more", preload=True)])
    service.until_loaded("more")


def test_what_cannot_be_loaded_keeps_nothing_else_from_being_loaded(service: Service) -> None:
    service.loader.failures.append(FailedPrecondition("it is broken", reason="MODEL_LOAD_FAILED"))
    service.catalog.replace([ready("broken", preload=True), ready("whole", preload=True)])
    service.preload()
    service.until_loaded("whole")


def test_what_was_out_of_reach_is_tried_again(service: Service) -> None:
    service.sessions.limits = replace(service.sessions.limits, failure_backoff_s=0)
    service.loader.failures.append(Unavailable("the registry is out of reach"))
    service.catalog.replace([ready("far", preload=True)])
    service.preload(retry_s=0.01)
    service.until_loaded("far")


def test_at_the_end_nothing_more_is_loaded(service: Service) -> None:
    service.loader.gate.clear()
    service.catalog.replace([ready("first", preload=True), ready("second", preload=True)])
    service.preload()
    wait_until(lambda: service.loader.began == 1)
    service.preloaders[0].close()
    service.loader.gate.set()
    service.preloaders[0]._thread.join(60)
    service.until_loaded("first")
