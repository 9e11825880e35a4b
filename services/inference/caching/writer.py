"""Writes answers to where they are shared on a thread of its own, so that no request waits for it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from services.inference.caching.answers import AnswerKey, KeptAnswer, size_bytes
from services.inference.caching.shared_format import encode

log = logging.getLogger(__name__)

MAX_WAITING: Final = 4_096
MAX_WAITING_BYTES: Final = 64 * 2**20
CLOSE_S: Final = 2.0
Write = Callable[[AnswerKey, bytes, int], None]


class AnswerWriter:
    """Hands answers to `write` in their order; beyond a bound they are let go, and come again with their requests."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: deque[tuple[AnswerKey, KeptAnswer, bytes, int, int]] = deque()
        self._size_bytes = 0
        self._busy = False
        self._closed = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="answer-writer", daemon=True)

    def open(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, key: AnswerKey, answer: KeptAnswer, ticket: bytes, ttl_ms: int) -> None:
        """Have an answer written soon."""
        size = size_bytes(answer.outputs)
        with self._news:
            if self._closed or len(self._waiting) >= MAX_WAITING or self._size_bytes + size > MAX_WAITING_BYTES:
                return
            self._waiting.append((key, answer, ticket, ttl_ms, size))
            self._size_bytes += size
            self._news.notify_all()

    def flush(self) -> None:
        """Wait until nothing waits to be written."""
        with self._news:
            self._news.wait_for(lambda: not self._waiting and not self._busy)

    def close(self) -> None:
        """Write what waits, for two seconds at the most."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while True:
            with self._news:
                self._busy = False
                self._news.notify_all()
                self._news.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                key, answer, ticket, ttl_ms, size = self._waiting.popleft()
                self._size_bytes -= size
                self._busy = True
            try:
                self._write(key, encode(answer, ticket), ttl_ms)
            except Exception:
                # The thread serves all versions: a defect with one answer must not end it.
                log.exception("an answer could not be written to the shared response cache")
