"""What imports speak of: frozen values."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from services.registry.features.models import Rows, Times, View, Written

EVENT_TIME = "event_time"
"""The column of event times, where none is named."""


class FileFormat(enum.StrEnum):
    """How a file of rows is written."""

    CSV = "csv"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file in an allowed place."""

    uri: str
    format: FileFormat


@dataclass(frozen=True, slots=True)
class QuerySource:
    """A query of a database that the settings name."""

    connection: str
    sql: str


@dataclass(frozen=True, slots=True)
class BigQuerySource:
    """A query of BigQuery, and the project that runs it."""

    project: str
    sql: str


Source = FileSource | QuerySource | BigQuerySource


@dataclass(frozen=True, slots=True)
class SourceColumns:
    """Which columns are what. `event_time`: '' where nobody named one; `create_time`: '' for none."""

    key: str
    event_time: str = ""
    create_time: str = ""
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a source. `create_times`: None: they are known from now on."""

    rows: Rows
    create_times: Times | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import is."""

    row_count: int = 0
    written: Written = field(default_factory=Written)
    done: bool = False


class Reading(Protocol):
    """A source that is being read."""

    def blocks(self, view: View, columns: SourceColumns, now_us: int) -> Iterator[Block]:
        """Give its rows; without times of their own they have `now_us`. Raises DomainError."""
        ...

    def stop(self) -> None:
        """End the reading from another thread, within a second or so."""
        ...
