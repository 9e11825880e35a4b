"""Answers in a Redis or Valkey that several processes share. Without it every look is in vain, and nothing fails.

Each look fetches the answer together with two tickets: random words that a purge replaces, one for all models and one
for each. An answer counts only under the tickets that it was kept under, so a purge holds at once and for everybody;
that the old answers are also deleted only makes room.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from typing import Final

from services.common.errors import Unavailable
from services.common.pools import WAITING
from services.inference.caching.answers import AnswerKey, Found, Held, KeptAnswer
from services.inference.caching.bounded_client import BoundedClient, Unanswered
from services.inference.caching.breaker import CircuitBreaker
from services.inference.caching.shared_format import decode
from services.inference.caching.writer import MAX_WAITING_BYTES, AnswerWriter

log = logging.getLogger(__name__)

PREFIX: Final = "penstock:answers:1"
PATIENCE_S: Final = 1.0
"""How long a write or a purge, which no request waits for, waits for its answer."""
PURGE_LIMIT_S: Final = 10.0
SCAN_COUNT: Final = 1_000
TICKET_BYTES: Final = 16
TICKET_LIFE_MS: Final = 31 * 86_400_000
"""Longer than any answer."""
MAX_REPLY_BYTES: Final = MAX_WAITING_BYTES + 2**20
"""More than any answer that is ever written."""
NO_TICKET: Final = bytes(TICKET_BYTES)


class SharedAnswers:
    """See AnswerStore. A look that takes longer than `timeout_ms` in all, or finds nonsense, is in vain."""

    backend = "redis"
    shared = True

    def __init__(self, url: str, *, timeout_ms: int) -> None:
        self._client = BoundedClient(url, timeout_s=timeout_ms / 1000, max_bytes=MAX_REPLY_BYTES)
        self._patient = BoundedClient(url, timeout_s=PATIENCE_S, max_bytes=MAX_REPLY_BYTES)
        self._breaker = CircuitBreaker()
        self._writer = AnswerWriter(self._write)

    def open(self) -> None:
        """Start the thread that writes; nothing connects yet."""
        self._writer.open()

    def find(self, key: AnswerKey) -> Found:
        """Look for an answer."""
        if not self._breaker.allows():
            key.counts.error()
            return Found(None, None)
        names = [f"{PREFIX}:purged", f"{PREFIX}:purged:{key.model}", _name(key)]
        try:
            with self._client.call() as client:
                with WAITING:
                    found = client.mget(names)
                of_all, of_model, value = found
                ticket = _ticket(of_all) + _ticket(of_model)
                answer = decode(value, ticket) if value is not None else None
        except Unanswered as error:
            self._failed(error)
            key.counts.error()
            return Found(None, None)
        if self._breaker.succeeded():
            log.info("the shared response cache answers again")
        return Found(answer, ticket)

    def keep(self, key: AnswerKey, answer: KeptAnswer, ticket: bytes, ttl_ms: int) -> None:
        """Have an answer written; one more than can wait is let go."""
        self._writer.put(key, answer, ticket, ttl_ms)

    def purge(self, model: str) -> int:
        """Forget a model's answers, "": all; says how many were deleted, of very many those of the first 10 s."""
        scope = f":{model}" if model else ""
        try:
            with self._patient.call() as client:
                client.set(f"{PREFIX}:purged{scope}", os.urandom(TICKET_BYTES), px=TICKET_LIFE_MS)
            return sum(map(self._unlink, self._names(scope)))
        except Unanswered as error:
            self._failed(error)
            raise Unavailable(
                f"the shared response cache does not answer ({error}); purge again when it does",
                reason="CACHE_UNREACHABLE",
            ) from error

    def held(self) -> Held:
        """Say whether it answers; what it keeps is its own affair."""
        try:
            with self._patient.call() as client:
                return Held(reachable=bool(client.ping()))
        except Unanswered:
            return Held(reachable=False)

    def close(self) -> None:
        """Write what waits, as far as it answers, and hang up."""
        self._writer.close()
        self._client.close()
        self._patient.close()

    def flush(self) -> None:
        """Wait until all that was to be kept is written, or given up."""
        self._writer.flush()

    def _names(self, scope: str) -> Iterator[list[bytes]]:
        until = time.monotonic() + PURGE_LIMIT_S
        cursor = 0
        while time.monotonic() < until:
            with self._patient.call() as client:
                cursor, found = client.scan(cursor, match=f"{PREFIX}:of{scope}:*", count=SCAN_COUNT)
                names = list[bytes](found)
            if names:
                yield names
            if not cursor:
                return

    def _unlink(self, names: list[bytes]) -> int:
        with self._patient.call() as client:
            return int(client.unlink(*names))

    def _write(self, key: AnswerKey, value: bytes, ttl_ms: int) -> None:
        if not self._breaker.allows():
            key.counts.error()
            return
        try:
            with self._patient.call() as client:
                client.set(_name(key), value, px=ttl_ms)
        except Unanswered as error:
            self._failed(error)
            key.counts.error()
            return
        self._breaker.succeeded()
        key.counts.stored()

    def _failed(self, error: Exception) -> None:
        if self._breaker.failed():
            log.warning(
                "the shared response cache does not answer; requests go to the models: %s", error.__cause__ or error
            )


def _name(key: AnswerKey) -> str:
    return f"{PREFIX}:of:{key.model}:{key.digest.hex()}"


def _ticket(found: bytes | None) -> bytes:
    return found if found is not None and len(found) == TICKET_BYTES else NO_TICKET
