"""A mailbox: an SMTP server on loopback that takes what comes, spoken by hand."""

from __future__ import annotations

import email
import email.policy
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Mailbox:
    """The messages that came, each as its subject and text."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.port = 0

    def take(self, raw: bytes) -> None:
        message = email.message_from_bytes(raw, policy=email.policy.default)
        body = message.get_body(("plain", "html"))
        self.messages.append(f"{message['Subject']}\n{body.get_content() if body else ''}")


class _Session(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        self._say("220 mailbox")
        while line := self.rfile.readline().strip():
            verb = line.split(b" ")[0].upper()
            if verb == b"EHLO":
                self._say("250-mailbox", "250 8BITMIME")
            elif verb == b"DATA":
                self._say("354 go on")
                self.server.mailbox.take(self._data())
                self._say("250 taken")
            elif verb == b"QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 fine")

    def _data(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line[1:] if line.startswith(b"..") else line)
        return b"".join(lines)

    def _say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    mailbox: Mailbox


@contextmanager
def receiving_mail() -> Iterator[Mailbox]:
    """Listen on loopback."""
    mailbox = Mailbox()
    with _Server(("127.0.0.1", 0), _Session) as server:
        server.mailbox = mailbox
        mailbox.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield mailbox
        server.shutdown()
        thread.join()
