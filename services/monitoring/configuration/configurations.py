"""Configurations: asked for by every part, set by people, and the same on every replica within seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from services.common import pages
from services.common.errors import Aborted, InvalidArgument, Unavailable
from services.common.keys import caller
from services.monitoring.configuration.models import Change, Effective, Own, Scope, Standing
from services.monitoring.configuration.rules import contradictions, etag_of
from services.monitoring.configuration.store import ConfigurationStore

Clock = Callable[[], datetime]
LOOK_INTERVAL_S = 1.0
DEFAULT_PAGE_SIZE = 100
MAX_KNOWN = 10_000


class Configurations:
    """How models are watched. Threads may share it."""

    def __init__(self, store: ConfigurationStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._known = _Known({})
        self._revision = -1
        self._next_look_s = 0.0

    def effective(self, model: str = "", version: str = "") -> Effective:
        """Say what holds for a version, a model or all; a change holds after a second, whoever made it where.

        It asks the database at most once a second, and otherwise costs nothing. While the database is away, what was
        read last holds.

        Raises:
            Unavailable: the database can't be reached, and nothing was read yet.
        """
        if time.monotonic() >= self._next_look_s:
            with self._lock:
                self._look()
        return self._known.effective(Scope(model, version))

    def get(self, scope: Scope) -> Standing:
        """Give what holds for a scope and what it says itself, as the database has it now."""
        _, said = self._store.read()
        return _standing(said, scope)

    def set(self, scope: Scope, own: Own, *, etag: str, note: str) -> Standing:
        """Have a scope say this and nothing else; what it says already is no change, and is not logged.

        Raises:
            InvalidArgument: what would hold contradicts itself (INVALID_CONFIGURATION).
            Aborted: another change came first (ETAG_MISMATCH).
        """
        with self._store.changing() as change:
            before = change.own.get(scope, {})
            if etag and etag != etag_of(before):
                raise Aborted(
                    "the configuration is another one by now; read it again, and set it with the etag that it has then",
                    reason="ETAG_MISMATCH",
                )
            said = {**change.own, scope: own}
            violations = tuple(contradictions(scope, own, _effective(said, scope)))
            if violations:
                raise InvalidArgument(
                    "; ".join(f"{each.field}: {each.description}" for each in violations),
                    reason="INVALID_CONFIGURATION",
                    violations=violations,
                )
            if etag_of(own) != etag_of(before):
                change.write(scope, own, changed_by=caller().name, note=note, time=self._clock())
        self._next_look_s = 0.0
        return _standing(said, scope)

    def changes(self, model: str, *, size: int, token: str) -> tuple[Sequence[Change], str]:
        """List changes, the newest first, and the token of the next page; empty on the last.

        Raises:
            InvalidArgument: the size or the token.
        """
        size = pages.page_size(size, default=DEFAULT_PAGE_SIZE)
        bound_to = {"model": model}
        found = self._store.changes(model, before=_position(pages.decode(token, bound_to)), limit=size + 1)
        if len(found) <= size:
            return found, ""
        return found[:size], pages.encode([found[size - 1].number], bound_to)

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return  # another thread has looked while this one waited
        try:
            if self._revision < 0 or self._store.revision() != self._revision:
                self._revision, said = self._store.read()
                self._known = _Known(said)
        except Unavailable:
            if self._revision < 0:
                raise
        self._next_look_s = now_s + LOOK_INTERVAL_S


class _Known:
    """What all scopes say at one revision, and what comes of it for those that were asked for."""

    def __init__(self, said: Mapping[Scope, Own]) -> None:
        self._said = said
        self._effective: dict[Scope, Effective] = {}

    def effective(self, scope: Scope) -> Effective:
        """Say what holds for a scope."""
        found = self._effective.get(scope)
        if found is None:
            found = _effective(self._said, scope)
            if len(self._effective) < MAX_KNOWN:
                self._effective[scope] = found
        return found


def _effective(said: Mapping[Scope, Own], scope: Scope) -> Effective:
    found = Effective()
    for each in scope.lineage:
        found = found.overlaid(said.get(each, {}))
    return found


def _standing(said: Mapping[Scope, Own], scope: Scope) -> Standing:
    own = said.get(scope, {})
    return Standing(_effective(said, scope), own, etag_of(own))


def _position(position: list[Any] | None) -> int | None:
    """Read what a token of ours says; it is not signed, so it is looked at like any input."""
    match position:
        case None:
            return None
        case [int(number)] if 0 < number < 2**63:
            return number
    raise pages.unknown_token()
