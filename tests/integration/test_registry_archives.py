"""Versions of several files, sent one by one or in archives."""

from __future__ import annotations

import io
import resource
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from tests import registry

MIB = 1024 * 1024
MAX_UPLOAD_BYTES = 2 * MIB
MAX_VERSION_BYTES = 3 * MIB
INVALID = grpc.StatusCode.INVALID_ARGUMENT
FILES = {"model.onnx": b"graph", "weights/a.bin": b"weights" * 1000, "weights/b.bin": b"more"}


@pytest.fixture
def database_url(clone_database: Callable[[str], str]) -> str:
    return clone_database("registry")


@pytest.fixture
def stub(database_url: str, tmp_path: Path) -> Iterator[RegistryServiceStub]:
    settings = registry.settings_for(
        database_url,
        tmp_path,
        max_upload_bytes=MAX_UPLOAD_BYTES,
        max_version_bytes=MAX_VERSION_BYTES,
        max_archive_entries=50,
        upload_spool_dir=tmp_path,
    )
    with registry.registry(settings) as opened:
        yield opened


def accepted(stub: RegistryServiceStub, requests: Iterator[pb.RegisterVersionRequest]) -> pb.ModelVersion:
    return stub.RegisterVersion(requests, timeout=registry.DEADLINE_S).version


def refused(stub: RegistryServiceStub, requests: Iterator[pb.RegisterVersionRequest]) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as caught:
        stub.RegisterVersion(requests, timeout=registry.DEADLINE_S)
    assert len(str(caught.value)) < 4_000
    return registry.refusal(caught.value)[:2]


def assert_no_row_is_left(database_url: str) -> None:
    """Nor a blob that garbage collection would not find."""
    with psycopg.connect(database_url) as connection:
        tables = ("models", "versions", "files", "transitions", "validations", "requests", "audit", "upload_parts")
        for table in tables:
            assert connection.execute(f"SELECT count(*) FROM registry.{table}").fetchone() == (0,), table


def assert_every_blob_has_a_row(database_url: str, folder: Path) -> None:
    stored = {path.name for path in (folder / "blobs").rglob("*") if path.is_file()}
    assert not [name for name in stored if len(name) != 64], "something unfinished stayed behind"
    with psycopg.connect(database_url) as connection:
        assert stored <= {row[0] for row in connection.execute("SELECT sha256 FROM registry.blobs")}


