"""Blob stores whose disk or server fails them: the right error, soon, and nothing left behind."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from minio.commonconfig import CopySource

from penstock.cli.embedded.ports import free_port
from services.common.blobs import open_blobs
from services.common.blobs import s3 as s3_module
from services.common.blobs.s3 import S3BlobStore
from services.common.errors import DomainError, FailedPrecondition, ResourceExhausted, Unavailable
from tests.faults.proxy import Proxy
from tests.s3 import S3Bucket

MIB = 1024 * 1024
DIGEST = "0" * 64
MARK = b"the-right-bytes."
ONE_DAY_S = 24 * 60 * 60


def store_at(port: int, *, patience_s: float = 30.0) -> S3BlobStore:
    """A store that waits so long for each answer."""
    return S3BlobStore(
        "bucket",
        prefix="registry",
        endpoint=f"127.0.0.1:{port}",
        secure=False,
        region="us-east-1",
        access_key="key",
        secret_key="secret",
        connect_timeout_s=patience_s,
        answer_timeout_s=patience_s,
    )


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class names it so
        pass


class Overloaded(Quiet):
    """Answers 503 to everything, and asks for an hour's patience."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(503)
        self.send_header("Retry-After", "3600")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 -- http.server names them so


class NotS3(Overloaded):
    """Answers 200 and a web page to everything."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"<html>")

    do_POST = answer  # noqa: N815 -- http.server names it so


class Refusing(Overloaded):
    """Answers every upload with the S3 error in `code`."""

    status, code = 403, "AccessDenied"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = f"<Error><Code>{self.code}</Code><Message>no</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = answer  # noqa: N815 -- http.server names it so


class CutOff(Quiet):
    """Promises a megabyte and hangs up after ten bytes."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(MIB))
        self.end_headers()
        self.wfile.write(b"ten bytes.")
        self.close_connection = True


def assert_unavailable(store: S3BlobStore) -> None:
    small, large = [b"small"], (bytes(MIB) for _ in range(20))
    for call in (
        store.check,
        lambda: store.put(small, max_bytes=MIB),
        lambda: store.put(large, max_bytes=64 * MIB),
        lambda: store.stat(DIGEST),
        lambda: store.exists(DIGEST),
        lambda: store.open(DIGEST),
        lambda: store.delete(DIGEST),
        lambda: list(store.list()),
    ):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.reason == "BLOB_STORE_UNAVAILABLE"
    store.prepare()  # a service starts all the same
    store.close()


@pytest.mark.slow
def test_a_deaf_server_is_given_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        assert_unavailable(store_at(listener.getsockname()[1], patience_s=0.2))


@pytest.mark.slow
def test_an_overloaded_server_is_tried_again_and_given_up_on_however_long_it_asks_for() -> None:
    with serving(Overloaded) as port:
        assert_unavailable(store_at(port))


@pytest.mark.slow
def test_a_server_that_is_not_there_is_unavailable() -> None:
    assert_unavailable(store_at(free_port()))


def test_a_server_that_does_not_speak_s3_is_unavailable() -> None:
    with serving(NotS3) as port, pytest.raises(Unavailable):
        store_at(port).put((bytes(MIB) for _ in range(20)), max_bytes=64 * MIB)


def test_a_download_cut_short_by_the_network_is_unavailable_and_not_corrupt() -> None:
    with serving(CutOff) as port:
        reader = store_at(port).open(DIGEST)
        with pytest.raises(Unavailable):
            list(reader)


@pytest.mark.parametrize(
    ("status", "code", "raised", "reason"),
    [
        (403, "AccessDenied", FailedPrecondition, "BLOB_STORE_DENIED"),
        (403, "SignatureDoesNotMatch", FailedPrecondition, "BLOB_STORE_DENIED"),
        (507, "XMinioStorageFull", ResourceExhausted, "BLOB_STORE_FULL"),
        (400, "RequestTimeout", Unavailable, "BLOB_STORE_UNAVAILABLE"),
        (501, "NotImplemented", Unavailable, "BLOB_STORE_UNAVAILABLE"),
        (400, "SomethingNew", FailedPrecondition, "BLOB_STORE_DENIED"),
    ],
)
def test_a_refusal_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, raised: type[DomainError], reason: str
) -> None:
    monkeypatch.setattr(Refusing, "status", status)
    monkeypatch.setattr(Refusing, "code", code)
    with serving(Refusing) as port, pytest.raises(raised, match=code) as caught:
        store_at(port).put([b"x"], max_bytes=10)
    assert caught.value.reason == reason


