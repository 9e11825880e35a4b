"""A download read as an open file: what is registered is read from its parts, and copied nowhere."""

from __future__ import annotations

import io
from bisect import bisect_right
from itertools import accumulate

from services.common.blobs import BlobReader, BlobStore
from services.common.errors import DataLoss, NotFound
from services.fetcher.models import Download


class DownloadDamaged(DataLoss):
    """The bytes of a download that is whole are not in the blob store as they were."""

    def __init__(self, download: Download) -> None:
        super().__init__("what was downloaded is damaged in the blob store", reason="DOWNLOAD_DAMAGED")
        self.download = download


class DownloadReader(io.RawIOBase):
    """The bytes of a download, from anywhere in it. One thread reads at a time."""

    def __init__(self, blobs: BlobStore, download: Download) -> None:
        super().__init__()
        self._blobs = blobs
        self._download = download
        self._starts = [0, *accumulate(part.size_bytes for part in download.parts)]
        self._position = 0
        self._reader: BlobReader | None = None
        self._rest = b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Say which byte is next."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._download.size_bytes}[whence]
        if start + offset != self._position:
            self._let_go()
            self._position = start + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read up to so many bytes; fewer come only at the end.

        Raises:
            DownloadDamaged: a part is gone, or not what it was.
            DomainError: what else `BlobStore.open` and its reader raise.
        """
        pieces: list[bytes] = []
        left = self._download.size_bytes - self._position if size is None or size < 0 else size
        while left > 0 and (piece := self._piece()):
            pieces.append(piece[:left])
            self._rest = piece[left:]
            self._position += len(pieces[-1])
            left -= len(pieces[-1])
        return b"".join(pieces)

    def close(self) -> None:
        """Let go of the part that is open."""
        self._let_go()
        super().close()

    def _piece(self) -> bytes:
        if self._rest:
            return self._rest
        if self._position >= self._download.size_bytes:
            return b""
        number = bisect_right(self._starts, self._position) - 1
        try:
            if self._reader is None:
                part = self._download.parts[number]
                self._reader = self._blobs.open(part.sha256, offset=self._position - self._starts[number])
            piece = next(self._reader, b"")
            if not piece or self._position + len(piece) >= self._starts[number + 1]:
                next(self._reader, b"")  # only who asks for more than there is hears that it was damaged
                self._reader = None
        except (DataLoss, NotFound) as error:
            raise DownloadDamaged(self._download) from error
        if not piece:
            raise DownloadDamaged(self._download)
        return piece

    def _let_go(self) -> None:
        self._rest = b""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
