"""Uploads, lists and watches, over a connection that breaks, stalls and lies."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock import NO_RETRIES, Client, RetryPolicy
from penstock import errors as sdk
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.tensors.v1 import tensors_pb2
from penstock.uploads import CHUNK_BYTES
from services.common import errors
from tests.sdk import ScriptedServer, abort, answer, client_of, fail, scripted_server, stream

QUICK = RetryPolicy(attempts=4, base_delay_s=0.001, max_delay_s=0.002)
GONE = errors.Unavailable("draining")
# Three chunks, the last one short.
CONTENT = os.urandom(2 * CHUNK_BYTES + 1_000)
FILE = pb.File(path="model.onnx", sha256=sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT))
READY = pb.ModelVersion(model="iris", version="1", state=pb.VERSION_STATE_READY)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        server.on("GetVersion", answer(pb.GetVersionResponse(version=READY)))
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server, retry=QUICK) as client:
        yield client


class Store:
    """Takes uploads in, as the registry does."""

    def __init__(self, *, breaks_after: int | None = None) -> None:
        self.headers: list[pb.VersionHeader] = []
        self.files: dict[str, bytes] = {}
        self.file_headers: list[pb.FileHeader] = []
        self._breaks_after = breaks_after

    def __call__(self, requests: Any, context: grpc.ServicerContext) -> pb.RegisterVersionResponse:
        self.files, path = {}, ""
        for count, request in enumerate(requests):
            if count == self._breaks_after:
                self._breaks_after = None
                abort(context, GONE)
            match request.WhichOneof("part"):
                case "header":
                    self.headers.append(request.header)
                case "file":
                    path = request.file.path
                    self.file_headers.append(request.file)
                    self.files[path] = b""
                case "chunk":
                    assert len(request.chunk) <= CHUNK_BYTES
                    self.files[path] += request.chunk
        return pb.RegisterVersionResponse(version=pb.ModelVersion(model="iris", state=pb.VERSION_STATE_VALIDATING))


def test_an_upload_arrives_whole_with_its_digest_and_all_that_was_said(
    server: ScriptedServer, client: Client, tmp_path: Path
) -> None:
    store = Store()
    server.on("RegisterVersion", store)
    path = tmp_path / "iris.onnx"
    path.write_bytes(CONTENT)
    told: list[tuple[int, int | None]] = []
    version = client.registry.register_version(
        "iris", "1", path, stage="candidate", columns=["a", "b"], source_version="1.0", note="why", approved_by="me",
        metadata=pb.Metadata(task_type="classification"), progress=lambda sent, total: told.append((sent, total)),
    )  # fmt: skip
    assert version == READY
    assert store.files == {"iris.onnx": CONTENT}
    assert (store.file_headers[0].sha256, store.file_headers[0].size_bytes) == (FILE.sha256, FILE.size_bytes)
    header = store.headers[0]
    assert (header.framework, header.stage) == (pb.FRAMEWORK_ONNX, pb.STAGE_CANDIDATE)
    assert (header.source_version, header.note, header.approved_by) == ("1.0", "why", "me")
    assert header.metadata.task_type == "classification"
    assert header.declared_signature.inputs == [tensors_pb2.TensorSpec(columns=["a", "b"])]
    assert told == [(CHUNK_BYTES, len(CONTENT)), (2 * CHUNK_BYTES, len(CONTENT)), (len(CONTENT), len(CONTENT))]


def _pipe(content: bytes) -> io.BufferedReader:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as out:
        out.write(content)  # less than a pipe holds
    return os.fdopen(reader, "rb")


@pytest.mark.parametrize(
    ("make", "name", "checked"),
    [
        (lambda folder: CONTENT[:99], "model.onnx", True),
        (lambda folder: io.BytesIO(CONTENT[:99]), "model.onnx", True),
        (lambda folder: (folder / "a.onnx").open("rb"), "a.onnx", True),
        (lambda folder: str(folder / "a.onnx"), "a.onnx", True),
        (lambda folder: {"deep/b.onnx": folder / "a.onnx"}, "deep/b.onnx", True),
        (lambda folder: folder, "a.onnx", True),
        (lambda folder: {"model.onnx": _pipe(CONTENT[:99])}, "model.onnx", False),
    ],
    ids=["bytes", "BytesIO", "file", "str", "mapping", "folder", "pipe"],
)
def test_whatever_it_comes_from(
    server: ScriptedServer, client: Client, tmp_path: Path, make: Callable[[Path], Any], name: str, checked: bool
) -> None:
    store = Store()
    server.on("RegisterVersion", store)
    (tmp_path / "a.onnx").write_bytes(CONTENT[:99])
    source = make(tmp_path)
    client.registry.register_version("iris", "1", source)
    assert store.files == {name: CONTENT[:99]}
    assert bool(store.file_headers[0].sha256) is checked
    for stream_ in source.values() if isinstance(source, dict) else [source]:
        if hasattr(stream_, "close"):
            assert not stream_.closed, "the caller's file is the caller's"
            stream_.close()


def test_a_file_is_read_from_where_it_stands(server: ScriptedServer, client: Client) -> None:
    store = Store(breaks_after=2)
    server.on("RegisterVersion", store)
    source = io.BytesIO(b"skipped" + CONTENT)
    source.seek(7)
    client.registry.register_version("iris", "1", source)
    assert store.files == {"model.onnx": CONTENT}


def test_a_broken_upload_begins_anew_under_its_request_id(server: ScriptedServer, client: Client) -> None:
    store = Store(breaks_after=3)
    server.on("RegisterVersion", store)
    client.registry.register_version("iris", "1", CONTENT)
    assert store.files == {"model.onnx": CONTENT}
    assert store.headers[0].request_id
    assert store.headers[0] == store.headers[1]


def test_what_can_be_read_only_once_is_sent_only_once(server: ScriptedServer, client: Client) -> None:
    server.on("RegisterVersion", fail(GONE))
    with _pipe(b"abc") as pipe, pytest.raises(sdk.Unavailable):
        client.registry.register_version("iris", "1", pipe, framework="onnx")
    assert len(server.calls["RegisterVersion"]) == 1


def test_an_upload_refused_at_its_header_says_why_at_once(server: ScriptedServer, client: Client) -> None:
    server.on("RegisterVersion", fail(errors.AlreadyExists("1 exists", reason="VERSION_EXISTS")))
    with pytest.raises(sdk.AlreadyExists) as caught:
        client.registry.register_version("iris", "1", CONTENT)
    assert caught.value.reason == "VERSION_EXISTS"


def test_what_progress_raises_ends_the_upload_and_comes_out(server: ScriptedServer, client: Client) -> None:
    ended = threading.Event()

    def behave(requests: Any, context: grpc.ServicerContext) -> pb.RegisterVersionResponse:
        context.add_callback(ended.set)
        for _ in requests:
            pass
        return pb.RegisterVersionResponse()

    def stop(sent: int, total: int | None) -> None:
        raise KeyError("enough")

    server.on("RegisterVersion", behave)
    with pytest.raises(KeyError, match="enough"):
        client.registry.register_version("iris", "1", CONTENT, progress=stop)
    assert ended.wait(60)


def test_a_server_that_stops_listening_ends_the_upload(server: ScriptedServer) -> None:
    server.on("RegisterVersion", lambda requests, context: server.released.wait())
    with (
        client_of(server, retry=NO_RETRIES, idle_timeout_s=0.2) as client,
        pytest.raises(sdk.DeadlineExceeded, match=r"silent for 0\.2 s during RegisterVersion") as caught,
    ):
        client.registry.register_version("iris", "1", CONTENT)
    assert caught.value.reason == "STREAM_STALLED"


def test_a_refused_version_is_an_error_with_the_version(server: ScriptedServer, client: Client) -> None:
    failed = pb.ModelVersion(
        model="iris", version="1", state=pb.VERSION_STATE_FAILED, failure_reason="NOT_ONNX", failure_message="no"
    )
    validating = pb.GetVersionResponse(version=pb.ModelVersion(state=pb.VERSION_STATE_VALIDATING))
    server.on("RegisterVersion", Store())
    server.on("GetVersion", answer(validating), answer(pb.GetVersionResponse(version=failed)))
    with pytest.raises(sdk.ValidationFailed, match="iris 1 failed validation: no") as caught:
        client.registry.register_version("iris", "1", CONTENT)
    assert (caught.value.reason, caught.value.version) == ("NOT_ONNX", failed)


def test_waiting_for_the_validator_ends(server: ScriptedServer, client: Client) -> None:
    validating = pb.ModelVersion(state=pb.VERSION_STATE_VALIDATING)
    server.on("RegisterVersion", Store())
    server.on("GetVersion", answer(pb.GetVersionResponse(version=validating)))
    with pytest.raises(sdk.DeadlineExceeded) as caught:
        client.registry.register_version("iris", "1", CONTENT, wait_timeout_s=0.1)
    assert caught.value.reason == "VALIDATION_TIMEOUT"
    assert client.registry.register_version("iris", "1", CONTENT, wait=False).state == pb.VERSION_STATE_VALIDATING


def test_a_source_that_says_too_little_is_refused_before_anything_is_sent(
    server: ScriptedServer, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "weights.bin").write_bytes(b"abc")
    (tmp_path / "empty").mkdir()
    register = client.registry.register_version
    with pytest.raises(sdk.InvalidArgument, match="framework='onnx'"):
        register("iris", "1", tmp_path / "weights.bin")
    with pytest.raises(sdk.InvalidArgument, match="no file"):
        register("iris", "1", tmp_path / "empty")
    with pytest.raises(sdk.InvalidArgument, match="not one of onnx, tensorflow"):
        register("iris", "1", b"abc", framework="torch")
    with pytest.raises(sdk.InvalidArgument, match="columns"):
        register("iris", "1", b"abc", columns=["a"], signature=tensors_pb2.Signature())
    with pytest.raises(FileNotFoundError):
        register("iris", "1", tmp_path / "nothing.onnx")
    assert not server.calls["RegisterVersion"]


def test_leaving_a_watch_ends_it_at_the_server(server: ScriptedServer, client: Client) -> None:
    ended = threading.Event()

    def behave(request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchModelsResponse]:
        context.add_callback(ended.set)
        yield pb.WatchModelsResponse(revision=1)
        server.released.wait()

    server.on("WatchModels", behave)
    for _ in client.registry.watch():
        break
    assert ended.wait(60)


def _snapshot(revision: int, *, complete: bool) -> pb.WatchModelsResponse:
    return pb.WatchModelsResponse(revision=revision, snapshot=pb.WatchModelsResponse.SnapshotPart(complete=complete))


def _change(revision: int) -> pb.WatchModelsResponse:
    return pb.WatchModelsResponse(revision=revision, change=pb.WatchModelsResponse.Change())


def test_a_watch_goes_on_after_the_last_revision_it_has_whole(server: ScriptedServer, client: Client) -> None:
    server.on(
        "WatchModels",
        stream(_snapshot(5, complete=False), then=GONE),
        stream(_snapshot(6, complete=False), _snapshot(6, complete=True), _change(7), then=GONE),
        stream(pb.WatchModelsResponse(revision=9, bookmark=pb.WatchModelsResponse.Bookmark())),
        stream(_change(10), then=errors.OutOfRange("compacted", reason="REVISION_COMPACTED")),
    )
    seen: list[int] = []
    with pytest.raises(sdk.OutOfRange):
        # What came before the error stays in the list.
        seen.extend(event.revision for event in client.registry.watch())
    assert seen == [5, 6, 6, 7, 9, 10]
    assert [request.after_revision for request in server.calls["WatchModels"]] == [0, 0, 7, 9]


def test_a_registry_that_stays_away_ends_the_watch(server: ScriptedServer, client: Client) -> None:
    server.on("WatchModels", fail(GONE))
    with pytest.raises(sdk.Unavailable):
        next(client.registry.watch(after_revision=3))
    assert len(server.calls["WatchModels"]) == QUICK.attempts


def test_lists_turn_their_pages_only_as_they_are_read(server: ScriptedServer, client: Client) -> None:
    pages = [("a", "b"), ("c",), ()]
    server.on(
        "ListModels",
        *[
            answer(pb.ListModelsResponse(models=[pb.Model(name=name) for name in names], next_page_token=token))
            for names, token in zip(pages, ("t1", "t2", ""), strict=True)
        ],
    )
    models = client.registry.list_models(page_size=2)
    assert not server.calls["ListModels"]
    assert next(models).name == "a"
    assert len(server.calls["ListModels"]) == 1
    assert [model.name for model in models] == ["b", "c"]
    assert [(request.page_size, request.page_token) for request in server.calls["ListModels"]] == [
        (2, ""), (2, "t1"), (2, "t2"),
    ]  # fmt: skip


def test_the_other_calls_say_what_they_are_told(server: ScriptedServer, client: Client) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    server.on("ListVersions", answer(pb.ListVersionsResponse(versions=[READY])))
    server.on("ListTransitions", answer(pb.ListTransitionsResponse(transitions=[pb.Transition(id=1)])))
    server.on("ResolveVersion", answer(pb.ResolveVersionResponse(version=READY)))
    server.on("PromoteVersion", answer(pb.PromoteVersionResponse(version=READY)))
    server.on("RollbackModel", answer(pb.RollbackModelResponse(version=READY)))
    server.on("RevalidateVersion", answer(pb.RevalidateVersionResponse(version=READY)))
    server.on("GetLiveVersion", answer(pb.GetLiveVersionResponse(version=READY)))
    registry = client.registry
    assert list(registry.list_versions("iris", stage="staging", state="ready")) == [READY]
    assert [each.id for each in registry.transitions("iris", "1")] == [1]
    assert registry.resolve("iris", "latest") == READY
    assert registry.promote("iris", "1", "production", approved_by="me", note="why").version == READY
    assert registry.rollback("iris", approved_by="me", note="why").version == READY
    assert registry.revalidate("iris", "1") == READY
    assert registry.live_version("iris", at=at).version == READY
    sent = {rpc: requests[0] for rpc, requests in server.calls.items()}
    assert sent["ListVersions"].stage == pb.STAGE_STAGING
    assert sent["ListVersions"].state == pb.VERSION_STATE_READY
    assert sent["ListTransitions"].version == "1"
    assert sent["PromoteVersion"] == pb.PromoteVersionRequest(
        model="iris", version="1", to_stage=pb.STAGE_PRODUCTION, approved_by="me", note="why"
    )
    assert sent["RollbackModel"] == pb.RollbackModelRequest(model="iris", approved_by="me", note="why")
    assert sent["GetLiveVersion"].time.ToDatetime(tzinfo=UTC) == at
