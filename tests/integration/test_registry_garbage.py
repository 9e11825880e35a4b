"""Garbage collection: what nothing names goes, and nothing else ever does."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psycopg
import pytest

from penstock.api.registry.v1 import administration_pb2
from penstock.api.registry.v1 import registry_pb2 as pb
from services.common.blobs import Blob
from services.common.errors import Unavailable
from services.common.postgres import Database
from services.registry.garbage import GarbageFate, GarbageReport
from services.registry.reservations import Reservations
from services.registry.store import Store
from services.registry.store.blobs import LATE_DELETE_S
from tests import garbage, quick_registry, registry
from tests.garbage import Interrupted, Pause, Place, digest
from tests.quick_registry import delete, reason_of, unique
from tests.s3 import S3Server

CONDEMNED, WAITING, DELETED = GarbageFate.CONDEMNED, GarbageFate.WAITING, GarbageFate.DELETED
BOTH_STORES = pytest.mark.parametrize("place", ["file", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)


@pytest.fixture(scope="module")
def place_of(s3: S3Server) -> Callable[[str], object]:
    """Give a bucket for "s3", and nothing for "file"."""
    return lambda kind: s3.make_bucket() if kind == "s3" else None


@pytest.fixture
def place(request: pytest.FixtureRequest, clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Place]:
    kind = getattr(request, "param", "file")
    bucket = request.getfixturevalue("place_of")(kind) if kind == "s3" else None
    with garbage.place(clone_database("registry"), tmp_path, bucket) as opened:
        yield opened
    if bucket is not None:
        bucket.remove()


def counts(report: GarbageReport) -> tuple[int, int, int]:
    return report.counts[CONDEMNED], report.counts[WAITING], report.counts[DELETED]


def said(report: GarbageReport) -> tuple[object, ...]:
    """Give all that a report says, but for the moments, and which kind of round it was."""
    blobs = sorted((blob.sha256, blob.fate) for blob in report.blobs)
    numbers = (report.purged_versions, report.purged_models, report.expired_uploads)
    return numbers, report.counts, report.sizes_bytes, blobs


def foreseen(place: Place) -> GarbageReport:
    """Do a dry run, which must change nothing, and then a round, which must do what it said."""
    before = place.rows(), place.stored()
    dry = place.collect(dry_run=True)
    assert (place.rows(), place.stored()) == before
    real = place.collect()
    assert said(real) == said(dry)
    return real


@BOTH_STORES
def test_what_nothing_names_is_condemned_waits_and_goes_and_the_rest_stays(place: Place) -> None:
    kept = digest(content := unique())
    quick_registry.register(place.here, content=content)
    left = place.leave_behind(b"nobody's")
    assert counts(foreseen(place)) == (0, 0, 0)  # somebody may be about to name it
    place.age()
    assert counts(foreseen(place)) == (1, 0, 0)
    assert place.rows() == {kept: False, left: True}
    assert counts(foreseen(place)) == (0, 1, 0)
    place.age()
    report = foreseen(place)
    assert counts(report) == (0, 0, 1)
    assert report.sizes_bytes[DELETED] == len(b"nobody's")
    assert place.rows() == {kept: False}
    assert place.stored() == {kept}
    assert counts(foreseen(place)) == (0, 0, 0)


@BOTH_STORES
def test_the_files_of_a_deleted_version_stay_until_it_is_purged_and_shared_ones_longer(place: Place) -> None:
    shared, own = unique(), unique()
    quick_registry.register(place.here, "1", content=shared)
    quick_registry.register(place.here, "2", content=shared)
    quick_registry.register(place.here, "3", content=own)
    delete(place.here, "2")
    delete(place.here, "3")
    place.age()
    assert counts(foreseen(place)) == (0, 0, 0)
    with psycopg.connect(place.database_url, autocommit=True) as database:
        database.execute("UPDATE registry.versions SET purge_time = delete_time WHERE delete_time IS NOT NULL")
    report = foreseen(place)
    assert (report.purged_versions, counts(report)) == (2, (1, 0, 0))
    place.age()
    assert counts(foreseen(place)) == (0, 0, 1)
    assert place.stored() == {digest(shared)}
    assert b"".join(_download(place, "1")) == shared


def _download(place: Place, version: str) -> list[bytes]:
    request = pb.DownloadFileRequest(model="iris", version=version)
    return [part.chunk for part in place.here.models.DownloadFile(request, timeout=registry.DEADLINE_S)]


def test_what_uploads_name_stays_until_they_expire(place: Place) -> None:
    part, whole = place.leave_behind(b"a part"), place.leave_behind(b"a whole file")
    with psycopg.connect(place.database_url, autocommit=True) as database:
        for upload_id, sha256, finished in ((1, "0" * 64, False), (2, whole, True)):
            database.execute(
                "INSERT INTO registry.uploads (upload_id, sha256, size_bytes, part_size_bytes, finished, created_by, "
                "expire_time) VALUES (%s, %s, 1, 1, %s, 'ada', clock_timestamp() + interval '90 seconds')",
                [f"00000000-0000-0000-0000-00000000000{upload_id}", sha256, finished],
            )
        database.execute(
            "INSERT INTO registry.upload_parts SELECT upload_id, 1, %s FROM registry.uploads WHERE NOT finished", [part]
        )
    place.age()
    assert counts(foreseen(place)) == (0, 0, 0)
    place.age()
    report = foreseen(place)
    assert (report.expired_uploads, counts(report)) == (2, (2, 0, 0))
    place.age()
    assert counts(foreseen(place)) == (0, 0, 2)
    assert place.stored() == set()


@BOTH_STORES
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_upload_that_meets_the_deletion_of_its_bytes_waits_and_stores_them_anew(place: Place, moment: str) -> None:
    content = unique()
    sha256 = place.condemned(content)
    pause = Pause()
    blobs = Interrupted(place.blobs, **{moment: pause}).as_store()
    with place.garbage(blobs) as collector, ThreadPoolExecutor(2) as pool:
        collecting = pool.submit(collector.collect)
        pause.reached()
        uploading = pool.submit(quick_registry.register, place.here, content=content)
        registry.wait_for_locks(place.database_url, 1)
        pause.release()
        assert counts(collecting.result()) == (0, 0, 1)
        assert uploading.result().state == pb.VERSION_STATE_READY
    assert place.rows() == {sha256: False}
    assert b"".join(_download(place, "1")) == content


@BOTH_STORES
def test_an_upload_that_comes_before_the_deletion_revives_its_bytes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it has no more than said what it is about to store."""
    content = unique()
    sha256 = place.condemned(content)
    pause, reserve = Pause(), Reservations.reserve

    def reserve_and_wait(self: Reservations, blob: Blob) -> None:
        reserve(self, blob)
        pause()

    monkeypatch.setattr(Reservations, "reserve", reserve_and_wait)
    with ThreadPoolExecutor(1) as pool:
        uploading = pool.submit(quick_registry.register, place.here, content=content)
        pause.reached()
        assert counts(place.collect()) == (0, 0, 0)
        pause.release()
        assert uploading.result().state == pb.VERSION_STATE_READY
    assert place.rows() == {sha256: False}
    assert b"".join(_download(place, "1")) == content


