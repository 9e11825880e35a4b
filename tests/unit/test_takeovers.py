"""Changes on their way into the catalog: what goes live is loaded first, and holds up its own model alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from services.inference.following.catalog import Catalog, CatalogVersion
from services.inference.following.takeovers import Takeovers
from services.inference.models import ResolvedVersion, Signature
from tests.serving import wait_until

NOTHING = Signature((), ())


def version(model: str, name: str, stage: str) -> CatalogVersion:
    resolved = ResolvedVersion(model, name, 1, "onnx", stage, NOTHING)
    return CatalogVersion(model, name, 1, stage, "READY", resolved)


def deleted(model: str, name: str, stage: str = "archived") -> CatalogVersion:
    return CatalogVersion(model, name, 1, stage, "READY", None, deleted=True)


class Loads:
    """Loads that end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end = threading.Event()

    def __call__(self, version: ResolvedVersion) -> None:
        self.begun.append(version.model)
        assert self.may_end.wait(60)


@pytest.fixture
def loads() -> Iterator[Loads]:
    loads = Loads()
    yield loads
    loads.may_end.set()


@pytest.fixture
def catalog() -> Catalog:
    return Catalog()


@pytest.fixture
def settled() -> list[tuple[str, str | None]]:
    """What was told of versions that changed: the version, and the stage that it has now, None when it is gone."""
    return []


@pytest.fixture
def takeovers(catalog: Catalog, loads: Loads, settled: list[tuple[str, str | None]]) -> Iterator[Takeovers]:
    def settle(before: ResolvedVersion, now: ResolvedVersion | None) -> None:
        settled.append((f"{before.model}/{before.version}", now.stage if now else None))

    takeovers = Takeovers(catalog, loads, settle)
    takeovers.open()
    takeovers.replace([version("a", "1", "production"), version("a", "2", "staging"), version("b", "1", "production")])
    yield takeovers
    takeovers.close()


def test_the_old_version_answers_until_the_new_one_is_loaded(
    catalog: Catalog, takeovers: Takeovers, loads: Loads
) -> None:
    takeovers.update([version("a", "1", "archived"), version("a", "2", "production")])
    wait_until(lambda: loads.begun == ["a"])
    assert catalog.resolve("a", "").version == "1"
    loads.may_end.set()
    wait_until(lambda: catalog.resolve("a", "").version == "2")


def test_a_slow_load_holds_up_its_own_model_alone_and_in_order(
    catalog: Catalog, takeovers: Takeovers, loads: Loads
) -> None:
    takeovers.update([version("a", "1", "archived"), version("a", "2", "production")])
    wait_until(lambda: loads.begun == ["a"])
    takeovers.update([version("a", "1", "staging")])
    takeovers.update([version("b", "2", "staging")])
    assert catalog.resolve("b", "2").stage == "staging"
    assert catalog.resolve("a", "1").stage == "production"
    loads.may_end.set()
    wait_until(lambda: catalog.resolve("a", "1").stage == "staging")
    assert catalog.resolve("a", "").version == "2"


def test_a_snapshot_knows_better_than_what_waits(catalog: Catalog, takeovers: Takeovers, loads: Loads) -> None:
    takeovers.update([version("a", "1", "archived"), version("a", "2", "production")])
    wait_until(lambda: loads.begun == ["a"])
    takeovers.replace([version("a", "3", "production")])
    loads.may_end.set()
    takeovers.update([version("c", "1", "production")])  # goes the same way, and so after it
    wait_until(lambda: "c" in catalog.models())
    assert set(catalog.models()["a"]) == {"3"}


def test_what_is_live_already_is_not_loaded_again(catalog: Catalog, takeovers: Takeovers, loads: Loads) -> None:
    takeovers.update([version("b", "1", "production")])
    takeovers.update([version("c", "1", "production")])
    wait_until(lambda: loads.begun != [])
    assert loads.begun == ["c"]


def test_what_is_deleted_goes_at_once_whatever_is_being_loaded(
    catalog: Catalog, takeovers: Takeovers, loads: Loads
) -> None:
    takeovers.update([version("a", "3", "staging")])
    takeovers.update([version("a", "1", "archived"), version("a", "2", "production")])
    takeovers.update([version("a", "3", "archived")])
    wait_until(lambda: loads.begun == ["a"])
    takeovers.update([deleted("a", "3")])
    assert set(catalog.models()["a"]) == {"1", "2"}
    assert catalog.resolve("a", "").version == "1"  # which is to answer until the new one is loaded
    loads.may_end.set()
    wait_until(lambda: catalog.resolve("a", "").version == "2")
    assert set(catalog.models()["a"]) == {"1", "2"}  # and what waited brought nothing back


def test_when_what_still_answers_is_deleted_its_successor_answers_loaded_or_not(
    catalog: Catalog, takeovers: Takeovers, loads: Loads
) -> None:
    takeovers.update([version("a", "9", "development")])
    takeovers.update([version("a", "1", "archived"), version("a", "2", "production")])
    wait_until(lambda: loads.begun == ["a"])
    takeovers.update([deleted("a", "1")])
    assert catalog.resolve("a", "").version == "2"


def test_a_model_that_is_deleted_and_restored_goes_and_comes(
    catalog: Catalog, takeovers: Takeovers, loads: Loads
) -> None:
    takeovers.update([deleted("a", "1", "production"), deleted("a", "2", "staging")])
    assert "a" not in catalog.models()
    takeovers.update([version("a", "1", "production"), version("a", "2", "staging")])
    wait_until(lambda: loads.begun == ["a"])
    loads.may_end.set()
    wait_until(lambda: "a" in catalog.models())
    assert catalog.resolve("a", "").version == "1"


def test_who_keeps_versions_in_memory_hears_what_became_of_them(
    takeovers: Takeovers, settled: list[tuple[str, str | None]]
) -> None:
    takeovers.update([version("a", "2", "archived")])
    takeovers.update([deleted("a", "2"), version("a", "3", "staging")])
    assert settled == [("a/2", "archived"), ("a/2", None)]
    takeovers.replace([version("b", "1", "production")])
    assert set(settled[2:]) == {("a/1", None), ("a/3", None), ("b/1", "production")}
