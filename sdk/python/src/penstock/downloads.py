"""Downloads that resume where they broke, and are verified before they count."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.errors import DataLoss, PenstockError
from penstock.ids import uuid7
from penstock.retries import RetryPolicy, Tries
from penstock.uploads import Progress

Fetch = Callable[[int], "Generator[pb.DownloadFileResponse, None, None]"]
"""Begins a download at a byte."""


def download(fetch: Fetch, destination: Path, retry: RetryPolicy, progress: Progress | None) -> Path:
    """Write a file beside its destination, verify it, and put it there in one move; gives its final path.

    Into an existing folder the file goes under its own name.

    Raises:
        DataLoss, PenstockError: see `verified_chunks`. Nothing is left behind.
        OSError: the destination can't be written.
    """
    folder = destination if destination.is_dir() else destination.parent
    unfinished = folder / f".penstock-{uuid7()}.part"
    received_bytes = 0
    name = ""
    try:
        with unfinished.open("xb") as out, closing(verified_chunks(fetch, retry)) as parts:
            for file, chunk in parts:
                out.write(chunk)
                received_bytes += len(chunk)
                name = Path(file.path).name
                if progress is not None:
                    progress(received_bytes, file.size_bytes)
        return unfinished.replace(destination / name if destination.is_dir() else destination)
    finally:
        unfinished.unlink(missing_ok=True)


def verified_chunks(fetch: Fetch, retry: RetryPolicy) -> Generator[tuple[pb.File, bytes], None, None]:
    """Give a file's bytes as they come, resuming at the byte where the connection broke.

    Raises:
        DataLoss: what came is not what the registry promised (DIGEST_MISMATCH); known for sure only at the end.
        PenstockError: the download broke, and retrying did not help.
    """
    tries = Tries(retry)
    digest = sha256()
    file = pb.File()
    received_bytes = 0
    ended = False
    while not ended:
        try:
            with closing(fetch(received_bytes)) as parts:
                for part in parts:
                    if part.HasField("file"):
                        file = _same(file, part.file)
                    received_bytes += len(part.chunk)
                    if received_bytes > file.size_bytes:
                        raise _mismatch(file, f"more than its {file.size_bytes} bytes came")
                    if part.chunk:
                        tries.progressed()
                        digest.update(part.chunk)
                        yield file, part.chunk
            ended = True
        except PenstockError as error:
            # Broken off after its last byte, it is as good as whole.
            ended = 0 < received_bytes == file.size_bytes
            if not ended:
                tries.again(error)
    if received_bytes != file.size_bytes:
        raise _mismatch(file, f"{received_bytes} of its {file.size_bytes} bytes came")
    if digest.hexdigest() != file.sha256:
        raise _mismatch(file, f"its SHA-256 is {file.sha256}, that of the bytes that came {digest.hexdigest()}")


def _same(known: pb.File, file: pb.File) -> pb.File:
    if known.sha256 and known.sha256 != file.sha256:
        raise _mismatch(file, "it is another file than before the connection broke")
    return file


def _mismatch(file: pb.File, sentence: str) -> DataLoss:
    return DataLoss(f"{file.path or 'the file'}: {sentence}; download it again", reason="DIGEST_MISMATCH")
