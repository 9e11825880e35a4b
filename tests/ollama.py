"""A stand-in for an Ollama server: none can be had where these tests run.

It speaks what Ollama documents of its HTTP API (docs/api.md of its repository): /api/chat and /api/generate with
newline-delimited JSON, /api/embed, /api/show, and its errors. It writes no sense: a model of it says what a test lets
it say, and may be told to misbehave. That a real server behaves so, these tests cannot show.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WAIT_S = 60.0
PATHS = ("/api/chat", "/api/generate", "/api/embed", "/api/show")


class Exchange:
    """One request, and the ways to answer it."""

    def __init__(self, handler: BaseHTTPRequestHandler, document: dict[str, Any]) -> None:
        self.path = handler.path
        self.document = document
        self.headers = handler.headers
        self._handler = handler

    def begin(self, status: int = 200, **headers: str) -> None:
        """Send the head of a streamed answer."""
        self._handler.send_response(status)
        for name, value in {"Content-Type": "application/x-ndjson", **headers}.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()

    def raw(self, data: bytes) -> None:
        """Send bytes of a streamed answer."""
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def line(self, **fields: Any) -> None:
        """Send a line of a streamed answer."""
        self.raw(json.dumps(fields).encode() + b"\n")

    def say(self, text: str, **more: Any) -> None:
        """Send a piece of a text, as the path has it."""
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}} if self.path == "/api/chat" else {"response": text}
        )
        self.line(model=self.document["model"], created_at="2026-01-01T00:00:00Z", **said, **{"done": False, **more})

    def finish(self, reason: str = "stop", prompt: int = 7, written: int = 3) -> None:
        """Send the last line, and end the answer."""
        self.say("", done=True, done_reason=reason, total_duration=5, prompt_eval_count=prompt, eval_count=written)
        self._handler.wfile.write(b"0\r\n\r\n")

    def whole(self, document: Any, status: int = 200, **headers: str) -> None:
        """Send a whole answer at once."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.send_header("Content-Length", str(len(data)))
        self._handler.end_headers()
        self._handler.wfile.write(data)

    def hang_up(self) -> None:
        """Close the connection as it stands."""
        self._handler.close_connection = True

    def until_closed(self) -> None:
        """Wait until the client has closed its side."""
        self._handler.connection.settimeout(WAIT_S)
        with suppress(ConnectionError):
            assert self._handler.connection.recv(1) == b""
        self.hang_up()


Behaviour = Callable[[Exchange], None]


def well(exchange: Exchange) -> None:
    """Answer as a model does: words that echo what came, or a vector of its length."""
    document = exchange.document
    if exchange.path == "/api/embed":
        text = str(document["input"])
        exchange.whole({"model": document["model"], "embeddings": [[float(len(text)), 1.0]], "total_duration": 1})
        return
    asked = document["messages"][-1]["content"] if exchange.path == "/api/chat" else document["prompt"]
    exchange.begin()
    for word in ("you said ", str(asked)):
        exchange.say(word)
    exchange.finish()


class StubOllama(ThreadingHTTPServer):
    """The server. `models` says how each of its models behaves; `exchanges` is what was asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.models: dict[str, Behaviour] = {}
        self.shows: Behaviour | None = None
        self.exchanges: list[Exchange] = []
        self.connections: list[socket.socket] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Its base URL; its certificate, where it has one, is for localhost."""
        if isinstance(self.socket, ssl.SSLSocket):
            return f"https://localhost:{self.server_address[1]}"
        return f"http://127.0.0.1:{self.server_address[1]}"

    def secure(self, cert_file: Path, key_file: Path) -> None:
        """Speak TLS from now on, as a proxy before Ollama does."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert_file, key_file)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away: tests do that."""

    def stop(self) -> None:
        """Be gone, as a server whose process ends."""
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def asked(self, path: str) -> list[dict[str, Any]]:
        """What was asked at a path."""
        return [each.document for each in self.exchanges if each.path == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    disable_nagle_algorithm = True
    server: StubOllama

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections.append(self.connection)

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        exchange = Exchange(self, document)
        self.server.exchanges.append(exchange)
        behave = self.server.models.get(document.get("model", ""))
        if self.path not in PATHS:
            exchange.whole(b"404 page not found", 404)
        elif behave is None:
            exchange.whole({"error": f"model '{document.get('model')}' not found"}, 404)
        elif self.path == "/api/show":
            (self.server.shows or _show)(exchange)
        else:
            behave(exchange)

    def log_message(self, *args: Any) -> None:
        """Keep the tests' output clean."""


def _show(exchange: Exchange) -> None:
    exchange.whole({"details": {"family": "stub", "format": "gguf"}, "model_info": {}, "capabilities": ["completion"]})


@contextmanager
def running(port: int = 0, **models: Behaviour) -> Iterator[StubOllama]:
    """Run one with these models; underscores in their names are colons."""
    stub = StubOllama(port)
    stub.models = {name.replace("_", ":"): behave for name, behave in models.items()}
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.stop()
        thread.join()
