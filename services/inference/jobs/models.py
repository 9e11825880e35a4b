"""What a batch prediction is: frozen values, as its row has them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


class FileFormat(enum.StrEnum):
    """How rows are written in a file."""

    JSONL = "JSONL"
    PARQUET = "PARQUET"
    CSV = "CSV"


class InputKind(enum.StrEnum):
    """Where the rows come from."""

    SINGLE = "SINGLE"
    """One request of one row or many."""
    ROWS = "ROWS"
    FILE = "FILE"


@dataclass(frozen=True, slots=True)
class FileInput:
    """A file of rows, and the digest that its bytes must have."""

    uri: str
    sha256: str
    format: FileFormat


@dataclass(frozen=True, slots=True)
class PredictionSpec:
    """What is to be predicted, and how. `request` is a serialised SingleInput or RowsInput.

    `resolved_version` and `version_digest` are empty until the job first runs, and then never change.
    """

    model: str
    version: str
    kind: InputKind
    output_format: FileFormat
    request: bytes = b""
    file: FileInput | None = None
    outputs: tuple[str, ...] = ()
    max_failed_rows: int | None = None
    record_events: bool = True
    user_id: str = ""
    resolved_version: str = ""
    version_digest: str = ""
    inference_ms: float = 0.0

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Self:
        """Read the columns of a job's row."""
        sha256 = payload["input_sha256"]
        return cls(
            model=payload["model"],
            version=payload["version"],
            kind=InputKind(payload["input_kind"]),
            output_format=FileFormat(payload["output_format"]),
            request=bytes(payload["request"] or b""),
            file=FileInput(payload["input_uri"], sha256, FileFormat(payload["input_format"])) if sha256 else None,
            outputs=tuple(payload["outputs"]),
            max_failed_rows=payload["max_failed_rows"],
            record_events=payload["record_events"],
            user_id=payload["user_id"],
            resolved_version=payload["resolved_version"],
            version_digest=payload["version_digest"],
            inference_ms=payload["inference_ms"],
        )

    def columns(self) -> dict[str, Any]:
        """Give the columns of a new job's row."""
        file = self.file
        return {
            "model": self.model,
            "version": self.version,
            "input_kind": self.kind.value,
            "output_format": self.output_format.value,
            "request": self.request or None,
            "input_uri": file.uri if file else "",
            "input_sha256": file.sha256 if file else "",
            "input_format": file.format.value if file else "",
            "outputs": list(self.outputs),
            "max_failed_rows": self.max_failed_rows,
            "record_events": self.record_events,
            "user_id": self.user_id,
        }


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that are done: so many from `first_row` on, in the blob `sha256`."""

    number: int
    first_row: int
    row_count: int
    failed_count: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Done:
    """All that is done of a job."""

    chunk_count: int = 0
    row_count: int = 0
    failed_count: int = 0


@dataclass(frozen=True, slots=True)
class ResultFile:
    """The file of a result."""

    sha256: str
    size_bytes: int
    row_count: int
    failed_row_count: int


@dataclass(frozen=True, slots=True)
class RowError:
    """Why one row has no outputs."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RowResult:
    """What became of one row: outputs by name as plain Python values, or an error.

    `inference_id` is "" where no event was recorded; `inference_row` is the row within that inference.
    """

    outputs: Mapping[str, Any]
    error: RowError | None = None
    inference_id: str = ""
    inference_row: int = 0
