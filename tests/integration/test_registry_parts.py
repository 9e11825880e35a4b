"""Uploads in parts, that break off, come twice, and come together."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from penstock.api.registry.v1 import registry_pb2, uploads_pb2
from penstock.stubs import RegistryStub
from services.common.blobs import Blob
from services.registry.__main__ import build
from services.registry.parts import part_uploads
from services.registry.reservations import Reservations
from tests import registry
from tests.kit import bearing, write_keys
from tests.testdata import models

PART_BYTES = 1_000
MAX_UPLOAD_BYTES = 20_000
CONTENT = hashlib.shake_128(b"parts").digest(4 * PART_BYTES + 321)
PARTS = [CONTENT[start : start + PART_BYTES] for start in range(0, len(CONTENT), PART_BYTES)]
INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
NOT_FOUND, EXHAUSTED = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED
RECEIVING, FINISHED = uploads_pb2.UPLOAD_STATE_RECEIVING, uploads_pb2.UPLOAD_STATE_FINISHED
NOBODY = "00000000-0000-4000-8000-000000000000"


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def database_url(clone_database: Callable[[str], str]) -> str:
    return clone_database("registry")


@contextmanager
def served(database_url: str, folder: Path, **more: Any) -> Iterator[RegistryStub]:
    settings = registry.settings_for(database_url, folder, max_upload_bytes=MAX_UPLOAD_BYTES, min_part_bytes=10, **more)
    with ExitStack() as stack:
        server = build(settings, stack)
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.open()}"))
        stack.callback(server.close)
        yield RegistryStub(channel)


@pytest.fixture
def stub(database_url: str, tmp_path: Path) -> Iterator[RegistryStub]:
    with served(database_url, tmp_path) as opened:
        yield opened


def create(stub: RegistryStub, content: bytes = CONTENT, **more: Any) -> uploads_pb2.Upload:
    described = {"sha256": digest_of(content), "size_bytes": len(content), "part_size_bytes": PART_BYTES, **more}
    return stub.CreateUpload(uploads_pb2.CreateUploadRequest(**described)).upload


def messages(upload_id: str, number: int, content: bytes, **more: Any) -> Iterator[uploads_pb2.UploadPartRequest]:
    header = {"upload_id": upload_id, "part_number": number, "sha256": digest_of(content), **more}
    yield uploads_pb2.UploadPartRequest(header=uploads_pb2.PartHeader(**header))
    for start in range(0, len(content), 300):
        yield uploads_pb2.UploadPartRequest(chunk=content[start : start + 300])


def send(stub: RegistryStub, upload_id: str, number: int, content: bytes | None = None) -> uploads_pb2.Upload:
    content = PARTS[number - 1] if content is None else content
    return stub.UploadPart(messages(upload_id, number, content)).upload


def send_all(stub: RegistryStub, upload_id: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: send(stub, upload_id, number), range(len(PARTS), 0, -1)))


def finish(stub: RegistryStub, upload_id: str) -> uploads_pb2.Upload:
    *_, last = stub.FinishUpload(uploads_pb2.FinishUploadRequest(upload_id=upload_id))
    return last.upload


def register(stub: RegistryStub, upload_id: str, version: str = "1", **more: Any) -> registry_pb2.ModelVersion:
    requests = list(registry.upload(b"", version=version, file={"sha256": "", "size_bytes": 0, **more}))
    requests[1].file.upload_id = upload_id
    return stub.RegisterVersion(iter(requests)).version


def refused(call: Callable[..., object], *arguments: Any, **more: Any) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **more)
    assert len(str(caught.value)) < 2_000
    return registry.refusal(caught.value)[:2]


def stored_files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blobs").rglob("*") if path.is_file()}


def test_parts_in_any_order_make_the_file_and_the_file_a_version(stub: RegistryStub) -> None:
    made = create(stub)
    assert (made.state, made.part_count, list(made.received_parts)) == (RECEIVING, 5, [])
    send_all(stub, made.id)
    received = stub.GetUpload(uploads_pb2.GetUploadRequest(upload_id=made.id)).upload
    assert list(received.received_parts) == [1, 2, 3, 4, 5]
    assert received.expire_time.ToNanoseconds() > made.expire_time.ToNanoseconds()

    finished = finish(stub, made.id)
    assert (finished.state, finished.sha256, finished.size_bytes) == (FINISHED, digest_of(CONTENT), len(CONTENT))
    assert finish(stub, made.id) == finished  # calling it again is safe
    version = register(stub, made.id)
    assert version.files[0].sha256 == digest_of(CONTENT)
    got = stub.DownloadFile(registry_pb2.DownloadFileRequest(model="iris", version="1"))
    assert b"".join(part.chunk for part in got) == CONTENT
    assert register(stub, made.id, version="2", sha256=digest_of(CONTENT), size_bytes=len(CONTENT)).files[0].path


def test_a_real_model_in_parts_becomes_ready(stub: RegistryStub) -> None:
    content = models.linear()
    made = create(stub, content, part_size_bytes=100)
    for number in range(1, made.part_count + 1):
        send(stub, made.id, number, content[(number - 1) * 100 : number * 100])
    finish(stub, made.id)
    register(stub, made.id)
    assert registry.settled(stub, "iris", "1").state == registry_pb2.VERSION_STATE_READY


def test_the_registry_chooses_the_size_of_parts_and_bytes_it_has_are_not_asked_for(stub: RegistryStub) -> None:
    made = create(stub, part_size_bytes=0)
    assert made.part_count == 1
    send(stub, made.id, 1, CONTENT)
    finish(stub, made.id)
    again = create(stub)
    assert (again.state, again.id != made.id) == (FINISHED, True)
    assert register(stub, again.id).files[0].size_bytes == len(CONTENT)
    other_size = create(stub, size_bytes=len(CONTENT) - 1)
    assert other_size.state == RECEIVING


def test_the_same_request_again_finds_its_upload(stub: RegistryStub) -> None:
    first = create(stub, request_id="r1")
    send(stub, first.id, 2)
    again = create(stub, request_id="r1")
    assert (again.id, list(again.received_parts)) == (first.id, [2])
    assert create(stub, request_id="r1", part_size_bytes=0).id == first.id
    for other in ({"sha256": "0" * 64}, {"size_bytes": 7}, {"part_size_bytes": 2 * PART_BYTES}):
        assert refused(create, stub, request_id="r1", **other) == (
            PRECONDITION,
            "REQUEST_ID_REUSED",
        )
    stub.AbortUpload(uploads_pb2.AbortUploadRequest(upload_id=first.id))
    assert create(stub, request_id="r1").id != first.id


def test_identical_creations_at_once_make_one_upload(stub: RegistryStub) -> None:
    with ThreadPoolExecutor(6) as pool:
        assert len({made.id for made in pool.map(lambda _: create(stub, request_id="r1"), range(6))}) == 1


def test_announcements_that_cannot_be_meant_are_refused(stub: RegistryStub) -> None:
    for more, reason in (
        ({"sha256": "short"}, "DIGEST_MALFORMED"),
        ({"sha256": ""}, "DIGEST_MALFORMED"),
        ({"size_bytes": 0}, "OUT_OF_BOUNDS"),
        ({"size_bytes": -1}, "OUT_OF_BOUNDS"),
        ({"size_bytes": MAX_UPLOAD_BYTES + 1}, "TOO_LARGE"),
        ({"part_size_bytes": 9}, "INVALID_PART_SIZE"),
        ({"part_size_bytes": -1}, "INVALID_PART_SIZE"),
        ({"part_size_bytes": 2**30 + 1}, "INVALID_PART_SIZE"),
        ({"request_id": "x" * 129}, "INVALID_TEXT"),
    ):
        assert refused(create, stub, **more) == (INVALID, reason)


def test_parts_that_are_not_what_they_say_are_refused_and_leave_nothing(stub: RegistryStub, tmp_path: Path) -> None:
    made = create(stub)
    header, *chunks = list(messages(made.id, 1, PARTS[0]))
    for requests, reason in (
        (messages(made.id, 0, PARTS[0]), "INVALID_PART_NUMBER"),
        (messages(made.id, 6, PARTS[0]), "INVALID_PART_NUMBER"),
        (messages(made.id, 1, PARTS[0], sha256="0" * 64), "DIGEST_MISMATCH"),
        (messages(made.id, 1, PARTS[0], sha256=""), "DIGEST_MALFORMED"),
        (messages(made.id, 1, PARTS[0] + b"x"), "SIZE_MISMATCH"),
        (messages(made.id, 1, PARTS[0][:-1]), "SIZE_MISMATCH"),
        (messages(made.id, 5, PARTS[0]), "SIZE_MISMATCH"),
        (iter([header]), "SIZE_MISMATCH"),
        (iter(chunks), "INCOMPLETE_UPLOAD"),
        (iter([]), "INCOMPLETE_UPLOAD"),
        (iter([header, *chunks, header]), "INCOMPLETE_UPLOAD"),
    ):
        assert refused(stub.UploadPart, requests) == (INVALID, reason)
    assert stored_files(tmp_path) == set()
    assert not stub.GetUpload(uploads_pb2.GetUploadRequest(upload_id=made.id)).upload.received_parts


def test_a_part_may_come_again_and_be_replaced(stub: RegistryStub) -> None:
    made = create(stub)
    send(stub, made.id, 1, b"w" * PART_BYTES)
    for number in range(2, 6):
        send(stub, made.id, number)
    assert refused(finish, stub, made.id) == (INVALID, "DIGEST_MISMATCH")
    assert list(send(stub, made.id, 1).received_parts) == [1, 2, 3, 4, 5]
    assert finish(stub, made.id).state == FINISHED
    assert refused(send, stub, made.id, 1) == (PRECONDITION, "UPLOAD_FINISHED")


def test_an_unfinished_upload_is_no_file(stub: RegistryStub) -> None:
    made = create(stub)
    send(stub, made.id, 3)
    assert refused(finish, stub, made.id) == (PRECONDITION, "PARTS_MISSING")
    assert refused(register, stub, made.id) == (PRECONDITION, "UPLOAD_NOT_FINISHED")
    assert refused(register, stub, NOBODY) == (NOT_FOUND, "UPLOAD_NOT_FOUND")


def test_a_finished_upload_is_held_to_what_the_version_says_of_it(stub: RegistryStub) -> None:
    made = create(stub)
    send_all(stub, made.id)
    finish(stub, made.id)
    assert refused(register, stub, made.id, sha256="0" * 64) == (INVALID, "DIGEST_MISMATCH")
    assert refused(register, stub, made.id, size_bytes=1) == (INVALID, "SIZE_MISMATCH")
    with_bytes = list(registry.upload(CONTENT, file={"upload_id": made.id}))
    assert refused(stub.RegisterVersion, iter(with_bytes)) == (INVALID, "INCOMPLETE_UPLOAD")


def test_an_aborted_upload_is_gone(stub: RegistryStub) -> None:
    made = create(stub)
    send(stub, made.id, 1)
    stub.AbortUpload(uploads_pb2.AbortUploadRequest(upload_id=made.id))
    for upload_id in (made.id, NOBODY, "no id", "../x", "x" * 10_000):
        gone = (NOT_FOUND, "UPLOAD_NOT_FOUND")
        assert refused(stub.GetUpload, uploads_pb2.GetUploadRequest(upload_id=upload_id)) == gone
        assert refused(stub.AbortUpload, uploads_pb2.AbortUploadRequest(upload_id=upload_id)) == gone
        assert refused(send, stub, upload_id, 1) == gone
        assert refused(finish, stub, upload_id) == gone


def test_an_expired_upload_is_gone_and_each_part_pushes_its_end_on(stub: RegistryStub, database_url: str) -> None:
    made = create(stub, request_id="r1")
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("UPDATE registry.uploads SET expire_time = clock_timestamp() + interval '1 hour'")
        pushed = send(stub, made.id, 1).expire_time
        assert pushed.ToNanoseconds() >= made.expire_time.ToNanoseconds()
        database.execute("UPDATE registry.uploads SET expire_time = clock_timestamp()")
    assert refused(send, stub, made.id, 2) == (NOT_FOUND, "UPLOAD_NOT_FOUND")
    assert create(stub, request_id="r1").id != made.id


def test_a_caller_has_so_many_unfinished_uploads_and_no_more(stub: RegistryStub) -> None:
    ids = [create(stub).id for _ in range(100)]
    assert refused(create, stub) == (EXHAUSTED, "TOO_MANY_UPLOADS")
    stub.AbortUpload(uploads_pb2.AbortUploadRequest(upload_id=ids[0]))
    create(stub)


@pytest.mark.parametrize("damage", [None, b"rotten"], ids=["lost", "damaged"])
def test_a_part_that_the_store_lost_or_damaged_is_asked_for_again(
    stub: RegistryStub, tmp_path: Path, damage: bytes | None
) -> None:
    made = create(stub)
    send_all(stub, made.id)
    sha256 = digest_of(PARTS[2])
    blob = tmp_path / "blobs" / "registry" / sha256[:2] / sha256
    blob.unlink() if damage is None else blob.write_bytes(damage)
    assert refused(finish, stub, made.id) == (PRECONDITION, "PARTS_MISSING")
    received = stub.GetUpload(uploads_pb2.GetUploadRequest(upload_id=made.id)).upload.received_parts
    assert list(received) == [1, 2, 4, 5]
    send(stub, made.id, 3)
    assert finish(stub, made.id).state == FINISHED


def test_a_finished_file_that_the_store_lost_is_said_and_the_same_request_begins_anew(
    stub: RegistryStub, tmp_path: Path
) -> None:
    made = create(stub, request_id="r1")
    send_all(stub, made.id)
    finish(stub, made.id)
    (tmp_path / "blobs" / "registry" / made.sha256[:2] / made.sha256).unlink()
    assert refused(register, stub, made.id) == (grpc.StatusCode.DATA_LOSS, "BLOB_LOST")
    again = create(stub, request_id="r1")
    assert (again.id, again.state) == (made.id, RECEIVING)
    send_all(stub, made.id)
    finish(stub, made.id)
    assert register(stub, made.id).files[0].sha256 == made.sha256


def test_a_file_that_the_store_damaged_is_healed_by_sending_it_again(
    stub: RegistryStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(stub, request_id="r1")
    send_all(stub, made.id)
    finish(stub, made.id)
    register(stub, made.id)
    blob = tmp_path / "blobs" / "registry" / made.sha256[:2] / made.sha256
    blob.write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])
    assert create(stub).state == RECEIVING
    again = create(stub, request_id="r1")
    assert (again.id, again.state) == (made.id, RECEIVING)
    send_all(stub, again.id)
    assert finish(stub, again.id).state == FINISHED
    assert blob.read_bytes() == CONTENT
    assert create(stub).state == FINISHED
    monkeypatch.setattr(part_uploads, "CHECKED_WITHIN_S", 0.0)
    assert create(stub).state == RECEIVING  # nobody waits for a file that takes too long to read


def test_a_part_that_was_collected_before_it_was_named_is_refused(
    stub: RegistryStub, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(stub)
    reserve = Reservations.reserve

    def condemned_meanwhile(self: Reservations, blob: Blob) -> None:
        reserve(self, blob)
        with psycopg.connect(database_url, autocommit=True) as database:
            database.execute("UPDATE registry.blobs SET condemn_time = now(), delete_time = now()")

    with monkeypatch.context() as patch:
        patch.setattr(Reservations, "reserve", condemned_meanwhile)
        assert refused(send, stub, made.id, 1) == (grpc.StatusCode.ABORTED, "BLOB_COLLECTED")
    assert not stub.GetUpload(uploads_pb2.GetUploadRequest(upload_id=made.id)).upload.received_parts


def test_garbage_collection_stays_away_from_an_upload_that_a_version_is_made_of(
    stub: RegistryStub, database_url: str
) -> None:
    """From the first: the version's own rows come only when all of its files are there."""
    made = create(stub)
    send_all(stub, made.id)
    finish(stub, made.id)
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("UPDATE registry.blobs SET condemn_time = now(), touch_time = now() - interval '9 days'")
        # Refused after its bytes were found, so that nothing but that has touched them.
        assert refused(register, stub, made.id, sha256="0" * 64) == (INVALID, "DIGEST_MISMATCH")
        revived = "SELECT condemn_time, touch_time > now() - interval '1 day' FROM registry.blobs WHERE sha256 = %s"
        assert database.execute(revived, [made.sha256]).fetchone() == (None, True)


