"""The stream of an upload, file by file."""

from __future__ import annotations

from collections.abc import Iterator

from services.common.errors import InvalidArgument
from services.registry.models import FileEnd, NewFile, UploadPart


class FileStream:
    """The files of an upload as they arrive; so many are announced.

    A stream that was cancelled can look like one that is complete. What tells them apart is known beforehand, or comes
    with a file's end: how many files there are, and the size or the digest of each.
    """

    def __init__(self, parts: Iterator[UploadPart], *, count: int) -> None:
        self._parts = parts
        self._count = count
        self._begun = 0
        self._next: NewFile | None = None
        self._end: FileEnd | None = None

    def headers(self) -> Iterator[NewFile]:
        """Give each file's header; its bytes, if it has any, are read before the next.

        Raises:
            InvalidArgument: INCOMPLETE_UPLOAD, TOO_MANY_FILES.
        """
        self._next = self._following()
        while self._next is not None:
            header, self._next = self._next, None
            yield header

    def expect_no_bytes(self, header: NewFile) -> None:
        """Read on to the next file; raises InvalidArgument (INCOMPLETE_UPLOAD) where bytes come."""
        part = next(self._parts, None)
        if part is not None and not isinstance(part, NewFile):
            raise InvalidArgument(
                f"bytes came for {header.path!r}, which are those of the upload {header.upload_id}; send no chunk and "
                "no end after it",
                reason="INCOMPLETE_UPLOAD",
            )
        self._next = self._checked(part)

    def chunks(self, header: NewFile) -> Iterator[bytes]:
        """Give a file's bytes, and raise in place of their end where some are missing; `check_digest` says the rest.

        Raises:
            InvalidArgument: EMPTY_FILE, INCOMPLETE_UPLOAD, and as `headers`.
        """
        empty = True
        self._end = None
        part = next(self._parts, None)
        while isinstance(part, bytes | FileEnd):
            if self._end is not None:
                raise InvalidArgument(
                    f"more came after the end of {header.path!r}; the next file's header follows it",
                    reason="INCOMPLETE_UPLOAD",
                )
            if isinstance(part, FileEnd):
                self._end = part
            else:
                empty = empty and not part
                yield part
            part = next(self._parts, None)
        if empty:
            raise InvalidArgument(f"no bytes came for {header.path!r}; send the file itself", reason="EMPTY_FILE")
        if self._end is None and header.sha256 is None and header.size_bytes is None:
            raise InvalidArgument(
                "the upload ended without the file's end, so it may be cut short; send its size or digest in the file "
                "header, or its digest in a FileEnd after its last bytes",
                reason="INCOMPLETE_UPLOAD",
            )
        self._next = self._checked(part)

    def check_digest(self, sha256: str) -> None:
        """Hold the bytes that were read to what came after them; raises InvalidArgument (DIGEST_MISMATCH)."""
        if self._end is not None and self._end.sha256 != sha256:
            raise InvalidArgument.field(
                "sha256",
                f"the bytes that came hash to {sha256}, and their end says otherwise",
                reason="DIGEST_MISMATCH",
            )

    def _following(self) -> NewFile | None:
        part = next(self._parts, None)
        if part is not None and not isinstance(part, NewFile):
            raise InvalidArgument("bytes came where a file's header should", reason="INCOMPLETE_UPLOAD")
        return self._checked(part)

    def _checked(self, header: NewFile | None) -> NewFile | None:
        if header is None and self._begun < self._count:
            raise InvalidArgument(
                f"the upload ended after {self._begun} of its {self._count} files; send the header, then for each file "
                "a file header and the file's bytes",
                reason="INCOMPLETE_UPLOAD",
            )
        if header is not None:
            if self._begun == self._count:
                raise InvalidArgument(
                    f"a file too many, {header.path!r}, came; say in the header's file_count how many there are",
                    reason="TOO_MANY_FILES",
                )
            self._begun += 1
        return header
