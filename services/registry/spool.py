"""Where an archive waits on the disk to be unpacked, in a file without a name: it goes with the process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from services.common.blobs.flow import Chunk, Inflow
from services.common.errors import FailedPrecondition, ResourceExhausted


class Spool:
    """A folder for temporary files; None: the system's."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @contextmanager
    def received(
        self,
        chunks: Iterable[bytes],
        *,
        sha256: str | None,
        size_bytes: int | None,
        max_bytes: int,
        check: Callable[[str], None],
    ) -> Iterator[BinaryIO]:
        """Lend a file with the bytes that flow from `chunks`, checked as `BlobStore.put` checks them.

        `check` is given the digest, and may refuse.

        Raises:
            InvalidArgument: DIGEST_MISMATCH, SIZE_MISMATCH, TOO_LARGE.
            ResourceExhausted: the disk is full (SPOOL_FULL).
            FailedPrecondition: the folder can't be used (SPOOL_UNUSABLE).
        """
        inflow = Inflow(chunks, sha256=sha256, size_bytes=size_bytes, max_bytes=max_bytes)
        try:
            file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 -- closed below
        except OSError as error:
            message = f"the folder for archives can't be used ({error.strerror}); set PENSTOCK_UPLOAD_SPOOL_DIR"
            raise FailedPrecondition(message, reason="SPOOL_UNUSABLE") from error
        with file:
            for chunk in inflow:
                _write(file, chunk)
            check(inflow.sha256)
            yield file


def _write(file: BinaryIO, chunk: Chunk) -> None:
    with memoryview(chunk) as rest:
        done = 0
        while done < len(rest):
            try:
                done += file.write(rest[done:])
            except OSError as error:
                raise ResourceExhausted(
                    f"the disk where archives wait to be unpacked is full ({error.strerror}); free space, set "
                    "PENSTOCK_UPLOAD_SPOOL_DIR, or send the files one by one",
                    reason="SPOOL_FULL",
                ) from error
