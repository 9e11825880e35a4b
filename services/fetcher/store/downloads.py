"""Downloads and their parts. What a worker writes is written while its job's lease is held."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import DictRow

from penstock.ids import uuid7
from services.common.blobs.store import BlobLedger
from services.common.jobs import JobConnection, LeaseLost
from services.common.postgres import Database
from services.fetcher.models import Download, Part

_ADD = """
INSERT INTO fetcher.downloads (download_id, identity, part_bytes)
VALUES (%(download_id)s, %(identity)s, %(part_bytes)s)
ON CONFLICT (identity) DO UPDATE SET use_time = clock_timestamp()
"""
# Whoever brought it before has ended, or lost its lease, where its job does not run any more.
_TAKE = """
UPDATE fetcher.downloads downloads SET job_id = %(job_id)s, part_bytes = CASE WHEN EXISTS (
    SELECT FROM fetcher.download_parts parts WHERE parts.download_id = downloads.download_id)
    THEN part_bytes ELSE %(part_bytes)s END
WHERE identity = %(identity)s AND (job_id IS NULL OR job_id = %(job_id)s OR sha256 <> '' OR NOT EXISTS (
    SELECT FROM fetcher.fetch_jobs jobs WHERE jobs.job_id = downloads.job_id AND state = 'RUNNING'))
RETURNING download_id, part_bytes, sha256, size_bytes
"""
# The same bytes, wherever they came from: only what is whole and was hashed can be another's.
_TAKE_WHOLE = """
UPDATE fetcher.downloads SET use_time = clock_timestamp()
WHERE sha256 = %(sha256)s AND download_id = (
    SELECT download_id FROM fetcher.downloads WHERE sha256 = %(sha256)s AND sha256 <> ''
    ORDER BY use_time DESC LIMIT 1)
RETURNING download_id, part_bytes, sha256, size_bytes
"""
_PARTS = """
SELECT part_number AS number, sha256 AS address, size_bytes, job_id = %(job_id)s AS own FROM fetcher.download_parts
WHERE download_id = %(download_id)s ORDER BY part_number
"""
_HERE = """
SELECT identity, sha256, (
    SELECT coalesce(sum(parts.size_bytes), 0)::bigint FROM fetcher.download_parts parts
    WHERE parts.download_id = downloads.download_id) AS here_bytes
FROM fetcher.downloads downloads
WHERE identity = ANY(%(identities)s) OR (sha256 <> '' AND sha256 = ANY(%(digests)s))
"""
_HOLDS = """
SELECT FROM fetcher.downloads WHERE download_id = %(download_id)s AND job_id = %(job_id)s AND sha256 = '' FOR UPDATE
"""
_PUT = """
INSERT INTO fetcher.download_parts (download_id, part_number, sha256, size_bytes, job_id)
SELECT %(download_id)s, parts.*, %(job_id)s
FROM unnest(%(numbers)s::integer[], %(addresses)s::text[], %(sizes)s::bigint[]) parts
"""
_CLEAR = "DELETE FROM fetcher.download_parts WHERE download_id = %(download_id)s"
_FINISH = """
UPDATE fetcher.downloads SET sha256 = %(sha256)s, size_bytes = %(size_bytes)s, use_time = clock_timestamp()
WHERE download_id = %(download_id)s
"""
_SPOILT = """
UPDATE fetcher.downloads SET sha256 = '', size_bytes = 0, job_id = NULL
WHERE download_id = %(download_id)s AND sha256 = %(sha256)s AND sha256 <> ''
"""
_GONE = "UPDATE fetcher.downloads SET sha256 = '', size_bytes = 0 WHERE download_id = %(download_id)s"
_EMPTY: LiteralString = _GONE + " AND job_id = %(job_id)s"
_EXPIRE = """
DELETE FROM fetcher.downloads downloads
WHERE use_time <= clock_timestamp() - make_interval(secs => %(kept_s)s) AND NOT EXISTS (
    SELECT FROM fetcher.fetch_jobs jobs WHERE jobs.job_id = downloads.job_id AND end_time IS NULL)
