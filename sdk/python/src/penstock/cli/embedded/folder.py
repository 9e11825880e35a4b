"""The data folder: what lies where, a lock so that one `penstock up` works on it, and what that one tells others."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from penstock.cli.embedded.errors import AlreadyRunningError, EmbeddedError
from penstock.cli.embedded.processes import find_process

PRIVATE = 0o700
PASSABLE = 0o711
"""As root, PostgreSQL's user must pass through the folder to its own; it can't list it."""


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """A process, told apart from a later one with the same pid by when it was created (s since the epoch)."""

    pid: int
    create_time: float

    @classmethod
    def of(cls, pid: int) -> ProcessMark | None:
        """Mark a living process; None when it is gone already."""
        process = find_process(pid)
        return cls(pid, process.create_time()) if process else None

    def find(self) -> psutil.Process | None:
        """Find the process, None when it is gone."""
        process = find_process(self.pid)
        return process if process and abs(process.create_time() - self.create_time) < 1.0 else None


@dataclass(frozen=True, slots=True)
class State:
    """What a running suite says of itself to `penstock status`, `down` and the other commands."""

    supervisor: ProcessMark
    started_time: str
    """When the suite was started, in ISO 8601, UTC."""
    ready: bool = False
    """Whether everything was healthy once."""
    addresses: dict[str, str] = field(default_factory=dict)
    """Service → host:port of its gRPC endpoint."""
    metrics_addresses: dict[str, str] = field(default_factory=dict)
    """Service → host:port of its Prometheus endpoint."""
    children: dict[str, ProcessMark] = field(default_factory=dict)
    """Name → its process now."""
    restarts: dict[str, int] = field(default_factory=dict)
    """Name → how often it was started again since the suite came up."""


class DataFolder:
    """A folder that holds all that the embedded suite keeps. `lock` before writing to it."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock: int | None = None

    @property
    def postgres(self) -> Path:
        """PostgreSQL's data directory."""
        return self.path / "postgres"

    @property
    def blobs(self) -> Path:
        """The content-addressed files."""
        return self.path / "blobs"

    @property
    def spool(self) -> Path:
        """Events on their way to monitoring."""
        return self.path / "spool"

    @property
    def cache(self) -> Path:
        """Artifacts that inference can fetch again."""
        return self.path / "cache"

    @property
    def jobs_cache(self) -> Path:
        """The same, for batch predictions."""
        return self.path / "jobs-cache"

    @property
    def logs(self) -> Path:
        """A log file per process."""
        return self.path / "logs"

    @property
    def tokens(self) -> Path:
        """Each service's own key."""
        return self.path / "tokens"

    @property
    def secrets_key_file(self) -> Path:
        """What monitoring and the fetcher encrypt the secrets of channels and webhooks with."""
        return self.path / "secrets.key"

    @property
    def keys_file(self) -> Path:
        """The file of API keys that the services read."""
        return self.path / "keys.json"

    @property
    def state_file(self) -> Path:
        """Where the running suite says what it is."""
        return self.path / "state.json"

    def make(self) -> None:
        """Make the folder and those in it, where they are missing; what is there keeps its permissions."""
        self.path.mkdir(parents=True, exist_ok=True, mode=PASSABLE if os.geteuid() == 0 else PRIVATE)
        for folder in (self.blobs, self.spool, self.cache, self.jobs_cache, self.logs, self.tokens):
            folder.mkdir(exist_ok=True, mode=PRIVATE)

    def lock(self) -> None:
        """Make the folder and take its lock, which ends with this process, however that ends.

        Raises AlreadyRunningError, with the holder's pid, when another suite has it.
        """
        try:
            self.make()
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EmbeddedError(f"The data folder {self.path} can't be used: {error.strerror}.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip()
            os.close(descriptor)
            raise AlreadyRunningError(self.path, pid=int(holder) if holder.isdigit() else None) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

    def unlock(self) -> None:
        """Give the lock back. The file stays: removing it would let two hold a lock of that name."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        self.lock()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.unlock()

    def write_state(self, state: State) -> None:
        """Replace the state; whoever reads sees the old one or the new one, whole."""
        write_private(self.state_file, json.dumps(asdict(state), indent=2))

    def read_state(self) -> State | None:
        """Read the last state written, whether its suite still lives or not."""
        try:
            raw = json.loads(self.state_file.read_text())
            raw["supervisor"] = ProcessMark(**raw["supervisor"])
            raw["children"] = {name: ProcessMark(**mark) for name, mark in raw["children"].items()}
            return State(**raw)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # written by another release; the lock, not this file, says whether one runs

    def find_running(self) -> State | None:
        """Find the suite that runs on this folder; None when none does."""
        state = self.read_state()
        return state if state and state.supervisor.find() else None

    def clear_state(self) -> None:
        """Say that nothing runs here any more."""
        self.state_file.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file in one piece, readable by its owner alone at every moment."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
