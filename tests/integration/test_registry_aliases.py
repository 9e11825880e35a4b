"""Aliases: what they may be called, what they may point at, and who hears of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg
import pytest

from penstock.api.registry.v1 import registry_pb2 as pb
from tests import catalogue, registry
from tests.catalogue import DEADLINE_S, INVALID, NOT_FOUND, PRECONDITION, Catalogue, refused


@pytest.fixture
def running(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Catalogue]:
    with catalogue.served(clone_database("registry"), tmp_path) as opened:
        for version in ("1", "2", "3"):
            catalogue.register(opened.stub, version)
        yield opened


def point(running: Catalogue, alias: str, version: str) -> pb.SetAliasResponse:
    return running.stub.SetAlias(pb.SetAliasRequest(model="iris", alias=alias, version=version), timeout=DEADLINE_S)


def remove(running: Catalogue, alias: str) -> None:
    running.stub.DeleteAlias(pb.DeleteAliasRequest(model="iris", alias=alias), timeout=DEADLINE_S)


def resolved(running: Catalogue, selector: str) -> str:
    request = pb.ResolveVersionRequest(model="iris", selector=selector)
    return running.stub.ResolveVersion(request, timeout=DEADLINE_S).version.version


def revision(running: Catalogue) -> int:
    return max(catalogue.get_version(running.stub, version).revision for version in ("1", "2", "3"))


def test_an_alias_moves_from_version_to_version(running: Catalogue) -> None:
    first = point(running, "champion", "1")
    assert (list(first.version.aliases), first.previous_version) == (["champion"], "")
    point(running, "a.b-c_9", "1")
    moved = point(running, "champion", "2")
    assert (moved.version.version, moved.previous_version, resolved(running, "champion")) == ("2", "1", "2")
    assert list(catalogue.get_version(running.stub, "1").aliases) == ["a.b-c_9"]
    assert dict(catalogue.get_model(running.stub).aliases) == {"champion": "2", "a.b-c_9": "1"}
    remove(running, "champion")
    assert dict(catalogue.get_model(running.stub).aliases) == {"a.b-c_9": "1"}
    assert refused(partial(resolved, running, "champion"))[:2] == (NOT_FOUND, "VERSION_NOT_FOUND")


def test_both_versions_that_an_alias_touches_change_at_one_revision(running: Catalogue) -> None:
    point(running, "champion", "1")
    before = revision(running)
    point(running, "champion", "1")
    assert revision(running) == before
    etag = catalogue.get_version(running.stub, "1").etag
    watch = running.stub.WatchModels(pb.WatchModelsRequest(after_revision=before), timeout=DEADLINE_S)
    point(running, "champion", "2")
    change = next(message for message in watch if message.WhichOneof("event") == "change")
    watch.cancel()
    assert change.revision == before + 1
    assert {version.version: list(version.aliases) for version in change.change.versions} == {
        "1": [],
        "2": ["champion"],
    }
    assert catalogue.get_version(running.stub, "1").etag != etag


@pytest.mark.parametrize(
    "alias",
    ["", "Champion", "1st", "-a", "production", "staging", "archived", "latest", "a" * 65, "a b", "a/b", "nul\0"],
)
def test_what_cannot_be_an_alias_is_refused(running: Catalogue, alias: str) -> None:
    assert refused(partial(point, running, alias, "1")) == (INVALID, "INVALID_NAME", ["alias"])


def test_an_alias_points_at_what_can_be_served(running: Catalogue) -> None:
    assert refused(partial(point, running, "champion", "9"))[:2] == (NOT_FOUND, "VERSION_NOT_FOUND")
    with psycopg.connect(running.database_url) as database:
        database.execute("ALTER TABLE registry.versions DISABLE TRIGGER versions_immutable_once_ready")
        database.execute("UPDATE registry.versions SET state = 'FAILED' WHERE version = '3'")
    assert refused(partial(point, running, "champion", "3"))[:2] == (PRECONDITION, "VERSION_NOT_READY")
    missing = pb.SetAliasRequest(model="nosuch", alias="champion", version="1")
    assert refused(partial(running.stub.SetAlias, missing))[:2] == (NOT_FOUND, "MODEL_NOT_FOUND")


def test_a_version_of_that_name_would_hide_the_alias(running: Catalogue) -> None:
    catalogue.register(running.stub, "winter")
    assert refused(partial(point, running, "winter", "1"))[:2] == (PRECONDITION, "ALIAS_IS_VERSION")
    running.stub.DeleteVersion(pb.DeleteVersionRequest(model="iris", version="winter"), timeout=DEADLINE_S)
    # It can be restored, and was READY: its name means those bytes for good.
    assert refused(partial(point, running, "winter", "1"))[:2] == (PRECONDITION, "ALIAS_IS_VERSION")


def test_no_version_takes_the_name_of_an_alias(running: Catalogue) -> None:
    """Whoever asks for the alias would get that version from then on, without anybody having said so."""
    point(running, "champion", "1")
    taking_over = partial(catalogue.register, running.stub, "champion")
    assert refused(taking_over)[:2] == (PRECONDITION, "VERSION_IS_ALIAS")
    unfinished = iter([registry.upload(b"model", version="champion").__next__()])  # before any byte
    assert refused(partial(running.stub.RegisterVersion, unfinished))[1] == "VERSION_IS_ALIAS"
    assert resolved(running, "champion") == "1"
    remove(running, "champion")
    taking_over()
    assert resolved(running, "champion") == "champion"


def test_no_version_comes_back_under_the_name_of_an_alias(running: Catalogue) -> None:
    catalogue.register(running.stub, "champion")
    with psycopg.connect(running.database_url) as database:
        database.execute("ALTER TABLE registry.versions DISABLE TRIGGER versions_immutable_once_ready")
        database.execute("UPDATE registry.versions SET state = 'FAILED' WHERE version = 'champion'")
    running.stub.DeleteVersion(pb.DeleteVersionRequest(model="iris", version="champion"), timeout=DEADLINE_S)
    point(running, "champion", "1")
    back = partial(running.stub.RestoreVersion, pb.RestoreVersionRequest(model="iris", version="champion"))
    assert refused(back)[:2] == (PRECONDITION, "VERSION_IS_ALIAS")
    remove(running, "champion")
    assert back().version.version == "champion"


@pytest.mark.parametrize("version", ["latest", "Latest", "production", "PRODUCTION", "Staging", "archived"])
def test_no_version_takes_the_name_of_what_a_selector_means_already(running: Catalogue, version: str) -> None:
    assert refused(partial(catalogue.register, running.stub, version)) == (INVALID, "INVALID_NAME", ["version"])


def test_a_model_has_at_most_64_aliases(running: Catalogue) -> None:
    for number in range(64):
        point(running, f"a{number}", "1")
    assert refused(partial(point, running, "one-more", "1")) == (INVALID, "TOO_MANY", ["alias"])
    assert point(running, "a0", "2").previous_version == "1"
    remove(running, "a0")
    point(running, "one-more", "1")


def test_an_alias_that_is_not_there_is_not_removed(running: Catalogue) -> None:
    assert refused(partial(remove, running, "champion"))[:2] == (NOT_FOUND, "ALIAS_NOT_FOUND")
    missing = pb.DeleteAliasRequest(model="nosuch", alias="champion")
    assert refused(partial(running.stub.DeleteAlias, missing))[:2] == (NOT_FOUND, "MODEL_NOT_FOUND")


def test_an_alias_goes_with_the_version_that_is_deleted(running: Catalogue) -> None:
    point(running, "champion", "1")
    running.stub.DeleteVersion(pb.DeleteVersionRequest(model="iris", version="1"), timeout=DEADLINE_S)
    assert dict(catalogue.get_model(running.stub).aliases) == {}
    assert refused(partial(resolved, running, "champion"))[1] == "VERSION_NOT_FOUND"


def test_an_alias_that_many_set_at_once_points_at_one_version(running: Catalogue) -> None:
    start = threading.Barrier(3)

    def set_at_once(version: str) -> str:
        start.wait()
        return point(running, "champion", version).previous_version

    with ThreadPoolExecutor(3) as pool:
        previous = list(pool.map(set_at_once, ("1", "2", "3")))
    last = catalogue.get_model(running.stub).aliases["champion"]
    # Each found what the one before it had left, so that together they are one line of moves.
    assert sorted(previous) == sorted({"", "1", "2", "3"} - {last})
    aliased = [v for v in ("1", "2", "3") if catalogue.get_version(running.stub, v).aliases]
    assert (aliased, resolved(running, "champion")) == ([last], last)


def test_an_alias_of_the_live_version_stays_when_another_goes_live(running: Catalogue) -> None:
    point(running, "champion", "1")
    registry.go_live(running.stub, "1")
    registry.go_live(running.stub, "2")
    assert (resolved(running, "champion"), resolved(running, "")) == ("1", "2")
