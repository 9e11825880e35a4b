"""A TCP proxy with faults to order: cut, deaf, slow, damaging."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from penstock.cli.embedded.ports import free_port

CHUNK_BYTES = 65_536


class Proxy:
    """Stands before a port of this machine; healthy until told otherwise.

    cut: every connection is reset, and new ones are refused. deaf: connections are taken, what is said on them is
    read, and nothing is passed on, in either direction; what was swallowed is gone, so these connections are reset
    when it heals. slow: every chunk waits `delay_s` first. damaging: bytes are swapped for others of the same number.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._lock = threading.Lock()
        self._links: set[tuple[socket.socket, socket.socket]] = set()
        self._listener: socket.socket | None = None
        self._deaf = threading.Event()
        self._ended = threading.Event()
        self._delay_s = 0.0
        self._swapped: tuple[bytes, bytes] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self.cut()

    @property
    def address(self) -> str:
        """host:port, for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def link_count(self) -> int:
        """The connections that are open through it."""
        with self._lock:
            return len(self._links)

    def cut(self) -> None:
        """Reset what is open, and refuse what comes."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):  # wakes its accept, which a close alone would not
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._reset_links()

    def deafen(self) -> None:
        """Take every byte from now on, and pass none on."""
        self._deaf.set()

    def slow_down(self, delay_s: float) -> None:
        """Let every chunk wait first."""
        self._delay_s = delay_s

    def damage(self, right: bytes, wrong: bytes) -> None:
        """Pass on other bytes wherever some are seen in one piece."""
        self._swapped = right, wrong

    def heal(self) -> None:
        """Be a good proxy again."""
        self._delay_s = 0.0
        self._swapped = None
        if self._deaf.is_set():
            self._deaf.clear()
            self._reset_links()
        if self._listener is None:
            self._listen()

    def _listen(self) -> None:
        # A port that the kernel gives to no connection: one of ours, trying again, could take it while it is cut.
        self.port = self.port or free_port()
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        with self._lock:
            self._listener = listener
        threading.Thread(target=self._accept, args=[listener], daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # it was cut
            try:
                link = (client, socket.create_connection(("127.0.0.1", self._target_port)))
            except OSError:
                client.close()  # nobody listens behind us, and the client hears that
                continue
            with self._lock:
                self._links.add(link)
                was_cut = self._listener is not listener
            for source, sink in (link, link[::-1]):
                threading.Thread(target=self._pump, args=[link, source, sink], daemon=True).start()
            if was_cut:
                self._reset_links()

    def _pump(self, link: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # one side is gone, which the other is told now
            while data := source.recv(CHUNK_BYTES):
                if self._delay_s:
                    self._ended.wait(self._delay_s)
                if not self._deaf.is_set():
                    sink.sendall(data.replace(*self._swapped) if self._swapped else data)
        if not self._deaf.is_set():  # else nobody hears of the end either
            self._reset(link)

    def _reset_links(self) -> None:
        with self._lock:
            links = list(self._links)
        for link in links:
            self._reset(link)

    def _reset(self, link: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._links.discard(link)
        for end in link:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
