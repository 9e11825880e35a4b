"""The registry whose S3 server stops, is slow, deaf or overloaded, loses a part, or refuses: what its callers see."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1 import uploads_pb2
from penstock.stubs import RegistryStub
from services.common.blobs.s3 import S3BlobStore
from services.registry.__main__ import build
from services.registry.servicer import NAME
from tests import registry, s3
from tests.contract.test_blobs_faults import Overloaded, serving
from tests.faults.proxy import Proxy
from tests.s3 import S3Bucket

pytestmark = pytest.mark.slow
MIB = 1024 * 1024
LARGE = hashlib.shake_128(b"large").digest(16 * MIB)  # several parts of S3's
SMALL = b"small"
UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "BLOB_STORE_UNAVAILABLE")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class Registry:
    """A registry, and what is behind it."""

    stub: RegistryStub
    health: health_pb2_grpc.HealthStub
    proxy: Proxy
    bucket: S3Bucket
    database_url: str

    def becomes(self, status: int) -> None:
        """Wait until its health is this."""
        request = health_pb2.HealthCheckRequest(service=NAME)
        registry.wait_until(lambda: (self.health.Check(request).status == status) or None)

    def refuses(self, content: bytes) -> tuple[Any, str]:
        """Upload in vain, and say why; neither rows nor bytes are left."""
        refused = refusal_of(self.stub.RegisterVersion, registry.upload(content, request_id="r1"))
        self.assert_no_version()
        return refused

    def assert_no_version(self) -> None:
        """No row of a version, whole or in part."""
        with psycopg.connect(self.database_url) as database:
            for table in ("models", "versions", "files", "validations", "requests"):
                assert database.execute(f"SELECT count(*) FROM registry.{table}").fetchone() == (0,), table

    def takes(self, content: bytes) -> None:
        """Upload under the same request id as before, and read it back."""
        requests = registry.upload(content, request_id="r1")
        version = self.stub.RegisterVersion(requests, timeout=registry.DEADLINE_S).version
        assert version.deployment_number == 1
        assert self.download() == content

    def download(self) -> bytes:
        """Read the version's file."""
        parts = self.stub.DownloadFile(pb.DownloadFileRequest(model="iris", version="1"), timeout=registry.DEADLINE_S)
        return b"".join(part.chunk for part in parts)


