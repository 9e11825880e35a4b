"""The blobs of the trainer: which there are, and which of them something names."""

from __future__ import annotations

from uuid import UUID

from services.common.blobs.store import BlobLedger
from services.common.jobs import JobConnection
from services.common.postgres import Database

_UNNAMED = "NOT EXISTS (SELECT FROM trainer.named_blobs AS named WHERE named.sha256 = blobs.sha256)"
_NAME = """
INSERT INTO trainer.named_blobs (owner_id, name, sha256, size_bytes)
VALUES (%(owner_id)s, %(name)s, %(sha256)s, %(size_bytes)s)
ON CONFLICT (owner_id, name) DO UPDATE SET sha256 = excluded.sha256, size_bytes = excluded.size_bytes
"""
_NAMES = "SELECT name, sha256, size_bytes FROM trainer.named_blobs WHERE owner_id = %(owner_id)s ORDER BY name"
# A checkpoint helps nobody once the run has ended; what it left stays as long as the run.
_EXPIRE = """
DELETE FROM trainer.named_blobs AS named
WHERE named.name IN ('checkpoint', 'out') AND NOT EXISTS (
    SELECT FROM trainer.training_runs AS run
    WHERE run.job_id = named.owner_id AND (named.name = 'out' OR run.end_time IS NULL)
)
"""
_FORGET = "DELETE FROM trainer.named_blobs WHERE owner_id = %(owner_id)s AND starts_with(name, %(prefix)s)"


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

    def forget(self, connection: JobConnection, owner_id: UUID, prefix: str = "") -> None:
        """Have an owner keep nothing any more, of what begins with a prefix."""
        connection.execute(_FORGET, {"owner_id": owner_id, "prefix": prefix})


class RunFiles:
    """The blobs of runs, for their housekeeping."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.ledger = ledger_of(database)

    def expire(self, kept_s: float) -> int:  # noqa: ARG002 - they go with their runs
        """Forget what ended and deleted runs kept; gives how many names."""
        with self._database.transaction() as connection:
            return connection.execute(_EXPIRE).rowcount
