"""Keys that end while calls go on, and clients that fall silent: streams end from the server's side, with a reason."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import penstock
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.api.registry.v1 import registry_pb2 as files
from services.common import keys
from services.common.streams import OpenStreams
from tests.kit import Kit, bearing, details, eventually, failure, write_keys
from tests.services import CloneDatabase, Running, running_registry
from tests.testdata import models

OLGA = bearing("olga")
CHUNK = files.RegisterVersionRequest(chunk=b"bytes")


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "RELOAD_INTERVAL_S", 0.02)
    monkeypatch.setattr("services.common.server.SWEEP_INTERVAL_S", 0.05)


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    write_keys(tmp_path / "keys.json", olga="operator", root="admin")
    return tmp_path / "keys.json"


@pytest.fixture
def guarded(tmp_path: Path, keys_file: Path) -> Iterator[Kit]:
    with Kit(tmp_path, keys_file=keys_file).running() as running:
        yield running


class Silence:
    """Requests of a client that sends some and then falls silent, until it is let go on."""

    def __init__(self, *first: Any) -> None:
        self._first = first
        self.over = threading.Event()

    def __iter__(self) -> Iterator[Any]:
        yield from self._first
        self.over.wait(60)


@contextmanager
def silent_upload(kit: Kit) -> Iterator[Any]:
    silence = Silence(CHUNK)
    call = kit.uploads.RegisterVersion.future(iter(silence), metadata=OLGA, timeout=60)
    assert kit.files.reached.wait(60)
    try:
        yield call
    finally:
        silence.over.set()


def refusal_of(call: Any) -> tuple[grpc.StatusCode, str]:
    refused = failure(call.result)
    return refused.code(), details(refused)[1].reason


def test_a_key_revoked_in_mid_upload_ends_it_and_nothing_is_stored(guarded: Kit, keys_file: Path) -> None:
    with silent_upload(guarded) as call:
        write_keys(keys_file, root="admin")
        assert refusal_of(call) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_REVOKED")
        assert guarded.files.ended.wait(60)
    assert guarded.files.stored == 0
    assert len(guarded.files.broken) == 1


def test_a_key_revoked_after_the_last_byte_lets_the_upload_be_stored(guarded: Kit, keys_file: Path) -> None:
    """Its answer and what is stored must not contradict each other."""
    guarded.files.may_store.clear()
    call = guarded.uploads.RegisterVersion.future(iter([CHUNK]), metadata=OLGA, timeout=60)
    assert guarded.files.storing.wait(60)
    write_keys(keys_file, root="admin")
    eventually(lambda: refused_now(guarded))
    with silent_watch(guarded) as watch:  # the sweep that ends this one has seen the other as well
        write_keys(keys_file, other="admin")
        failure(lambda: next(watch))
    guarded.files.may_store.set()
    assert call.result().version.version == "olga"
    assert guarded.files.stored == 1


@contextmanager
def silent_watch(kit: Kit) -> Iterator[Any]:
    watch = kit.uploads.WatchModels(files.WatchModelsRequest(), metadata=bearing("root"), timeout=60)
    assert next(watch).revision == 1
    yield watch
    watch.cancel()


def refused_now(kit: Kit) -> bool:
    try:
        kit.stub.GetMetrics(pb.GetMetricsRequest(), metadata=OLGA, timeout=60)
    except grpc.RpcError:
        return True
    return False


def test_a_key_revoked_ends_an_idle_watch(guarded: Kit, keys_file: Path) -> None:
    watch = guarded.uploads.WatchModels(files.WatchModelsRequest(), metadata=OLGA, timeout=60)
    assert next(watch).revision == 1
    write_keys(keys_file, root="admin")
    refused = failure(lambda: next(watch))
    assert (refused.code(), details(refused)[1].reason) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_REVOKED")
    assert guarded.files.ended.wait(60)


def test_a_key_revoked_ends_a_download_that_nobody_reads_and_frees_its_thread(guarded: Kit, keys_file: Path) -> None:
    answers = guarded.uploads.DownloadFile(files.DownloadFileRequest(), metadata=OLGA, timeout=60)
    assert guarded.files.reached.wait(60)
    write_keys(keys_file, root="admin")
    assert guarded.files.ended.wait(60)
    failure(lambda: list(answers))


def test_a_key_revoked_ends_a_two_way_stream(guarded: Kit, keys_file: Path) -> None:
    silence = Silence(pb.RecordEventsRequest(batch_id=1))
    answers = guarded.stub.RecordEvents(iter(silence), metadata=OLGA, timeout=60)
    assert next(answers).batch_id == 1
    write_keys(keys_file, root="admin")
    refused = failure(lambda: next(answers))
    assert details(refused)[1].reason == "KEY_REVOKED"
    assert guarded.servicer.ended.wait(60)
    silence.over.set()


def expires(name: str, moment: datetime) -> dict[str, dict[str, object]]:
    return {name: {"expire_time": moment.isoformat()}}


def test_a_key_that_expires_ends_its_streams(tmp_path: Path, keys_file: Path) -> None:
    now = datetime.now(UTC)
    write_keys(keys_file, expires("olga", now + timedelta(hours=1)), olga="operator", root="admin")
    with Kit(tmp_path, keys_file=keys_file).running() as kit, silent_upload(kit) as call:
        write_keys(keys_file, expires("olga", now - timedelta(hours=1)), olga="operator", root="admin")
        assert refusal_of(call) == (grpc.StatusCode.UNAUTHENTICATED, "EXPIRED_KEY")


def test_a_key_revoked_while_the_server_drains_ends_its_upload(guarded: Kit, keys_file: Path) -> None:
    with silent_upload(guarded) as call:
        closing = threading.Thread(target=guarded.server.close)
        closing.start()
        eventually(lambda: guarded.server.draining)
        write_keys(keys_file, root="admin")
        assert refusal_of(call) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_REVOKED")
        closing.join(60)
        assert not closing.is_alive()


def test_a_sweep_that_fails_is_not_the_last(guarded: Kit, keys_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, failed = guarded.server._streams.sweep, threading.Event()

    def fail_once(_: OpenStreams, **how: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError
        sweep(**how)

    monkeypatch.setattr(OpenStreams, "sweep", fail_once)
    with silent_upload(guarded) as call:
        assert failed.wait(60)
        write_keys(keys_file, root="admin")
        assert refusal_of(call)[1] == "KEY_REVOKED"


def test_a_key_that_is_demoted_loses_its_streams(guarded: Kit, keys_file: Path) -> None:
    with silent_upload(guarded) as call:
        write_keys(keys_file, olga="viewer", root="admin")
        assert refusal_of(call) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_WEAK")


def test_a_change_of_other_keys_disturbs_nobody(guarded: Kit, keys_file: Path) -> None:
    silence = Silence(CHUNK)
    call = guarded.uploads.RegisterVersion.future(iter(silence), metadata=OLGA, timeout=60)
    assert guarded.files.reached.wait(60)
    with silent_watch(guarded) as watch:
        write_keys(keys_file, olga="operator", late="viewer")
        failure(lambda: next(watch))  # root's is gone: the sweep that ended its watch let the upload be
    silence.over.set()
    assert call.result().version.version == "olga"


def test_the_first_key_ends_the_streams_of_those_who_came_without(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with Kit(tmp_path, keys_file=path).running() as kit:
        watch = kit.uploads.WatchModels(files.WatchModelsRequest(), timeout=60)
        assert next(watch).revision == 1
        write_keys(path, root="admin")
        assert details(failure(lambda: next(watch)))[1].reason == "MISSING_KEY"


def test_silent_uploads_do_not_keep_their_places(tmp_path: Path) -> None:
    with Kit(tmp_path, max_streams=4, stream_idle_timeout_ms=300).running() as kit:
        silences = [Silence(CHUNK) for _ in range(4)]
        calls = [kit.uploads.RegisterVersion.future(iter(silence), timeout=60) for silence in silences]
        for call in calls:
            assert refusal_of(call) == (grpc.StatusCode.DEADLINE_EXCEEDED, "STREAM_IDLE")
        eventually(lambda: upload_is_stored(kit))
        for silence in silences:
            silence.over.set()


def upload_is_stored(kit: Kit) -> bool:
    try:
        kit.uploads.RegisterVersion(iter([CHUNK]), timeout=60)
    except grpc.RpcError:
        return False
    return kit.files.stored >= 1


def test_an_endless_stream_may_be_silent_until_its_place_is_needed(tmp_path: Path) -> None:
    with Kit(tmp_path, max_streams=3, stream_idle_timeout_ms=100).running() as kit:
        silences = [Silence(pb.RecordEventsRequest(batch_id=1)) for _ in range(3)]
        first = kit.stub.RecordEvents(iter(silences[0]), timeout=60)
        assert next(first).batch_id == 1
        for _ in range(2):  # while an upload idles away twice, nothing happens to the events' stream
            upload = Silence(CHUNK)
            assert refusal_of(kit.uploads.RegisterVersion.future(iter(upload), timeout=60))[1] == "STREAM_IDLE"
            upload.over.set()
        assert not kit.servicer.ended.is_set()
        eventually(lambda: kit.server._pools.streams.held == 1)  # a place is given back a moment after the status
        others = [kit.stub.RecordEvents(iter(silence), timeout=60) for silence in silences[1:]]
        assert details(failure(lambda: list(first)))[1].reason == "STREAM_IDLE"  # every place is taken
        assert [next(each).batch_id for each in others] == [1, 1]
        for silence in silences:
            silence.over.set()


def test_a_download_that_nobody_reads_does_not_keep_its_place(tmp_path: Path) -> None:
    with Kit(tmp_path, stream_idle_timeout_ms=200).running() as kit:
        answers = kit.uploads.DownloadFile(files.DownloadFileRequest(), timeout=60)
        assert kit.files.ended.wait(60)
        failure(lambda: list(answers))


def test_those_without_a_key_take_no_place_from_those_who_have(tmp_path: Path, keys_file: Path) -> None:
    with Kit(tmp_path, keys_file=keys_file, max_streams=2).running() as kit:
        silences = [Silence(reflection_pb2.ServerReflectionRequest(list_services="")) for _ in range(2)]
        stub = reflection_pb2_grpc.ServerReflectionStub(kit.channel)
        held = [stub.ServerReflectionInfo(iter(silence), timeout=60) for silence in silences]
        assert all(next(each) for each in held)
        kit.uploads.RegisterVersion(iter([CHUNK]), metadata=OLGA, timeout=60)
        refused = failure(lambda: next(stub.ServerReflectionInfo(iter([]), timeout=60)))
        assert details(refused)[1].reason == "SERVER_BUSY"
        for silence in silences:
            silence.over.set()


@pytest.mark.slow
def test_a_real_upload_of_a_revoked_key_leaves_nothing_behind(
    clone_database: CloneDatabase, tmp_path: Path, keys_file: Path
) -> None:
    """Neither a version, nor a blob, nor half of one; and its name is free."""
    content = models.classifier()
    sent, go_on = threading.Event(), threading.Event()

    def revoke(registry: Running) -> None:
        sent.wait(60)
        # The source is read ahead: on a busy machine before the call has been let in.
        eventually(lambda: bool(registry.server._streams.streams))
        write_keys(keys_file, root="admin")

    class Slow:
        """A source that cannot seek, and pauses after its first half."""

        name = "model.onnx"
        position = 0

        def seekable(self) -> bool:
            return False

        def read(self, _: int) -> bytes:
            if self.position:
                sent.set()
                go_on.wait(60)
            half = content[self.position : self.position + len(content) // 2 + 1]
            self.position += len(half)
            return half

    with running_registry(clone_database("registry"), tmp_path, keys_file=keys_file) as registry:
        threading.Thread(target=revoke, args=(registry,)).start()
        with (
            penstock.Client(registry=registry.address, token="olga") as olga,
            pytest.raises(penstock.Unauthenticated) as refused,
        ):
            olga.registry.register_version("iris", "1", Slow(), framework="onnx")  # type: ignore[arg-type] # enough of a file
        go_on.set()
        assert refused.value.reason == "KEY_REVOKED"
        with penstock.Client(registry=registry.address, token="root") as root:
            with pytest.raises(penstock.NotFound):
                root.registry.get_version("iris", "1")
            eventually(lambda: not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()])
            root.registry.register_version("iris", "1", content, framework="onnx")
