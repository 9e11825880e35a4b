"""Garbage collection: what was deleted long enough ago goes for good, and so does what nothing names.

No step deletes on the word of an earlier one: a blob that nothing names is condemned first, left alone for a while, and
looked at again and marked under its row's lock before its bytes go. Whatever breaks off in between, the next round goes
on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice

import structlog

from services.common.blobs import BlobStore
from services.common.errors import Aborted, DomainError, Unavailable
from services.registry.audit import REGISTRY, Actor
from services.registry.metrics import GarbageMetrics
from services.registry.store import Store
from services.registry.store.garbage import CondemnedBlob, Round, StoredBlob

_log = structlog.get_logger(__name__)
BATCH = 1_000
MODEL_BATCH = 100
MAX_SHOWN = 100
MAX_LOGGED = 20
MAX_REFUSALS = 100


class GarbageFate(StrEnum):
    """What becomes of a blob that nothing names."""

    CONDEMNED = "CONDEMNED"
    WAITING = "WAITING"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class GarbageBlob:
    """A blob that nothing names. `delete_time` is when it is, or was, to be deleted at the earliest."""

    sha256: str
    size_bytes: int
    fate: GarbageFate
    delete_time: datetime


@dataclass(slots=True)
class GarbageReport:
    """What a round did, or would do. `counts` and `sizes_bytes` are by fate; `blobs` shows some of them."""

    dry_run: bool
    refusals: int = 0
    purged_versions: int = 0
    purged_models: int = 0
    expired_uploads: int = 0
    counts: dict[GarbageFate, int] = field(default_factory=lambda: dict.fromkeys(GarbageFate, 0))
    sizes_bytes: dict[GarbageFate, int] = field(default_factory=lambda: dict.fromkeys(GarbageFate, 0))
    blobs: list[GarbageBlob] = field(default_factory=list)

    def add(self, blob: CondemnedBlob, fate: GarbageFate, grace_s: float) -> None:
        """Count a blob."""
        self.counts[fate] += 1
        self.sizes_bytes[fate] += blob.size_bytes
        if len(self.blobs) < MAX_SHOWN:
            delete_time = blob.condemn_time + timedelta(seconds=grace_s)
            self.blobs.append(GarbageBlob(blob.sha256, blob.size_bytes, fate, delete_time))


class Garbage:
    """Collects it, a round at a time.

    `grace_s` is how long a blob is left alone after somebody stored it, and again after it was condemned. It must be
    longer than the longest upload takes.
    """

    def __init__(self, store: Store, blobs: BlobStore, *, grace_s: float, metrics: GarbageMetrics) -> None:
        self._store = store
        self._blobs = blobs
        self._grace_s = grace_s
        self._metrics = metrics

    def collect(self, *, dry_run: bool = False, scan_store: bool = False, actor: Actor = REGISTRY) -> GarbageReport:
        """Do one round, or with `dry_run` only say what it would do.

        With `scan_store` every stored blob is looked at as well, for those that no row knows. `actor` is who the audit
        log says has purged. A blob that the store refuses to delete is logged and left for the next round.

        Raises:
            Aborted: another round is under way, here or in another registry (GARBAGE_COLLECTION_RUNNING).
            Unavailable: the database or the blob store is away; what was done until then stays done.
            DomainError: the store refuses to delete blob after blob; its last word.
        """
        report = GarbageReport(dry_run)
        with self._store.write() as holder:
            at = holder.garbage.begin_round()
            if at is None:
                raise Aborted(
                    "another round of garbage collection is under way; call again when it is over",
                    reason="GARBAGE_COLLECTION_RUNNING",
                )
            self._tell(actor, dry_run=dry_run, scan_store=scan_store)
            current = Round(at, self._grace_s, dry_run)
            self._purge(current, report, actor)
            self._expire_uploads(current, report)
            self._condemn(current, report)
            if scan_store:
                self._scan(current, report)
            self._delete(current, report)
        if not dry_run:
            self._metrics.waiting_bytes.set(report.sizes_bytes[GarbageFate.WAITING])
            self._metrics.finished_time.set_to_current_time()
        return report

    def _tell(self, actor: Actor, *, dry_run: bool, scan_store: bool) -> None:
        """Log that somebody has asked for a round that changes something; the registry's own are too many."""
        if dry_run or actor == REGISTRY:
            return
        with self._store.write() as tables:
            tables.audit.append(actor, "CollectGarbage", "", after={"scan_store": scan_store})
        _log.info("garbage collection asked for", caller=actor.name, scan_store=scan_store)

    def _purge(self, current: Round, report: GarbageReport, actor: Actor) -> None:
        if current.dry_run:
            with self._store.read() as tables:
                report.purged_versions, report.purged_models = tables.deletions.count_due(current.at)
            return
        model_id = 0
        while True:
            with self._store.read() as tables:
                due = tables.deletions.models_with_due(current.at, after=model_id, limit=MODEL_BATCH)
            for model_id in due:
                self._purge_model(model_id, current.at, report, actor)
            if len(due) < MODEL_BATCH:
                return

    def _purge_model(self, model_id: int, at: datetime, report: GarbageReport, actor: Actor) -> None:
        with self._store.write() as tables:
            tables.deletions.lock_model(model_id)
            model = tables.models.get_by_id(model_id).name
            versions = tables.deletions.purge_versions(model_id, at)
            for purged in versions:
                was = {"deployment_number": purged.deployment_number}
                tables.audit.append(actor, "Purge", model, purged.version, before=was)
            gone = tables.deletions.purge_model(model_id, at)
            if gone is not None:
                tables.audit.append(actor, "Purge", model, before={"model": model})
        report.purged_versions += len(versions)
        report.purged_models += gone is not None
        self._metrics.purged_versions.inc(len(versions))
        some = [purged.version for purged in versions[:MAX_LOGGED]]
        _log.info("purged", model=model, count=len(versions), versions=some, whole_model=gone is not None)

    def _expire_uploads(self, current: Round, report: GarbageReport) -> None:
        if current.dry_run:
            with self._store.read() as tables:
                report.expired_uploads = tables.garbage.count_expired_uploads(current.at)
            return
        while True:
            with self._store.write() as tables:
                expired = tables.garbage.expire_uploads(current.at, limit=BATCH)
            report.expired_uploads += expired
            if expired < BATCH:
                return

    def _condemn(self, current: Round, report: GarbageReport) -> None:
        after = ""
        while True:
            with self._store.write() as tables:
                last = tables.garbage.window(after, limit=BATCH)
                if last is None:
                    return
                if not current.dry_run:
                    tables.garbage.spare(current, after=after, last=last)
                self._count(report, GarbageFate.CONDEMNED, tables.garbage.condemn(current, after=after, last=last))
            after = last

    def _scan(self, current: Round, report: GarbageReport) -> None:
        stored = (StoredBlob(blob.sha256, blob.size_bytes, modified) for blob, modified in self._blobs.list())
        while found := list(islice(stored, BATCH)):
            with self._store.write() as tables:
                self._count(report, GarbageFate.CONDEMNED, tables.garbage.adopt(current, found))

    def _delete(self, current: Round, report: GarbageReport) -> None:
        """Delete what was condemned long enough ago, and count what is waiting."""
        due = current.at - timedelta(seconds=self._grace_s)
        for blob in self._condemned(current):
            if blob.condemn_time > due or blob.being_deleted:
                report.add(blob, GarbageFate.WAITING, self._grace_s)
            elif current.dry_run or self._delete_blob(blob, due, report):
                report.add(blob, GarbageFate.DELETED, self._grace_s)

    def _delete_blob(self, blob: CondemnedBlob, due: datetime, report: GarbageReport) -> bool:
        """Delete a blob's bytes and then its row, under the row's lock; False where somebody wants it after all.

        A crash in between, or an answer that is lost, leaves a marked row, with its bytes or without. Nobody can store
        them until the mark is old, and the next round after that deletes again.
        """
        with self._store.write() as tables:
            mark = tables.garbage.mark(blob.sha256, condemned_by=due)
        if mark is None:
            return False
        with self._store.write() as tables:
            if not tables.garbage.lock_marked(blob.sha256, mark):
                return False
            if refusal := self._refusal(blob.sha256):
                tables.garbage.unmark(blob.sha256)
            else:
                tables.garbage.forget(blob.sha256)
        if refusal:
            _log.warning("blob not deleted", sha256=blob.sha256, reason=refusal.reason, message=refusal.message)
            report.refusals += 1
            if report.refusals == MAX_REFUSALS:
                raise refusal
            return False
        self._metrics.deleted_blobs.inc()
        self._metrics.deleted_bytes.inc(blob.size_bytes)
        return True

    def _refusal(self, sha256: str) -> DomainError | None:
        """Delete the bytes; gives why they are still there where that is certain."""
        try:
            self._blobs.delete(sha256)
        except Unavailable:
            raise
        except DomainError as error:
            return error
        return None

    def _condemned(self, current: Round) -> Iterator[CondemnedBlob]:
        after: CondemnedBlob | None = None
        while True:
            with self._store.read() as tables:
                found = tables.garbage.condemned(current, after=after, limit=BATCH)
            yield from found
            if len(found) < BATCH:
                return
            after = found[-1]

    def _count(self, report: GarbageReport, fate: GarbageFate, blobs: Iterable[CondemnedBlob]) -> None:
        for blob in blobs:
            report.add(blob, fate, self._grace_s)
