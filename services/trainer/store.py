"""The blobs of the trainer: which there are, and which of them something names."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import structlog

from services.common.blobs import Blob, BlobStore
from services.common.blobs.store import BlobLedger
from services.common.errors import DomainError
from services.common.jobs import JobConnection
from services.common.postgres import Database

_log = structlog.get_logger(__name__)
_UNNAMED = "NOT EXISTS (SELECT FROM trainer.named_blobs AS named WHERE named.sha256 = blobs.sha256)"
_NAME = """
INSERT INTO trainer.named_blobs (owner_id, name, sha256, size_bytes)
VALUES (%(owner_id)s, %(name)s, %(sha256)s, %(size_bytes)s)
ON CONFLICT (owner_id, name) DO UPDATE SET sha256 = excluded.sha256, size_bytes = excluded.size_bytes
"""
_NAMES = "SELECT name, sha256, size_bytes FROM trainer.named_blobs WHERE owner_id = %(owner_id)s ORDER BY name"
# A checkpoint helps nobody once the run has ended, and what was on its way then has not arrived; what it left stays as
# long as the run.
_EXPIRE = """
DELETE FROM trainer.named_blobs AS named
WHERE (named.name IN ('checkpoint', 'out') OR starts_with(named.name, 'coming/') OR starts_with(named.name, 'outside/'))
AND NOT EXISTS (
    SELECT FROM trainer.training_runs AS run
    WHERE run.job_id = named.owner_id AND (named.name = 'out' OR run.end_time IS NULL)
)
"""
_FORGET = """
DELETE FROM trainer.named_blobs WHERE owner_id = %(owner_id)s AND starts_with(name, %(prefix)s) RETURNING sha256
"""
_DROP = "DELETE FROM trainer.named_blobs WHERE owner_id = %(owner_id)s AND name = %(name)s RETURNING sha256"


def ledger_of(database: Database) -> BlobLedger:
    """The ledger of all blobs: `keep` a digest before its bytes are put, `name` it with what it is for."""
    return BlobLedger(database, "trainer", _UNNAMED)


class NamedBlobs:
    """What owners (a dataset's version, a run) keep in blobs, by name. A blob that nobody names is deleted in time."""

    def name(self, connection: JobConnection, owner_id: UUID, name: str, sha256: str, size_bytes: int) -> None:
        """Have an owner keep a blob under a name; what it kept under it before, it does no more."""
        values = {"owner_id": owner_id, "name": name, "sha256": sha256, "size_bytes": size_bytes}
        connection.execute(_NAME, values)

    def named(self, connection: JobConnection, owner_id: UUID) -> dict[str, tuple[str, int]]:
        """Give an owner's blobs by name: digest and size in bytes."""
        rows = connection.execute(_NAMES, {"owner_id": owner_id}).fetchall()
        return {row["name"]: (row["sha256"], row["size_bytes"]) for row in rows}

    def drop(self, connection: JobConnection, owner_id: UUID, name: str) -> list[str]:
        """Have an owner keep nothing under a name any more; gives the digest of what it kept there, if it did."""
        rows = connection.execute(_DROP, {"owner_id": owner_id, "name": name}).fetchall()
        return [row["sha256"] for row in rows]

    def forget(self, connection: JobConnection, owner_id: UUID, prefix: str = "") -> list[str]:
        """Have an owner keep nothing any more, of what begins with a prefix; gives the digests of what it kept."""
        rows = connection.execute(_FORGET, {"owner_id": owner_id, "prefix": prefix}).fetchall()
        return [row["sha256"] for row in rows]


class PassingBlobs:
    """Blobs that others take the place of while a run goes on: what is replaced is deleted at once.

    Each has a name from before its bytes can be seen, so that nobody deletes what is only on its way.
    """

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self.blobs = blobs
        self.named = NamedBlobs()
        self._database = database
        self._ledger = ledger_of(database)

    def put(
        self,
        owner_id: UUID,
        name: str,
        pieces: Iterable[bytes],
        *,
        max_bytes: int,
        sha256: str | None = None,
        size_bytes: int | None = None,
    ) -> Blob:
        """Store bytes, named by their owner; see `BlobStore.put` for what is raised."""

        def hold(coming: Blob) -> None:
            with self._database.transaction() as connection:
                self._ledger.keep_with(connection, coming.sha256)
                self.named.name(connection, owner_id, name, coming.sha256, coming.size_bytes)

        return self.blobs.put(pieces, max_bytes=max_bytes, sha256=sha256, size_bytes=size_bytes, before_publish=hold)

    def discard(self, connection: JobConnection, sha256s: Iterable[str]) -> list[str]:
        """Begin to delete what nobody names any more of what was replaced; gives what to `delete` after the commit."""
        return self._ledger.discard(connection, *sha256s)

    def delete(self, sha256s: Iterable[str]) -> None:
        """Delete what was discarded, up to what cannot be deleted now: from there on it is left for the housekeeping.

        Nobody waits for a store that takes no deletions once for each file.
        """
        for sha256 in sha256s:
            try:
                if not self._ledger.delete(self.blobs, sha256):
                    return
            except DomainError as error:  # the database is away; the row says that it is to go
                _log.info("replaced blob not forgotten yet", sha256=sha256, reason=error.reason)
                return


class RunFiles:
    """The blobs of runs, for their housekeeping."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.ledger = ledger_of(database)

    def expire(self, kept_s: float) -> int:  # noqa: ARG002 - they go with their runs
        """Forget what ended and deleted runs kept; gives how many names."""
        with self._database.transaction() as connection:
            return connection.execute(_EXPIRE).rowcount
