"""Bytes on their way in and out of a store, hashed and held to what was promised about them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Final, Literal, Protocol, Self

from services.common.errors import DataLoss, InvalidArgument, OutOfRange

READ_BYTES: Final = 1024 * 1024
Chunk = bytes | memoryview
"""Some bytes that flow in; whoever lends a view of memory may use that again once `put` returns."""


class Hash(Protocol):
    """A digest of 32 bytes in the making, as hashlib has it."""

    def update(self, data: Chunk, /) -> object:
        """Take more bytes."""
        ...

    def hexdigest(self) -> str:
        """Give the digest of all bytes so far."""
        ...


NewHash = Callable[[], Hash]
DigestName = Literal["sha256", "blake3"]


def hash_of(digest: DigestName) -> NewHash:
    """Give what makes digests of a name, each 64 hex digits."""
    if digest == "sha256":
        return hashlib.sha256
    # Only who addresses blobs by it has the package.
    from blake3 import blake3

    return blake3


class Inflow:
    """The bytes of one upload, hashed while they pass.

    Iterating gives the caller's chunks and raises InvalidArgument as soon as a promise is broken: above a
    limit at once, a wrong digest or a short body in place of the end. Whoever iterates to the end without
    an error holds bytes that are what was declared.
    """

    def __init__(
        self,
        chunks: Iterable[Chunk],
        *,
        sha256: str | None,
        size_bytes: int | None,
        max_bytes: int,
        new_hash: NewHash = hashlib.sha256,
    ) -> None:
        self._chunks = chunks
        self._declared_sha256 = sha256
        self._declared_bytes = size_bytes
        self._max_bytes = max_bytes
        self._hash = new_hash()
        self.size_bytes = 0
        self.ended = False

    @property
    def sha256(self) -> str:
        """The digest of what has flowed so far."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[Chunk]:
        self._check_limit(self._declared_bytes or 0)
        for chunk in self._chunks:
            self.size_bytes += len(chunk)
            self._check_limit(self.size_bytes)
            if self._declared_bytes is not None and self.size_bytes > self._declared_bytes:
                raise self._wrong_size(f"at least {self.size_bytes:,} bytes came")
            self._hash.update(chunk)
            yield chunk
        self._check_end()
        self.ended = True

    def parts(self, part_bytes: int) -> Iterator[Chunk]:
        """Give the same bytes in parts of exactly `part_bytes`, the last one shorter or as long.

        A full part leaves only when a byte follows it, so `ended` is true when the last part is handed out,
        and by then everything has been checked. An empty upload is one empty part.
        """
        pieces: list[Chunk] = []
        room = part_bytes
        for chunk in self:
            rest: Chunk = chunk
            while len(rest) > room:
                pieces.append(rest[:room])
                rest = rest[room:]
                room = part_bytes
                yield _joined(pieces)
            pieces.append(rest)
            room -= len(rest)
        yield _joined(pieces)

    def _check_limit(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            message = f"the limit is {self._max_bytes:,} bytes and at least {size_bytes:,} came or were declared"
            raise InvalidArgument.field("size_bytes", message, reason="TOO_LARGE")

    def _check_end(self) -> None:
        if self._declared_bytes is not None and self.size_bytes != self._declared_bytes:
            raise self._wrong_size(f"{self.size_bytes:,} came")
        if self._declared_sha256 is not None and self.sha256 != self._declared_sha256:
            message = (
                f"{self._declared_sha256} was declared, and the {self.size_bytes:,} bytes that came hash to "
                f"{self.sha256}; send the file again, or correct the digest"
            )
            raise InvalidArgument.field("sha256", message, reason="DIGEST_MISMATCH")

    def _wrong_size(self, came: str) -> InvalidArgument:
        message = f"{self._declared_bytes:,} bytes were declared and {came}; send the file again, or correct it"
        return InvalidArgument.field("size_bytes", message, reason="SIZE_MISMATCH")


class BlobReader:
    """The bytes of a stored blob: an iterator of chunks of at most 1 MiB, and a context manager.

    A full read (offset 0) is verified: where the bytes do not hash to their address, cut short or changed,
    the iteration raises DataLoss (BLOB_CORRUPT) in place of its end, so a receiver must not use what it got
    before the iteration has ended. A read from an offset is not verified: who resumes checks the whole.
    Exhausting it, an error and `close` all let go of what it holds.
    """

    def __init__(
        self,
        sha256: str,
        *,
        size_bytes: int,
        offset: int,
        read: Callable[[], bytes],
        release: Callable[[], None],
        new_hash: NewHash = hashlib.sha256,
    ) -> None:
        self.sha256 = sha256
        self.size_bytes = size_bytes  # of the whole blob as stored, wherever this read begins
        self._read = read  # the next chunk; b"" at the end
        self._release = release
        self._hash = new_hash() if offset == 0 else None
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._closed:
            raise StopIteration
        try:
            chunk = self._read()
        except BaseException:
            self.close()
            raise
        if not chunk:
            self.close()
            self._verify()
            raise StopIteration
        if self._hash:
            self._hash.update(chunk)
        return chunk

    def close(self) -> None:
        """Let go of the file or connection; closing twice is no error."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _verify(self) -> None:
        if self._hash and self._hash.hexdigest() != self.sha256:
            message = (
                f"the stored bytes of {self.sha256} hash to {self._hash.hexdigest()}: they were damaged in the "
                "store; upload the file again to heal it"
            )
            raise DataLoss(message, reason="BLOB_CORRUPT")


def check_offset(offset: int, *, size_bytes: int) -> None:
    """Raise OutOfRange unless a read can begin at byte `offset`; the end itself is allowed and reads nothing."""
    if not 0 <= offset <= size_bytes:
        message = f"offset {offset:,} is outside the blob; it holds {size_bytes:,} bytes: send 0 to {size_bytes:,}"
        raise OutOfRange(message, reason="OFFSET_OUT_OF_RANGE")


def _joined(pieces: list[Chunk]) -> Chunk:
    """Join the pieces and empty the list, so that a generator's frame holds no part twice while it waits."""
    joined = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    pieces.clear()
    return joined
