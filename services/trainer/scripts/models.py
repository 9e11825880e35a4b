"""What scripts are: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Contents:
    """What was sent: a zip of files, or one file; the file with train(context), and sizes in bytes by path."""

    packed: bool
    entry: str
    files: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NewScript:
    """A version that is to be."""

    version_id: UUID
    name: str
    created_by: str
    description: str = ""
    request_id: str = ""
    body_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Script:
    """A version of a script; `sha256` and `size_bytes` are of what was sent."""

    version_id: UUID
    name: str
    version: int
    contents: Contents
    sha256: str
    size_bytes: int
    description: str
    created_by: str
    create_time: datetime

    @property
    def reference(self) -> str:
        """As runs and people name it."""
        return f"{self.name}/{self.version}"

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Script:
        """Take a row of the table."""
        return cls(
            version_id=row["version_id"],
            name=row["name"],
            version=row["version"],
            contents=Contents(row["packed"], row["entry"], row["files"]),
            sha256=row["sha256"],
            size_bytes=row["size_bytes"],
            description=row["description"],
            created_by=row["created_by"],
            create_time=row["create_time"],
        )
