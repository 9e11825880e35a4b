"""What a watcher gets at once: snapshots part by part, and changes that fit into a message."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import psycopg
import pytest

from penstock.api.registry.v1 import registry_pb2 as pb
from services.common.errors import DeadlineExceeded, Unavailable
from services.common.postgres import Database
from services.registry import snapshots, watches
from services.registry.snapshots import PARALLEL_SNAPSHOTS, PART_VERSIONS, Snapshots
from services.registry.store import Store
from tests import quick_registry, registry
from tests.quick_registry import Registry, delete

MANY = 4 * PART_VERSIONS


@pytest.fixture
def database_url(clone_database: Callable[[str], str]) -> str:
    return clone_database("registry")


@pytest.fixture
def here(database_url: str, tmp_path: Path) -> Iterator[Registry]:
    with quick_registry.running(registry.settings_for(database_url, tmp_path, watch_bookmark_ms=100)) as opened:
        yield opened


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Database(database_url, pool_size=4) as database:
        yield Store(database)


def multiply(database_url: str, count: int) -> None:
    """Make many versions of the one that is there, all in one revision."""
    with psycopg.connect(database_url) as database:
        columns = database.execute(
            "SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns WHERE table_schema = "
            "'registry' AND table_name = 'versions' AND is_generated = 'NEVER' "
            "AND column_name NOT IN ('version_id', 'version', 'deployment_number', 'revision')"
        ).fetchone()
        assert columns is not None
        database.execute("UPDATE registry.revisions SET revision = revision + 1")
        database.execute(
            f"INSERT INTO registry.versions (version, deployment_number, revision, {columns[0]}) "
            f"SELECT '1.' || n, n + 1, r.revision, {columns[0]} "
            "FROM registry.versions, registry.revisions r, generate_series(1, %s) n",
            [count],
        )
        database.execute(
            "INSERT INTO registry.changes "
            "SELECT revision, version_id FROM registry.versions WHERE deployment_number > 1"
        )


def watch(here: Registry, after: int = 0) -> Iterator[pb.WatchModelsResponse]:
    call: Iterator[pb.WatchModelsResponse] = here.models.WatchModels(
        pb.WatchModelsRequest(after_revision=after), timeout=registry.DEADLINE_S
    )
    return call


def snapshot(here: Registry) -> tuple[int, set[str]]:
    versions: set[str] = set()
    for part in watch(here):
        versions |= {version.version for version in part.snapshot.versions}
        if part.snapshot.complete:
            break
    return part.revision, versions


def test_a_snapshot_of_many_parts_is_one_moment_whatever_is_written_meanwhile(
    here: Registry, database_url: str, store: Store
) -> None:
    quick_registry.register(here)
    multiply(database_url, MANY - 1)
    parts = Snapshots(store).read()
    first = next(parts)
    delete(here, f"1.{MANY - 1}")
    rest = list(parts)
    assert {part.revision for part in rest} == {first.revision}
    assert [part.complete for part in rest] == [False] * (len(rest) - 1) + [True]
    found = [version.version for part in (first, *rest) for version in part.versions]
    assert len(found) == len(set(found)) == MANY
    revision, versions = snapshot(here)
    assert revision == first.revision + 1
    assert len(versions) == MANY - 1


def test_a_watcher_that_takes_nothing_is_let_go_and_holds_no_connection(
    here: Registry, database_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_registry.register(here)
    multiply(database_url, MANY - 1)
    slow = Snapshots(store, patience_s=0.05)
    reading = slow.read()
    next(reading)
    _until_nobody_reads()
    with pytest.raises(DeadlineExceeded) as caught:
        list(reading)
    assert caught.value.reason == "WATCH_TOO_SLOW"
    assert caught.value.retryable
    late = Snapshots(store, deadline_s=0.0, part_s=0.0).read()
    with pytest.raises(DeadlineExceeded):
        list(late)
    # Every part that is taken gives time for the next, however many there are.
    steady = Snapshots(store, deadline_s=60.0, part_s=60.0)
    started = time.monotonic()
    clock = itertools.count(started, 61.0)
    monkeypatch.setattr(snapshots, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(DeadlineExceeded):
        list(steady.read())
    clock = itertools.count(started, 59.0)
    assert sum(len(part.versions) for part in steady.read()) == MANY


def test_a_watcher_that_leaves_makes_room_for_the_next(
    here: Registry, database_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_registry.register(here)
    multiply(database_url, MANY)
    read = Snapshots(store)
    under_way = [read.read() for _ in range(PARALLEL_SNAPSHOTS)]
    for each in under_way:
        next(each)
    monkeypatch.setattr(snapshots, "TURN_WAIT_S", 0.0)
    with pytest.raises(Unavailable) as caught:
        next(read.read())
    assert caught.value.reason == "SNAPSHOTS_BUSY"
    for each in under_way:
        each.close()  # type: ignore[attr-defined] # it is a generator
    _until_nobody_reads()
    assert len(list(read.read())) > 1


def _until_nobody_reads() -> None:
    registry.wait_until(lambda: all(thread.name != "snapshot" for thread in threading.enumerate()) or None)


def test_what_is_too_much_for_one_message_comes_in_several_and_what_cannot_be_cut_by_a_snapshot(
    here: Registry, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "MAX_CHANGE_BYTES", 4_000)
    quick_registry.register(here)
    before, _ = snapshot(here)
    for model in ("a", "b", "c", "d"):
        quick_registry.register(here, model=model, description="x" * 1_500)
    seen: dict[str, pb.ModelVersion] = {}
    messages = 0
    for message in watch(here, before):
        for version in message.change.versions:
            seen[version.model] = version
        assert len(message.change.versions) <= 3
        messages += message.HasField("change")
        if len(seen) == 4 and all(version.state == pb.VERSION_STATE_READY for version in seen.values()):
            break
    assert messages > 1

    after, _ = snapshot(here)
    multiply(database_url, 10)
    with pytest.raises(grpc.RpcError) as caught:
        next(watch(here, after))
    assert registry.refusal(caught.value)[:2] == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_COMPACTED")
    assert len(snapshot(here)[1]) > 10


def test_what_is_cut_never_shows_two_versions_live(here: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version is shown as it stands now, so what replaced it since comes in the same message."""
    monkeypatch.setattr(watches, "READ_REVISIONS", 1)
    for version in ("1", "2"):
        quick_registry.register(here, version)
    registry.go_live(here.models, "1")
    revision, _ = snapshot(here)
    registry.go_live(here.models, "2")
    stages = {"1": pb.STAGE_PRODUCTION, "2": pb.STAGE_DEVELOPMENT}
    for message in watch(here, revision):
        stages.update({version.version: version.stage for version in message.change.versions})
        assert list(stages.values()).count(pb.STAGE_PRODUCTION) == 1
        if message.HasField("bookmark"):
            break
    assert stages == {"1": pb.STAGE_ARCHIVED, "2": pb.STAGE_PRODUCTION}