"""
UNNAMED: LiteralString = "NOT EXISTS (SELECT FROM fetcher.download_parts WHERE sha256 = blobs.sha256)"


@dataclass(frozen=True, slots=True)
class Taken:
    """A download that this job may bring: its parts so far, or `whole` where it is here already.

    `part_bytes`: of each of its parts but the last; part n begins at n times that. Any of them may lack.
    """

    download_id: UUID
    part_bytes: int
    parts: list[Part]
    whole: Download | None


class Here:
    """What is here of files, as one look found it."""

    def __init__(self, rows: Iterable[DictRow]) -> None:
        self._bytes: dict[str, int] = {}
        self._whole: set[str] = set()
        for row in rows:
            self._bytes[row["identity"]] = row["here_bytes"]
            if row["sha256"]:
                self._whole |= {row["identity"], row["sha256"]}

    def is_whole(self, identity: str, sha256: str) -> bool:
        """Whether a file is here whole, by its identity or its digest; '' names none."""
        return identity in self._whole or sha256 in self._whole

    def bytes_of(self, identity: str) -> int:
        """Say how many bytes of a file are here."""
        return self._bytes.get(identity, 0)


class DownloadStore:
    """The tables of downloads and their parts, and the ledger of their blobs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.ledger = BlobLedger(database, "fetcher", UNNAMED)

    def here(self, identities: Iterable[str], digests: Iterable[str]) -> Here:
        """Look at what is here of files, by their identities and digests; '' names none. Nothing is taken."""
        values = {"identities": list(filter(None, identities)), "digests": list(filter(None, digests))}
        with self._database.transaction() as connection:
            return Here(connection.execute(_HERE, values).fetchall())

    def take(self, job_id: UUID, identity: str, *, part_bytes: int, sha256: str = "") -> Taken | None:
        """Take a download for a job, and hold its blobs; None while another brings it.

        `part_bytes`: of the parts to come; where there are some, theirs stays. `sha256`: where it is known, any
        download that is whole and has this digest will do.
        """
        values: dict[str, Any] = {"job_id": job_id, "identity": identity, "sha256": sha256, "part_bytes": part_bytes}
        values["download_id"] = UUID(uuid7())
        with self._database.transaction() as connection:
            if sha256 and (row := connection.execute(_TAKE_WHOLE, values).fetchone()) is not None:
                taken = self._held(connection, job_id, row)
                if taken.whole is not None:
                    return taken
            connection.execute(_ADD, values)
            row = connection.execute(_TAKE, values).fetchone()
            return None if row is None else self._held(connection, job_id, row)

    def put(self, connection: JobConnection, job_id: UUID, download_id: UUID, parts: Sequence[Part]) -> None:
        """Note parts that are safe, in a job's `holding`; raises LeaseLost where the download is another's by now.

        The commit waits for no disk: what a crash of the database forgets of the last moment is brought again.
        """
        connection.execute("SET LOCAL synchronous_commit TO off")
        self._hold(connection, job_id, download_id)
        values = {
            "numbers": [part.number for part in parts],
            "addresses": [part.address for part in parts],
            "sizes": [part.size_bytes for part in parts],
        }
        connection.execute(_PUT, {"download_id": download_id, "job_id": job_id, **values})

    def finish(
        self, connection: JobConnection, job_id: UUID, download_id: UUID, *, sha256: str, size_bytes: int
    ) -> None:
        """Note that a download is whole and checked, in a job's `holding`; raises LeaseLost likewise."""
        self._hold(connection, job_id, download_id)
        connection.execute(_FINISH, {"download_id": download_id, "sha256": sha256, "size_bytes": size_bytes})

    def begin_anew(self, connection: JobConnection, job_id: UUID, download_id: UUID) -> None:
        """Forget the bytes of a download that this job goes on with, in its `holding`; raises LeaseLost likewise."""
        if connection.execute(_EMPTY, {"download_id": download_id, "job_id": job_id}).rowcount == 0:
            raise _lost(job_id, download_id)
        connection.execute(_CLEAR, {"download_id": download_id})

    def spoil(self, connection: JobConnection, download: Download) -> None:
        """Forget a download that is whole, in a job's `holding`: its bytes are not what they were.

        Where another has spoilt it already, and may be bringing it again, nothing happens.
        """
        values = {"download_id": download.download_id, "sha256": download.sha256}
        if connection.execute(_SPOILT, values).rowcount:
            connection.execute(_CLEAR, values)

    def expire(self, kept_s: float) -> int:
        """Forget downloads that nobody has used for so long; gives how many."""
        with self._database.transaction() as connection:
            return connection.execute(_EXPIRE, {"kept_s": kept_s}).rowcount

    def _hold(self, connection: JobConnection, job_id: UUID, download_id: UUID) -> None:
        if connection.execute(_HOLDS, {"job_id": job_id, "download_id": download_id}).fetchone() is None:
            raise _lost(job_id, download_id)

    def _held(self, connection: JobConnection, job_id: UUID, row: DictRow) -> Taken:
        """Hold the blobs of a download that was taken; those on the way out are as if they had never been."""
        download_id = row["download_id"]
        found = connection.execute(_PARTS, {"download_id": download_id, "job_id": job_id}).fetchall()
        parts = [Part(**each) for each in found]
        if not all(self.ledger.touch(connection, part.address) for part in parts):
            connection.execute(_CLEAR, {"download_id": download_id})
            connection.execute(_GONE, {"download_id": download_id})
            return Taken(download_id, row["part_bytes"], [], None)
        whole = Download(download_id, row["sha256"], row["size_bytes"], parts) if row["sha256"] else None
        return Taken(download_id, row["part_bytes"], parts, whole)


def _lost(job_id: UUID, download_id: UUID) -> LeaseLost:
    return LeaseLost(f"download {download_id} is not job {job_id}'s any more")
