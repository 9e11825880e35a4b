"""The registry killed at each step between a file's bytes and its rows: nothing is half there, and nothing is lost."""

from __future__ import annotations

import hashlib
import io
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from prometheus_client import CollectorRegistry

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1 import uploads_pb2
from penstock.stubs import RegistryStub
from services.common.blobs import open_blobs
from services.common.postgres import Database
from services.registry.__main__ import build
from services.registry.garbage import Garbage
from services.registry.metrics import GarbageMetrics
from services.registry.store import Store
from tests import registry
from tests.faults.crashing_registry import EXIT_CODE
from tests.testdata import models

pytestmark = pytest.mark.slow
MIB = 1024 * 1024
LARGE = hashlib.shake_128(b"large").digest(11 * MIB)  # over two parts of S3's
PARTS = [LARGE[: 6 * MIB], LARGE[6 * MIB :]]
PREPARED = {"validation_threads": 0, "min_part_bytes": MIB}


@dataclass(frozen=True)
class Place:
    """Where a registry keeps its things."""

    database_url: str
    folder: Path
    settings: dict[str, Any]

    @contextmanager
    def crashing(self, point: str) -> Iterator[RegistryStub]:
        """Run a registry that must have died at a point when the block ends."""
        process = registry.RegistryProcess(
            self.database_url,
            self.folder,
            module="tests.faults.crashing_registry",
            test_crash_point=point,
            **PREPARED,
            **self.settings,
        )
        try:
            with grpc.insecure_channel(process.address()) as channel:
                yield RegistryStub(channel)
            assert process.process.wait(registry.DEADLINE_S) == EXIT_CODE, process.log.read_text()
        finally:
            process.end(signal.SIGKILL)

    @contextmanager
    def healthy(self) -> Iterator[RegistryStub]:
        """Run a registry as it should be."""
        settings = registry.settings_for(self.database_url, self.folder, **PREPARED, **self.settings)
        with ExitStack() as stack:
            server = build(settings, stack)
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.open()}"))
            stack.callback(server.close)
            yield RegistryStub(channel)

    def orphans(self) -> tuple[set[str], set[str]]:
        """Give the blobs that are stored, and those that garbage collection would take."""
        keys = {name.removeprefix("blob_"): self.settings[name] for name in self.settings if name != "blob_url"}
        blobs = open_blobs(self.settings.get("blob_url", f"file://{self.folder}/blobs"), prefix="registry", **keys)
        stored = {blob.sha256 for blob, _ in blobs.list()}
        with Database(self.database_url) as database:
            garbage = Garbage(Store(database), blobs, grace_s=0, metrics=GarbageMetrics(CollectorRegistry()))
            report = garbage.collect(dry_run=True)
        blobs.close()
        return stored, {blob.sha256 for blob in report.blobs}


@pytest.fixture
def place(request: pytest.FixtureRequest, clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Place]:
    """Files on disk, or with `s3` as the test's first parameter a bucket."""
    if request.node.callspec.params["store"] == "file":
        yield Place(clone_database("registry"), tmp_path, {})
        return
    bucket = request.getfixturevalue("s3").make_bucket()
    settings = {
        "blob_url": bucket.url,
        "blob_access_key": bucket.server.access_key,
        "blob_secret_key": bucket.server.secret_key,
    }
    yield Place(clone_database("registry"), tmp_path, settings)
    bucket.remove()


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return out.getvalue()


def sent(kind: str) -> Iterator[pb.RegisterVersionRequest]:
    """The same upload of a kind, each time under the same request id."""
    files = {"model.onnx": models.linear(), "weights.bin": LARGE}
    match kind:
        case "one file":
            return registry.upload_files({"model.onnx": LARGE}, request_id="r1")
        case "files":
            return registry.upload_files(files, request_id="r1")
        case "archive":
            return registry.upload_files({"m.zip": zipped(files)}, file={"unpack": True}, request_id="r1")
    raise AssertionError(kind)


def assert_only_whole_versions(place: Place, stub: RegistryStub, *, count: int) -> None:
    """All or nothing: so many versions are there, with every row that belongs to one; and every blob has its row."""
    listed = stub.ListModels(pb.ListModelsRequest()).models
    assert [model.version_count for model in listed] == [1] * count
    with psycopg.connect(place.database_url) as database:
        for table in ("models", "versions", "transitions", "validations", "requests"):
            assert database.execute(f"SELECT count(*) FROM registry.{table}").fetchone() == (count,), table
        known = {row[0] for row in database.execute("SELECT sha256 FROM registry.blobs")}
    stored, collectable = place.orphans()
    assert stored <= known
    assert bool(stored & collectable) == (bool(stored) and not count), "what nobody names is garbage, and only that"


