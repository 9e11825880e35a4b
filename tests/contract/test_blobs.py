"""What every blob store promises, held against both: a folder and a real S3 server."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import urllib3

from services.common.blobs import Blob, BlobStore, open_blobs
from services.common.errors import DataLoss, InvalidArgument, NotFound, OutOfRange
from tests.s3 import S3Bucket

MIB = 1024 * 1024
PART = 5 * MIB  # S3 goes multipart above it; the file store does not care
SIZES = {"empty": 0, "a byte": 1, "over a read": MIB + 1, "one part": PART, "three parts": 2 * PART + 17}
LIMIT = 64 * MIB


@dataclass(frozen=True, slots=True)
class Backend:
    """A store under test, and what a test may do behind its back."""

    store: BlobStore
    reopen: Callable[[str], BlobStore]  # the same place, for the prefix given
    stored: Callable[[], list[str]]  # everything that lies there, unfinished things too
    write: Callable[[str, bytes], None]  # to this path
    arguments: tuple[str, ...]  # URL, access key, secret key: for a process of its own


@pytest.fixture(params=["file", "s3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made = on_disk(tmp_path) if request.param == "file" else in_s3(request.getfixturevalue("bucket"))
    yield made
    made.store.close()


def on_disk(root: Path) -> Backend:
    url = root.as_uri()

    def write(path: str, content: bytes) -> None:
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(content)

    return Backend(
        store=open_blobs(url, prefix="registry"),
        reopen=lambda prefix: open_blobs(url, prefix=prefix),
        stored=lambda: sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()),
        write=write,
        arguments=(url,),
    )


def in_s3(bucket: S3Bucket) -> Backend:
    keys = bucket.server.access_key, bucket.server.secret_key

    def reopen(prefix: str) -> BlobStore:
        return open_blobs(bucket.url, prefix=prefix, access_key=keys[0], secret_key=keys[1])

    def write(path: str, content: bytes) -> None:
        bucket.server.client().put_object(bucket.name, path, io.BytesIO(content), len(content))

    return Backend(
        store=reopen("registry"),
        reopen=reopen,
        stored=bucket.list_keys,
        write=write,
        arguments=(bucket.url, *keys),
    )


def content_of(size_bytes: int) -> bytes:
    """Bytes that differ everywhere, so that parts in a wrong order would show."""
    return hashlib.shake_128(b"penstock").digest(size_bytes)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def chunked(content: bytes, chunk_bytes: int = 3 * MIB) -> Iterator[bytes]:
    for start in range(0, len(content), chunk_bytes):
        yield content[start : start + chunk_bytes]


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "learnt"])
@pytest.mark.parametrize("size_bytes", SIZES.values(), ids=SIZES.keys())
def test_a_blob_comes_back_as_it_went(backend: Backend, size_bytes: int, declared: bool) -> None:
    content = content_of(size_bytes)
    blob = Blob(digest_of(content), size_bytes)
    promise = {"sha256": blob.sha256, "size_bytes": size_bytes} if declared else {}

    assert backend.store.put(chunked(content), **promise, max_bytes=LIMIT) == blob  # type: ignore[arg-type] # one of each type
    with backend.store.open(blob.sha256) as reader:
        chunks = list(reader)
    assert b"".join(chunks) == content
    assert all(0 < len(chunk) <= MIB for chunk in chunks)
    assert backend.store.stat(blob.sha256) == blob
    assert backend.stored() == [f"registry/{blob.sha256[:2]}/{blob.sha256}"]


def test_a_blob_cannot_be_seen_before_its_digest_is_checked(backend: Backend) -> None:
    content = content_of(3 * PART)
    seen: list[bool] = []

    def watched() -> Iterator[bytes]:
        for chunk in chunked(content):
            yield chunk
            seen.append(backend.store.exists(digest_of(content)))

    backend.store.put(watched(), sha256=digest_of(content), max_bytes=LIMIT)
    assert len(seen) == 5
    assert not any(seen)
    assert backend.store.exists(digest_of(content))


@pytest.mark.parametrize("size_bytes", [10, 3 * PART], ids=["small", "multipart"])
class TestNothingStaysBehind:
    def test_after_a_wrong_digest(self, backend: Backend, size_bytes: int) -> None:
        content, wrong = content_of(size_bytes), digest_of(b"something else")
        with pytest.raises(InvalidArgument) as caught:
            backend.store.put(chunked(content), sha256=wrong, max_bytes=LIMIT)
        assert caught.value.reason == "DIGEST_MISMATCH"
        assert wrong in caught.value.message
        assert digest_of(content) in caught.value.message
        assert backend.stored() == []

    @pytest.mark.parametrize("difference", [-1, 1], ids=["more came", "less came"])
    def test_after_a_wrong_size(self, backend: Backend, size_bytes: int, difference: int) -> None:
        with pytest.raises(InvalidArgument) as caught:
            backend.store.put(chunked(content_of(size_bytes)), size_bytes=size_bytes + difference, max_bytes=LIMIT)
        assert caught.value.reason == "SIZE_MISMATCH"
        assert backend.stored() == []

    def test_after_too_many_bytes(self, backend: Backend, size_bytes: int) -> None:
        def endless() -> Iterator[bytes]:
            while True:
                yield content_of(size_bytes)

        with pytest.raises(InvalidArgument) as caught:
            backend.store.put(endless(), max_bytes=3 * size_bytes)
        assert caught.value.reason == "TOO_LARGE"
        assert backend.stored() == []

    @pytest.mark.parametrize("declared", [True, False], ids=["declared", "learnt"])
    def test_after_a_cancel(self, backend: Backend, size_bytes: int, declared: bool) -> None:
        content = content_of(size_bytes)

        def cancelled() -> Iterator[bytes]:
            yield content
            raise ConnectionAbortedError("the caller went away")

        with pytest.raises(ConnectionAbortedError, match="the caller went away"):
            backend.store.put(cancelled(), sha256=digest_of(content) if declared else None, max_bytes=LIMIT)
        assert backend.stored() == []


def test_a_declared_size_over_the_limit_is_refused_before_a_byte_is_read(backend: Backend) -> None:
    chunks = iter([b"unread"])
    with pytest.raises(InvalidArgument) as caught:
        backend.store.put(chunks, size_bytes=11, max_bytes=10)
    assert caught.value.reason == "TOO_LARGE"
    assert next(chunks) == b"unread"


def test_the_same_bytes_are_stored_once_however_many_send_them(backend: Backend) -> None:
    content = content_of(PART + 1)

    def send(declared: bool) -> Blob:
        sha256 = digest_of(content) if declared else None
        return backend.store.put(chunked(content), sha256=sha256, max_bytes=LIMIT)

    with ThreadPoolExecutor(4) as pool:
        blobs = set(pool.map(send, [True, False, True, False]))
    assert blobs == {Blob(digest_of(content), len(content))}
    assert len(backend.stored()) == 1


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "learnt"])
@pytest.mark.parametrize("size_bytes", [10, 3 * PART], ids=["small", "multipart"])
def test_what_is_about_to_be_seen_is_told_before_it_can_be(backend: Backend, size_bytes: int, declared: bool) -> None:
    content = content_of(size_bytes)
    told: list[tuple[Blob, bool]] = []

    def tell(blob: Blob) -> None:
        told.append((blob, backend.store.exists(blob.sha256)))

    sha256 = digest_of(content) if declared else None
    blob = backend.store.put(chunked(content), sha256=sha256, max_bytes=LIMIT, before_publish=tell)
    assert told == [(blob, False)]
    assert blob == Blob(digest_of(content), size_bytes)

    with pytest.raises(InvalidArgument):
        backend.store.put(chunked(content), sha256=digest_of(b"other"), max_bytes=LIMIT, before_publish=tell)
    assert len(told) == 1  # what is not as it was declared is told to nobody


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "learnt"])
@pytest.mark.parametrize("size_bytes", [10, 3 * PART], ids=["small", "multipart"])
def test_who_is_told_can_keep_it_from_being_seen(backend: Backend, size_bytes: int, declared: bool) -> None:
    content = content_of(size_bytes)

    def refuse(_: Blob) -> None:
        raise ConnectionAbortedError("the database went away")

    sha256 = digest_of(content) if declared else None
    with pytest.raises(ConnectionAbortedError, match="the database went away"):
        backend.store.put(chunked(content), sha256=sha256, max_bytes=LIMIT, before_publish=refuse)
    assert backend.stored() == []


def test_every_blob_is_listed_with_its_size_and_time_and_nothing_else_is(backend: Backend) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)  # S3 tells whole seconds
    blobs = {backend.store.put([content_of(size)], max_bytes=LIMIT) for size in (1, 2, 3)}
    theirs = backend.reopen("registry-too")
    theirs.put([b"another service's"], max_bytes=LIMIT)

    def listed_meanwhile() -> Iterator[bytes]:
        yield from chunked(content_of(3 * PART))
        found = list(backend.store.list())
        assert {blob for blob, _ in found} == blobs
        assert len(found) == 3
        assert all(before < time < datetime.now(UTC) + timedelta(seconds=2) for _, time in found)

    backend.store.put(listed_meanwhile(), max_bytes=LIMIT)
    assert len(list(backend.store.list())) == 4
    theirs.close()


def test_what_strangers_left_in_the_store_is_not_listed(backend: Backend) -> None:
    blob = backend.store.put([b"ours"], max_bytes=LIMIT)
    folder = blob.sha256[:2]
    other = f"{int(folder, 16) ^ 1:02x}"
    for path in (
        f"{folder}/.nfs0001",
        f"{folder}/{folder}",
        f"{folder}/{blob.sha256.upper()}",
        f"{other}/{blob.sha256}",
    ):
        backend.write(f"registry/{path}", b"a stranger's")
    backend.write(f"registry/{'0' * 64}", b"a stranger's")
    assert [found for found, _ in backend.store.list()] == [blob]


def test_a_presigned_url_reads_the_blob_without_a_key(backend: Backend) -> None:
    blob = backend.store.put([b"for everyone"], max_bytes=LIMIT)
    url = backend.store.presign(blob.sha256, lifetime_s=60, file_name="mödel 1.onnx")
    if len(backend.arguments) == 1:
        assert url is None  # a folder answers no HTTP
        return
    assert url is not None
    answer = urllib3.request("GET", url)
    assert (answer.status, answer.data) == (200, b"for everyone")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''m%C3%B6del%201.onnx"
    assert urllib3.request("GET", url.replace(blob.sha256, digest_of(b"another"))).status == 403
    assert urllib3.request("DELETE", url).status == 403


def test_prefixes_keep_services_apart(backend: Backend) -> None:
    blob = backend.store.put([b"mine"], max_bytes=LIMIT)
    theirs = backend.reopen("fetcher")
    assert not theirs.exists(blob.sha256)
    theirs.delete(blob.sha256)
    assert backend.store.exists(blob.sha256)
    theirs.close()


def test_a_blob_outlives_its_store(backend: Backend) -> None:
    blob = backend.store.put([b"kept"], max_bytes=LIMIT)
    backend.store.close()
    again = backend.reopen("registry")
    assert b"".join(again.open(blob.sha256)) == b"kept"
    again.close()


def test_what_is_not_there_is_said_at_once(backend: Backend) -> None:
    absent = digest_of(b"never stored")
    for look in (backend.store.open, backend.store.stat):
        with pytest.raises(NotFound, match=absent) as caught:
            look(absent)
        assert caught.value.reason == "BLOB_NOT_FOUND"
    with pytest.raises(NotFound):
        backend.store.open(absent, offset=1)
    assert not backend.store.exists(absent)


def test_delete_removes_and_does_not_mind_absence(backend: Backend) -> None:
    blob = backend.store.put([b"gone soon"], max_bytes=LIMIT)
    backend.store.delete(blob.sha256)
    backend.store.delete(blob.sha256)
    assert not backend.store.exists(blob.sha256)
    assert backend.stored() == []


@pytest.mark.parametrize(
    "sha256", ["", "abc", "../" * 21 + "x", "A" * 64, "a" * 64 + "\n", "/" + "a" * 63, "é" * 64, "a" * 10_000]
)
def test_only_a_digest_is_an_address(backend: Backend, sha256: str) -> None:
    def put(digest: str) -> Blob:
        return backend.store.put([b""], sha256=digest, max_bytes=LIMIT)

    def presign(digest: str) -> str | None:
        return backend.store.presign(digest, lifetime_s=1, file_name="model.onnx")

    for call in (put, presign, backend.store.open, backend.store.stat, backend.store.exists, backend.store.delete):
        with pytest.raises(InvalidArgument) as caught:
            call(sha256)
        assert caught.value.reason == "DIGEST_MALFORMED"
        assert len(caught.value.message) < 250
    assert backend.stored() == []


@pytest.mark.parametrize("offset", [1, MIB, 2 * MIB + 4, 2 * MIB + 5])
def test_a_read_begins_where_it_is_asked_to(backend: Backend, offset: int) -> None:
    content = content_of(2 * MIB + 5)
    blob = backend.store.put([content], max_bytes=LIMIT)
    with backend.store.open(blob.sha256, offset=offset) as reader:
        assert reader.size_bytes == len(content)
        assert b"".join(reader) == content[offset:]


@pytest.mark.parametrize("offset", [-1, 5])
def test_a_read_beyond_the_blob_is_refused_with_what_is_allowed(backend: Backend, offset: int) -> None:
    blob = backend.store.put([b"four"], max_bytes=LIMIT)
    with pytest.raises(OutOfRange, match="send 0 to 4") as caught:
        backend.store.open(blob.sha256, offset=offset)
    assert caught.value.reason == "OFFSET_OUT_OF_RANGE"


@pytest.mark.parametrize("damage", [b"", b"righ", b"wrong", b"right and more"])
def test_a_damaged_blob_is_noticed_and_healed_by_sending_it_again(backend: Backend, damage: bytes) -> None:
    blob = backend.store.put([b"right"], max_bytes=LIMIT)
    backend.write(f"registry/{blob.sha256[:2]}/{blob.sha256}", damage)
    with pytest.raises(DataLoss) as caught:
        list(backend.store.open(blob.sha256))
    assert caught.value.reason == "BLOB_CORRUPT"

    backend.store.put([b"right"], sha256=blob.sha256, max_bytes=LIMIT)
    assert b"".join(backend.store.open(blob.sha256)) == b"right"


def test_a_read_may_be_left_early_any_number_of_times(backend: Backend) -> None:
    content = content_of(4 * MIB)
    blob = backend.store.put([content], max_bytes=LIMIT)
    for _ in range(40):
        with backend.store.open(blob.sha256) as reader:
            assert next(reader) == content[:MIB]
        assert list(reader) == []
    assert b"".join(backend.store.open(blob.sha256)) == content


def test_a_store_in_order_says_so(backend: Backend) -> None:
    backend.store.check()


UPLOAD_AND_DOWNLOAD = """
import sys
from hashlib import sha256
from psutil import Process
from services.common.blobs import open_blobs

url, *keys, size_mib, declared = sys.argv[1:]
access_key, secret_key = keys or (None, None)
store = open_blobs(url, prefix="registry", access_key=access_key, secret_key=secret_key)
store.put([b"warm"], max_bytes=10)
process, peaks, block = Process(), [], bytes(range(256)) * 4096
before = process.memory_info().rss

def chunks():
    for number in range(int(size_mib)):
        peaks.append(process.memory_info().rss)
        yield number.to_bytes(4, "big") + block[4:]

digest = sha256()
for chunk in chunks():
    digest.update(chunk)
promise = {"sha256": digest.hexdigest()} if declared == "declared" else {}
blob = store.put(chunks(), **promise, max_bytes=1 << 30)
for chunk in store.open(blob.sha256):
    peaks.append(process.memory_info().rss)
print(max(peaks) - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("declared", ["declared", "learnt"])
def test_memory_stays_flat_while_a_large_blob_goes_in_and_out(backend: Backend, declared: str) -> None:
    command = [sys.executable, "-c", UPLOAD_AND_DOWNLOAD, *backend.arguments, "256", declared]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
    assert int(done.stdout) < 64 * MIB
