"""Datasets in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb

from services.common.blobs.store import BlobLedger
from services.common.errors import FailedPrecondition, NotFound
from services.common.jobs import JobConnection
from services.common.postgres import Database
from services.trainer.datasets.models import COLUMNS, SOURCE, Dataset, KeptSplit, NewVersion, Rows
from services.trainer.datasets.splits import Split, SplitBy
from services.trainer.store import NamedBlobs, ledger_of
from services.trainer.task import Part
from services.trainer.upload_requests import UploadRequest, UploadRequests

BLOB = "rows.parquet"
_SELECT: LiteralString = """
SELECT versions.*, coalesce((SELECT done_count FROM trainer.dataset_builds builds
    WHERE builds.version_id = versions.version_id ORDER BY create_number DESC LIMIT 1), 0) AS progress_rows
FROM trainer.dataset_versions versions
"""
_GET: LiteralString = _SELECT + " WHERE name = %(name)s AND version = %(version)s AND delete_time IS NULL"
_NEWEST: LiteralString = (
    _SELECT + " WHERE name = %(name)s AND state = 'READY' AND delete_time IS NULL ORDER BY version DESC LIMIT 1"
)
_BY_ID: LiteralString = _SELECT + " WHERE version_id = %(version_id)s"
_PAGE_OF_ONE: LiteralString = (
    _SELECT
    + """
WHERE name = %(name)s AND delete_time IS NULL AND version < %(before)s ORDER BY version DESC LIMIT %(limit)s
"""
)
_PAGE: LiteralString = (
    _SELECT
    + """
WHERE delete_time IS NULL AND name > %(after)s AND NOT EXISTS (
    SELECT FROM trainer.dataset_versions later
    WHERE later.name = versions.name AND later.version > versions.version AND later.delete_time IS NULL)
ORDER BY name LIMIT %(limit)s
"""
)
_DECLARE = "INSERT INTO trainer.datasets (name) VALUES (%(name)s) ON CONFLICT DO NOTHING"
_LOCK = "SELECT next_version FROM trainer.datasets WHERE name = %(name)s FOR UPDATE"
_ADVANCE = "UPDATE trainer.datasets SET next_version = next_version + 1 WHERE name = %(name)s"
_INSERT = """
INSERT INTO trainer.dataset_versions (version_id, name, version, state, source, description, labels, created_by,
    request_id, body_sha256)
VALUES (%(version_id)s, %(name)s, %(version)s, 'BUILDING', %(source)s, %(description)s, %(labels)s, %(created_by)s,
    %(request_id)s, %(body_sha256)s)
"""
_FINISH = """
UPDATE trainer.dataset_versions SET state = 'READY', ready_time = clock_timestamp(), row_count = %(row_count)s,
    columns = %(columns)s, digest = %(digest)s, size_bytes = %(size_bytes)s, source = coalesce(%(source)s, source)
WHERE version_id = %(version_id)s AND state = 'BUILDING'
"""
_FAIL = """
UPDATE trainer.dataset_versions SET state = 'FAILED', message = %(message)s
WHERE version_id = %(version_id)s AND state = 'BUILDING'
"""
_SPLITS = """
SELECT version_id, split_id, split, counts FROM trainer.dataset_splits WHERE version_id = ANY(%(version_ids)s)
ORDER BY create_number
"""
_ADD_SPLIT = """
INSERT INTO trainer.dataset_splits (version_id, split_id, split, counts)
SELECT %(version_id)s, %(split_id)s, %(split)s, %(counts)s
WHERE EXISTS (SELECT FROM trainer.dataset_versions WHERE version_id = %(version_id)s)
ON CONFLICT DO NOTHING
"""
_REFER = """
INSERT INTO trainer.dataset_references (run_id, position, version_id)
VALUES (%(run_id)s, %(position)s, %(version_id)s) ON CONFLICT DO NOTHING
"""
_HOLD = "SELECT FROM trainer.dataset_versions WHERE version_id = %(version_id)s AND delete_time IS NULL FOR SHARE"
_REFERENCES = "SELECT position, version_id FROM trainer.dataset_references WHERE run_id = %(run_id)s"
_RELEASE = "DELETE FROM trainer.dataset_references WHERE run_id = %(run_id)s RETURNING version_id"
_RELEASE_ENDED = """
DELETE FROM trainer.dataset_references AS refers WHERE NOT EXISTS (
    SELECT FROM trainer.training_runs WHERE job_id = refers.run_id AND end_time IS NULL) AND NOT EXISTS (
    SELECT FROM trainer.validations WHERE job_id = refers.run_id AND end_time IS NULL)
