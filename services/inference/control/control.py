"""What is loaded, and the hands on it: the same on every worker of the service."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Protocol

from services.inference.following.catalog import Catalog
from services.inference.models import ResolvedVersion
from services.inference.sessions.cached_session import SessionInfo
from services.inference.sessions.caches import SessionCaches
from services.inference.workers.commands import Arguments, Broadcast, Commands, Decision, Reply, Result, results

LOAD: Final = "sessions.load"
PIN: Final = "sessions.pin"
UNLOAD: Final = "sessions.unload"
LIST: Final = "sessions.list"
QUICK_TIMEOUT_S: Final = 10.0
REPLY_MARGIN_S: Final = 1.0
"""A worker whose load runs out of time has this long to say so."""


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version in one worker's memory; `last_use_s` is seconds since the epoch."""

    model: str
    version: str
    framework: str
    size_bytes: int
    in_flight_count: int
    pinned: bool
    last_use_s: float
    load_ms: float
    worker: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """What is in memory by model, version and worker, what it may take and takes, in bytes, on all workers."""

    sessions: Sequence[LoadedVersion]
    budget_bytes: int
    used_bytes: int


class Pins(Protocol):
    """Sees to it that a version is in memory and stays there, as soon as this process knows it."""

    def pin(self, model: str, version: str) -> None:
        """Load a version and keep it."""
        ...

    def unpin(self, model: str, version: str) -> None:
        """Leave a version, or all of a model where it is empty, to itself."""
        ...


class SessionCommands:
    """This worker's part: loads, unloads and lists what is in its own memory."""

    def __init__(self, catalog: Catalog, sessions: SessionCaches, pins: Pins) -> None:
        self._catalog = catalog
        self._sessions = sessions
        self._pins = pins

    def add_to(self, commands: Commands) -> None:
        """Let this process be told. What is pinned is loaded and kept by workers that come later too."""
        commands.add(LOAD, self._load, slow=True)
        commands.add(PIN, self._pin, remember=_pinned)
        commands.add(UNLOAD, self._unload, remember=_unpinned)
        commands.add(LIST, self._list)

    def _load(self, arguments: Arguments) -> Result:
        """Load an exact version; raises as `SessionCaches.acquire` does, but for failures that are remembered."""
        version = self._catalog.resolve(arguments["model"], arguments["version"])
        if not self._sessions.is_loaded(version.key):
            self._sessions.forget_failure(version.key)
        self._sessions.release(self._sessions.acquire(version, arguments["timeout_s"]))
        if arguments["pin"]:
            self._sessions.pin(version.key, pinned=True)
        return {"sessions": self._find(version.model, version.version)}

    def _pin(self, arguments: Arguments) -> Result:
        self._pins.pin(arguments["model"], arguments["version"])
        return {}

    def _unload(self, arguments: Arguments) -> Result:
        """Unload a version, or every version of a model that is loaded."""
        model, version = arguments["model"], arguments["version"]
        self._pins.unpin(model, version)
        loaded = [each.version for each in self._sessions.list_sessions() if _is(each.version, model, version)]
        return {"count": sum(self._sessions.unload(each.key) for each in loaded)}

    def _list(self, arguments: Arguments) -> Result:
        return {
            "sessions": self._find(arguments["model"], ""),
            "budget_bytes": sum(cache.limits.budget_bytes for cache in self._sessions.caches.values()),
            "used_bytes": self._sessions.used_bytes,
        }

    def _find(self, model: str, version: str) -> list[Result]:
        now_s = time.time()
        return [
            asdict(_loaded(session, now_s))
            for session in self._sessions.list_sessions()
            if _is(session.version, model, version)
        ]


class SessionControl:
    """Loads, unloads and lists on every worker."""

    def __init__(self, catalog: Catalog, broadcast: Broadcast, *, load_wait_s: float) -> None:
        self._catalog = catalog
        self._broadcast = broadcast
        self._load_wait_s = load_wait_s

    def load(self, model: str, selector: str, *, pin: bool, remaining_s: float | None = None) -> list[LoadedVersion]:
        """Load a version on every worker, and give its sessions.

        Raises:
            NotFound, FailedPrecondition: as `Catalog.resolve` does.
            DomainError: what the load itself raises; DeadlineExceeded(MODEL_LOADING) where it goes on.
            ResourceExhausted: it is loaded, but more is pinned than new workers can be told (COMMANDS_EXHAUSTED).
            Unavailable: WORKER_SILENT.
        """
        version = self._catalog.resolve(model, selector)
        wait_s = self._load_wait_s if remaining_s is None else max(0.0, min(self._load_wait_s, remaining_s))
        arguments = {"model": model, "version": version.version, "pin": pin, "timeout_s": wait_s}
        replies = self._broadcast.send(LOAD, arguments, wait_s + REPLY_MARGIN_S)
        results(replies)
        if pin:  # said apart, since it is quick: while something is decided, no worker can begin
            results(self._broadcast.send(PIN, {"model": model, "version": version.version}, QUICK_TIMEOUT_S))
        return _sessions_of(replies)

    def unload(self, model: str, selector: str) -> int:
        """Unload a version, or all of a model where the selector is empty; says how many sessions that were.

        Raises as `Catalog.resolve` does, and Unavailable(WORKER_SILENT).
        """
        version = self._catalog.resolve(model, selector).version if selector else ""
        if not version and model not in self._catalog.models():
            self._catalog.resolve(model, "")  # says that it is not known
        replies = self._broadcast.send(UNLOAD, {"model": model, "version": version}, QUICK_TIMEOUT_S)
        return sum(result["count"] for result in results(replies))

    def list_sessions(self, model: str) -> Memory:
        """List what is in memory, of one model or of all; raises Unavailable(WORKER_SILENT)."""
        replies = self._broadcast.send(LIST, {"model": model}, QUICK_TIMEOUT_S)
        found = results(replies)
        return Memory(
            _sessions_of(replies),
            sum(result["budget_bytes"] for result in found),
            sum(result["used_bytes"] for result in found),
        )


def _pinned(arguments: Arguments) -> Decision:
    return Decision((PIN, arguments["model"], arguments["version"]))


def _unpinned(arguments: Arguments) -> Decision:
    return Decision((PIN, arguments["model"], *filter(None, [arguments["version"]])), keeps=False)


def _is(version: ResolvedVersion, model: str, name: str) -> bool:
    return (not model or version.model == model) and (not name or version.version == name)


def _loaded(session: SessionInfo, now_s: float) -> LoadedVersion:
    version = session.version
    return LoadedVersion(
        version.model,
        version.version,
        version.framework,
        session.size_bytes,
        session.in_flight,
        session.pinned,
        now_s - session.idle_s,
        session.load_s * 1000,
    )


def _sessions_of(replies: Sequence[Reply]) -> list[LoadedVersion]:
    found = [
        LoadedVersion(**{**session, "worker": reply.worker})
        for reply in replies
        for session in reply.result.get("sessions", ())
    ]
    return sorted(found, key=lambda each: (each.model, each.version, each.worker))
