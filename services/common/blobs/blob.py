"""What a blob is, and what every blob store promises."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from services.common.blobs.flow import BlobReader, Chunk
from services.common.errors import InvalidArgument

_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_URL_LIFETIME_S: Final = 7 * 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class Blob:
    """Stored bytes: their address, which is their SHA-256 in 64 lowercase hex digits, and how many they are.

    In a store that was opened with BLAKE3 the address is that: as long, and written likewise.
    """

    sha256: str
    size_bytes: int


OnTaken = Callable[[], None]
"""Told that the memory of what is stored is read no more."""
BeforePublish = Callable[[Blob], None]
"""Told what is about to be seen, once all of it is there and checked; what it raises keeps it from being seen."""


def is_sha256(name: str) -> bool:
    """Say whether this is a digest as blobs are addressed by: 64 lowercase hex digits."""
    return _SHA256.fullmatch(name) is not None


def checked_sha256(sha256: str) -> str:
    """Give the digest back if it is one. It becomes a path and a key, so nothing else may pass."""
    if not is_sha256(sha256):
        shown = sha256 if len(sha256) <= 80 else f"{sha256[:80]}… ({len(sha256)} characters)"
        raise InvalidArgument.field(
            "sha256", f"{shown!r} is not a digest; send 64 lowercase hex digits", reason="DIGEST_MALFORMED"
        )
    return sha256


class BlobStore(Protocol):
    """Bytes addressed by their SHA-256. Safe to use from many threads.

    Every method may raise Unavailable (BLOB_STORE_UNAVAILABLE: down, deaf or cut off; try again) and
    FailedPrecondition (BLOB_STORE_DENIED, BLOB_BUCKET_MISSING: someone has to mend the configuration).
    """

    def put(
        self,
        chunks: Iterable[Chunk],
        *,
        sha256: str | None = None,
        size_bytes: int | None = None,
        max_bytes: int,
        before_publish: BeforePublish | None = None,
        on_taken: OnTaken | None = None,
    ) -> Blob:
        """Store the bytes that flow from `chunks`, in constant memory, and return their address and size.

        What is declared (`sha256`, `size_bytes`) is checked before the blob can be seen; None means that the
        caller learns it from the answer. Whatever goes wrong, an exception out of `chunks` included, nothing
        stays behind. Bytes that are there already are written over by themselves: one object, and a damaged
        one is healed. `before_publish` is called once all of that is settled and before the blob can be seen;
        `on_taken` as soon as nothing reads the memory of `chunks` any more, by a store that knows before it returns.

        Raises InvalidArgument (DIGEST_MALFORMED, DIGEST_MISMATCH, SIZE_MISMATCH, or TOO_LARGE above
        `max_bytes`) and ResourceExhausted (BLOB_STORE_FULL).
        """
        ...

    def open(self, sha256: str, *, offset: int = 0) -> BlobReader:
        """Open a blob for reading from byte `offset` on; the reader says what it verifies.

        Raises NotFound (BLOB_NOT_FOUND) and OutOfRange (OFFSET_OUT_OF_RANGE) at once, not at the first chunk.
        """
        ...

    def stat(self, sha256: str) -> Blob:
        """Return the blob's address and stored size, or raise NotFound (BLOB_NOT_FOUND)."""
        ...

    def exists(self, sha256: str) -> bool:
        """Say whether the blob is stored."""
        ...

    def delete(self, sha256: str) -> None:
        """Remove the blob; one that is not there is no error. Asked for once, never again by itself.

        Unavailable leaves open whether it is gone: the store may have done it, or may do it yet, minutes later.
        """
        ...

    def list(self) -> Iterator[tuple[Blob, datetime]]:
        """Give every blob, in no order, and when it was last stored; what comes or goes meanwhile may be missed.

        What else lies there, under a name that is no blob's, is passed over.
        """
        ...

    def presign(self, sha256: str, *, lifetime_s: int, file_name: str) -> str | None:
        """Make a URL that reads the blob by GET without a key, for `lifetime_s` (1 to 604,800), without a call.

        A browser saves it as `file_name`. None where the store has no such URLs, or was not told where clients reach
        it. Whether the blob is there is not looked at. Whoever has the URL can read the blob, so it goes into no log.
        """
        ...

    def free_bytes(self) -> int | None:
        """Say how many bytes may still be stored; None where nobody knows, as of S3."""
        ...

    def check(self) -> None:
        """Return soon if the store can be used, and raise what is wrong with it otherwise."""
        ...

    def close(self) -> None:
        """Let go of connections. Closing twice is no error."""
        ...
