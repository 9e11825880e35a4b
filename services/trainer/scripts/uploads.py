"""Versions of scripts that are sent."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from penstock.ids import uuid7
from services.common.allowed_files import write_scratch
from services.common.blobs import BlobStore
from services.common.errors import Cancelled, DataLoss, FailedPrecondition, ResourceExhausted
from services.common.keys import Principal
from services.trainer.recipes.catalogue import SCRIPT, Catalogue
from services.trainer.scripts.inspection import inspect_script
from services.trainer.scripts.models import NewScript, Script
from services.trainer.scripts.sources import MAX_SENT_BYTES, ScriptTooLarge
from services.trainer.scripts.store import ScriptStore

MAX_READ: Final = 4
"""Scripts that are read at once: each has a process of its own, which may take 512 MiB."""


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What a header says."""

    name: str
    entry: str = ""
    description: str = ""
    sha256: str = ""
    request_id: str = ""
    header_sha256: str = ""


class Uploads:
    """Takes scripts in, where policy allows them. `folder`: where they are looked at."""

    def __init__(self, store: ScriptStore, blobs: BlobStore, catalogue: Catalogue, folder: Path | None) -> None:
        self._store = store
        self._blobs = blobs
        self._catalogue = catalogue
        self._folder = folder
        self._places = threading.BoundedSemaphore(MAX_READ)

    def upload(
        self, new: NewUpload, chunks: Iterable[bytes], principal: Principal, active: Callable[[], bool]
    ) -> tuple[Script, bool]:
        """Make a version of what is sent; gives it, and whether it was there. It ends once the call is not `active`.

        Raises:
            FailedPrecondition: RECIPE_NOT_ALLOWED, REQUEST_ID_REUSED.
            InvalidArgument, ScriptTooLarge: see `sources.contents_of`.
            ResourceExhausted: TOO_MANY_UPLOADS: so many are read just now.
            DataLoss: DIGEST_MISMATCH.
            Cancelled: the caller went away; no version is left.
        """

        def check() -> None:
            if not active():
                raise Cancelled("the caller went away while the script was read")

        if refusal := self._catalogue.refusal(SCRIPT):
            raise FailedPrecondition(f"no script is taken here: {refusal}", reason="RECIPE_NOT_ALLOWED")
        with tempfile.TemporaryDirectory(prefix="penstock-script-", dir=self._folder) as scratch:
            sent = Path(scratch) / "sent"
            sha256 = _receive(chunks, sent)
            if new.sha256 and new.sha256 != sha256:
                sentence = f"the bytes that came hash to {sha256}, and {new.sha256} was announced; send them again"
                raise DataLoss(sentence, reason="DIGEST_MISMATCH")
            version = NewScript(
                version_id=UUID(uuid7()),
                name=new.name,
                created_by=principal.name,
                description=new.description,
                request_id=new.request_id,
                body_sha256=hashlib.sha256(f"{new.header_sha256}{sha256}".encode()).hexdigest(),
            )
            with self._store.transaction() as connection:
                known = self._store.repeated(connection, version)
            if known is not None:
                return known
            with self._place():
                contents = inspect_script(sent, new.entry, Path(scratch), check)
            blob = self._blobs.put(
                [sent.read_bytes()],
                max_bytes=MAX_SENT_BYTES,
                before_publish=lambda coming: self._store.ledger.keep(coming.sha256),
            )
        with self._store.transaction() as connection:
            self._store.lock(connection, new.name)
            if (known := self._store.repeated(connection, version)) is not None:
                return known
            newest = self._store.newest(connection, new.name)
            if newest is not None and (newest.sha256, newest.contents.entry) == (blob.sha256, contents.entry):
                self._store.answer(connection, version, newest.version_id)
                return newest, True
            return self._store.insert(connection, version, contents, blob), False

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            sentence = f"{MAX_READ} scripts are being read just now; try again when one is done"
            raise ResourceExhausted(sentence, reason="TOO_MANY_UPLOADS", retry_after_s=2.0)
        try:
            yield
        finally:
            self._places.release()


def _receive(chunks: Iterable[bytes], path: Path) -> str:
    digest, size_bytes = hashlib.sha256(), 0
    with path.open("xb") as out:
        for chunk in chunks:
            size_bytes += len(chunk)
            if size_bytes > MAX_SENT_BYTES:
                sentence = f"more than the {MAX_SENT_BYTES:,} bytes came that a script may have"
                raise ScriptTooLarge(f"{sentence}; keep rows in datasets, and weights in versions")
            digest.update(chunk)
            write_scratch(out, chunk)
    return digest.hexdigest()