def zipped(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return out.getvalue()


def tarred(files: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload] # the mode is the test's
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def contents(stub: RegistryServiceStub, version: pb.ModelVersion) -> dict[str, bytes]:
    return {
        file.path: b"".join(
            part.chunk
            for part in stub.DownloadFile(
                pb.DownloadFileRequest(model=version.model, version=version.version, path=file.path)
            )
        )
        for file in version.files
    }


@pytest.mark.parametrize("framework", [pb.FRAMEWORK_ONNX, pb.FRAMEWORK_TENSORFLOW, pb.FRAMEWORK_TRANSFORMERS])
def test_several_files_are_one_version(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path, framework: pb.Framework.ValueType
) -> None:
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("INSERT INTO registry.validators VALUES ('all', '{ONNX,TENSORFLOW,TRANSFORMERS}')")
    version = accepted(stub, registry.upload_files(FILES, framework=framework))
    assert contents(stub, version) == FILES
    assert [file.path for file in version.files] == sorted(FILES)
    assert version.size_bytes == sum(map(len, FILES.values()))
    assert_every_blob_has_a_row(database_url, tmp_path)


def test_the_same_request_again_with_the_same_files_gives_the_first_result(stub: RegistryServiceStub) -> None:
    first = accepted(stub, registry.upload_files(FILES, request_id="r1"))
    again = accepted(stub, registry.upload_files(dict(reversed(FILES.items())), request_id="r1"))
    assert again.deployment_number == first.deployment_number
    others = ({**FILES, "weights/b.bin": b"other"}, {**FILES, "c": b"c"}, {"other.onnx": b"graph"})
    for files in others:
        _, reason = refused(stub, registry.upload_files(files, request_id="r1", file_count=len(files)))
        assert reason == "REQUEST_ID_REUSED"


BAD_FILES: list[tuple[dict[str, bytes], dict[str, Any], str]] = [
    ({"a": b"1", "A": b"2"}, {}, "DUPLICATE_PATH"),
    ({"größe": b"1", "gro\u0308ße": b"2"}, {}, "DUPLICATE_PATH"),
    ({"STRASSE": b"1", "straße": b"2"}, {}, "DUPLICATE_PATH"),
    ({"a": b"1", "a/b": b"2"}, {}, "DUPLICATE_PATH"),
    ({"a/b/c": b"1", "a/B": b"2"}, {}, "DUPLICATE_PATH"),
    ({"a/x": b"1", "A/y": b"2"}, {}, "DUPLICATE_PATH"),
    ({"a": b"1", "b": b""}, {}, "EMPTY_FILE"),
    ({"a": b"1", "../b": b"2"}, {}, "INVALID_PATH"),
    ({"a": b"1", "b": b"2"}, {"file_count": 1}, "TOO_MANY_FILES"),
    ({"a": b"1", "b": b"2"}, {"file_count": 0}, "TOO_MANY_FILES"),
    ({"a": b"1", "b": b"2"}, {"file_count": 3}, "INCOMPLETE_UPLOAD"),
    ({"a": b"1"}, {"file_count": 1_001}, "OUT_OF_BOUNDS"),
    ({"a": b"1"}, {"file_count": -1}, "OUT_OF_BOUNDS"),
    ({"a": bytes(2 * MIB), "b": bytes(MIB), "c": b"1"}, {}, "TOO_LARGE"),
    ({"a": bytes(2 * MIB), "b": bytes(MIB + 1)}, {}, "TOO_LARGE"),
    ({"a": b"1", "b": bytes(2 * MIB + 1)}, {}, "TOO_LARGE"),
]


def test_files_that_do_not_go_together_leave_no_version(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path
) -> None:
    for files, more, reason in BAD_FILES:
        assert refused(stub, registry.upload_files(files, **more)) == (INVALID, reason), (files.keys(), more)
        assert_no_row_is_left(database_url)
        assert_every_blob_has_a_row(database_url, tmp_path)


def test_the_same_path_twice_is_refused(stub: RegistryServiceStub, database_url: str) -> None:
    header, *file = list(registry.upload_files({"a": b"1"}, file_count=2))
    assert refused(stub, iter([header, *file, *file])) == (INVALID, "DUPLICATE_PATH")
    assert_no_row_is_left(database_url)


def test_a_reference_takes_no_file(stub: RegistryServiceStub, database_url: str) -> None:
    reference = pb.OllamaReference(model="llama3.2:1b", mode=pb.OLLAMA_MODE_CHAT)
    more: dict[str, Any] = {"framework": pb.FRAMEWORK_OLLAMA, "ollama": reference}
    for count in (0, 1):
        requests = registry.upload_files({"a": b"1"}, **more, file_count=count)
        assert refused(stub, requests) == (INVALID, "FILES_NOT_ALLOWED")
    assert_no_row_is_left(database_url)
    version = accepted(stub, registry.upload_files({}, **more))
    assert (version.state, list(version.files)) == (pb.VERSION_STATE_READY, [])


def test_a_framework_that_no_validator_opens_is_refused_before_its_bytes(
    stub: RegistryServiceStub, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("DELETE FROM registry.validators")
        database.execute("INSERT INTO registry.validators VALUES ('one', '{ONNX}')")
    never = threading.Event()

    def without_bytes() -> Iterator[pb.RegisterVersionRequest]:
        yield next(registry.upload_files(FILES, framework=pb.FRAMEWORK_TENSORFLOW))
        never.wait()

    code, reason = refused(stub, without_bytes())
    never.set()
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_VALIDATOR")


@pytest.mark.parametrize("pack", [zipped, tarred, lambda files: tarred(files, "w:xz")])
def test_an_archive_is_registered_as_what_it_holds(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path, pack: Callable[[Mapping[str, bytes]], bytes]
) -> None:
    around = {f"my-model/{path}": content for path, content in FILES.items()}
    archive = pack({**around, "__MACOSX/my-model/._model.onnx": b"noise"})
    version = accepted(stub, registry.upload_files({"model.archive": archive}, file={"unpack": True}))
    assert contents(stub, version) == FILES
    assert_every_blob_has_a_row(database_url, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs"]  # nothing of the spool stays behind
    one_by_one = accepted(stub, registry.upload_files(FILES, version="2"))
    assert {file.sha256 for file in version.files} == {file.sha256 for file in one_by_one.files}


def test_archives_and_files_go_together_and_an_archive_within_stays_one(stub: RegistryServiceStub) -> None:
    inner = zipped({"x": b"1"})

    def messages() -> Iterator[pb.RegisterVersionRequest]:
        yield from registry.upload_files({"model.onnx": b"graph"}, file_count=2)
        yield from list(
            registry.upload_files({"rest.zip": zipped({"a/b": b"2", "c.zip": inner})}, file={"unpack": True})
        )[1:]

    version = accepted(stub, messages())
    assert contents(stub, version) == {"model.onnx": b"graph", "a/b": b"2", "c.zip": inner}


BAD_ARCHIVES: list[tuple[bytes, str]] = [
    (zipped({"../up": b"1"}), "ARCHIVE_UNSAFE"),
    (tarred({"/etc/passwd": b"1"}), "ARCHIVE_UNSAFE"),
    (tarred({"good": b"1", "a\\b": b"2"}), "ARCHIVE_UNSAFE"),
    (zipped({"a": b"1", "A": b"2"}), "DUPLICATE_PATH"),
    (zipped({"m/a": b"1", "M/b": b"2"}), "DUPLICATE_PATH"),
    (zipped({"a": b"1", "b": b""}), "EMPTY_FILE"),
    (zipped({str(number): b"1" for number in range(51)}), "ARCHIVE_TOO_LARGE"),
    (tarred({str(number): b"1" for number in range(51)}), "ARCHIVE_TOO_LARGE"),
    (tarred({"a": bytes(2 * MIB), "b": bytes(2 * MIB)}), "ARCHIVE_TOO_LARGE"),
    (zipped({"a": bytes(3 * MIB)}), "TOO_LARGE"),
    (zipped({"a": b"1"})[:-1], "ARCHIVE_UNREADABLE"),
    (tarred({"a": b"1" * 5000})[:-20], "ARCHIVE_UNREADABLE"),
    (b"no archive at all", "ARCHIVE_UNREADABLE"),
    (zipped({}), "NO_FILES"),
    (zipped({"__MACOSX/a": b"1", "folder/": b""}), "NO_FILES"),
    (b"", "EMPTY_FILE"),
    (bytes(2 * MIB + 1), "TOO_LARGE"),
]


def test_a_bad_archive_leaves_no_version_and_nothing_outside_the_store(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path
) -> None:
    for number, (archive, reason) in enumerate(BAD_ARCHIVES):
        requests = registry.upload_files({"model.zip": archive}, file={"unpack": True})
        assert refused(stub, requests) == (INVALID, reason), number
        assert_no_row_is_left(database_url)
        assert_every_blob_has_a_row(database_url, tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs"]


def test_an_archive_of_which_the_digest_is_wrong_stores_nothing(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path
) -> None:
    requests = registry.upload_files({"m.zip": zipped(FILES)}, file={"unpack": True, "sha256": "0" * 64})
    assert refused(stub, requests) == (INVALID, "DIGEST_MISMATCH")
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def test_a_full_disk_under_the_spool_is_said(stub: RegistryServiceStub, database_url: str) -> None:
    """A limit on file sizes stands in for the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB // 2, hard))
    try:
        code, reason = refused(stub, registry.upload_files({"m.zip": bytes(MIB)}, file={"unpack": True}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SPOOL_FULL")
    assert_no_row_is_left(database_url)


def test_an_upload_of_several_files_that_breaks_between_two_of_them_is_no_version(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path
) -> None:
    never = threading.Event()

    def cut() -> Iterator[pb.RegisterVersionRequest]:
        yield from list(registry.upload_files(FILES))[:3]
        never.wait()

    call = stub.RegisterVersion.future(cut())
    with psycopg.connect(database_url, autocommit=True) as database:
        incoming = tmp_path / "blobs" / "registry" / "incoming"
        registry.wait_until(lambda: list(incoming.glob("*.part")) or None)
        call.cancel()
        registry.wait_until(lambda: None if list(incoming.glob("*.part")) else True)
        never.set()
        assert database.execute("SELECT count(*) FROM registry.models").fetchone() == (0,)
    assert_no_row_is_left(database_url)


def test_an_upload_whose_bytes_are_being_collected_stores_them_anew(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path
) -> None:
    """Garbage collection deletes under the row's lock; the upload waits for it, and writes row and bytes again."""
    sha256 = accepted(stub, registry.upload_files({"a": b"same bytes"})).files[0].sha256
    with psycopg.connect(database_url) as collector:
        collector.execute("SELECT 1 FROM registry.blobs WHERE sha256 = %s FOR UPDATE", [sha256])
        call = stub.RegisterVersion.future(registry.upload_files({"a": b"same bytes"}, version="2"))
        registry.wait_for_locks(database_url, 1)
        blob = tmp_path / "blobs" / "registry" / sha256[:2] / sha256
        blob.unlink()
        collector.execute("DELETE FROM registry.blobs WHERE sha256 = %s", [sha256])
    assert contents(stub, call.result().version) == {"a": b"same bytes"}
    assert_every_blob_has_a_row(database_url, tmp_path)


def test_an_upload_that_condemned_bytes_belong_to_revives_them(stub: RegistryServiceStub, database_url: str) -> None:
    accepted(stub, registry.upload_files({"a": b"same bytes"}))
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("UPDATE registry.blobs SET condemn_time = now(), touch_time = now() - interval '9 days'")
        accepted(stub, registry.upload_files({"a": b"same bytes"}, version="2"))
        revived = "SELECT condemn_time, touch_time > now() - interval '1 minute' FROM registry.blobs"
        assert database.execute(revived).fetchall() == [(None, True)]


def test_an_upload_of_which_a_file_was_collected_before_its_end_is_sent_again(
    stub: RegistryServiceStub, database_url: str
) -> None:
    collected = threading.Event()

    def slow() -> Iterator[pb.RegisterVersionRequest]:
        messages = list(registry.upload_files({"a": b"first", "b": b"second"}))
        yield from messages[:4]
        assert collected.wait(registry.DEADLINE_S)
        yield from messages[4:]

    call = stub.RegisterVersion.future(slow())
    with psycopg.connect(database_url, autocommit=True) as database:
        registry.wait_until(lambda: database.execute("DELETE FROM registry.blobs RETURNING sha256").fetchone())
    collected.set()
    assert registry.refusal(call.exception())[:2] == (grpc.StatusCode.ABORTED, "BLOB_COLLECTED")
    assert_no_row_is_left(database_url)
    accepted(stub, registry.upload_files({"a": b"first", "b": b"second"}))
