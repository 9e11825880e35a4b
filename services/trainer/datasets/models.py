"""What datasets are made of: frozen values."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import TypeAdapter

from services.common import checks
from services.common.errors import InvalidArgument
from services.trainer.datasets.kinds import ColumnType
from services.trainer.datasets.splits import Split
from services.trainer.task import Part

MAX_NAME_CHARS: Final = 128


class DatasetState(enum.StrEnum):
    """How far a version has come."""

    BUILDING = "BUILDING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Column:
    """A column and what was counted of it; see Column of datasets.proto."""

    name: str
    type: ColumnType
    missing_count: int = 0
    distinct_count: int = 0
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    standard_deviation: float | None = None
    top_values: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class UploadSource:
    """A file that was sent."""

    file_name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class TrafficSource:
    """What a model was asked, and what really happened; see TrafficSource of datasets.proto."""

    model: str
    start_time: datetime
    end_time: datetime
    versions: tuple[str, ...] = ()
    labelled_only: bool = False
    max_rows: int = 0
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """Feature views as of a time per row of another dataset; `rows` is NAME/VERSION once it is known."""

    rows: str
    key_column: str
    time_column: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows came from: one of these."""

    upload: UploadSource | None = None
    traffic: TrafficSource | None = None
    features: FeatureSource | None = None


SOURCE: Final = TypeAdapter(Source)
COLUMNS: Final = TypeAdapter(tuple[Column, ...])


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that lie in a file: what they are, wherever it is."""

    row_count: int
    columns: tuple[Column, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class KeptSplit:
    """How a version is divided, and how many rows each part has."""

    split_id: str
    split: Split
    counts: Mapping[Part, int]


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version that is to be."""

    version_id: UUID
    name: str
    source: Source
    created_by: str
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    body_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A version of a dataset as it stands."""

    version_id: UUID
    name: str
    version: int
    state: DatasetState
    message: str
    rows: Rows
    size_bytes: int
    source: Source
    description: str
    labels: Mapping[str, str]
    created_by: str
    create_time: datetime
    ready_time: datetime | None
    progress_rows: int = 0
    splits: tuple[KeptSplit, ...] = ()

    @property
    def reference(self) -> str:
        """As runs and people name it."""
        return f"{self.name}/{self.version}"

    @classmethod
    def from_row(cls, row: Mapping[str, Any], splits: tuple[KeptSplit, ...] = ()) -> Dataset:
        """Take a row of the table."""
        return cls(
            version_id=row["version_id"],
            name=row["name"],
            version=row["version"],
            state=DatasetState(row["state"]),
            message=row["message"],
            rows=Rows(row["row_count"], COLUMNS.validate_python(row["columns"]), row["digest"]),
            size_bytes=row["size_bytes"],
            source=SOURCE.validate_python(row["source"]),
            description=row["description"],
            labels=row["labels"],
            created_by=row["created_by"],
            create_time=row["create_time"],
            ready_time=row["ready_time"],
            progress_rows=row["progress_rows"],
            splits=splits,
        )


def reference_of(field: str, text: str) -> tuple[str, int]:
    """Read NAME or NAME/VERSION, 0: the newest that is READY; raises InvalidArgument (INVALID_NAME)."""
    name, mark, version = text.partition("/")
    checks.model_name(field, name)
    if mark and not (version.isascii() and version.isdigit() and len(version) < 10 and int(version)):
        sentence = f"got {checks.shown(text)}; write NAME, or NAME/VERSION with a version of 1, 2, 3 …"
        raise InvalidArgument.field(field, sentence, reason="INVALID_NAME")
    return name, int(version or 0)
