"""What profiles are made of, and what they are beside their features."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.monitoring.models import Window
from services.monitoring.profiles.models import Reference
from services.monitoring.profiles.reference import Columns


class RowFormat(enum.Enum):
    """How rows are written; the numbers are the contract's."""

    JSONL = 1
    PARQUET = 2
    CSV = 3


@dataclass(frozen=True, slots=True)
class UploadSource:
    """A file that was sent."""

    sha256: str


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file in a blob store."""

    uri: str
    sha256: str
    row_format: RowFormat


@dataclass(frozen=True, slots=True)
class WindowSource:
    """Live traffic."""

    window: Window


Source = UploadSource | FileSource | WindowSource


@dataclass(frozen=True, slots=True)
class NewProfile:
    """A profile to make: for whom, and what its columns are. `body_sha256` tells repeats of a request apart."""

    model: str
    version: str
    columns: Columns
    note: str
    request_id: str = ""
    body_sha256: bytes = b""


@dataclass(frozen=True, slots=True)
class Profile:
    """A reference as it is kept. In lists it comes without its features: `reference.features` is empty then.

    `warnings` say what is odd about the version that it was just attached to; they are not kept.
    """

    reference: Reference
    source: Source
    feature_count: int
    attached_versions: Sequence[str]
    warnings: Sequence[str] = ()

    @property
    def id(self) -> UUID:
        """The reference's."""
        return self.reference.id


@dataclass(frozen=True, slots=True)
class Page:
    """Profiles, the newest first, and the token of the next page; empty on the last."""

    profiles: Sequence[Profile]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a version is compared with from now on.

    `columns` are what those of its only input were declared to be called; empty where nobody said.
    """

    model: str
    version: str
    profile_id: UUID
    time: datetime
    attached_by: str
    columns: Sequence[str]
