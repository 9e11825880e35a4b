"""Somebody to fetch from: a real HTTP server on loopback that does what a test tells it to."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class File:
    """A file that is served, and how.

    Attributes:
        content: its bytes.
        etag: None sends none.
        ranges: whether parts of it are given.
        cut_after: answers break off after so many bytes of a body, once for each number, in their order.
        failures: answers before the file is given at all, each a status and headers.
        headers: further ones.
        hold: called before each MiB of a body of more than a byte; it may wait.
    """

    content: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    hold: Callable[[int], None] = lambda _: None


@dataclass
class Origin:
    """A running server: its files by path, and what was asked of it."""

    url: str
    files: dict[str, File] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent_bytes: int = 0

    def serve(self, path: str, content: bytes, **more: object) -> str:
        """Serve a file; gives its URL."""
        self.files[path] = File(content, **more)  # type: ignore[arg-type]
        return f"{self.url}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        origin = self.server.origin
        origin.asked.append((self.path, dict(self.headers)))
        file = origin.files.get(self.path)
        if file is None:
            self.send_error(404)
            return
        if file.failures:
            status, headers = file.failures.pop(0)
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            return
        self._give(origin, file)

    def _give(self, origin: Origin, file: File) -> None:
        asked = _RANGE.fullmatch(self.headers.get("Range", "")) if file.ranges else None
        if asked and self.headers.get("If-Range") not in (None, file.etag):
            asked = None
        begin = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1 if asked and asked[2] else len(file.content), len(file.content))
        body = file.content[begin:end]
        headers = {"Content-Length": str(len(body)), **file.headers}
        if asked:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(file.content)}"
        if file.etag is not None:
            headers["ETag"] = file.etag
        self.send_response(206 if asked else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if file.cut_after and len(body) > 1:
            body = body[: file.cut_after.pop(0)]
        for start in range(0, len(body), 1024 * 1024):
            if len(body) > 1:
                file.hold(begin + start)
            piece = body[start : start + 1024 * 1024]
            self.wfile.write(piece)
            origin.sent_bytes += len(piece)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    origin: Origin

    def handle_error(self, *_: object) -> None:
        """A fetcher that leaves is what some tests are about."""


@contextmanager
def serving() -> Iterator[Origin]:
    """Serve on a port of its own."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.origin = Origin(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.origin
        finally:
            server.shutdown()
            thread.join()


Say = Callable[[socket.socket, str], None]
"""Answers a request, given its head, on a socket; what it does not do, nobody does."""


@contextmanager
def answering(say: Say, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Answer with any bytes at all, as no well-behaved server would; gives the URL. Each request has its thread."""

    def serve(accepted: socket.socket) -> None:
        with suppress(OSError), tls.wrap_socket(accepted, server_side=True) if tls else accepted as connection:
            head = b""
            while b"\r\n\r\n" not in head and (came := connection.recv(4096)):
                head += came
            say(connection, head.decode("latin-1"))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