def test_two_replicas_that_finish_at_once_both_succeed(stub: RegistryStub, database_url: str, tmp_path: Path) -> None:
    made = create(stub)
    send_all(stub, made.id)
    with served(database_url, tmp_path) as other, ThreadPoolExecutor(4) as pool:
        finished = list(pool.map(lambda each: finish(each, made.id), [stub, other, stub, other]))
    assert {upload.state for upload in finished} == {FINISHED}
    assert digest_of(CONTENT) in stored_files(tmp_path)


def test_a_cancelled_part_leaves_nothing(stub: RegistryStub, tmp_path: Path) -> None:
    made = create(stub)
    never = threading.Event()

    def endless() -> Iterator[uploads_pb2.UploadPartRequest]:
        yield from list(messages(made.id, 1, PARTS[0]))[:2]
        never.wait()

    call = stub.UploadPart.future(endless())
    incoming = tmp_path / "blobs" / "registry" / "incoming"
    registry.wait_until(lambda: list(incoming.glob("*.part")) or None)
    call.cancel()
    registry.wait_until(lambda: None if list(incoming.iterdir()) else True)
    never.set()
    assert not stub.GetUpload(uploads_pb2.GetUploadRequest(upload_id=made.id)).upload.received_parts


def test_an_upload_belongs_to_the_key_that_began_it_and_to_admins(database_url: str, tmp_path: Path) -> None:
    keys_file = tmp_path / "keys.json"
    write_keys(keys_file, ada="operator", bob="operator", eve="admin")
    announced = uploads_pb2.CreateUploadRequest(
        sha256=digest_of(CONTENT), size_bytes=len(CONTENT), part_size_bytes=PART_BYTES, request_id="r1"
    )
    with served(database_url, tmp_path, keys_file=keys_file) as stub:
        made = stub.CreateUpload(announced, metadata=bearing("ada")).upload
        assert made.created_by == "ada"
        assert stub.CreateUpload(announced, metadata=bearing("bob")).upload.id != made.id  # his own request id
        for call, request in (
            (stub.GetUpload, uploads_pb2.GetUploadRequest(upload_id=made.id)),
            (stub.AbortUpload, uploads_pb2.AbortUploadRequest(upload_id=made.id)),
            (stub.UploadPart, list(messages(made.id, 1, PARTS[0]))),
            (
                lambda request, **more: list(stub.FinishUpload(request, **more)),
                uploads_pb2.FinishUploadRequest(upload_id=made.id),
            ),
        ):
            sent = iter(request) if isinstance(request, list) else request
            assert refused(call, sent, metadata=bearing("bob")) == (NOT_FOUND, "UPLOAD_NOT_FOUND")
        for name in ("ada", "eve"):
            got = stub.GetUpload(uploads_pb2.GetUploadRequest(upload_id=made.id), metadata=bearing(name)).upload
            assert got.id == made.id
            stub.UploadPart(messages(made.id, 1, PARTS[0]), metadata=bearing(name))
        for number in range(2, 6):
            stub.UploadPart(messages(made.id, number, PARTS[number - 1]), metadata=bearing("ada"))
        list(stub.FinishUpload(uploads_pb2.FinishUploadRequest(upload_id=made.id), metadata=bearing("ada")))
        requests = list(registry.upload(b"", file={"sha256": "", "size_bytes": 0, "upload_id": made.id}))
        assert refused(stub.RegisterVersion, iter(requests), metadata=bearing("bob")) == (NOT_FOUND, "UPLOAD_NOT_FOUND")
        assert stub.RegisterVersion(iter(requests), metadata=bearing("ada")).version.created_by == "ada"