@pytest.mark.parametrize("wanted", ["about to be stored", "uploaded", "named"])
def test_a_blob_that_is_wanted_between_the_look_and_the_lock_is_left_alone(place: Place, wanted: str) -> None:
    """Of two that are due the first is being deleted while somebody wants the second, to which the round comes next.

    Whoever names a blob touches its row, which is enough; that it is named would be enough as well.
    """
    quick_registry.register(place.here)
    contents = {digest(content): content for content in (unique(), unique())}
    for content in contents.values():
        place.leave_behind(content)
    place.age()
    place.collect()
    place.age()
    pause, begun = Pause(), list[str]()
    blobs = Interrupted(Interrupted(place.blobs, before=pause).as_store(), before=begun.append).as_store()
    with place.garbage(blobs) as collector, ThreadPoolExecutor(1) as pool:
        collecting = pool.submit(collector.collect)
        pause.reached()
        (other,) = contents.keys() - set(begun)
        if wanted == "uploaded":
            quick_registry.register(place.here, "2", content=contents[other])
        elif wanted == "named":
            _name_behind_its_back(place, other, len(contents[other]))
        else:
            with Database(place.database_url) as database:
                Reservations(Store(database)).reserve(Blob(other, len(contents[other])))
        pause.release()
        assert counts(collecting.result()) == (0, 0, 1)
    assert begun == list(contents.keys() - {other})
    assert place.rows()[other] is False
    assert other in place.stored()


