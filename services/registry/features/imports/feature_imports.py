"""The use case of imports: read a source, write its rows block by block, and tell how far it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.common.allowed_files import AllowedFiles, BlobSettings
from services.common.errors import DeadlineExceeded, DomainError, InvalidArgument, NotFound, ResourceExhausted
from services.registry.features.imports.ahead import Ahead
from services.registry.features.imports.bigquery_access import BigQueryAccess
from services.registry.features.imports.connections import Connections
from services.registry.features.imports.files import FileReading
from services.registry.features.imports.models import (
    BigQuerySource,
    Block,
    Progress,
    QuerySource,
    Reading,
    Source,
    SourceColumns,
)
from services.registry.features.imports.store import QueryReading
from services.registry.features.models import View
from services.registry.features.values import FeatureValues

Reached = Generator[Progress, None, None]


class ImportSettings(BlobSettings, Protocol):
    """What the settings say of imports; see services/registry/settings.py."""

    feature_roots: frozenset[str]
    feature_connections_file: Path | None
    feature_bigquery_projects: frozenset[str]
    feature_bigquery_credentials_file: Path | None
    feature_bigquery_endpoint: str | None
    feature_bigquery_max_bytes_billed: int
    feature_imports: int
    feature_import_dir: Path | None
    feature_max_import_bytes: int
    feature_max_import_rows: int
    feature_import_timeout_ms: int
    feature_query_timeout_ms: int
    feature_require_sandbox: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What one import may take, and how many there may be at once."""

    at_once: int
    max_bytes: int
    max_rows: int
    timeout_s: float
    query_timeout_ms: int
    folder: Path | None
    require_sandbox: bool


class FeatureImports:
    """Imports rows of files and of queries."""

    def __init__(
        self,
        values: FeatureValues,
        allowed: AllowedFiles,
        connections: Connections,
        big_query: BigQueryAccess,
        limits: Limits,
    ) -> None:
        self._values = values
        self._allowed = allowed
        self._connections = connections
        self._big_query = big_query
        self._limits = limits
        self._places = threading.BoundedSemaphore(limits.at_once)

    @classmethod
    def from_settings(cls, settings: ImportSettings, values: FeatureValues) -> FeatureImports:
        """Build it as the settings say."""
        limits = Limits(
            at_once=settings.feature_imports,
            max_bytes=settings.feature_max_import_bytes,
            max_rows=settings.feature_max_import_rows,
            timeout_s=settings.feature_import_timeout_ms / 1_000,
            query_timeout_ms=settings.feature_query_timeout_ms,
            folder=settings.feature_import_dir,
            require_sandbox=settings.feature_require_sandbox,
        )
        allowed = AllowedFiles(settings.feature_roots, settings, unreadable=_unreadable)
        big_query = BigQueryAccess(
            settings.feature_bigquery_projects,
            settings.feature_bigquery_credentials_file,
            settings.feature_bigquery_endpoint,
            settings.feature_bigquery_max_bytes_billed,
        )
        return cls(values, allowed, Connections(settings.feature_connections_file), big_query, limits)

    def run(self, view: View, source: Source, columns: SourceColumns) -> Reached:
        """Read a source and write its rows; tells how far it is, twice a second at least. Closed, it ends.

        Raises:
            ResourceExhausted: as many imports as may be are under way (TOO_MANY_IMPORTS).
            DeadlineExceeded: it took longer than it may (IMPORT_TOO_SLOW); what it told as written is.
            InvalidArgument, NotFound, Unavailable, FailedPrecondition: see `Reading.blocks` of the source.
        """
        if not self._places.acquire(blocking=False):
            sentence = f"{self._limits.at_once:,} imports are under way, and no more may be; try again later"
            raise ResourceExhausted(sentence, reason="TOO_MANY_IMPORTS")
        try:
            yield from self._run(view, self._reading(source), columns)
        finally:
            self._places.release()

    def _run(self, view: View, reading: Reading, columns: SourceColumns) -> Reached:
        deadline = time.monotonic() + self._limits.timeout_s
        now_us = time.time_ns() // 1_000
        reached = Progress()
        with Ahead(lambda: reading.blocks(view, columns, now_us), reading.stop) as blocks:
            for block in blocks:
                if time.monotonic() > deadline:
                    sentence = f"the import took longer than the {self._limits.timeout_s:g} s that it may"
                    raise DeadlineExceeded(
                        f"{sentence}; {reached.row_count:,} rows are written: divide it", reason="IMPORT_TOO_SLOW"
                    )
                if block is not None:
                    reached = self._written(view, block, reached)
                yield reached
        yield Progress(reached.row_count, reached.written, done=True)

    def _written(self, view: View, block: Block, reached: Progress) -> Progress:
        count = reached.row_count + len(block.rows.keys)
        if count > self._limits.max_rows:
            sentence = f"there are more than the {self._limits.max_rows:,} rows that one import may have"
            raise InvalidArgument(f"{sentence}; {reached.row_count:,} are written: divide it", reason="TOO_LARGE")
        try:
            written = self._values.write(view, block.rows, block.create_times)
        except DomainError as error:
            error.message = f"{error.message} (rows {reached.row_count + 1:,} to {count:,})"
            raise
        return Progress(count, reached.written + written)

    def _reading(self, source: Source) -> Reading:
        if isinstance(source, QuerySource):
            return QueryReading(
                self._connections.url_of(source.connection),
                source.sql,
                name=source.connection,
                timeout_ms=self._limits.query_timeout_ms,
            )
        if isinstance(source, BigQuerySource):
            return self._big_query.reading(source, timeout_ms=self._limits.query_timeout_ms)
        return FileReading(
            source,
            self._allowed,
            max_bytes=self._limits.max_bytes,
            folder=self._limits.folder,
            timeout_s=self._limits.timeout_s,
            require_sandbox=self._limits.require_sandbox,
        )


def _unreadable(sentence: str) -> DomainError:
    return NotFound(sentence, reason="INPUT_NOT_FOUND")
