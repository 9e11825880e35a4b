"""Downloads over a connection that breaks, stalls and lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import grpc
import pytest

from penstock import Client, RetryPolicy
from penstock import errors as sdk
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.uploads import CHUNK_BYTES
from services.common import errors
from tests.sdk import Behaviour, ScriptedServer, abort, client_of, scripted_server

QUICK = RetryPolicy(attempts=4, base_delay_s=0.001, max_delay_s=0.002)
GONE = errors.Unavailable("draining")
# Three chunks, the last one short.
CONTENT = os.urandom(2 * CHUNK_BYTES + 1_000)
FILE = pb.File(path="model.onnx", sha256=sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT))


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server, retry=QUICK) as client:
        yield client


def _serve(content: bytes, *, breaks_at: int | None = None, file: pb.File = FILE) -> Behaviour:
    def behave(request: pb.DownloadFileRequest, context: grpc.ServicerContext) -> Iterator[pb.DownloadFileResponse]:
        yield pb.DownloadFileResponse(file=file)
        for start in range(request.offset_bytes, len(content), 300_000):
            if breaks_at is not None and start >= breaks_at:
                abort(context, GONE)
            yield pb.DownloadFileResponse(chunk=content[start : start + 300_000])

    return behave


def test_a_download_is_whole_verified_and_told_of(server: ScriptedServer, client: Client, tmp_path: Path) -> None:
    server.on("DownloadFile", _serve(CONTENT))
    told: list[tuple[int, int | None]] = []
    path = client.registry.download("iris", "1", tmp_path / "copy.onnx", progress=lambda *each: told.append(each))
    assert path == tmp_path / "copy.onnx"
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [each.name for each in tmp_path.iterdir()] == ["copy.onnx"]


def test_into_a_folder_it_goes_under_its_own_name(server: ScriptedServer, client: Client, tmp_path: Path) -> None:
    server.on(
        "DownloadFile",
        _serve(CONTENT, file=pb.File(path="../../deep/m.onnx", sha256=FILE.sha256, size_bytes=FILE.size_bytes)),
    )
    assert client.registry.download("iris", "1", tmp_path) == tmp_path / "m.onnx"


def test_a_broken_download_goes_on_where_it_broke(server: ScriptedServer, client: Client, tmp_path: Path) -> None:
    # More breaks than tries: each one brought something, and that counts.
    breaks = [_serve(CONTENT, breaks_at=at) for at in range(300_000, 2_100_000, 300_000)]
    server.on("DownloadFile", *breaks, _serve(CONTENT))
    client.registry.download("iris", "1", tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == CONTENT
    offsets = [request.offset_bytes for request in server.calls["DownloadFile"]]
    assert offsets == sorted(set(offsets))
    assert len(offsets) == 7


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (_serve(CONTENT[:-1]), "bytes came"),
        (_serve(CONTENT + b"x"), "more than"),
        (_serve(b"x" + CONTENT[1:]), "SHA-256"),
    ],
    ids=["short", "long", "another"],
)
def test_bytes_that_are_not_the_registered_ones_leave_nothing_behind(
    server: ScriptedServer, client: Client, tmp_path: Path, behaviour: Behaviour, said: str
) -> None:
    (tmp_path / "copy.onnx").write_bytes(b"the old one")
    server.on("DownloadFile", behaviour)
    with pytest.raises(sdk.DataLoss, match=said):
        client.registry.download("iris", "1", tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == b"the old one"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_changed_between_two_tries_is_noticed(
    server: ScriptedServer, client: Client, tmp_path: Path
) -> None:
    other = pb.File(path="model.onnx", sha256="0" * 64, size_bytes=len(CONTENT))
    server.on("DownloadFile", _serve(CONTENT, breaks_at=300_000), _serve(CONTENT, file=other))
    with pytest.raises(sdk.DataLoss, match="another file"):
        client.registry.download("iris", "1", tmp_path / "copy.onnx")


def test_chunks_come_as_they_are_and_are_verified_at_the_end(server: ScriptedServer, client: Client) -> None:
    server.on("DownloadFile", _serve(CONTENT, breaks_at=900_000), _serve(CONTENT))
    assert b"".join(client.registry.download_chunks("iris", "1")) == CONTENT
    server.on("DownloadFile", _serve(b"x" + CONTENT[1:]))
    with pytest.raises(sdk.DataLoss):
        list(client.registry.download_chunks("iris", "1"))


@pytest.mark.slow
def test_a_download_that_stalls_is_resumed(server: ScriptedServer, tmp_path: Path) -> None:
    def stall(request: pb.DownloadFileRequest, context: grpc.ServicerContext) -> Iterator[pb.DownloadFileResponse]:
        yield pb.DownloadFileResponse(file=FILE)
        yield pb.DownloadFileResponse(chunk=CONTENT[:1_000])
        server.released.wait()

    server.on("DownloadFile", stall, _serve(CONTENT))
    with client_of(server, retry=QUICK, idle_timeout_s=1.0) as client:
        client.registry.download("iris", "1", tmp_path / "copy.onnx")
    assert [request.offset_bytes for request in server.calls["DownloadFile"]] == [0, 1_000]
