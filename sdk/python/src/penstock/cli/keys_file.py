"""The file of API keys that every service reads: {"keys": [{id, name, role, kind, sha256, create_time, expire_time,
requests_per_minute, bytes_per_minute}]}.

A key is 256 random bits, shown once when it is made; the file holds its SHA-256 alone. Writers take turns under a
lock beside the file, and each write replaces the file whole, so that a reader never meets half of one.
"""

from __future__ import annotations

import enum
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

TOKEN_PREFIX = "pk_"  # noqa: S105 - what every key begins with, so that leaks can be searched for; no secret
TOKEN_BYTES = 32
MAX_KEYS = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


class Role(enum.StrEnum):
    """What a key's bearer may do; each role may do all that the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Kind(enum.StrEnum):
    """Whose key it is. Services let everyone in until a key of kind `user` exists."""

    USER = "user"
    SERVICE = "service"


class KeysFileError(Exception):
    """The keys file can't do what was asked; the message says why, and `reason` stays the same across releases."""

    reason = "KEYS_FILE_BROKEN"


class KeyExists(KeysFileError):
    """A key of that name exists; it is untouched."""

    reason = "KEY_EXISTS"


class KeyNotFound(KeysFileError):
    """No key has that id or name."""

    reason = "KEY_NOT_FOUND"


class InvalidKeyName(KeysFileError):
    """The name is not one that a key may bear."""

    reason = "INVALID_KEY_NAME"


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key once it is made: all but the key itself."""

    id: str
    name: str
    role: Role
    kind: Kind
    sha256: str
    create_time: datetime
    expire_time: datetime | None = None
    requests_per_minute: int | None = None
    """How many calls it may make in each service's process; None is without a limit."""
    bytes_per_minute: int | None = None
    """How many bytes of requests and answers it may move there; None is without a limit."""

    def has_expired(self, now: datetime) -> bool:
        """Say whether services refuse the key by now."""
        return self.expire_time is not None and self.expire_time <= now


class KeysFile:
    """The keys in one file. Safe to use from several processes at once."""

    def __init__(self, path: Path) -> None:
        # A mounted secret is a link: the file that it leads to is replaced, never the link.
        self.path = path.resolve()

    def list(self) -> tuple[Key, ...]:
        """Read the keys, the oldest first; a missing file has none.

        Raises:
            KeysFileError: the file is not one of keys.
            OSError: it can't be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return ()
        try:
            return tuple(_key_from(entry) for entry in json.loads(content)["keys"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KeysFileError(f"{self.path} is no file of keys ({error!r}); it is left as it is") from error

    def create(
        self,
        name: str,
        role: Role,
        *,
        kind: Kind = Kind.USER,
        expire_time: datetime | None = None,
        requests_per_minute: int | None = None,
        bytes_per_minute: int | None = None,
    ) -> tuple[Key, str]:
        """Make a key, and return it with its token, which nothing will ever tell again.

        Raises:
            InvalidKeyName: the name is not 1 to 128 of a-z, A-Z, 0-9, `.`, `_`, `@`, `-`, a letter or digit first.
            KeyExists: the name is taken.
            KeysFileError: the file is not one of keys, or holds as many as it may.
            OSError: it can't be read or written.
        """
        if not _NAME.fullmatch(name):
            raise InvalidKeyName(
                f"{name[:128]!r} can't name a key: 1 to 128 of a-z, A-Z, 0-9, '.', '_', '@', '-', "
                "beginning with a letter or digit"
            )
        token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
        with self._locked():
            keys = self.list()
            if any(key.name == name for key in keys):
                raise KeyExists(f"a key named {name!r} exists already; revoke it first, or take another name")
            if len(keys) >= MAX_KEYS:
                raise KeysFileError(f"{self.path} holds {MAX_KEYS} keys, the most it may; revoke some")
            key = Key(
                id=_free_id(keys),
                name=name,
                role=role,
                kind=kind,
                sha256=sha256(token.encode()).hexdigest(),
                create_time=datetime.now(UTC).replace(microsecond=0),
                expire_time=expire_time and expire_time.astimezone(UTC).replace(microsecond=0),
                requests_per_minute=requests_per_minute,
                bytes_per_minute=bytes_per_minute,
            )
            self._write((*keys, key))
        return key, token

    def revoke(self, id_or_name: str) -> Key:
        """Remove a key, and return what it was. Services refuse it within a second or two.

        Raises:
            KeyNotFound: no key has that id or name.
            KeysFileError: the file is not one of keys.
            OSError: it can't be read or written.
        """
        with self._locked():
            keys = self.list()
            by_id = [key for key in keys if key.id == id_or_name]
            for gone in by_id or [key for key in keys if key.name == id_or_name]:
                self._write(tuple(key for key in keys if key != gone))
                return gone
        raise KeyNotFound(f"no key in {self.path} has the id or name {id_or_name!r}; `penstock key list` shows them")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The lock lies beside the file because the file itself is replaced by every write.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, keys: tuple[Key, ...]) -> None:
        content = json.dumps({"keys": [_entry_of(key) for key in keys]}, indent=2) + "\n"
        partial = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                self._keep_owner(file.fileno())
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(self.path.parent)

    def _keep_owner(self, descriptor: int) -> None:
        # A key made by root must not take the file away from the user whose services read it.
        if os.geteuid() == 0 and self.path.exists():
            owner = self.path.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _free_id(keys: tuple[Key, ...]) -> str:
    taken = {key.id for key in keys}
    while (candidate := secrets.token_hex(4)) in taken:
        pass
    return candidate


def _key_from(entry: dict[str, Any]) -> Key:
    expire_time = entry.get("expire_time")
    return Key(
        id=entry["id"],
        name=entry["name"],
        role=Role(entry["role"]),
        kind=Kind(entry.get("kind", "user")),
        sha256=entry["sha256"],
        create_time=datetime.fromisoformat(entry["create_time"]),
        expire_time=datetime.fromisoformat(expire_time) if expire_time else None,
        requests_per_minute=entry.get("requests_per_minute"),
        bytes_per_minute=entry.get("bytes_per_minute"),
    )


def _entry_of(key: Key) -> dict[str, str | int | None]:
    return asdict(
        key,
        dict_factory=lambda pairs: {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in pairs
        },
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
