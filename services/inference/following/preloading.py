"""Loads, before anybody asks, what is to be in memory: at the start, and as soon as it is READY."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Protocol

import structlog

from services.common.errors import DomainError
from services.inference.following.catalog import Catalog
from services.inference.models import ResolvedVersion
from services.inference.sessions.cached_session import Sessions

_log = structlog.get_logger(__name__)
RETRY_S = 10.0


class PinnableSessions(Sessions, Protocol):
    """Has the models in memory, and keeps some there; see `SessionCache`."""

    def pin(self, key: str, *, pinned: bool) -> bool:
        """Keep a session whatever else loads, or no longer."""
        ...


class Preloader:
    """One thread that loads, one after another, what is to be in memory: where a version's settings say preload or
    pinned, what is named, and what an operator has pinned.

    `names` are models, or a model and a selector, `iris/1.0.0` or `iris/staging`. Each version is loaded once: what is
    evicted later comes back with its next request. One that cannot be loaded is tried again only where that may help,
    for example because the registry was out of reach.
    """

    def __init__(
        self,
        catalog: Catalog,
        sessions: PinnableSessions,
        names: Sequence[str] = (),
        *,
        load_wait_s: float = 60.0,
        retry_s: float = RETRY_S,
    ) -> None:
        self._catalog = catalog
        self._sessions = sessions
        self._names = [name.strip().partition("/") for name in names if name.strip()]
        self._load_wait_s = load_wait_s
        self._retry_s = retry_s
        self._done: set[str] = set()
        self._told: SimpleQueue[tuple[str, str, bool]] = SimpleQueue()
        self._pins: set[tuple[str, str]] = set()
        self._changed = threading.Event()
        self._stopping = False
        # A daemon: a load that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="preloader", daemon=True)

    def open(self) -> None:
        """Load what is wanted, now and after every change of the catalog."""
        self._catalog.tell(self._changed.set)
        self._changed.set()
        self._thread.start()

    def close(self) -> None:
        """Load nothing more; a load under way is not waited for."""
        self._stopping = True
        self._changed.set()

    def pin(self, model: str, version: str) -> None:
        """Load a version, as soon as it is known, and keep it until it is unpinned."""
        self._told.put((model, version, True))
        self._changed.set()

    def unpin(self, model: str, version: str) -> None:
        """Leave a version, or all of a model where it is empty, to itself. What is loaded stays pinned as it is."""
        self._told.put((model, version, False))

    def _hear(self) -> None:
        """Take in what was said of pins since the last time."""
        while not self._told.empty():
            model, version, pinned = self._told.get()
            if not pinned:
                self._pins -= {each for each in self._pins if each[0] == model and version in ("", each[1])}
                continue
            self._pins.add((model, version))
            known = self._catalog.models().get(model, {}).get(version)
            if known is not None and known.resolved is not None:
                self._done.discard(known.resolved.key)  # it may have been loaded and evicted since

    def _run(self) -> None:
        again = False
        while True:
            self._changed.wait(self._retry_s if again else None)
            self._changed.clear()
            if self._stopping:
                return
            failed = [version for version in self._wanted() if not self._load(version)]
            again = bool(failed)

    def _wanted(self) -> list[ResolvedVersion]:
        """Find what is to be in memory and has not been seen to yet."""
        known = {
            version.resolved.key: version.resolved
            for versions in self._catalog.models().values()
            for version in versions.values()
            if version.resolved is not None
        }
        self._done &= known.keys()
        self._hear()
        wanted = {key: version for key, version in known.items() if self._is_wanted(version)}
        for model, _, selector in self._names:
            try:
                named = self._catalog.resolve(model, selector)
            except DomainError:
                continue  # not there yet; it will be told
            wanted[named.key] = named
        return [version for key, version in wanted.items() if key not in self._done]

    def _is_wanted(self, version: ResolvedVersion) -> bool:
        return version.serving.preload or version.serving.pinned or (version.model, version.version) in self._pins

    def _load(self, version: ResolvedVersion) -> bool:
        """Load one; False: it may help to try again."""
        if self._stopping:
            return True
        try:
            session = self._sessions.acquire(version, self._load_wait_s)
            self._hear()
            if (version.model, version.version) in self._pins:
                self._sessions.pin(version.key, pinned=True)
            self._sessions.release(session)
        except DomainError as error:
            _log.error("what is to be in memory does not load", version=version.key, reason=error.reason)
            if error.retryable:
                return False
        self._done.add(version.key)
        return True
