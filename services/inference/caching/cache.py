"""The response cache: which answers are looked for and kept, and what operators do with them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from services.common.errors import InvalidArgument
from services.inference.caching.answers import AnswerKey, AnswerStore, Held, KeptAnswer, size_bytes
from services.inference.caching.counts import CacheStatistics, VersionCounts
from services.inference.caching.request_digest import RequestDigests
from services.inference.engine.requests import InferenceAnswer, InferenceRequest
from services.inference.models import ResolvedVersion
from services.inference.workers.commands import Arguments, Broadcast, Commands, Result, results

HIT: Final = "HIT"
MISS: Final = "MISS"
CACHE_KEY: Final = "penstock-cache"
"""Under which the trailing metadata of an answer say which of the two it was; absent where the cache was not asked."""
COMMAND_TIMEOUT_S: Final = 15.0
_HELD, _RESET, _PURGE = "response_cache.held", "response_cache.reset", "response_cache.purge"


@dataclass(frozen=True, slots=True)
class CacheDefaults:
    """What holds where a version's policy does not say: how long an answer is kept, and how large it may be."""

    ttl_ms: int
    max_answer_bytes: int


class Lookup:
    """One look: an answer, or the way to keep the one that the model gives. `duration_ns`: what looking took."""

    __slots__ = ("_defaults", "_key", "_store", "_ticket", "_version", "answer", "duration_ns")

    def __init__(
        self, key: AnswerKey, version: ResolvedVersion, store: AnswerStore, defaults: CacheDefaults, began_ns: int
    ) -> None:
        self._key = key
        self._version = version
        self._store = store
        self._defaults = defaults
        found = store.find(key)
        self._ticket = found.ticket
        self.answer = None if found.answer is None else _answer(version, found.answer)
        self.duration_ns = duration_ns = time.monotonic_ns() - began_ns
        if self.answer is None:
            key.counts.miss()
        else:
            key.counts.hit()
            self.answer.timings.total_ns = duration_ns

    def keep(self, answer: InferenceAnswer) -> None:
        """Say that the model was asked, and keep what it answered; a failure is never kept."""
        answer.cache = MISS
        if answer.error is not None or self._ticket is None:
            return
        policy = self._version.serving.response_cache
        if size_bytes(answer.outputs) > (policy.max_answer_bytes or self._defaults.max_answer_bytes):
            return
        kept = KeptAnswer.of(answer.outputs, answer.row_count)
        self._store.keep(self._key, kept, self._ticket, policy.ttl_ms or self._defaults.ttl_ms)


class ResponseCache:
    """Looks for answers, and keeps them."""

    def __init__(self, store: AnswerStore, statistics: CacheStatistics, defaults: CacheDefaults) -> None:
        self.store = store
        self.statistics = statistics
        self._defaults = defaults
        self._digests = RequestDigests()

    def look(self, request: InferenceRequest, version: ResolvedVersion) -> Lookup | None:
        """Look for the answer to a request; None where its like is not kept."""
        if generates(version):
            return None
        began_ns = time.monotonic_ns()
        try:
            digest = self._digests.digest(version, request.inputs, request.outputs)
        except InvalidArgument:
            return None  # the model will say what is wrong with it
        counts = self.statistics.of(version.model, version.version)
        return Lookup(AnswerKey(version.model, digest, counts), version, self.store, self._defaults, began_ns)


class CacheDesk:
    """What operators ask of the cache, of all workers at once."""

    def __init__(self, cache: ResponseCache, commands: Commands, broadcast: Broadcast) -> None:
        self._cache = cache
        self._broadcast = broadcast
        commands.add(_HELD, self._held)
        commands.add(_RESET, self._reset)
        commands.add(_PURGE, self._purge)

    @property
    def backend(self) -> str:
        """Where answers are kept: `memory` or `redis`."""
        return self._cache.store.backend

    def held(self) -> Held:
        """Say what is kept, by all workers together."""
        if self._cache.store.shared:
            return self._cache.store.held()
        replies = [Held(**each) for each in results(self._broadcast.send(_HELD, {}, COMMAND_TIMEOUT_S))]
        return Held(
            reachable=True,
            entry_count=sum(each.entry_count for each in replies),
            size_bytes=sum(each.size_bytes for each in replies),
            max_bytes=sum(each.max_bytes for each in replies),
        )

    def counts(self, model: str) -> list[VersionCounts]:
        """Read the counts of a model's versions, "": of all; those that are not all zero."""
        return [
            each
            for each in self._cache.statistics.all()
            if model in ("", each.model) and (each.hits or each.misses or each.stored or each.evicted or each.errors)
        ]

    def reset(self) -> None:
        """Set the counts to zero."""
        results(self._broadcast.send(_RESET, {}, COMMAND_TIMEOUT_S))

    def purge(self, model: str) -> int:
        """Forget a model's answers, "": all, and say how many; raises Unavailable (CACHE_UNREACHABLE)."""
        if self._cache.store.shared:
            return self._cache.store.purge(model)
        replies = results(self._broadcast.send(_PURGE, {"model": model}, COMMAND_TIMEOUT_S))
        return sum(int(each["entry_count"]) for each in replies)

    def _held(self, _: Arguments) -> Result:
        held = self._cache.store.held()
        return {"entry_count": held.entry_count, "size_bytes": held.size_bytes, "max_bytes": held.max_bytes}

    def _reset(self, _: Arguments) -> Result:
        self._cache.statistics.reset()
        return {}

    def _purge(self, arguments: Arguments) -> Result:
        return {"entry_count": self._cache.store.purge(str(arguments["model"]))}


def generates(version: ResolvedVersion) -> bool:
    """Whether a version writes texts, another one each time that it is asked: such answers are never kept."""
    return version.ollama is not None and version.ollama.mode != "embed"


def _answer(version: ResolvedVersion, kept: KeptAnswer) -> InferenceAnswer:
    answer = InferenceAnswer()
    answer.version = version
    answer.outputs = dict(kept.outputs)
    answer.row_count = kept.row_count
    answer.cache = HIT
    return answer
