"""Downloads by a signed URL: from the store where it answers, from the registry where it does not."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from penstock import RetryPolicy
from penstock.api.registry.v1 import registry_pb2 as pb
from tests.sdk import ScriptedServer, client_of, scripted_server

CONTENT = bytes(range(256)) * 5_000
FILE = pb.File(path="m.onnx", sha256=sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT))
QUICK = RetryPolicy(attempts=4, base_delay_s=0.001, max_delay_s=0.002)


class Store(http.server.BaseHTTPRequestHandler):
    """Answers as S3 does, or as a test says."""

    status = 206
    cut_after: int | None = None
    content = CONTENT
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.headers["Range"])
        rest = self.content[int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) :]
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest if self.cut_after is None else rest[: self.cut_after])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def store(**how: object) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("ThisStore", (Store,), {**how, "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/bucket/m.onnx?signature=x", asked
        server.shutdown()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as scripted:
        scripted.on("DownloadFile", _stream)
        yield scripted


def _stream(request: pb.DownloadFileRequest, _: object) -> Iterator[pb.DownloadFileResponse]:
    yield pb.DownloadFileResponse(file=FILE)
    yield pb.DownloadFileResponse(chunk=CONTENT[request.offset_bytes :])


def signs(server: ScriptedServer, url: str) -> None:
    server.on("CreateDownloadUrl", lambda *_: pb.CreateDownloadUrlResponse(file=FILE, url=url))


def downloaded(server: ScriptedServer, folder: Path) -> bytes:
    with client_of(server, retry=QUICK) as client:
        return client.registry.download("iris", "1", folder / "copy.onnx").read_bytes()


def test_the_bytes_come_from_the_store_and_not_through_the_registry(server: ScriptedServer, tmp_path: Path) -> None:
    with store() as (url, asked):
        signs(server, url)
        assert downloaded(server, tmp_path) == CONTENT
    assert asked == ["bytes=0-"]
    assert not server.calls["DownloadFile"]


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_store_that_refuses_leaves_it_to_the_registry(server: ScriptedServer, tmp_path: Path, status: int) -> None:
    with store(status=status) as (url, _):
        signs(server, url)
        assert downloaded(server, tmp_path) == CONTENT
    assert [call.offset_bytes for call in server.calls["DownloadFile"]] == [0]


def test_a_store_that_breaks_off_leaves_the_rest_to_the_registry(server: ScriptedServer, tmp_path: Path) -> None:
    with store(cut_after=700_000) as (url, _):
        signs(server, url)
        assert downloaded(server, tmp_path) == CONTENT
    (call,) = server.calls["DownloadFile"]
    assert 0 < call.offset_bytes <= 700_000


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/m.onnx", "ftp://127.0.0.1/m.onnx", "http://["])
def test_a_url_that_leads_nowhere_leaves_it_to_the_registry(server: ScriptedServer, tmp_path: Path, url: str) -> None:
    signs(server, url)
    assert downloaded(server, tmp_path) == CONTENT


def test_a_registry_that_signs_nothing_streams(server: ScriptedServer, tmp_path: Path) -> None:
    signs(server, "")
    assert downloaded(server, tmp_path) == CONTENT
    assert len(server.calls["CreateDownloadUrl"]) == 1


def test_other_bytes_of_the_store_are_not_taken(server: ScriptedServer, tmp_path: Path) -> None:
    with store(content=CONTENT[:-1] + b"!") as (url, _):
        signs(server, url)
        with pytest.raises(Exception, match="SHA-256"):
            downloaded(server, tmp_path)
    assert not (tmp_path / "copy.onnx").exists()
