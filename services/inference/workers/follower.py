"""The process that watches the registry for all workers: `python -m services.inference.workers.follower`.

The supervisor starts it, since it may not import grpc itself, and hands on what comes. This process alone writes the
snapshot on disk.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress

from penstock.api.registry.v1.registry_pb2 import ModelVersion, WatchModelsResponse
from services.common import flags, logs
from services.inference.clients import client_of
from services.inference.following.follower import Follower, RegistryWatch
from services.inference.settings import InferenceSettings
from services.inference.workers.place import Place
from services.inference.workers.wires import Kind, Wire, message, packed

PART_BYTES = 3 * 2**20
"""Of a snapshot, in one frame; a version that is larger has a frame to itself."""
CHANGES_BETWEEN_BASES = 200


class Relay:
    """Tells the supervisor what the registry says.

    Now and then also all that is there, so that a worker which comes late does not hear a year's changes.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._sent = 0
        self._changes = 0

    def open(self) -> None:
        """Have nothing to begin."""

    def close(self) -> None:
        """Have nothing to end."""

    def replace(self, versions: Iterable[ModelVersion]) -> None:
        """Send a whole snapshot."""
        self._send_all(versions, Kind.SNAPSHOT_PART, Kind.SNAPSHOT)

    def update(self, message: WatchModelsResponse, known: Iterable[ModelVersion]) -> None:
        """Send a change."""
        self._wire.send(packed(Kind.CHANGE, message.SerializeToString()))
        self._changes += 1
        if self._changes >= CHANGES_BETWEEN_BASES:
            self._send_all(known, Kind.BASE_PART, Kind.BASE)

    def _send_all(self, versions: Iterable[ModelVersion], part: Kind, last: Kind) -> None:
        self._sent += 1
        self._changes = 0
        parts = list(_parts(versions))
        for number, held in enumerate(parts, start=1):
            complete = number == len(parts)
            # The number tells the parts of one snapshot from those of another that broke off.
            heard = WatchModelsResponse(revision=self._sent)
            heard.snapshot.versions.extend(held)
            heard.snapshot.complete = complete
            self._wire.send(packed(last if complete else part, heard.SerializeToString()))


def _parts(versions: Iterable[ModelVersion]) -> Iterator[list[ModelVersion]]:
    """Divide them by their size, since one with warm-up requests is a thousand times another; at least one part."""
    part: list[ModelVersion] = []
    size_bytes = 0
    for version in versions:
        more_bytes = version.ByteSize()
        if part and size_bytes + more_bytes > PART_BYTES:
            yield part
            part, size_bytes = [], 0
        part.append(version)
        size_bytes += more_bytes
    yield part


def main() -> None:
    """Watch until told to stop, or until the supervisor is gone."""
    place = Place.from_environment()
    place.take()
    settings = InferenceSettings(**flags.parse("inference", sys.argv[1:], InferenceSettings, commands=()).settings)
    logs.configure("inference", settings.log_level)
    wire = Wire(place.wire)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    follower = Follower(RegistryWatch(client_of(settings)), Relay(wire), settings.cache_dir)
    follower.open()

    def until_alone() -> None:
        with suppress(OSError):  # it went while it was being answered
            wire.send(message({"type": "join"}))
            for _ in wire.frames():  # pings, and nothing else
                wire.send(message({"type": "pong"}))
        stopping.set()

    threading.Thread(target=until_alone, name="supervisor", daemon=True).start()
    while not stopping.wait(0.5):
        pass
    follower.close()


if __name__ == "__main__":
    main()