def test_a_missing_bucket_is_named(bucket: S3Bucket) -> None:
    url = bucket.url.replace(bucket.name, "no-such-bucket")
    keys = {"access_key": bucket.server.access_key, "secret_key": bucket.server.secret_key}
    store = open_blobs(url, prefix="registry", **keys)
    for call in (store.check, lambda: store.put([b"x"], max_bytes=10)):
        with pytest.raises(FailedPrecondition, match="no-such-bucket does not exist") as caught:
            call()
        assert caught.value.reason == "BLOB_BUCKET_MISSING"
    store.close()


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "learnt"])
@pytest.mark.parametrize("size_bytes", [4 * len(MARK), 3 * s3_module.PART_BYTES], ids=["small", "multipart"])
def test_bytes_damaged_on_their_way_never_replace_good_ones(bucket: S3Bucket, size_bytes: int, declared: bool) -> None:
    content = (MARK * (size_bytes // len(MARK) + 1))[:size_bytes]
    keys = {"access_key": bucket.server.access_key, "secret_key": bucket.server.secret_key}
    with Proxy(int(bucket.server.endpoint.rpartition(":")[2])) as proxy:
        store = open_blobs(f"s3://{bucket.name}?endpoint=http://{proxy.address}", prefix="registry", **keys)
        blob = store.put([content], max_bytes=64 * MIB)
        proxy.damage(MARK, MARK.swapcase())
        with pytest.raises(Unavailable, match="send the file again"):
            store.put([content], sha256=blob.sha256 if declared else None, max_bytes=64 * MIB)
        proxy.heal()
        assert b"".join(store.open(blob.sha256)) == content
        assert bucket.list_keys() == [f"registry/{blob.sha256[:2]}/{blob.sha256}"]
        store.close()


def test_a_deletion_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is sent again may be carried out after the blob was stored anew."""
    asked: list[str] = []

    def answer(self: Overloaded) -> None:
        asked.append(self.path)
        Overloaded.answer(self)

    monkeypatch.setattr(Overloaded, "do_DELETE", answer)
    with serving(Overloaded) as port, pytest.raises(Unavailable):
        store_at(port).delete(DIGEST)
    assert asked == [f"/bucket/registry/00/{DIGEST}"]


def test_temporary_objects_are_swept_when_they_are_a_day_old(bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"access_key": bucket.server.access_key, "secret_key": bucket.server.secret_key}
    store = open_blobs(bucket.url, prefix="registry", **keys)
    blob = store.put([b"kept"], max_bytes=10)
    bucket.server.client().copy_object(
        bucket.name,
        "registry/incoming/left-over",
        CopySource(bucket.name, f"registry/{blob.sha256[:2]}/{blob.sha256}"),
    )
    open_blobs(bucket.url, prefix="registry", **keys).close()
    assert "registry/incoming/left-over" in bucket.list_keys()

    # A server's clock can't be turned, so the threshold is: everything is older than tomorrow.
    monkeypatch.setattr(s3_module, "STALE_AFTER", timedelta(days=-1))
    open_blobs(bucket.url, prefix="registry", **keys).close()
    assert bucket.list_keys() == [f"registry/{blob.sha256[:2]}/{blob.sha256}"]
    store.close()


def test_temporary_files_are_swept_when_they_are_a_day_old(tmp_path: Path) -> None:
    open_blobs(tmp_path.as_uri(), prefix="registry")
    old, young = (tmp_path / "registry" / "incoming" / name for name in ("old.part", "young.part"))
    for path, age_s in ((old, ONE_DAY_S + 60), (young, ONE_DAY_S - 60)):
        path.write_bytes(b"left over")
        os.utime(path, (time.time() - age_s,) * 2)
    open_blobs(tmp_path.as_uri(), prefix="registry")
    assert not old.exists()
    assert young.exists()


def test_a_full_disk_is_said_and_nothing_stays(tmp_path: Path) -> None:
    """A limit on file sizes stands in for the disk: the kernel takes a part of the write, then refuses."""
    store = open_blobs(tmp_path.as_uri(), prefix="registry")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB + 1, hard))
    try:
        with pytest.raises(ResourceExhausted) as caught:
            store.put([bytes(2 * MIB)], max_bytes=10 * MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.reason == "BLOB_STORE_FULL"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_that_went_away_is_unavailable(tmp_path: Path) -> None:
    store = open_blobs(tmp_path.as_uri(), prefix="registry")
    (tmp_path / "registry" / "incoming").rmdir()
    for call in (store.check, lambda: store.put([b"x"], max_bytes=10)):
        with pytest.raises(Unavailable):
            call()


def test_a_caller_s_own_error_is_not_taken_for_the_store_s(tmp_path: Path) -> None:
    def failing() -> Iterator[bytes]:
        yield b"x"
        raise FileNotFoundError("the caller's own")

    with pytest.raises(FileNotFoundError, match="the caller's own"):
        open_blobs(tmp_path.as_uri(), prefix="registry").put(failing(), max_bytes=10)
