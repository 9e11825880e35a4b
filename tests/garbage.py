"""Blobs, their rows and the rounds that collect them: what the tests of garbage collection share."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psycopg
from prometheus_client import CollectorRegistry

from services.common.blobs import BlobStore, open_blobs
from services.common.postgres import Database
from services.registry.garbage import Garbage, GarbageFate, GarbageReport
from services.registry.metrics import GarbageMetrics
from services.registry.settings import RegistrySettings
from services.registry.store import CONSTRAINTS, Store
from tests import quick_registry
from tests.quick_registry import Registry
from tests.s3 import S3Bucket

GRACE_S = 60.0


@dataclass(frozen=True)
class Place:
    """Where a registry keeps its rows and bytes, and a registry that runs on both."""

    database_url: str
    blobs: BlobStore
    here: Registry

    @contextmanager
    def garbage(self, blobs: BlobStore | None = None) -> Iterator[Garbage]:
        """Collect as the registry does, on its database; through another blob store where one is given."""
        with Database(self.database_url, constraints=CONSTRAINTS) as database:
            metrics = GarbageMetrics(CollectorRegistry())
            yield Garbage(Store(database), blobs or self.blobs, grace_s=GRACE_S, metrics=metrics)

    def collect(self, **more: Any) -> GarbageReport:
        """Do one round."""
        with self.garbage() as garbage:
            return garbage.collect(**more)

    def age(self, seconds: float = GRACE_S + 1) -> None:
        """Let time pass for all that garbage collection looks at."""
        span = f"make_interval(secs => {seconds})"
        with psycopg.connect(self.database_url, autocommit=True) as database:
            database.execute(f"UPDATE registry.blobs SET touch_time = touch_time - {span}")
            database.execute(f"UPDATE registry.blobs SET condemn_time = condemn_time - {span}")
            database.execute(f"UPDATE registry.blobs SET delete_time = delete_time - {span}")
            database.execute(f"UPDATE registry.uploads SET expire_time = expire_time - {span}")

    def rows(self) -> dict[str, bool]:
        """Give which blobs have rows, and whether they are condemned."""
        with psycopg.connect(self.database_url) as database:
            return dict(database.execute("SELECT sha256, condemn_time IS NOT NULL FROM registry.blobs").fetchall())

    def stored(self) -> set[str]:
        """Give which blobs the store holds."""
        return {blob.sha256 for blob, _ in self.blobs.list()}

    def leave_behind(self, content: bytes) -> str:
        """Store bytes as an upload does that breaks off before its rows."""
        sha256 = digest(content)
        with psycopg.connect(self.database_url, autocommit=True) as database:
            database.execute("INSERT INTO registry.blobs (sha256, size_bytes) VALUES (%s, %s)", [sha256, len(content)])
        self.blobs.put([content], max_bytes=2**20)
        return sha256

    def condemned(self, content: bytes) -> str:
        """Leave bytes behind, and have them condemned for as long as it takes."""
        sha256 = self.leave_behind(content)
        self.age()
        assert self.collect().counts[GarbageFate.CONDEMNED] == 1
        self.age()
        assert self.rows()[sha256]
        return sha256


@contextmanager
def place(database_url: str, folder: Path, bucket: S3Bucket | None, **more: Any) -> Iterator[Place]:
    """Run a registry on files, or on a bucket."""
    values: dict[str, Any] = {"blob_url": f"file://{folder}/blobs"}
    keys: dict[str, str] = {}
    if bucket is not None:
        keys = {"access_key": bucket.server.access_key, "secret_key": bucket.server.secret_key}
        values = {"blob_url": bucket.url, **{f"blob_{name}": key for name, key in keys.items()}}
    settings = RegistrySettings.model_validate(
        {
            "database_url": database_url,
            "port": 0,
            "metrics_port": 0,
            "poll_interval_ms": 200,
            "log_level": "error",
            "garbage_interval_ms": 86_400_000,
            **values,
            **more,
        }
    )
    with ExitStack() as stack:
        blobs = open_blobs(values["blob_url"], prefix="registry", **keys)
        stack.callback(blobs.close)
        yield Place(database_url, blobs, stack.enter_context(quick_registry.running(settings)))


class Interrupted:
    """A blob store of which a deletion calls the test before and after the bytes go."""

    def __init__(
        self,
        blobs: BlobStore,
        *,
        before: Callable[[str], None] = lambda _: None,
        after: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._blobs = blobs
        self._before = before
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    def delete(self, sha256: str) -> None:
        """Delete, with the test looking on."""
        self._before(sha256)
        self._blobs.delete(sha256)
        self._after(sha256)

    def as_store(self) -> BlobStore:
        """Say that this is one."""
        return cast("BlobStore", self)


class Pause:
    """A place where a thread waits until the test lets it go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._released = threading.Event()

    def __call__(self, *_: object) -> None:
        """Wait here."""
        self._reached.set()
        assert self._released.wait(60)

    def reached(self) -> None:
        """Wait until somebody waits here."""
        assert self._reached.wait(60)

    def release(self) -> None:
        """Let whoever comes by go on."""
        self._released.set()


def digest(content: bytes) -> str:
    """Give the address of bytes."""
    return hashlib.sha256(content).hexdigest()
