"""The engine behind the response cache: by the engine's own calls, so that nobody need know whether it is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from services.inference.caching.cache import Lookup, ResponseCache
from services.inference.engine.engine import Engine
from services.inference.engine.requests import InferenceAnswer, InferenceRequest

Done = Callable[[InferenceAnswer], None]


class CachingEngine:
    """Answers from the cache where the version's serving settings say so, and asks the engine for all else.

    A request comes with the version that it was `resolved` to; one that does not is never looked for.
    """

    def __init__(self, engine: Engine, cache: ResponseCache) -> None:
        self._engine = engine
        self._cache = cache

    def infer(self, request: InferenceRequest) -> InferenceAnswer:
        """Answer a request; see `Engine.infer`."""
        lookup = self._look(request)
        if lookup is None:
            return self._engine.infer(request)
        if lookup.answer is not None:
            return lookup.answer
        answer = self._engine.infer(request)
        lookup.keep(answer)
        return answer

    def submit(self, request: InferenceRequest, done: Done) -> None:
        """Answer a request without waiting for it; see `Engine.submit`."""
        lookup = self._look(request)
        if lookup is None:
            self._engine.submit(request, done)
        elif lookup.answer is not None:
            done(lookup.answer)
        else:
            self._engine.submit(request, partial(_keep_and_hand_over, lookup, done))

    def _look(self, request: InferenceRequest) -> Lookup | None:
        version = request.resolved
        if version is None or not version.serving.response_cache.enabled or request.skip_cache:
            return None
        lookup = self._cache.look(request, version)
        if lookup is not None:
            self._engine.count_look(version, hit=lookup.answer is not None, duration_ns=lookup.duration_ns)
        return lookup


def _keep_and_hand_over(lookup: Lookup, done: Done, answer: InferenceAnswer) -> None:
    try:
        lookup.keep(answer)
    finally:
        done(answer)