def _name_behind_its_back(place: Place, sha256: str, size_bytes: int) -> None:
    """Have a version name a blob without a word to its row, which no code here does."""
    with psycopg.connect(place.database_url, autocommit=True) as database:
        database.execute(
            "INSERT INTO registry.files SELECT version_id, 'other', %s, %s FROM registry.versions", [sha256, size_bytes]
        )


def test_an_upload_that_took_longer_than_blobs_are_left_alone_for_is_refused_and_can_be_sent_again(
    place: Place,
) -> None:
    content = unique()
    with ThreadPoolExecutor(1) as pool:
        with registry.models_locked(place.database_url) as wait_for:
            upload = registry.upload(content)
            uploading = pool.submit(place.here.models.RegisterVersion, upload, timeout=registry.DEADLINE_S)
            wait_for(1)
            for _ in range(2):
                place.age()
                place.collect()
            assert place.stored() == set()
        error = uploading.exception()
    assert registry.refusal(error)[:2] == (grpc.StatusCode.ABORTED, "BLOB_COLLECTED")
    assert quick_registry.register(place.here, content=content).state == pb.VERSION_STATE_READY
    assert b"".join(_download(place, "1")) == content


@BOTH_STORES
def test_two_uploads_of_the_same_bytes_at_once_while_they_are_collected(place: Place) -> None:
    content = unique()
    place.condemned(content)
    pause = Pause()
    blobs = Interrupted(place.blobs, after=pause).as_store()
    with place.garbage(blobs) as collector, ThreadPoolExecutor(3) as pool:
        collecting = pool.submit(collector.collect)
        pause.reached()
        uploads = [pool.submit(quick_registry.register, place.here, name, content=content) for name in ("1", "2")]
        registry.wait_for_locks(place.database_url, 2)
        pause.release()
        assert counts(collecting.result()) == (0, 0, 1)
        assert {upload.result().state for upload in uploads} == {pb.VERSION_STATE_READY}
    assert place.stored() == {digest(content)}
    for version in ("1", "2"):
        assert b"".join(_download(place, version)) == content


@pytest.mark.parametrize("uploaded_in_between", [False, True])
def test_a_crash_between_the_bytes_and_the_row_is_healed_by_the_next_round_or_upload(
    place: Place, uploaded_in_between: bool
) -> None:
    content = unique()
    sha256 = place.condemned(content)

    def kill(_: str) -> None:
        # Waited for: the connection is told of its end before its lock is given back, and the next round wants that.
        with psycopg.connect(place.database_url, autocommit=True) as killer:
            killer.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name = 'penstock' AND state = 'idle in transaction' AND backend_xid IS NOT NULL"
            )

    with place.garbage(Interrupted(place.blobs, after=kill).as_store()) as collector, pytest.raises(Unavailable):
        collector.collect()
    assert place.rows() == {sha256: True}
    assert place.stored() == set()
    place.age(LATE_DELETE_S + 1)
    if uploaded_in_between:
        quick_registry.register(place.here, content=content)
        assert counts(place.collect()) == (0, 0, 0)
        assert b"".join(_download(place, "1")) == content
    else:
        assert counts(place.collect()) == (0, 0, 1)
        assert place.rows() == {}


def test_a_blob_store_that_fails_in_mid_round_loses_nothing_and_the_next_round_goes_on(place: Place) -> None:
    kept = digest(content := unique())
    quick_registry.register(place.here, content=content)
    left = {place.leave_behind(unique()) for _ in range(3)}
    place.age()
    place.collect()
    place.age()
    deleted: list[str] = []

    def fail_later(sha256: str) -> None:
        if deleted:
            raise Unavailable("the blob store can't be reached", reason="BLOB_STORE_UNAVAILABLE")
        deleted.append(sha256)

    failing = Interrupted(place.blobs, before=fail_later).as_store()
    with place.garbage(failing) as collector, pytest.raises(Unavailable):
        collector.collect()
    rest = left - set(deleted)
    assert place.rows() == {kept: False, **dict.fromkeys(rest, True)}
    assert place.stored() == {kept, *rest}
    assert counts(foreseen(place)) == (0, 1, 1)  # the store may yet delete what it did not answer for
    place.age(LATE_DELETE_S + 1)
    assert counts(foreseen(place)) == (0, 0, 1)
    assert place.stored() == {kept}