@pytest.mark.parametrize(
    ("store", "kind", "point"),
    [
        ("file", "one file", "received"),
        ("file", "one file", "reserved"),
        ("file", "one file", "published"),
        ("file", "one file", "rows_written"),
        ("file", "one file", "committed"),
        ("file", "files", "reserved*2"),
        ("file", "archive", "spooled"),
        ("file", "archive", "reserved*2"),
        ("s3", "one file", "received"),
        ("s3", "one file", "reserved"),
        ("s3", "one file", "published"),
        ("s3", "one file", "rows_written"),
        ("s3", "one file", "committed"),
        ("s3", "archive", "reserved*2"),
    ],
)
def test_a_registration_is_whole_or_not_there_and_can_be_sent_again(
    place: Place,
    store: str,
    kind: str,
    point: str,
) -> None:
    with place.crashing(point) as stub, pytest.raises(grpc.RpcError) as cut:
        stub.RegisterVersion(sent(kind), timeout=registry.DEADLINE_S)
    assert registry.refusal(cut.value)[0] == grpc.StatusCode.UNAVAILABLE
    with place.healthy() as stub:
        assert_only_whole_versions(place, stub, count=1 if point == "committed" else 0)
        version = stub.RegisterVersion(sent(kind), timeout=registry.DEADLINE_S).version
        assert version.deployment_number == 1
        assert_only_whole_versions(place, stub, count=1)
        largest = max(version.files, key=lambda file: file.size_bytes).path
        got = stub.DownloadFile(pb.DownloadFileRequest(model="iris", version="1", path=largest))
        assert b"".join(part.chunk for part in got) == LARGE


def part_of(upload_id: str, number: int) -> Iterator[uploads_pb2.UploadPartRequest]:
    content = PARTS[number - 1]
    header = uploads_pb2.PartHeader(upload_id=upload_id, part_number=number, sha256=hashlib.sha256(content).hexdigest())
    yield uploads_pb2.UploadPartRequest(header=header)
    for start in range(0, len(content), MIB):
        yield uploads_pb2.UploadPartRequest(chunk=content[start : start + MIB])


def send_in_parts(stub: RegistryStub) -> list[int]:
    """Send the file, going on where the last one stopped; gives the parts that had to be sent."""
    announced = uploads_pb2.CreateUploadRequest(
        sha256=hashlib.sha256(LARGE).hexdigest(), size_bytes=len(LARGE), part_size_bytes=6 * MIB, request_id="u1"
    )
    upload = stub.CreateUpload(announced).upload
    missing = sorted({1, 2} - set(upload.received_parts)) if upload.state == uploads_pb2.UPLOAD_STATE_RECEIVING else []
    for number in missing:
        stub.UploadPart(part_of(upload.id, number), timeout=registry.DEADLINE_S)
    list(stub.FinishUpload(uploads_pb2.FinishUploadRequest(upload_id=upload.id), timeout=registry.DEADLINE_S))
    requests = list(registry.upload_files({"model.onnx": b""}, file={"upload_id": upload.id, "sha256": ""}))
    stub.RegisterVersion(iter(requests))
    return missing


@pytest.mark.parametrize(
    ("store", "point", "sent_again"),
    [
        ("file", "part_published*2", [2]),
        ("file", "part_written*2", [2]),  # its transaction did not end
        ("file", "assembling", []),
        ("file", "reserved*3", []),
        ("file", "assembled", []),
        ("file", "finished", []),
        ("s3", "part_published*2", [2]),
        ("s3", "reserved*3", []),
        ("s3", "assembled", []),
    ],
)
def test_an_upload_in_parts_goes_on_where_the_registry_was_killed(
    place: Place,
    store: str,
    point: str,
    sent_again: list[int],
) -> None:
    with place.crashing(point) as stub, pytest.raises(grpc.RpcError):
        send_in_parts(stub)
    with place.healthy() as stub:
        assert send_in_parts(stub) == sent_again
        got = stub.DownloadFile(pb.DownloadFileRequest(model="iris", version="1"))
        assert b"".join(part.chunk for part in got) == LARGE
        stored, collectable = place.orphans()
        parts = {hashlib.sha256(part).hexdigest() for part in PARTS}
        assert stored == {hashlib.sha256(LARGE).hexdigest(), *parts}
        assert collectable == parts  # the whole is named, what it was made of is garbage
