"""Scripts in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb

from services.common.blobs import Blob
from services.common.blobs.store import BlobLedger
from services.common.errors import FailedPrecondition, NotFound
from services.common.jobs import JobConnection
from services.common.postgres import Database
from services.trainer.scripts.models import Contents, NewScript, Script
from services.trainer.store import NamedBlobs, ledger_of
from services.trainer.upload_requests import UploadRequest, UploadRequests

BLOB: Final = "script"
_SELECT: LiteralString = "SELECT * FROM trainer.script_versions AS versions "
_GET: LiteralString = _SELECT + "WHERE name = %(name)s AND version = %(version)s"
_NEWEST: LiteralString = _SELECT + "WHERE name = %(name)s ORDER BY version DESC LIMIT 1"
_BY_ID: LiteralString = _SELECT + "WHERE version_id = %(version_id)s"
_PAGE_OF_ONE: LiteralString = (
    _SELECT + "WHERE name = %(name)s AND version < %(before)s ORDER BY version DESC LIMIT %(limit)s"
)
_PAGE: LiteralString = (
    _SELECT
    + """
WHERE name > %(after)s AND NOT EXISTS (
    SELECT FROM trainer.script_versions AS later WHERE later.name = versions.name AND later.version > versions.version)
ORDER BY name LIMIT %(limit)s
"""
)
_DECLARE = "INSERT INTO trainer.scripts (name) VALUES (%(name)s) ON CONFLICT DO NOTHING"
_LOCK = "SELECT next_version FROM trainer.scripts WHERE name = %(name)s FOR UPDATE"
_ADVANCE = "UPDATE trainer.scripts SET next_version = next_version + 1 WHERE name = %(name)s"
_INSERT = """
INSERT INTO trainer.script_versions (version_id, name, version, entry, packed, sha256, size_bytes, files, description,
    created_by, request_id, body_sha256)
VALUES (%(version_id)s, %(name)s, %(version)s, %(entry)s, %(packed)s, %(sha256)s, %(size_bytes)s, %(files)s,
    %(description)s, %(created_by)s, %(request_id)s, %(body_sha256)s)
"""
_HOLD: LiteralString = _GET + " FOR SHARE"
_LOCK_VERSION: LiteralString = _GET + " FOR UPDATE"
# By itself, after the lock: a statement sees nothing that was committed while it waited.
_IS_USED = "SELECT FROM trainer.training_runs WHERE script = %(script)s AND end_time IS NULL LIMIT 1"
_DELETE = "DELETE FROM trainer.script_versions WHERE version_id = %(version_id)s"


class ScriptStore:
    """Versions of scripts, and which runs use them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._named = NamedBlobs()
        self._requests = UploadRequests("script")
        self.ledger: BlobLedger = ledger_of(database)

    @contextmanager
    def transaction(self) -> Iterator[JobConnection]:
        """Lend a transaction."""
        with self._database.transaction() as connection:
            yield connection

    def get(self, name: str, version: int) -> Script:
        """Read a version, 0: the newest; raises NotFound (SCRIPT_NOT_FOUND, SCRIPT_VERSION_NOT_FOUND)."""
        with self._database.transaction() as connection:
            return self._one(connection, _GET if version else _NEWEST, name, version)

    def newest(self, connection: JobConnection, name: str) -> Script | None:
        """Read the newest version; None where there is none."""
        row = connection.execute(_NEWEST, {"name": name}).fetchone()
        return None if row is None else Script.from_row(row)

    def page(self, name: str, *, after: str, before: int, limit: int) -> list[Script]:
        """List versions of one script before a number, or the newest of each after a name."""
        values = {"name": name, "after": after, "before": before, "limit": limit}
        with self._database.transaction() as connection:
            rows = connection.execute(_PAGE_OF_ONE if name else _PAGE, values).fetchall()
        return [Script.from_row(row) for row in rows]

    def repeated(self, connection: JobConnection, new: NewScript) -> tuple[Script, bool] | None:
        """Give what the same request was answered with, and whether that was there already; see `UploadRequests`."""
        found = self._requests.repeated(connection, _request_of(new))
        if found is None:
            return None
        version_id, existed = found
        row = connection.execute(_BY_ID, {"version_id": version_id}).fetchone()
        return None if row is None else (Script.from_row(row), existed)

    def answer(self, connection: JobConnection, new: NewScript, version_id: UUID) -> None:
        """Remember that a request is answered with a version that was there already."""
        self._requests.answer(connection, _request_of(new), version_id)

    def lock(self, connection: JobConnection, name: str) -> None:
        """Hold a script: versions of it are made one at a time."""
        connection.execute(_DECLARE, {"name": name})
        connection.execute(_LOCK, {"name": name})

    def insert(self, connection: JobConnection, new: NewScript, contents: Contents, blob: Blob) -> Script:
        """Make the next version of a script that is held."""
        row = connection.execute(_LOCK, {"name": new.name}).fetchone()
        if row is None:
            raise ValueError("a script is declared before it is held")
        if not self.ledger.touch(connection, blob.sha256):
            raise FailedPrecondition("the script was swept away before it was named", reason="BLOB_NOT_FOUND")
        self._named.name(connection, new.version_id, BLOB, blob.sha256, blob.size_bytes)
        values = {
            "version_id": new.version_id,
            "name": new.name,
            "version": row["next_version"],
            "entry": contents.entry,
            "packed": contents.packed,
            "sha256": blob.sha256,
            "size_bytes": blob.size_bytes,
            "files": Jsonb(dict(contents.files)),
            "description": new.description,
            "created_by": new.created_by,
            "request_id": new.request_id,
            "body_sha256": new.body_sha256,
        }
        connection.execute(_INSERT, values)
        connection.execute(_ADVANCE, {"name": new.name})
        return self._one(connection, _GET, new.name, row["next_version"])

    def hold(self, connection: JobConnection, name: str, version: int) -> None:
        """Keep a version from being deleted until the transaction ends; raises NotFound where it has gone."""
        self._one(connection, _HOLD, name, version)

    def delete(self, name: str, version: int) -> None:
        """Delete a version; raises NotFound, and FailedPrecondition (SCRIPT_IN_USE)."""
        with self._database.transaction() as connection:
            script = self._one(connection, _LOCK_VERSION, name, version)
            if connection.execute(_IS_USED, {"script": script.reference}).fetchone() is not None:
                sentence = f"a run that has not ended trains with {script.reference}; wait for it, or cancel it"
                raise FailedPrecondition(sentence, reason="SCRIPT_IN_USE")
            connection.execute(_DELETE, {"version_id": script.version_id})
            self._named.forget(connection, script.version_id)

    def _one(self, connection: JobConnection, statement: LiteralString, name: str, version: int) -> Script:
        values: Mapping[str, Any] = {"name": name, "version": version}
        row = connection.execute(statement, values).fetchone()
        if row is None:
            raise self._absent(connection, name, version)
        return Script.from_row(row)

    def _absent(self, connection: JobConnection, name: str, version: int) -> NotFound:
        known = self.newest(connection, name)
        if known is None:
            sentence = f"there is no script {name!r}; upload it first (penstock train script upload {name} FILE)"
            return NotFound(sentence, reason="SCRIPT_NOT_FOUND")
        sentence = f"the script {name!r} has no version {version}; the newest is {known.version}"
        return NotFound(sentence, reason="SCRIPT_VERSION_NOT_FOUND")


def _request_of(new: NewScript) -> UploadRequest:
    return UploadRequest(new.created_by, new.request_id, new.body_sha256)