def test_rounds_come_one_at_a_time(place: Place) -> None:
    place.condemned(b"nobody's")
    pause = Pause()
    request = administration_pb2.CollectGarbageRequest()
    collect = place.here.administration.CollectGarbage
    with place.garbage(Interrupted(place.blobs, before=pause).as_store()) as collector, ThreadPoolExecutor(1) as pool:
        collecting = pool.submit(collector.collect)
        pause.reached()
        assert reason_of(collect, request) == (grpc.StatusCode.ABORTED, "GARBAGE_COLLECTION_RUNNING")
        pause.release()
        collecting.result()
    assert collect(request).deleted_count == 0


@BOTH_STORES
def test_blobs_that_no_row_knows_are_found_by_reading_the_store(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a database has them that was restored from a backup older than the blobs."""
    known = digest(content := unique())
    quick_registry.register(place.here, content=content)
    unknown = place.leave_behind(b"stored after the backup")
    with psycopg.connect(place.database_url, autocommit=True) as database:
        database.execute("DELETE FROM registry.blobs")
    scan = administration_pb2.CollectGarbageRequest(scan_store=True)
    collect = place.here.administration.CollectGarbage
    assert collect(scan).condemned_count == 0  # it may be an upload's that has yet to write its row
    monkeypatch.setattr(garbage, "GRACE_S", -1.0)  # the store says when it was stored, and that was just now
    assert counts(place.collect()) == (0, 0, 0)
    dry, real = place.collect(scan_store=True, dry_run=True), place.collect(scan_store=True)
    assert said(dry) == said(real)
    assert [(blob.sha256, blob.fate) for blob in real.blobs][:1] == [(unknown, CONDEMNED)]
    assert place.rows()[known] is False


def test_the_rpc_says_what_became_of_which_blob(place: Place) -> None:
    sha256 = place.condemned(b"nobody's")
    answer = place.here.administration.CollectGarbage(administration_pb2.CollectGarbageRequest(dry_run=True))
    # The registry itself leaves blobs alone for a day.
    assert (answer.dry_run, answer.waiting_count, answer.waiting_bytes) == (True, 1, len(b"nobody's"))
    (blob,) = answer.blobs
    assert (blob.sha256, blob.fate) == (sha256, administration_pb2.GARBAGE_FATE_WAITING)
    with psycopg.connect(place.database_url) as database:
        row = database.execute("SELECT condemn_time + interval '1 day' FROM registry.blobs").fetchone()
    assert row is not None
    assert blob.delete_time.ToMicroseconds() == int(row[0].timestamp() * 1_000_000)


def test_a_registry_collects_by_itself(clone_database: Callable[[str], str], tmp_path: Path) -> None:
    database_url = clone_database("registry")
    with garbage.place(
        database_url, tmp_path, None, garbage_interval_ms=1_000, deleted_retention_ms=0, blob_grace_ms=60_000
    ) as place:
        sha256 = digest(content := unique())
        quick_registry.register(place.here, content=content)
        delete(place.here, "1")
        place.age()
        registry.wait_until(lambda: place.rows().get(sha256) or None)
        place.age()
        registry.wait_until(lambda: place.rows() == {} or None)
        assert place.stored() == set()


def test_a_dry_run_foresees_any_round(place: Place) -> None:
    chance = random.Random(11)
    names = [quick_registry.register(place.here, str(number)).version for number in range(6)]
    for _ in range(8):
        for _ in range(chance.randrange(3)):
            place.leave_behind(unique())
        if names and chance.random() < 0.5:
            delete(place.here, names.pop())
        with psycopg.connect(place.database_url, autocommit=True) as database:
            database.execute(
                "UPDATE registry.versions SET purge_time = purge_time - interval '3 days' WHERE delete_time IS NOT NULL"
            )
        place.age(chance.choice([1.0, 40.0, 61.0]))
        foreseen(place)
    for name in names:
        assert b"".join(_download(place, name))
