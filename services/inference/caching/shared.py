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
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.common.errors import Unavailable
from services.common.pools import WAITING
from services.inference.caching.answers import AnswerKey, Found, Held, KeptAnswer
from services.inference.caching.breaker import CircuitBreaker
from services.inference.caching.shared_format import decode
from services.inference.caching.writer import AnswerWriter

log = logging.getLogger(__name__)

PREFIX: Final = "penstock:answers:1"
PATIENCE_S: Final = 1.0
"""How long a write or a purge, which no request waits for, waits for its answer."""
PURGE_LIMIT_S: Final = 10.0
SCAN_COUNT: Final = 1_000
TICKET_BYTES: Final = 16
TICKET_LIFE_MS: Final = 31 * 86_400_000
"""Longer than any answer."""
MAX_CONNECTIONS: Final = 1_024
NO_TICKET: Final = bytes(TICKET_BYTES)
FAILURES: Final = (redis.RedisError, OSError)


class SharedAnswers:
    """See AnswerStore. A look that takes longer than `timeout_ms` is in vain."""

    backend = "redis"
    shared = True

    def __init__(self, url: str, *, timeout_ms: int) -> None:
        self._client = _client(url, timeout_ms / 1000)
        self._patient = _client(url, PATIENCE_S)
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
            with WAITING:
                of_all, of_model, value = self._client.mget(names)
        except FAILURES as error:
            self._failed(error)
            key.counts.error()
            return Found(None, None)
        if self._breaker.succeeded():
            log.info("the shared response cache answers again")
        ticket = _ticket(of_all) + _ticket(of_model)
        return Found(decode(value, ticket) if value is not None else None, ticket)

    def keep(self, key: AnswerKey, answer: KeptAnswer, ticket: bytes, ttl_ms: int) -> None:
        """Have an answer written; one more than can wait is let go."""
        self._writer.put(key, answer, ticket, ttl_ms)

    def purge(self, model: str) -> int:
        """Forget a model's answers, "": all; says how many were deleted, of very many those of the first 10 s."""
        scope = f":{model}" if model else ""
        try:
            self._patient.set(f"{PREFIX}:purged{scope}", os.urandom(TICKET_BYTES), px=TICKET_LIFE_MS)
            return sum(self._patient.unlink(*names) for names in self._names(scope))
        except FAILURES as error:
            self._failed(error)
            raise Unavailable(
                f"the shared response cache does not answer ({type(error).__name__}); purge again when it does",
                reason="CACHE_UNREACHABLE",
            ) from error

    def held(self) -> Held:
        """Say whether it answers; what it keeps is its own affair."""
        try:
            return Held(reachable=bool(self._patient.ping()))
        except FAILURES:
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
        cursor, found = 0, list[bytes]()
        while time.monotonic() < until:
            cursor, found = self._patient.scan(cursor, match=f"{PREFIX}:of{scope}:*", count=SCAN_COUNT)
            if found:
                yield found
            if not cursor:
                return

    def _write(self, key: AnswerKey, value: bytes, ttl_ms: int) -> None:
        if not self._breaker.allows():
            key.counts.error()
            return
        try:
            self._patient.set(_name(key), value, px=ttl_ms)
        except FAILURES as error:
            self._failed(error)
            key.counts.error()
            return
        self._breaker.succeeded()
        key.counts.stored()

    def _failed(self, error: Exception) -> None:
        if self._breaker.failed():
            log.warning("the shared response cache does not answer; requests go to the models: %s", error)


def _client(url: str, timeout_s: float) -> Any:
    # One try: whoever waits has a model to go to.
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        max_connections=MAX_CONNECTIONS,
        client_name="penstock",
        protocol=2,
    )


def _name(key: AnswerKey) -> str:
    return f"{PREFIX}:of:{key.model}:{key.digest.hex()}"


def _ticket(found: bytes | None) -> bytes:
    return found if found is not None and len(found) == TICKET_BYTES else NO_TICKET
