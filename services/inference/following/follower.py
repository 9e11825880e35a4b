"""Follows the registry: a snapshot, then every change, into the catalog and onto disk.

The last snapshot on disk carries this service through a registry outage, its own restart included.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import structlog
from google.protobuf.message import DecodeError

from penstock import Client
from penstock.api.registry.v1.registry_pb2 import ModelVersion, WatchModelsResponse
from penstock.errors import OutOfRange, PenstockError
from services.inference.convert import catalog_version
from services.inference.following.takeovers import Takeovers

_log = structlog.get_logger(__name__)
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 10.0
SNAPSHOT_FILE = "catalog.binpb"


class Watch(Protocol):
    """Where the registry's messages come from."""

    def watch(self, after_revision: int, *, epoch: str) -> Iterator[WatchModelsResponse]:
        """Give them without end, from a revision on; raises PenstockError where that breaks off."""
        ...

    def close(self) -> None:
        """End the watch that may be open."""
        ...


class RegistryWatch:
    """The registry itself, watched through the SDK."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def watch(self, after_revision: int, *, epoch: str) -> Iterator[WatchModelsResponse]:
        """Watch; see `RegistryClient.watch`."""
        return self._client.registry.watch(after_revision=after_revision, epoch=epoch)

    def close(self) -> None:
        """Close the client."""
        self._client.close()


class Taker(Protocol):
    """Takes what the registry said; called by one thread, in the registry's order."""

    def open(self) -> None:
        """Begin."""
        ...

    def replace(self, versions: Iterable[ModelVersion]) -> None:
        """Take in a whole snapshot."""
        ...

    def update(self, message: WatchModelsResponse, known: Iterable[ModelVersion]) -> None:
        """Take in what one transaction changed; `known` is all that is there now."""
        ...

    def close(self) -> None:
        """Take no more."""
        ...


class CatalogTaker:
    """Takes it into the catalog of this process."""

    def __init__(self, takeovers: Takeovers) -> None:
        self._takeovers = takeovers
        self.open, self.close = takeovers.open, takeovers.close

    def replace(self, versions: Iterable[ModelVersion]) -> None:
        """See `Takeovers.replace`."""
        self._takeovers.replace(catalog_version(version) for version in versions)

    def update(self, message: WatchModelsResponse, known: Iterable[ModelVersion]) -> None:  # noqa: ARG002 - the catalog knows the rest
        """See `Takeovers.update`."""
        self._takeovers.update([catalog_version(version) for version in message.change.versions])


class Follower:
    """Keeps up with the registry. One thread; `open` starts it, `close` ends it.

    With a folder it keeps its last snapshot there, and begins with what it finds; one process may do so.
    """

    def __init__(self, watch: Watch, taker: Taker, folder: Path | None) -> None:
        self._watch = watch
        self._taker = taker
        self._path = folder / SNAPSHOT_FILE if folder else None
        self._versions: dict[tuple[str, str], ModelVersion] = {}
        self._arriving: dict[tuple[str, str], ModelVersion] = {}
        self._arriving_at = (0, "")
        self._revision = 0
        self._epoch = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)
        self.connected = False

    def open(self) -> None:
        """Take in the snapshot on disk, if there is one, and follow from there."""
        self._taker.open()
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._read(self._path)
        self._thread.start()

    def close(self) -> None:
        """Stop following, and end the watch that may be open."""
        self._stopping.set()
        self._watch.close()
        self._thread.join()
        self._taker.close()

    def _follow(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._stopping.is_set():
            try:
                for message in self._watch.watch(self._revision, epoch=self._epoch):
                    self.connected = True
                    self._take(message)
                    backoff_s = FIRST_BACKOFF_S
            except OutOfRange as error:
                _log.info("the registry no longer has our revision", revision=self._revision, reason=error.reason)
                self._revision, self._epoch = 0, ""  # until the new snapshot is whole, what is known stays
            except PenstockError as error:
                if self.connected and not self._stopping.is_set():
                    _log.warning("the registry is out of reach; serving what is known", reason=error.reason)
            except Exception:  # noqa: BLE001 - were this thread to end, what is served would stay as it is for good
                _log.exception("a change of the registry could not be taken in; trying again")
            self.connected = False
            # Full jitter, so that a fleet does not come back as one.
            self._stopping.wait(random.uniform(0, backoff_s))  # noqa: S311 - spread, not secrecy
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)

    def _take(self, message: WatchModelsResponse) -> None:
        kind = message.WhichOneof("event")
        if kind == "snapshot":
            self._take_snapshot(message)
        elif kind == "change":
            self._take_change(message)
            self._reach(message)
            self._write()
        else:
            self._reach(message)

    def _reach(self, message: WatchModelsResponse) -> None:
        self._revision, self._epoch = message.revision, message.epoch

    def _take_snapshot(self, message: WatchModelsResponse) -> None:
        # A watch that breaks inside a snapshot begins another, in which what was deleted meanwhile is missing.
        if (message.revision, message.epoch) != self._arriving_at:
            self._arriving, self._arriving_at = {}, (message.revision, message.epoch)
        self._arriving.update(_keyed(message.snapshot.versions))
        if message.snapshot.complete:
            self._versions, self._arriving, self._arriving_at = self._arriving, {}, (0, "")
            self._taker.replace(self._versions.values())
            self._reach(message)
            self._write()
            _log.info("the registry has been heard", revision=self._revision, versions=len(self._versions))

    def _take_change(self, message: WatchModelsResponse) -> None:
        # A name may come twice, of one that was deleted and of one that bears it since: the deleted go first.
        gone = [version for version in message.change.versions if version.HasField("delete_time")]
        there = [version for version in message.change.versions if not version.HasField("delete_time")]
        for key in _keyed(gone):
            self._versions.pop(key, None)
        self._versions.update(_keyed(there))
        self._taker.update(message, self._versions.values())

    def _read(self, path: Path) -> None:
        try:
            message = WatchModelsResponse.FromString(path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, DecodeError) as error:
            _log.warning("the snapshot on disk is of no use; waiting for the registry", error=str(error))
            return
        if not message.snapshot.complete:  # an empty file, as a power cut may leave it, reads as an empty message
            _log.warning("the snapshot on disk is cut short; waiting for the registry")
            return
        self._versions = _keyed(message.snapshot.versions)
        self._taker.replace(self._versions.values())
        if message.epoch:  # else nobody knows which life of the registry the revision belongs to
            self._reach(message)

    def _write(self) -> None:
        """Keep what is known. A crash in between keeps the snapshot before; following makes up for it."""
        if self._path is None:
            return
        snapshot = WatchModelsResponse.SnapshotPart(versions=self._versions.values(), complete=True)
        fresh = self._path.with_suffix(f".{os.getpid()}")
        try:
            message = WatchModelsResponse(revision=self._revision, epoch=self._epoch, snapshot=snapshot)
            fresh.write_bytes(message.SerializeToString())
            fresh.replace(self._path)
        except OSError as error:
            _log.warning("the snapshot was not written; an outage together with a restart would hurt", error=str(error))


def _keyed(versions: Iterable[ModelVersion]) -> dict[tuple[str, str], ModelVersion]:
    return {(version.model, version.version): version for version in versions}
