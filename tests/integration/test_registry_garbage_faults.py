"""Garbage collection with a store that is late, refuses or holds what is not ours, and what it tells of itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psycopg
import pytest

from penstock.api.registry.v1 import administration_pb2
from penstock.api.registry.v1 import registry_pb2 as pb
from services.common.errors import FailedPrecondition, Unavailable
from services.registry import garbage as collection
from services.registry.garbage import GarbageFate, GarbageReport
from services.registry.store.blobs import LATE_DELETE_S
from tests import garbage, quick_registry, registry
from tests.garbage import Interrupted, Place, digest
from tests.quick_registry import delete, unique

CONDEMNED, WAITING, DELETED = GarbageFate.CONDEMNED, GarbageFate.WAITING, GarbageFate.DELETED


@pytest.fixture
def place(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Place]:
    with garbage.place(clone_database("registry"), tmp_path, None) as opened:
        yield opened


def counts(report: GarbageReport) -> tuple[int, int, int]:
    return report.counts[CONDEMNED], report.counts[WAITING], report.counts[DELETED]


def download(place: Place) -> bytes:
    request = pb.DownloadFileRequest(model="iris", version="1")
    return b"".join(part.chunk for part in place.here.models.DownloadFile(request, timeout=registry.DEADLINE_S))


def unanswered(_: str) -> None:
    raise Unavailable("the blob store does not answer", reason="BLOB_STORE_UNAVAILABLE")


@pytest.mark.parametrize("carried_out", ["late", "never", "at once"])
def test_a_deletion_whose_answer_is_lost_never_takes_bytes_that_were_uploaded_again(
    place: Place, carried_out: str
) -> None:
    content = unique()
    sha256 = place.condemned(content)
    wrapped = {"after" if carried_out == "at once" else "before": unanswered}
    with place.garbage(Interrupted(place.blobs, **wrapped).as_store()) as collector, pytest.raises(Unavailable):
        collector.collect()
    with pytest.raises(grpc.RpcError) as caught:
        quick_registry.register(place.here, content=content)
    assert registry.refusal(caught.value)[:2] == (grpc.StatusCode.UNAVAILABLE, "BLOB_BEING_DELETED")
    place.age()
    assert counts(place.collect()) == (0, 1, 0)  # nor is it deleted a second time while the first is open
    if carried_out == "late":
        place.blobs.delete(sha256)
    place.age(LATE_DELETE_S)
    quick_registry.register(place.here, content=content)
    assert counts(place.collect()) == (0, 0, 0)
    assert download(place) == content


def test_a_deletion_is_marked_before_the_store_is_told(place: Place) -> None:
    """So that a registry killed in the middle of it leaves the mark."""
    sha256 = place.condemned(unique())
    seen: list[object] = []

    def look(_: str) -> None:
        with psycopg.connect(place.database_url) as database:
            seen.extend(database.execute("SELECT sha256, delete_time <= clock_timestamp() FROM registry.blobs"))

    with place.garbage(Interrupted(place.blobs, before=look).as_store()) as collector:
        collector.collect()
    assert seen == [(sha256, True)]
    assert place.rows() == {}


def test_a_blob_that_the_store_refuses_to_delete_is_passed_over_and_can_be_uploaded_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {digest(content): content for content in (unique(), unique(), unique())}
    for content in contents.values():
        place.leave_behind(content)
    place.age()
    place.collect()
    place.age()
    refused = next(iter(contents))

    def refuse(sha256: str) -> None:
        if sha256 == refused:
            raise FailedPrecondition("it is locked", reason="BLOB_STORE_DENIED")

    store = Interrupted(place.blobs, before=refuse).as_store()
    with place.garbage(store) as collector:
        assert counts(collector.collect()) == (0, 0, 2)
        monkeypatch.setattr(collection, "MAX_REFUSALS", 1)
        with pytest.raises(FailedPrecondition, match="it is locked"):
            collector.collect()
    assert place.rows() == {refused: True}
    quick_registry.register(place.here, content=contents[refused])
    assert download(place) == contents[refused]


def test_what_else_lies_in_the_store_stops_no_round(place: Place, tmp_path: Path) -> None:
    unknown = digest(content := unique())
    place.blobs.put([content], max_bytes=2**20)
    folder = next((tmp_path / "blobs").rglob(unknown)).parent
    strays = [folder / name for name in (".nfs0001", f"{unknown}.bak", unknown.upper(), "0" * 64)]
    for stray in strays:
        stray.write_bytes(b"not ours")
    for path in (*strays, folder / unknown):
        os.utime(path, (1, 1))
    assert counts(place.collect(scan_store=True)) == (1, 0, 0)
    place.age()
    assert counts(place.collect(scan_store=True)) == (0, 0, 1)
    assert sorted(folder.iterdir()) == sorted(strays)


def test_what_is_named_behind_its_back_is_spared_in_the_next_round(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a backup of the database was restored while its blobs were condemned. A window holds one blob here."""
    monkeypatch.setattr(collection, "BATCH", 1)
    quick_registry.register(place.here)
    left = [place.leave_behind(unique()) for _ in range(3)]
    place.age()
    place.collect()
    with psycopg.connect(place.database_url, autocommit=True) as database:
        for sha256 in left:
            database.execute(
                "INSERT INTO registry.files SELECT version_id, %s, %s, 1 FROM registry.versions", [sha256, sha256]
            )
    place.collect()
    assert set(place.rows().values()) == {False}


def test_the_audit_log_names_who_asked_for_the_round_that_purged(
    clone_database: Callable[[str], str], tmp_path: Path
) -> None:
    with garbage.place(clone_database("registry"), tmp_path, None, deleted_retention_ms=0) as place:
        quick_registry.register(place.here, "1")
        quick_registry.register(place.here, "2")
        delete(place.here, "1")
        collect = place.here.administration.CollectGarbage
        collect(administration_pb2.CollectGarbageRequest(dry_run=True))
        collect(administration_pb2.CollectGarbageRequest(scan_store=True))
        delete(place.here, "2")
        place.collect()
        entries = place.here.administration.ListAuditEntries(administration_pb2.ListAuditEntriesRequest()).entries
        told = [(entry.action, entry.version, entry.caller, entry.role) for entry in entries]
        me = next((entry.caller, entry.role) for entry in entries if entry.action == "DeleteVersion")
        assert me[0] != "registry"
        assert [each for each in told if each[0] in {"Purge", "CollectGarbage"}] == [
            ("Purge", "2", "registry", ""),
            ("Purge", "1", *me),
            ("CollectGarbage", "", *me),
        ]


def test_a_purge_waits_for_who_changes_the_model(place: Place) -> None:
    quick_registry.register(place.here)
    delete(place.here, "1")
    with psycopg.connect(place.database_url, autocommit=True) as database:
        database.execute("UPDATE registry.versions SET purge_time = delete_time")
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(place.database_url) as restoring:
            restoring.execute("SELECT 1 FROM registry.models FOR UPDATE")
            collecting = pool.submit(place.collect)
            registry.wait_for_locks(place.database_url, 1)
            restoring.execute("UPDATE registry.versions SET delete_time = NULL, purge_time = NULL")
        assert collecting.result().purged_versions == 0
