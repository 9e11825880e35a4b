"""Changes of the registry on their way into the catalog: a version that goes live is loaded first.

Until it is, the one before it answers. One model's slow load holds up the later changes of that model, in their order,
and no other model's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from queue import SimpleQueue

import structlog

from services.inference.catalog import Catalog, CatalogVersion
from services.inference.models import ResolvedVersion

_log = structlog.get_logger(__name__)
PARALLEL_MODELS = 4

Prepare = Callable[[ResolvedVersion], None]
"""Loads a version that is about to take another's place; returns when it is loaded, or cannot be."""


class Takeovers:
    """Brings changes into the catalog: at once, or once what goes live is in memory."""

    def __init__(self, catalog: Catalog, prepare: Prepare) -> None:
        self._catalog = catalog
        self._prepare = prepare
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
            self._catalog.replace(versions)

    def update(self, versions: Iterable[CatalogVersion]) -> None:
        """Take in what one transaction changed."""
        ordered = sorted(versions, key=lambda version: version.model)
        for model, group in groupby(ordered, key=lambda version: version.model):
            self._update_model(model, tuple(group))

    def _update_model(self, model: str, versions: Sequence[CatalogVersion]) -> None:
        with self._lock:
            waiting = self._waiting.get(model)
            if waiting is not None:
                waiting.append(versions)
                return
            if not self._going_live(versions):
                self._catalog.update(versions)
                return
            waiting = self._waiting[model] = deque([versions])
        self._work.put((model, waiting))

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
                    waiting.popleft()
                    self._catalog.update(versions)

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
