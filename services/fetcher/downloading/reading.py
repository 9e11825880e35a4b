"""A download read as an open file: what is registered is read from its parts, and copied nowhere."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from typing import Final

from services.common.blobs import BlobStore
from services.common.errors import DataLoss, NotFound
from services.fetcher.models import Download

MOST_PARTS: Final = 3
"""Parts in memory at once: whoever sends a large file reads it in two places."""


class DownloadDamaged(DataLoss):
    """The bytes of a download that is whole are not in the blob store as they were."""

    def __init__(self, download: Download) -> None:
        super().__init__("what was downloaded is damaged in the blob store", reason="DOWNLOAD_DAMAGED")
        self.download = download


class DownloadReader(io.RawIOBase):
    """The bytes of a download, from anywhere in it. One thread reads at a time.

    A part is read in whole and verified before any byte of it is given, wherever the reading begins; it stays in
    memory until its last byte has been read, or three others were wanted since.
    """

    def __init__(self, blobs: BlobStore, download: Download) -> None:
        super().__init__()
        self._blobs = blobs
        self._download = download
        self._starts = [0, *accumulate(part.size_bytes for part in download.parts)]
        self._position = 0
        self._parts: OrderedDict[int, bytearray] = OrderedDict()

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
        self._position = start + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read up to so many bytes; fewer come only at the end.

        Raises:
            DownloadDamaged: a part is gone, or not what it was.
            DomainError: what else `BlobStore.open` and its reader raise.
        """
        rest = max(0, self._download.size_bytes - self._position)
        left = rest if size is None or size < 0 else min(size, rest)
        pieces: list[bytes] = []
        while left > 0:
            number = bisect_right(self._starts, self._position) - 1
            begin = self._position - self._starts[number]
            with memoryview(self._part(number)) as part:
                pieces.append(bytes(part[begin : begin + left]))
            self._position += len(pieces[-1])
            left -= len(pieces[-1])
            if self._position == self._starts[number + 1]:
                del self._parts[number]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Let go of the parts in memory."""
        self._parts.clear()
        super().close()

    def _part(self, number: int) -> bytearray:
        """Give a part, verified."""
        if number not in self._parts:
            while len(self._parts) >= MOST_PARTS:
                self._parts.popitem(last=False)
            self._parts[number] = self._verified(number)
        self._parts.move_to_end(number)
        return self._parts[number]

    def _verified(self, number: int) -> bytearray:
        part = self._download.parts[number]
        content = bytearray()
        try:
            with self._blobs.open(part.address) as reader:
                for chunk in reader:
                    content += chunk
        except (DataLoss, NotFound) as error:
            raise DownloadDamaged(self._download) from error
        if len(content) != part.size_bytes:
            raise DownloadDamaged(self._download)
        return content
