"""Versions as they are looked up, read and deleted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.common.blobs import BlobReader
from services.common.blobs.flow import check_offset
from services.common.errors import DomainError, FailedPrecondition, InvalidArgument
from services.common.jobs import JobStore
from services.trainer.datasets.dividing import Dividing, divided, get_split
from services.trainer.datasets.files import RowFiles, chunks_of, read_rows, write_columns, write_parts
from services.trainer.datasets.models import Dataset, DatasetState, KeptSplit
from services.trainer.datasets.splits import Split
from services.trainer.datasets.store import DatasetStore
from services.trainer.paging import page_of_versions
from services.trainer.task import Part


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file that is downloaded: of which version, and what all of it hashes to and how long it is."""

    dataset: Dataset
    sha256: str
    size_bytes: int


class Catalog:
    """Looks versions up."""

    def __init__(self, store: DatasetStore, files: RowFiles, dividing: Dividing, builds: JobStore) -> None:
        self._store = store
        self._files = files
        self._dividing = dividing
        self._builds = builds

    def get(self, name: str, version: int) -> Dataset:
        """Read a version, 0: the newest that is READY; raises NotFound."""
        return self._store.get(name, version)

    def page(self, name: str, *, page_size: int, page_token: str) -> tuple[list[Dataset], str]:
        """List all versions of one, the newest first; or the newest version of each, by name."""
        return page_of_versions("datasets", self._store.page, name, page_size=page_size, page_token=page_token)

    def preview(self, name: str, version: int, offset: int, limit: int) -> list[dict[str, Any]]:
        """Read some rows; raises as `get`, and FailedPrecondition (DATASET_NOT_READY)."""
        dataset = self._ready(name, version)
        with self._files.brought(self._store.blob(dataset.version_id)) as path:
            return read_rows(path, offset, limit)

    def download(
        self, name: str, version: int, *, split_id: str, part: Part | None, columns: Sequence[str] = (), offset: int
    ) -> tuple[SentFile, Iterator[bytes]]:
        """Give the bytes of a version's file, or of one part of a split or some columns, as Parquet.

        Raises:
            FailedPrecondition: DATASET_NOT_READY.
            NotFound: SPLIT_NOT_FOUND.
            InvalidArgument: PART_REQUIRED, UNKNOWN_COLUMN.
            OutOfRange: OFFSET_OUT_OF_RANGE.
        """
        dataset = self._ready(name, version)
        if bool(split_id) != (part is not None):
            sentence = "a part is of a split: name both, or neither for all rows"
            raise InvalidArgument.field("part", sentence, reason="PART_REQUIRED")
        sha256 = self._store.blob(dataset.version_id)
        if unknown := sorted(set(columns) - {column.name for column in dataset.rows.columns}):
            sentence = f"{dataset.reference} has no column {unknown[0]!r}"
            raise InvalidArgument.field("columns", sentence, reason="UNKNOWN_COLUMN")
        chosen = [column.name for column in dataset.rows.columns if column.name in columns] or None
        if part is None and chosen is None:
            reader = self._files.open(sha256, offset)
            return SentFile(dataset, sha256, dataset.size_bytes), _closing(reader)
        stack = ExitStack()
        with stack:
            path = stack.enter_context(self._files.brought(sha256))
            out = path.with_name("part.parquet")
            if part is None:
                write_columns(path, out, chosen or ())
            else:
                _, parts = divided(dataset, get_split(dataset, split_id).split, path)
                write_parts(path, parts, {part: out}, chosen)
            size_bytes = out.stat().st_size
            check_offset(offset, size_bytes=size_bytes)
            with out.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            # Whoever reads the bytes to their end, or closes them, lets go of the folder.
            return SentFile(dataset, digest, size_bytes), _with(stack.pop_all(), chunks_of(out, offset))

    def split(self, name: str, version: int, split: Split) -> KeptSplit:
        """Divide a version; see `Dividing.split`."""
        return self._dividing.split(self._ready(name, version), split)

    def delete(self, name: str, version: int, *, force: bool) -> None:
        """Delete a version; raises NotFound, and FailedPrecondition (DATASET_IN_USE) unless by force."""
        dataset = self._store.get(name, version)
        with self._store.transaction() as connection:
            build = self._store.delete(connection, dataset, force=force)
        if build is not None:
            self._cancel(build)

    def _cancel(self, build: UUID) -> None:
        try:
            self._builds.cancel(build)
        except FailedPrecondition:
            return  # it has ended meanwhile, and the version goes with the next housekeeping

    def _ready(self, name: str, version: int) -> Dataset:
        return ready(self._store.get(name, version))


def ready(
    dataset: Dataset,
    refusal: Callable[[str], DomainError] = lambda sentence: FailedPrecondition(sentence, reason="DATASET_NOT_READY"),
) -> Dataset:
    """Give a version back that can be read."""
    if dataset.state is not DatasetState.READY:
        why = f": {dataset.message}" if dataset.message else "; wait until it is READY"
        raise refusal(f"{dataset.reference} is {dataset.state}{why}")
    return dataset


def _closing(reader: BlobReader) -> Iterator[bytes]:
    with reader:
        yield from reader


def _with(stack: ExitStack, chunks: Iterator[bytes]) -> Iterator[bytes]:
    with stack:
        yield from chunks
