"""What of a source's files is here already, and what lacks of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from services.fetcher.models import RemoteFile
from services.fetcher.sources.source import Source
from services.fetcher.store.downloads import DownloadStore


def identity_of(source: Source, file: RemoteFile) -> str:
    """Say by what the same file is known again: where it lies, and what changes with its bytes.

    '' where the source says neither tag nor digest: then nothing shows that bytes which came before are still the
    file's. Parts are never another source's: only the whole of a file shows that they are its bytes.
    """
    if not file.sha256 and not file.tag:
        return ""
    known = f"{source.name}\n{file.locator}\n{file.tag}\n{file.size_bytes}\n{file.sha256}"
    return hashlib.sha256(known.encode()).hexdigest()


def here_bytes(downloads: DownloadStore, source: Source, files: Sequence[RemoteFile]) -> dict[str, int]:
    """Say how many bytes of each file are here, by its path; 0 of one that nothing shows to be the same."""
    identities = [identity_of(source, file) for file in files]
    here = downloads.here(identities, (file.sha256 for file in files))
    return {
        file.path: (here.is_whole(identity, file.sha256) and file.size_bytes) or here.bytes_of(identity)
        for file, identity in zip(files, identities, strict=True)
    }


def lacking_bytes(downloads: DownloadStore, source: Source, files: Sequence[RemoteFile]) -> int | None:
    """Say how many bytes of files a job would ask for now; None where the size of one that lacks is not known.

    What a plan has under several paths comes once.
    """
    identities = [identity_of(source, file) for file in files]
    here = downloads.here(identities, (file.sha256 for file in files))
    lacking, counted = 0, set[str]()
    for file, identity in zip(files, identities, strict=True):
        if here.is_whole(identity, file.sha256) or identity in counted:
            continue
        counted |= {identity} - {""}
        if file.size_bytes is None:
            return None
        lacking += max(0, file.size_bytes - here.bytes_of(identity))
    return lacking
