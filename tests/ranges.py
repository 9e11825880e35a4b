"""Somebody who gives ranges over connections that stay open, as hubs and their CDNs do, and misbehaves as told."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")

Answer = tuple[int, dict[str, str], bytes]
Script = Callable[["Asked", Answer], Answer]
"""Given what is asked, and a well-behaved answer: gives the answer to send; its Content-Length stays as it is."""


@dataclass(frozen=True)
class Asked:
    """A request: the n-th of its file (0: the look at it), for bytes from one up to before another, or all."""

    number: int
    begin: int
    end: int | None
    headers: dict[str, str]
    connection: int


@dataclass
class Ranges:
    """A running server. `asked`: by path; `connections`: how many were opened."""

    url: str
    files: dict[str, tuple[bytes, Script]] = field(default_factory=dict)
    asked: dict[str, list[Asked]] = field(default_factory=dict)
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, path: str, content: bytes, script: Script = lambda _, answer: answer) -> str:
        """Serve a file; gives its URL."""
        self.files[path] = content, script
        self.asked[path] = []
        return f"{self.url}{path}"

    def begins(self, path: str) -> list[int]:
        """Say where each request began, save for the look."""
        return [asked.begin for asked in self.asked[path][1:]]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        with self.server.ranges.lock:
            self.server.ranges.connections += 1
            self.number = self.server.ranges.connections

    def do_GET(self) -> None:
        ranges = self.server.ranges
        content, script = ranges.files[self.path]
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        begin = int(found[1]) if found else 0
        end = int(found[2]) + 1 if found and found[2] else None
        with ranges.lock:
            asked = Asked(len(ranges.asked[self.path]), begin, end, dict(self.headers), self.number)
            ranges.asked[self.path].append(asked)
        body = content[begin:end]
        headers = {"ETag": '"one"', "Content-Length": str(len(body))}
        if found:
            headers["Content-Range"] = f"bytes {begin}-{begin + len(body) - 1}/{len(content)}"
        status, headers, sent = script(asked, (206 if found else 200, headers, body))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)
        if len(sent) < int(headers["Content-Length"]):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    ranges: Ranges

    def handle_error(self, *_: object) -> None:
        """A fetcher that leaves is what some tests are about."""


@contextmanager
def serving_ranges() -> Iterator[Ranges]:
    """Serve on a port of its own."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.ranges = Ranges(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.ranges
        finally:
            with suppress(OSError):
                server.shutdown()
            thread.join()


def empty(status: int, **headers: str) -> Answer:
    """Answer without a body."""
    return status, {"Content-Length": "0", **headers}, b""
