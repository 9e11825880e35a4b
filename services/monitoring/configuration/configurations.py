"""Configurations: asked for by every part, set by people, and the same on every replica within seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any

import structlog

from services.common import pages
from services.common.errors import DomainError, EtagMismatch, FieldViolation, InvalidArgument
from services.common.keys import caller
from services.monitoring.configuration.models import Change, Effective, Own, Scope, Standing
from services.monitoring.configuration.rules import contradictions, etag_of
from services.monitoring.configuration.store import Changing, ConfigurationStore, Transaction

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
LOOK_INTERVAL_S = 1.0
DEFAULT_PAGE_SIZE = 100
MAX_KNOWN = 10_000
EffectiveOf = Callable[[Scope], Effective]
Check = Callable[[Transaction, Scope, Iterable[Scope], EffectiveOf, EffectiveOf], Iterable[FieldViolation]]
"""Says what another part would not bear of a change: of which scope, those that say something, what held and would."""


class Configurations:
    """How models are watched. Threads may share it."""

    def __init__(self, store: ConfigurationStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._known = Known({})
        self._revision = -1
        self._keeping = threading.Lock()
        self._next_look_s = 0.0
        self._checks: list[Check] = []

    def also_check(self, check: Check) -> None:
        """Have another part look at each change, in its transaction; before requests come."""
        self._checks.append(check)

    def effective(self, model: str = "", version: str = "") -> Effective:
        """Say what holds for a version, a model or all; a change holds after a second, whoever made it where.

        One caller a second asks the database; the others need not wait for it, and go on with what was read last. That
        holds, too, while the database is away, or hangs.

        Raises:
            DomainError: nothing was read yet, and the database gives no answer.
        """
        if time.monotonic() >= self._next_look_s and self._lock.acquire(blocking=self._revision < 0):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._known.effective(Scope(model, version))

    def hold(self, connection: Transaction) -> Known:
        """Say what holds for all scopes, as it stands: nobody changes any of it until the transaction ends."""
        return Known(Changing(connection).own)

    def get(self, scope: Scope) -> Standing:
        """Give what holds for a scope and what it says itself, as the database has it now."""
        _, said = self._store.read()
        return _standing(said, scope)

    def set(self, scope: Scope, own: Own, *, etag: str, note: str) -> Standing:
        """Have a scope say this and nothing else; what it says already is no change, and is not logged.

        Raises:
            InvalidArgument: what would hold contradicts itself (INVALID_CONFIGURATION).
            EtagMismatch: another change came first.
        """
        with self._store.changing() as change:
            before = change.own.get(scope, {})
            if etag and etag != etag_of(before):
                raise EtagMismatch("the configuration")
            said = {**change.own, scope: own}
            before_of, after_of = partial(_effective, change.own), partial(_effective, said)
            others = (check(change.connection, scope, said, before_of, after_of) for check in self._checks)
            violations = (*_contradictions(said, scope), *chain.from_iterable(others))
            if violations:
                raise InvalidArgument(
                    "; ".join(f"{each.field}: {each.description}" for each in violations),
                    reason="INVALID_CONFIGURATION",
                    violations=violations,
                )
            if etag_of(own) != etag_of(before):
                change.write(scope, own, changed_by=caller().name, note=note, time=self._clock())
        with self._keeping:  # who has set it here finds it so at once, though another's look should hang
            if change.revision > self._revision:
                self._revision, self._known = change.revision, Known(said)
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
        if time.monotonic() < self._next_look_s:
            return  # another thread has looked meanwhile
        before = self._revision
        try:
            if before < 0 or self._store.revision() != before:
                revision, said = self._store.read()
                with self._keeping:
                    if self._revision == before:  # or else something was set here since, and what was read may be older
                        self._revision, self._known = revision, Known(said)
        except DomainError as error:
            if before < 0:
                raise
            _log.warning("configuration not read, what was read last holds", reason=error.reason)
        self._next_look_s = time.monotonic() + LOOK_INTERVAL_S  # from its end: it may have taken longer than that


class Known:
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

    def scopes_below(self, scope: Scope) -> list[Scope]:
        """Name the scopes within this one that say something themselves."""
        return [each for each in self._said if each != scope and scope in each.lineage]


def _effective(said: Mapping[Scope, Own], scope: Scope) -> Effective:
    found = Effective()
    for each in scope.lineage:
        found = found.overlaid(said.get(each, {}))
    return found


def _contradictions(said: Mapping[Scope, Own], changed: Scope) -> Iterator[FieldViolation]:
    """Say what makes no sense where a scope has changed: there, and in those below that say something themselves."""
    yield from contradictions(changed, said[changed], _effective(said, changed))
    for scope, own in said.items():
        if scope != changed and changed in scope.lineage:
            for found in contradictions(scope, own, _effective(said, scope)):
                name = f"{scope.model} {scope.version}".rstrip()
                yield FieldViolation(found.field, f"for {name}, which says more itself: {found.description}")


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