def refusal_of(call: Callable[..., Any], request: Any) -> tuple[Any, str]:
    def ask() -> None:
        answer = call(request, timeout=registry.DEADLINE_S)
        if hasattr(answer, "__next__"):
            list(answer)

    with pytest.raises(grpc.RpcError) as caught:
        ask()
    return registry.refusal(caught.value)[:2]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on a silent S3 server after a fraction of a second."""
    monkeypatch.setitem(S3BlobStore.__init__.__kwdefaults__, "answer_timeout_s", 2.0)  # type: ignore[arg-type] # it has some
    monkeypatch.setitem(S3BlobStore.__init__.__kwdefaults__, "connect_timeout_s", 0.5)  # type: ignore[arg-type] # it has some


@contextmanager
def running(clone: Callable[[str], str], folder: Path, bucket: S3Bucket, **more: Any) -> Iterator[Registry]:
    """Run a registry with a proxy before its S3 server."""
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(urlsplit(bucket.server.endpoint).port or 80))
        settings: dict[str, Any] = {
            "blob_url": f"s3://{bucket.name}?endpoint=http://{proxy.address}",
            "blob_access_key": bucket.server.access_key,
            "blob_secret_key": bucket.server.secret_key,
            "health_interval_ms": 100,
            "validation_threads": 0,
            "min_part_bytes": MIB,
            **more,
        }
        database_url = clone("registry")
        server = build(registry.settings_for(database_url, folder, **settings), stack)
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.open()}"))
        stack.callback(server.close)
        yield Registry(RegistryStub(channel), health_pb2_grpc.HealthStub(channel), proxy, bucket, database_url)


@pytest.fixture
def here(clone_database: Callable[[str], str], tmp_path: Path, bucket: S3Bucket, hurried: None) -> Iterator[Registry]:
    with running(clone_database, tmp_path, bucket) as opened:
        yield opened


def paused(content: bytes, at: int, go_on: threading.Event) -> Iterator[pb.RegisterVersionRequest]:
    """An upload that waits after so many messages."""
    for number, message in enumerate(registry.upload(content, chunk_bytes=MIB, request_id="r1")):
        if number == at:
            assert go_on.wait(registry.DEADLINE_S)
        yield message


@pytest.mark.parametrize("fault", ["stopped", "deaf"])
def test_a_server_that_is_away_is_said_and_forgiven(here: Registry, fault: str) -> None:
    here.becomes(SERVING)
    here.proxy.cut() if fault == "stopped" else here.proxy.deafen()
    here.becomes(NOT_SERVING)
    assert here.refuses(SMALL) == UNAVAILABLE
    assert here.refuses(LARGE) == UNAVAILABLE
    here.proxy.heal()
    here.becomes(SERVING)
    here.takes(LARGE)
    assert here.bucket.list_keys() == [key_of(LARGE)]

    here.proxy.cut() if fault == "stopped" else here.proxy.deafen()
    assert refusal_of(here.stub.DownloadFile, pb.DownloadFileRequest(model="iris", version="1")) == UNAVAILABLE
    here.proxy.heal()
    assert here.download() == LARGE


def key_of(content: bytes) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    return f"registry/{sha256[:2]}/{sha256}"


@pytest.mark.parametrize("fault", ["stopped", "deaf"])
def test_a_server_that_goes_away_during_an_upload_leaves_no_version(here: Registry, fault: str) -> None:
    go_on = threading.Event()
    call = here.stub.RegisterVersion.future(paused(LARGE, 12, go_on), timeout=registry.DEADLINE_S)
    registry.wait_until(lambda: [key for key in here.bucket.list_keys() if "unfinished" in key] or None)
    here.proxy.cut() if fault == "stopped" else here.proxy.deafen()
    go_on.set()
    assert registry.refusal(call.exception())[:2] == UNAVAILABLE
    here.assert_no_version()
    here.proxy.heal()
    here.takes(LARGE)
    # An upload that could not even be aborted can't be seen; the server drops it in time.
    assert [key for key in here.bucket.list_keys() if "unfinished" not in key] == [key_of(LARGE)]


def test_a_slow_server_is_waited_for(here: Registry) -> None:
    here.proxy.slow_down(0.005)  # a chunk of 64 KiB: 13 MiB/s
    here.takes(LARGE)


def test_an_overloaded_server_is_said(
    clone_database: Callable[[str], str],
    tmp_path: Path,
    bucket: S3Bucket,
    hurried: None,
) -> None:
    with serving(Overloaded) as port:
        url = f"s3://{bucket.name}?endpoint=http://127.0.0.1:{port}"
        with running(clone_database, tmp_path, bucket, blob_url=url) as here:
            here.becomes(NOT_SERVING)
            assert here.refuses(SMALL) == UNAVAILABLE
            assert here.refuses(LARGE) == UNAVAILABLE


def test_a_part_that_the_server_loses_is_noticed_before_anything_can_be_seen(here: Registry) -> None:
    go_on = threading.Event()
    call = here.stub.RegisterVersion.future(paused(LARGE, 12, go_on), timeout=registry.DEADLINE_S)
    client = here.bucket.server.client()
    uploads = registry.wait_until(
        lambda: client._list_multipart_uploads(here.bucket.name, prefix=key_of(LARGE)).uploads or None
    )
    client._abort_multipart_upload(here.bucket.name, key_of(LARGE), str(uploads[0].upload_id))
    go_on.set()
    assert registry.refusal(call.exception())[:2] == UNAVAILABLE
    here.assert_no_version()
    assert here.bucket.list_keys() == []
    here.takes(LARGE)


def test_a_bucket_that_does_not_exist_is_named_and_taken_once_it_does(
    clone_database: Callable[[str], str], tmp_path: Path, bucket: S3Bucket
) -> None:
    missing = S3Bucket(bucket.server, f"{bucket.name}-missing")
    with running(clone_database, tmp_path, missing) as here:
        here.becomes(NOT_SERVING)
        for content in (SMALL, LARGE):
            assert here.refuses(content) == (grpc.StatusCode.FAILED_PRECONDITION, "BLOB_BUCKET_MISSING")
        bucket.server.client().make_bucket(missing.name)
        here.becomes(SERVING)
        here.takes(LARGE)
    missing.remove()


def test_a_key_that_may_only_read_can_be_downloaded_with_and_not_uploaded(
    clone_database: Callable[[str], str], tmp_path: Path, bucket: S3Bucket
) -> None:
    if s3.find_minio() is None:
        lacking = "needs MinIO, which knows users and policies; .ci/minio builds it"
        pytest.fail(lacking) if os.environ.get("CI") == "true" else pytest.skip(lacking)
    server = bucket.server
    provider = StaticProvider(server.access_key, server.secret_key)
    admin = MinioAdmin(endpoint=urlsplit(server.endpoint).netloc, credentials=provider, secure=False)
    admin.user_add("reader", "reader-secret")
    admin.policy_set("readonly", user="reader")
    with running(clone_database, tmp_path, bucket) as here:
        here.takes(LARGE)
        reader = {"blob_access_key": "reader", "blob_secret_key": "reader-secret"}
        with running(lambda _: here.database_url, tmp_path, bucket, **reader) as reading:
            assert reading.download() == LARGE
            for content in (SMALL, LARGE[1:]):
                requests = registry.upload(content, version="2")
                refused = refusal_of(reading.stub.RegisterVersion, requests)
                assert refused == (grpc.StatusCode.FAILED_PRECONDITION, "BLOB_STORE_DENIED")
        assert here.stub.GetModel(pb.GetModelRequest(name="iris")).model.version_count == 1
    assert bucket.list_keys() == [key_of(LARGE)]


def test_an_upload_in_parts_outlives_its_server_s_absence(here: Registry) -> None:
    announced = uploads_pb2.CreateUploadRequest(
        sha256=hashlib.sha256(LARGE).hexdigest(), size_bytes=len(LARGE), part_size_bytes=8 * MIB
    )
    upload = here.stub.CreateUpload(announced).upload

    def part(number: int) -> Iterator[uploads_pb2.UploadPartRequest]:
        content = LARGE[(number - 1) * 8 * MIB : number * 8 * MIB]
        sha256 = hashlib.sha256(content).hexdigest()
        yield uploads_pb2.UploadPartRequest(
            header=uploads_pb2.PartHeader(upload_id=upload.id, part_number=number, sha256=sha256)
        )
        for start in range(0, len(content), MIB):
            yield uploads_pb2.UploadPartRequest(chunk=content[start : start + MIB])

    here.stub.UploadPart(part(1), timeout=registry.DEADLINE_S)
    here.proxy.cut()
    assert refusal_of(here.stub.UploadPart, part(2)) == UNAVAILABLE
    here.proxy.heal()
    received = here.stub.UploadPart(part(2), timeout=registry.DEADLINE_S).upload
    assert list(received.received_parts) == [1, 2]
    here.proxy.cut()
    finish = uploads_pb2.FinishUploadRequest(upload_id=upload.id)
    assert refusal_of(here.stub.FinishUpload, finish) == UNAVAILABLE
    here.proxy.heal()
    *_, last = here.stub.FinishUpload(finish, timeout=registry.DEADLINE_S)
    assert last.upload.state == uploads_pb2.UPLOAD_STATE_FINISHED


def test_two_uploads_of_the_same_bytes_at_once_both_succeed(here: Registry) -> None:
    calls = [
        here.stub.RegisterVersion.future(
            registry.upload(LARGE, model=name, chunk_bytes=MIB), timeout=registry.DEADLINE_S
        )
        for name in ("a", "b")
    ]
    assert {call.result().version.files[0].sha256 for call in calls} == {hashlib.sha256(LARGE).hexdigest()}
    assert here.bucket.list_keys() == [key_of(LARGE)]
