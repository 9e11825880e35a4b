"""Changes of the registry on their way into the catalog: a version that goes live is loaded first.

Until it is, the one before it answers. One model's slow load holds up the later changes of that model, in their order,
and no other model's. What is deleted waits for nothing: nobody is to have another answer from it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from queue import SimpleQueue

import structlog

from services.inference.following.catalog import Catalog, CatalogVersion
from services.inference.models import ResolvedVersion

_log = structlog.get_logger(__name__)
PARALLEL_MODELS = 4

Prepare = Callable[[ResolvedVersion], None]
"""Loads a version that is about to take another's place; returns when it is loaded, or cannot be."""
Settle = Callable[[ResolvedVersion, ResolvedVersion | None], None]
"""Hears what a version that could be served was, and what it is now; None: nothing, it is gone."""


class Takeovers:
    """Brings changes into the catalog: at once, or once what goes live is in memory."""

    def __init__(self, catalog: Catalog, prepare: Prepare, settle: Settle) -> None:
        self._catalog = catalog
        self._prepare = prepare
        self._settle = settle
        self._lock = threading.Lock()
        # Model → its changes that wait behind a load. Replaced whole by a snapshot, which knows better.
        self._waiting: dict[str, deque[Sequence[CatalogVersion]]] = {}
        self._work: SimpleQueue[tuple[str, deque[Sequence[CatalogVersion]]] | None] = SimpleQueue()
        # Daemons: a load that hangs must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._run, name=f"takeover-{number}", daemon=True)
            for number in range(PARALLEL_MODELS)
        ]

    def open(self) -> None:
        """Begin to load what goes live."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Load nothing more. A load under way is not waited for: there are events to be written before the end."""
        with self._lock:
            self._waiting = {}
        for _ in self._threads:
            self._work.put(None)

    def replace(self, versions: Iterable[CatalogVersion]) -> None:
        """Take in a whole snapshot, and forget what waited."""
        with self._lock:
            self._waiting = {}
            before = self._catalog.models()
            self._catalog.replace(versions)
            self._tell(version for model in before.values() for version in model.values())

    def update(self, versions: Iterable[CatalogVersion]) -> None:
        """Take in what one transaction changed."""
        ordered = sorted(versions, key=lambda version: version.model)
        for model, group in groupby(ordered, key=lambda version: version.model):
            self._update_model(model, tuple(group))

    def _update_model(self, model: str, versions: Sequence[CatalogVersion]) -> None:
        with self._lock:
            if deleted := [version for version in versions if version.deleted]:
                self._drop(model, deleted)
                versions = [version for version in versions if not version.deleted]
            waiting = self._waiting.get(model)
            if waiting is not None:
                waiting.append(versions)
                return
            if not self._going_live(versions):
                self._apply(versions)
                return
            waiting = self._waiting[model] = deque([versions])
        self._work.put((model, waiting))

    def _drop(self, model: str, deleted: Sequence[CatalogVersion]) -> None:
        """Take deleted versions out at once; the caller holds the lock."""
        names = {version.version for version in deleted}
        waiting = self._waiting.get(model)
        known = self._catalog.models().get(model, {})
        if waiting is not None and any(_is_live(known.get(name)) for name in names):
            # What still answers goes, so what is to answer in its place comes now, loaded or not.
            del self._waiting[model]
            for versions in waiting:
                self._apply(versions)
        elif waiting is not None:
            for index, versions in enumerate(waiting):
                waiting[index] = [version for version in versions if version.version not in names]
        self._apply(deleted)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            self._work_off(*work)

    def _work_off(self, model: str, waiting: deque[Sequence[CatalogVersion]]) -> None:
        while True:
            with self._lock:
                if self._waiting.get(model) is not waiting:
                    return  # a snapshot came, or the end
                if not waiting:
                    del self._waiting[model]
                    return
                versions = waiting[0]
                going_live = self._going_live(versions)
            for version in going_live:
                try:
                    self._prepare(version)
                except Exception:  # noqa: BLE001 - the registry's word holds, loaded or not; the first request hears why
                    _log.exception("what goes live could not be loaded", version=version.key)
            with self._lock:
                if self._waiting.get(model) is waiting:
                    self._apply(waiting.popleft())  # as it stands now: what was deleted meanwhile is no longer in it

    def _apply(self, versions: Sequence[CatalogVersion]) -> None:
        """Bring versions into the catalog, and tell what became of them; the caller holds the lock."""
        known = self._catalog.models()
        before = [known.get(version.model, {}).get(version.version) for version in versions]
        self._catalog.update(versions)
        self._tell(version for version in before if version is not None)

    def _tell(self, before: Iterable[CatalogVersion]) -> None:
        known = self._catalog.models()
        for version in before:
            now = known.get(version.model, {}).get(version.version)
            if version.resolved is not None and now is not version:
                self._settle(version.resolved, now.resolved if now else None)

    def _going_live(self, versions: Sequence[CatalogVersion]) -> list[ResolvedVersion]:
        known = self._catalog.models()
        return [
            version.resolved
            for version in versions
            if version.resolved is not None
            and version.stage_name == "production"
            and not _is_live(known.get(version.model, {}).get(version.version))
        ]


def _is_live(version: CatalogVersion | None) -> bool:
    return version is not None and version.stage_name == "production"