"""
_LOCK_VERSION = """
SELECT state FROM trainer.dataset_versions WHERE version_id = %(version_id)s AND delete_time IS NULL FOR UPDATE
"""
# By itself, after the lock: a statement sees nothing that was committed while it waited.
_IS_READ = "SELECT FROM trainer.dataset_references WHERE version_id = %(version_id)s LIMIT 1"
_DELETE = "UPDATE trainer.dataset_versions SET delete_time = clock_timestamp() WHERE version_id = %(version_id)s"
_PURGE = """
WITH gone AS (
    DELETE FROM trainer.dataset_versions versions WHERE delete_time IS NOT NULL AND state <> 'BUILDING' AND NOT EXISTS (
        SELECT FROM trainer.dataset_references AS refers WHERE refers.version_id = versions.version_id)
    RETURNING version_id)
DELETE FROM trainer.named_blobs USING gone WHERE owner_id = gone.version_id
"""
_BUILD = (
    "SELECT job_id FROM trainer.dataset_builds WHERE version_id = %(version_id)s ORDER BY create_number DESC LIMIT 1"
)
_UNENDED = "SELECT count(*) AS count FROM trainer.dataset_builds WHERE created_by = %(created_by)s AND end_time IS NULL"
_PART_NAMES = {part.value: part for part in Part}


class DatasetStore:
    """Versions, their splits, and who reads them. Also what housekeeping tidies up (see common.jobs.housekeeping)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._named = NamedBlobs()
        self._requests = UploadRequests("dataset")
        self.ledger: BlobLedger = ledger_of(database)

    @contextmanager
    def transaction(self) -> Iterator[JobConnection]:
        """Lend a transaction."""
        with self._database.transaction() as connection:
            yield connection

    def get(self, name: str, version: int) -> Dataset:
        """Read a version, 0: the newest that is READY.

        Raises:
            NotFound: DATASET_NOT_FOUND, DATASET_VERSION_NOT_FOUND.
        """
        with self._database.transaction() as connection:
            found = self.find(connection, name, version)
            if found is None:
                raise self._absent(connection, name, version)
            return found

    def find(self, connection: JobConnection, name: str, version: int) -> Dataset | None:
        """Read a version, 0: the newest that is READY; None where there is none."""
        statement = _GET if version else _NEWEST
        return self._one(connection, statement, {"name": name, "version": version})

    def by_id(self, version_id: UUID) -> Dataset:
        """Read a version, also one that is deleted and still referred to; raises NotFound."""
        with self._database.transaction() as connection:
            found = self._one(connection, _BY_ID, {"version_id": version_id})
        if found is None:
            raise NotFound("the dataset is not there any more", reason="DATASET_VERSION_NOT_FOUND")
        return found

    def page(self, name: str, *, after: str, before: int, limit: int) -> list[Dataset]:
        """List versions of one dataset before a number, or the newest of each after a name; without splits."""
        statement = _PAGE_OF_ONE if name else _PAGE
        values = {"name": name, "after": after, "before": before, "limit": limit}
        with self._database.transaction() as connection:
            return [Dataset.from_row(row) for row in connection.execute(statement, values).fetchall()]

    def repeated(self, connection: JobConnection, new: NewVersion) -> tuple[Dataset, bool] | None:
        """Give what the same request was answered with, and whether that was there already; see `UploadRequests`."""
        found = self._requests.repeated(connection, _request_of(new))
        if found is None:
            return None
        version_id, existed = found
        known = self._one(connection, _BY_ID, {"version_id": version_id})
        return None if known is None else (known, existed)

    def answer(self, connection: JobConnection, new: NewVersion, version_id: UUID) -> None:
        """Remember that a request is answered with a version that was there already."""
        self._requests.answer(connection, _request_of(new), version_id)

    def lock(self, connection: JobConnection, name: str) -> None:
        """Hold a dataset: versions of it are made one at a time."""
        connection.execute(_DECLARE, {"name": name})
        connection.execute(_LOCK, {"name": name})

    def insert(self, connection: JobConnection, new: NewVersion) -> None:
        """Make the next version of a dataset that is held; it is BUILDING."""
        row = connection.execute(_LOCK, {"name": new.name}).fetchone()
        if row is None:
            raise ValueError("a dataset is declared before it is held")
        values = {
            "version_id": new.version_id,
            "name": new.name,
            "version": row["next_version"],
            "source": Jsonb(SOURCE.dump_python(new.source, mode="json")),
            "description": new.description,
            "labels": Jsonb(dict(new.labels)),
            "created_by": new.created_by,
            "request_id": new.request_id,
            "body_sha256": new.body_sha256,
        }
        connection.execute(_INSERT, values)
        connection.execute(_ADVANCE, {"name": new.name})

    def finish(
        self, connection: JobConnection, version_id: UUID, rows: Rows, blob: tuple[str, int], source: object = None
    ) -> None:
        """Have a version be READY: its rows, the digest and size of its file, and its source where more is known."""
        sha256, size_bytes = blob
        if not self.ledger.touch(connection, sha256):
            raise FailedPrecondition("the rows were swept away before they were named", reason="BLOB_NOT_FOUND")
        self._named.name(connection, version_id, BLOB, sha256, size_bytes)
        values = {
            "version_id": version_id,
            "row_count": rows.row_count,
            "columns": Jsonb(COLUMNS.dump_python(rows.columns, mode="json")),
            "digest": rows.digest,
            "size_bytes": size_bytes,
            "source": None if source is None else Jsonb(SOURCE.dump_python(source, mode="json")),  # type: ignore[arg-type]
        }
        connection.execute(_FINISH, values)

    def fail(self, connection: JobConnection, version_id: UUID, message: str) -> None:
        """Have a version that was BUILDING be FAILED."""
        connection.execute(_FAIL, {"version_id": version_id, "message": message})
        connection.execute(_PURGE)

    def blob(self, version_id: UUID) -> str:
        """Give the digest of a version's file."""
        with self._database.transaction() as connection:
            named = self._named.named(connection, version_id)
        if BLOB not in named:
            raise NotFound("the dataset's rows are not there any more", reason="DATASET_VERSION_NOT_FOUND")
        return named[BLOB][0]

    def add_split(self, version_id: UUID, kept: KeptSplit) -> None:
        """Keep a split; one that is there stays as it is."""
        counts = {part.value: count for part, count in kept.counts.items()}
        values = {
            "version_id": version_id,
            "split_id": kept.split_id,
            "split": Jsonb(asdict(kept.split)),
            "counts": Jsonb(counts),
        }
        with self._database.transaction() as connection:
            connection.execute(_ADD_SPLIT, values)

    def refer(self, connection: JobConnection, run_id: UUID, position: int, version_id: UUID) -> bool:
        """Have a run refer to a version; False where that has gone."""
        if connection.execute(_HOLD, {"version_id": version_id}).fetchone() is None:
            return False
        connection.execute(_REFER, {"run_id": run_id, "position": position, "version_id": version_id})
        return True

    def references(self, connection: JobConnection, run_id: UUID) -> Mapping[int, UUID]:
        """Give the versions that a run refers to, by position."""
        rows = connection.execute(_REFERENCES, {"run_id": run_id}).fetchall()
        return {row["position"]: row["version_id"] for row in rows}

    def release(self, connection: JobConnection, run_id: UUID) -> None:
        """Have a run refer to nothing any more; what was deleted meanwhile goes."""
        connection.execute(_RELEASE, {"run_id": run_id})
        connection.execute(_PURGE)

    def delete(self, connection: JobConnection, dataset: Dataset, *, force: bool) -> UUID | None:
        """Delete a version; gives the job that is to be cancelled, where it is being built.

        Raises:
            NotFound: it has gone meanwhile.
            FailedPrecondition: DATASET_IN_USE, unless by force.
        """
        row = connection.execute(_LOCK_VERSION, {"version_id": dataset.version_id}).fetchone()
        if row is None:
            raise self._absent(connection, dataset.name, dataset.version)
        read = connection.execute(_IS_READ, {"version_id": dataset.version_id}).fetchone() is not None
        if read and not force:
            sentence = f"a run that has not ended reads {dataset.reference}; wait for it, or delete it by force"
            raise FailedPrecondition(sentence, reason="DATASET_IN_USE")
        if row["state"] == "BUILDING" and not force:
            sentence = f"{dataset.reference} is being built; wait for it, or delete it by force, which ends that"
            raise FailedPrecondition(sentence, reason="DATASET_IN_USE")
        connection.execute(_DELETE, {"version_id": dataset.version_id})
        connection.execute(_PURGE)
        build = connection.execute(_BUILD, {"version_id": dataset.version_id}).fetchone()
        return build["job_id"] if build and row["state"] == "BUILDING" else None

    def unended(self, connection: JobConnection, created_by: str) -> int:
        """Count a caller's builds that have not ended."""
        row = connection.execute(_UNENDED, {"created_by": created_by}).fetchone()
        return int(row["count"]) if row else 0

    def expire(self, kept_s: float) -> None:
        """Let go of what runs refer to that have ended, or are not there, and of what was deleted."""
        del kept_s  # versions are kept until somebody deletes them
        with self._database.transaction() as connection:
            connection.execute(_RELEASE_ENDED)
            connection.execute(_PURGE)

    def _one(self, connection: JobConnection, statement: LiteralString, values: Mapping[str, Any]) -> Dataset | None:
        row = connection.execute(statement, values).fetchone()
        if row is None:
            return None
        return Dataset.from_row(row, self._splits(connection, [row["version_id"]]))

    def _splits(self, connection: JobConnection, version_ids: Sequence[UUID]) -> tuple[KeptSplit, ...]:
        rows = connection.execute(_SPLITS, {"version_ids": list(version_ids)}).fetchall()
        return tuple(
            KeptSplit(
                row["split_id"],
                Split(**{**row["split"], "by": SplitBy(row["split"]["by"])}),
                {_PART_NAMES[name]: count for name, count in row["counts"].items()},
            )
            for row in rows
        )

    def _absent(self, connection: JobConnection, name: str, version: int) -> NotFound:
        known = connection.execute(_PAGE_OF_ONE, {"name": name, "before": 2**31 - 1, "limit": 1}).fetchone()
        if known is None:
            return NotFound(f"there is no dataset {name!r}; upload it first", reason="DATASET_NOT_FOUND")
        if not version:
            sentence = (
                f"no version of the dataset {name!r} is READY; the newest, {known['version']}, is {known['state']}"
            )
            return NotFound(sentence, reason="DATASET_VERSION_NOT_FOUND")
        sentence = f"the dataset {name!r} has no version {version}; the newest is {known['version']}"
        return NotFound(sentence, reason="DATASET_VERSION_NOT_FOUND")


def _request_of(new: NewVersion) -> UploadRequest:
    return UploadRequest(new.created_by, new.request_id, new.body_sha256)
