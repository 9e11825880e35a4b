"""Somebody to fetch from who is not what is measured: files of a folder over HTTP/1.1, with ranges, by sendfile.

Run it by `python -m benchmarks.contenders.origin FOLDER PORT`.
"""

from __future__ import annotations

import re
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # as servers of files do: else the end of each range waits for an acknowledgement
    server: _Server

    def do_GET(self) -> None:
        with (self.server.folder / Path(self.path).name).open("rb") as file:
            size = file.seek(0, 2)
            asked = _RANGE.fullmatch(self.headers.get("Range", ""))
            begin = int(asked[1]) if asked else 0
            end = min(size, int(asked[2]) + 1) if asked and asked[2] else size
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(end - begin))
            self.send_header("ETag", f'"{Path(file.name).stat().st_mtime_ns}"')
            if asked:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
            self.end_headers()
            self.wfile.flush()
            assert isinstance(self.connection, socket.socket)
            self.connection.sendfile(file, begin, end - begin)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    folder: Path

    def handle_error(self, *_: object) -> None:
        """Whoever leaves is what some turns end with."""


if __name__ == "__main__":
    with _Server(("127.0.0.1", int(sys.argv[2])), _Handler) as served:
        served.folder = Path(sys.argv[1])
        served.serve_forever()
