"""Files on their way in parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from services.common.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class NewUpload:
    """A file to send in parts; `part_size_bytes` is 0 where the registry shall choose."""

    sha256: str
    size_bytes: int
    part_size_bytes: int
    request_id: str


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on its way. Parts are numbered from 1; all but the last have the same size."""

    upload_id: str
    sha256: str
    size_bytes: int
    part_size_bytes: int
    finished: bool
    received_parts: tuple[int, ...]
    created_by: str
    create_time: datetime
    expire_time: datetime

    @property
    def part_count(self) -> int:
        """How many parts it has."""
        return -(-self.size_bytes // self.part_size_bytes)

    @property
    def missing_parts(self) -> tuple[int, ...]:
        """The numbers of the parts that have yet to arrive, in order."""
        return tuple(sorted(set(range(1, self.part_count + 1)) - set(self.received_parts)))

    def get_finished(self) -> Upload:
        """Give it back if the whole file is stored; raises FailedPrecondition (UPLOAD_NOT_FINISHED)."""
        if not self.finished:
            raise FailedPrecondition(
                f"the upload {self.upload_id} is not finished; send its parts and call FinishUpload first",
                reason="UPLOAD_NOT_FINISHED",
            )
        return self

    def size_of(self, part_number: int) -> int:
        """Say how large a part is."""
        if part_number < self.part_count:
            return self.part_size_bytes
        return self.size_bytes - (self.part_count - 1) * self.part_size_bytes


@dataclass(frozen=True, slots=True)
class NewPart:
    """A part about to arrive."""

    upload_id: str
    part_number: int
    sha256: str
    chunks: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of an upload has been put together; `upload` at the end."""

    done_bytes: int
    upload: Upload | None = None
