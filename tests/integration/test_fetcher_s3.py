"""Fetching from S3 as callers meet it: a real MinIO, registry, fetcher and PostgreSQL."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig
from pydantic import SecretStr

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.errors import FailedPrecondition, InvalidArgument, NotFound
from services.fetcher import __main__ as fetcher
from services.fetcher.models import RemoteFile
from services.fetcher.sources.s3 import S3Source
from tests.commands import run_penstock
from tests.faults.proxy import Proxy
from tests.fetching import Place, fetching
from tests.postgres import PostgresServer
from tests.registry import wait_until
from tests.s3 import S3Bucket, S3Server
from tests.testdata import models

pytestmark = pytest.mark.slow
PART = 64 * 1024


@dataclass(frozen=True)
class Shelf:
    """A fetcher that may read two buckets, and the MinIO that has them behind a proxy; `other` it may not."""

    place: Place
    server: S3Server
    proxy: Proxy
    bucket: S3Bucket
    other: S3Bucket

    @property
    def minio(self) -> Minio:
        return self.server.client()

    def put(self, key: str, content: bytes) -> str:
        """Put an object; gives its reference."""
        self.minio.put_object(self.bucket.name, key, io.BytesIO(content), len(content))
        return f"s3://{self.bucket.name}/{key}"


@pytest.fixture(scope="module")
def shelf(postgres_server: PostgresServer, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    server = s3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetcher, "FILE_PART_BYTES", PART)
        bucket, other = server.make_bucket(), server.make_bucket()
        with Proxy(int(server.endpoint.rpartition(":")[2])) as proxy:
            settings = {
                "fetcher_s3_endpoint": f"http://{proxy.address}",
                "fetcher_s3_access_key": SecretStr(server.access_key),
                "fetcher_s3_secret_key": SecretStr(server.secret_key),
                "fetcher_s3_buckets": frozenset({bucket.name, f"{other.name}/shared", "no-such-bucket-at-all"}),
                "fetcher_silence_timeout_ms": 600_000,
                "fetcher_allowed_hosts": "",
            }
            with fetching(postgres_server, tmp_path_factory.mktemp("fetcher"), **settings) as place:
                yield Shelf(place, server, proxy, bucket, other)


def test_an_object_becomes_a_version_that_is_ready(shelf: Shelf) -> None:
    content = models.classifier()
    reference = shelf.put("plants/iris.onnx", content)
    job = shelf.place.fetch("s3", reference)
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    assert (job.result.model, job.result.version) == ("iris", "v1")
    version = shelf.place.client.registry.get_version("iris", "v1")
    assert (version.files[0].path, version.files[0].sha256) == ("iris.onnx", hashlib.sha256(content).hexdigest())
    assert (version.source.origin, version.source.reference) == ("s3", reference)
    assert version.source.revision == job.resolved_revision != ""
    again = shelf.place.fetch("s3", reference)
    assert (again.result.existed, again.result.downloaded_bytes) == (True, 0)


def test_a_folder_becomes_a_version_with_its_files(shelf: Shelf) -> None:
    shelf.put("bundle/graph.onnx", models.classifier())
    shelf.put("bundle/words/of roses+é.txt", b"roses")
    shelf.put("bundle-of-another/graph.onnx", b"no")
    shelf.minio.put_object(shelf.bucket.name, "bundle/words/", io.BytesIO(b""), 0)
    inspected = shelf.place.client.fetcher.inspect("s3", f"s3://{shelf.bucket.name}/bundle/")
    assert [(file.path, file.size_bytes) for file in inspected.variants[0].files] == [
        ("graph.onnx", len(models.classifier())),
        ("words/of roses+é.txt", 5),
    ]
    assert inspected.suggested_model == "bundle"
    assert not inspected.warnings, "a marker of a folder is nobody's file"
    job = shelf.place.fetch("s3", f"s3://{shelf.bucket.name}/bundle/")
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    version = shelf.place.client.registry.get_version("bundle", "v1")
    assert sorted(file.path for file in version.files) == ["graph.onnx", "words/of roses+é.txt"]


def test_an_archive_is_unpacked(shelf: Shelf) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("model/graph.onnx")
        entry.size = len(models.classifier())
        archive.addfile(entry, io.BytesIO(models.classifier()))
    job = shelf.place.fetch("s3", shelf.put("packed.tar.gz", packed.getvalue()), framework="onnx")
    assert job.state == pb.FETCH_JOB_STATE_COMPLETED, job.error
    files = shelf.place.client.registry.get_version("packed", "v1").files
    assert [file.path for file in files] == ["graph.onnx"]


def test_a_version_of_an_object_is_fetched_by_its_id(shelf: Shelf) -> None:
    shelf.minio.set_bucket_versioning(shelf.other.name, VersioningConfig(ENABLED))
    contents = models.classifier(), models.classifier(seed=1)
    ids = [
        str(shelf.minio.put_object(shelf.other.name, "shared/rose.onnx", io.BytesIO(each), len(each)).version_id)
        for each in contents
    ]
    reference = f"s3://{shelf.other.name}/shared/rose.onnx"
    older = shelf.place.fetch("s3", reference, revision=ids[0])
    latest = shelf.place.fetch("s3", reference)
    assert (older.resolved_revision, latest.resolved_revision) == tuple(ids), (older.error, latest.error)
    assert (older.result.version, latest.result.version) == ("v1", "v2")
    digests = [hashlib.sha256(each).hexdigest() for each in contents]
    registry = shelf.place.client.registry
    assert [registry.get_version("rose", version).files[0].sha256 for version in ("v1", "v2")] == digests
    shelf.minio.remove_object(shelf.other.name, "shared/rose.onnx")
    with pytest.raises(NotFound) as refused:
        shelf.place.client.fetcher.inspect("s3", reference)
    assert refused.value.reason == "MODEL_NOT_FOUND"
    assert shelf.place.fetch("s3", reference, revision=ids[1]).state == pb.FETCH_JOB_STATE_COMPLETED


def test_the_digest_that_an_object_was_stored_with_must_be_met(shelf: Shelf) -> None:
    content = models.classifier(seed=2)
    digest = hashlib.sha256(content)
    said: dict[str, str | list[str] | tuple[str]] = {
        "x-amz-checksum-sha256": base64.b64encode(digest.digest()).decode()
    }
    shelf.minio._execute("PUT", shelf.bucket.name, "sworn.onnx", body=content, headers=said)
    reference = f"s3://{shelf.bucket.name}/sworn.onnx"
    (variant,) = shelf.place.client.fetcher.inspect("s3", reference).variants
    assert variant.files[0].sha256 == digest.hexdigest()
    with pytest.raises(FailedPrecondition) as refused:
        shelf.place.client.fetcher.inspect("s3", reference, sha256="0" * 64)
    assert refused.value.reason == "DIGEST_MISMATCH"


def test_a_transfer_that_breaks_off_goes_on_where_it_broke(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets: list[int] = []
    known = [row[0] for row in shelf.place.rows("SELECT download_id FROM fetcher.downloads")]
    query = "SELECT part_number FROM fetcher.download_parts WHERE download_id <> ALL(%s)"

    def noted() -> set[int]:
        return {row[0] for row in shelf.place.rows(query, known)}

    asked = S3Source.open

    def seen(self: S3Source, file: RemoteFile, offset: int, *more: Any, **rest: Any) -> Any:
        offsets.append(offset)
        return asked(self, file, offset, *more, **rest)

    monkeypatch.setattr(S3Source, "open", seen)
    reference = shelf.put("large.bin", os.urandom(60 * PART))
    shelf.proxy.slow_down(0.5)
    try:
        job = shelf.place.client.fetcher.start("s3", reference, framework="onnx", max_attempts=20)
        wait_until(lambda: len(noted()) > 2 or None)
        safe = noted()
        asked_before = len(offsets)
        shelf.proxy.cut()
    finally:
        shelf.proxy.heal()
    ended = shelf.place.end(job)
    # Bytes that are no model: how they come is what counts here, and the registry refuses them in the end.
    assert ended.error.reason == "REGISTRATION_REFUSED"
    assert ended.progress.done_bytes == 60 * PART
    assert offsets[asked_before:]
    assert safe.isdisjoint(offset // PART for offset in offsets[asked_before:]), "what was safe is not asked for again"


def test_cancelling_ends_a_transfer_that_hangs(shelf: Shelf) -> None:
    reference = shelf.put("silent.onnx", models.classifier())
    shelf.proxy.deafen()
    try:
        job = shelf.place.client.fetcher.start("s3", reference)
        wait_until(lambda: shelf.proxy.link_count or None)
        shelf.place.client.fetcher.cancel(job.id)
        # It would be silent for ten minutes, which is longer than this test may take.
        assert shelf.place.end(job).state == pb.FETCH_JOB_STATE_CANCELLED
    finally:
        shelf.proxy.heal()


def test_no_secret_is_kept_or_shown(shelf: Shelf) -> None:
    job = shelf.place.fetch("s3", shelf.put("discreet.onnx", models.classifier()))
    (row,) = shelf.place.rows("SELECT fetch_jobs::text FROM fetcher.fetch_jobs WHERE job_id = %s", job.id)
    for said in (row[0], str(job)):
        assert "discreet.onnx" in said
        assert not any(secret in said for secret in ("Signature", "AWS4", shelf.server.secret_key))


def test_the_command_fetches_from_a_bucket(shelf: Shelf, tmp_path: Path) -> None:
    reference = shelf.put("commanded.onnx", models.classifier())
    command = ["fetch", "start", "s3", reference, "--name", "iris-of-s3", "--watch"]
    ended = run_penstock(command, folder=tmp_path, environment={**os.environ, **shelf.place.addresses}, timeout_s=60)
    assert ended.returncode == 0, ended.stderr
    version = shelf.place.client.registry.get_version("iris-of-s3", "v1")
    assert version.state == registry.VERSION_STATE_READY


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("s3://{bucket}/nothing.onnx", "MODEL_NOT_FOUND"),
        ("s3://{bucket}/nothing/", "MODEL_NOT_FOUND"),
        ("s3://no-such-bucket-at-all/x.onnx", "MODEL_NOT_FOUND"),
        ("s3://no-such-bucket-at-all/", "MODEL_NOT_FOUND"),
        ("s3://{other}/secret.onnx", "SECURITY"),
        ("s3://{other}/shared-by-nobody/x.onnx", "SECURITY"),
        ("s3://{other}/", "SECURITY"),
        ("s3://{bucket}-2/x.onnx", "SECURITY"),
        ("s3://{other}/shared/../secret.onnx", "INVALID_REFERENCE"),
        ("s3://{other}/shared//x.onnx", "INVALID_REFERENCE"),
        ("s3://{other}//shared/x.onnx", "INVALID_REFERENCE"),
        ("s3://{other}/shared\\..\\x.onnx", "INVALID_REFERENCE"),
        ("s3://{other}/./shared/x.onnx", "INVALID_REFERENCE"),
        ("s3://", "INVALID_REFERENCE"),
        ("s3://Bucket/x.onnx", "INVALID_REFERENCE"),
        ("s3://user:key@{bucket}/x.onnx", "INVALID_REFERENCE"),
        ("https://{bucket}.s3.amazonaws.com/x.onnx", "INVALID_REFERENCE"),
        ("s3://{bucket}/x.onnx?X-Amz-Signature=abc", "CREDENTIALS_IN_URL"),
    ],
)
def test_what_may_not_or_cannot_be_fetched_is_refused(shelf: Shelf, reference: str, reason: str) -> None:
    with pytest.raises((FailedPrecondition, InvalidArgument, NotFound)) as refused:
        shelf.place.client.fetcher.inspect("s3", reference.format(bucket=shelf.bucket.name, other=shelf.other.name))
    assert refused.value.reason == reason, refused.value


def test_a_folder_has_no_revision_and_no_object_a_variant(shelf: Shelf) -> None:
    for reference, field in ((f"s3://{shelf.bucket.name}/bundle/", "revision"), ("s3://{bucket}/x", "variant")):
        with pytest.raises(InvalidArgument):
            shelf.place.client.fetcher.inspect("s3", reference, **{field: "x"})
