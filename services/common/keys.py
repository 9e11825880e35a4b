"""API keys and roles. One file holds every key's SHA-256; each service reads it, and reads it again when it changes.

A key is 256 random bits, so a fast hash is as safe as a slow one, and the request path can afford it.
The file is JSON: {"keys": [{"id", "name", "role", "kind", "sha256", "create_time", "expire_time",
"requests_per_minute", "bytes_per_minute"}]}; the last two are limits, absent where there are none.
"""

from __future__ import annotations

import enum
import json
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import structlog

from services.common.budgets import Budget, Rates, budget_of
from services.common.errors import FailedPrecondition, PermissionDenied, Unauthenticated

_log = structlog.get_logger(__name__)
RELOAD_INTERVAL_S = 1.0
MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_SEEN = 10_000


class Role(enum.IntEnum):
    """What a caller may do; each role may do all that the ones before it may."""

    PUBLIC = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls."""

    name: str
    role: Role
    expire_time: datetime | None = None
    budget: Budget | None = field(default=None, compare=False, repr=False)
    """What the key may spend; None where it has no limits."""


# Where no keys are configured everyone is this; such a service listens on loopback only.
ANONYMOUS = Principal("anonymous", Role.ADMIN)
_caller: ContextVar[Principal] = ContextVar("caller", default=ANONYMOUS)


def caller() -> Principal:
    """Say who makes the request that this thread works on."""
    return _caller.get()


def become(principal: Principal) -> None:
    """Set who makes the request that this thread works on; for the interceptor."""
    _caller.set(principal)


@dataclass(frozen=True, slots=True)
class _Keys:
    by_digest: Mapping[str, Principal]
    enforced: bool
    """A key of a person's or program's making exists. Keys of kind `service` alone lock nobody out."""
    seen: dict[str, Principal] = field(default_factory=dict)
    """What callers have sent → whom it proved to be, so that a key is hashed once and not with each call."""


class KeyRing:
    """The keys that are in force. With no file, or with service keys alone, everyone is let in.

    Once a key has been needed, one is needed for the life of the process: revoking the last one opens no door.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._keys = _Keys({}, enforced=False)
        self._stamp: tuple[int, int, int] | None = None
        self._next_look = 0.0
        self._lock = threading.Lock()

    def open(self) -> None:
        """Read the file; a missing one is no keys yet. Raises FailedPrecondition for a broken one (KEYS_UNREADABLE)."""
        try:
            self._load()
        except (OSError, ValueError) as error:
            raise FailedPrecondition(
                f"the keys file {self._path} cannot be read: {error}", reason="KEYS_UNREADABLE"
            ) from error

    @property
    def configured(self) -> bool:
        """Whether there is a keys file to look at, present or not."""
        return self._path is not None

    @property
    def enforced(self) -> bool:
        """Whether a key is needed."""
        self._refresh()
        return self._keys.enforced

    def authenticate(self, authorization: str | None) -> Principal:
        """Find the caller by the `authorization` metadata: `Bearer <key>` or the bare key.

        Raises:
            Unauthenticated: no key came (MISSING_KEY), an unknown one (UNKNOWN_KEY) or one past its time
                (EXPIRED_KEY).
        """
        self._refresh()
        keys = self._keys
        principal = keys.seen.get(authorization or "") or _find(keys, authorization)
        if principal.expire_time is not None and principal.expire_time <= datetime.now(UTC):
            raise Unauthenticated(f"the API key {principal.name!r} has expired", reason="EXPIRED_KEY")
        return principal

    def check_still(self, authorization: str | None, role: Role, rpc: str) -> None:
        """Let a call that goes on go on, if its key would still be let in.

        Raises:
            Unauthenticated: the key is gone by now (KEY_REVOKED) or past its time (EXPIRED_KEY); or none came, and one
                is needed since (MISSING_KEY).
            PermissionDenied: its role is another by now (ROLE_TOO_WEAK).
        """
        try:
            principal = self.authenticate(authorization)
        except Unauthenticated as error:
            if error.reason != "UNKNOWN_KEY":
                raise
            raise Unauthenticated(
                f"the API key was revoked while {rpc} went on; call again with one that is in force",
                reason="KEY_REVOKED",
            ) from error
        require(principal, role, rpc)

    def budgets(self) -> list[Budget]:
        """Give the budgets of the keys that have limits, for the metrics."""
        return [each.budget for each in self._keys.by_digest.values() if each.budget is not None]

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._path is None or now < self._next_look:
            return
        if not self._lock.acquire(blocking=False):
            return  # another thread is looking; what is in force stays so until it has
        try:
            self._next_look = now + RELOAD_INTERVAL_S
            self._load()
        except (OSError, ValueError) as error:
            # Fail closed on a broken edit: the keys that were in force stay in force.
            _log.error("keys file not read, the keys in force stay", path=str(self._path), error=str(error))
        finally:
            self._lock.release()

    def _load(self) -> None:
        if self._path is None:
            return
        try:
            status = self._path.stat()
        except FileNotFoundError:
            if self._keys.enforced:
                raise
            return
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return
        if status.st_size > MAX_FILE_BYTES:
            raise ValueError(f"the keys file is over {MAX_FILE_BYTES} bytes")
        read = _parse(json.loads(self._path.read_bytes()), self._keys.by_digest)
        self._keys = replace(read, enforced=read.enforced or self._keys.enforced)
        self._stamp = stamp


def _find(keys: _Keys, authorization: str | None) -> Principal:
    if not keys.enforced and not authorization:
        return ANONYMOUS
    if not authorization:
        raise Unauthenticated(
            "no API key came: send the metadata 'authorization: Bearer <key>' (`penstock key create` makes one)",
            reason="MISSING_KEY",
        )
    token = (authorization[7:] if authorization[:7].lower() == "bearer " else authorization).strip()
    principal = keys.by_digest.get(sha256(token.encode()).hexdigest())
    if principal is not None:
        # Not as it came: one key in thousands of long spellings, all of them kept, would fill the memory.
        if len(keys.seen) < MAX_SEEN and authorization in (f"Bearer {token}", token):
            keys.seen[authorization] = principal
        return principal
    if not keys.enforced:
        return ANONYMOUS
    raise Unauthenticated("the API key is not known here: it was revoked or mistyped", reason="UNKNOWN_KEY")


def _parse(document: Any, before: Mapping[str, Principal]) -> _Keys:
    by_digest: dict[str, Principal] = {}
    enforced = False
    try:
        for entry in document["keys"]:
            known = before.get(entry["sha256"])
            rates = Rates(entry.get("requests_per_minute"), entry.get("bytes_per_minute"))
            by_digest[entry["sha256"]] = Principal(
                name=entry["name"],
                role=Role[entry["role"].upper()],
                expire_time=_expire_time(entry.get("expire_time")),
                budget=budget_of(entry["name"], rates, known.budget if known else None),
            )
            enforced = enforced or entry.get("kind", "user") != "service"
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the keys file is malformed: {error!r}") from error
    return _Keys(by_digest, enforced)


def _expire_time(text: str | None) -> datetime | None:
    if not text:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"expire_time {text} names no time zone; write for example {text}+00:00")
    return time


def require(principal: Principal, role: Role, rpc: str) -> None:
    """Let the caller pass if its role is enough.

    Raises:
        PermissionDenied: it is not (ROLE_TOO_WEAK).
    """
    if principal.role < role:
        raise PermissionDenied(
            f"{rpc} needs the role {role.name.lower()}; the key {principal.name!r} has the role "
            f"{principal.role.name.lower()}",
            reason="ROLE_TOO_WEAK",
        )
