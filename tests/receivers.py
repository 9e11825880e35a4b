"""Somebody who receives webhooks: a real HTTP server on loopback that does what a test tells it to."""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.certificates import Pair

HANG_S = 60.0


@dataclass(frozen=True)
class Post:
    """What came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        return self.headers["X-Penstock-Message-Id"]

    @property
    def document(self) -> Any:
        return json.loads(self.body)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.receiver.take(Post(self.path, dict(self.headers), body))(self)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    receiver: Receiver

    def handle_error(self, *_: object) -> None:
        """A sender that leaves is what some tests are about."""


Behaviour = Callable[[_Handler], None]


def answers(status: int = 200, **headers: str) -> Behaviour:
    """Answer with a status; `Retry_After` is the header Retry-After."""

    def answer(handler: _Handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def hangs(handler: _Handler) -> None:
    """Say nothing, until the receiver ends."""
    handler.server.receiver.ended.wait(HANG_S)


def drips(handler: _Handler) -> None:
    """Send a header that never ends, a byte now and then: no time-out of a single read sees that."""
    with suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not handler.server.receiver.ended.wait(0.02):
            handler.wfile.write(b"x")


def drips_its_body(handler: _Handler) -> None:
    """Answer well, and take forever over a body that nobody wants."""
    with suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not handler.server.receiver.ended.wait(0.02):
            handler.wfile.write(b"x")


def floods(handler: _Handler) -> None:
    """Answer well, with a body without end."""
    with suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not handler.server.receiver.ended.is_set():
            handler.wfile.write(b"x" * 65536)


def resets(handler: _Handler) -> None:
    """Break the connection off."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())


def talks_nonsense(handler: _Handler) -> None:
    """Answer in no HTTP."""
    handler.wfile.write(b"220 mail.example ESMTP\r\n")


class Receiver:
    """Keeps what comes; `script` are the behaviours of the coming requests, `otherwise` that of those after."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.script: list[Behaviour] = []
        self.otherwise: Behaviour = answers()
        self.came = threading.Semaphore(0)
        self.ended = threading.Event()
        self.port = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        return [post.message_id for post in self.posts]

    def take(self, post: Post) -> Behaviour:
        with self._lock:
            self.posts.append(post)
            self.came.release()
            return self.script.pop(0) if self.script else self.otherwise

    def wait(self, count: int = 1) -> None:
        """Wait for so many more requests."""
        for _ in range(count):
            assert self.came.acquire(timeout=60), f"only {len(self.posts)} came"


@contextmanager
def receiving(pair: Pair | None = None) -> Iterator[Receiver]:
    """Listen on loopback; with a certificate, over TLS."""
    receiver = Receiver()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.receiver = receiver
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert_file, pair.key_file)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver.port = int(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
