"""Rows before bytes: what makes every blob known to garbage collection before anybody can see it."""

from __future__ import annotations

from services.common.blobs import Blob
from services.registry.store import Store


class Reservations:
    """What a blob store is told to call before it publishes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def reserve(self, blob: Blob) -> None:
        """Write the blob's row and commit it. Where garbage collection is deleting these bytes, wait until it has."""
        with self._store.write() as tables:
            tables.blobs.touch(blob.sha256, blob.size_bytes)
