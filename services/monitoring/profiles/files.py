"""Files that profiles are made of: those that are sent, and those in the places that a setting allows."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.api.trainer.v1 import datasets_pb2
from services.common.allowed_files import AllowedFiles, write_scratch
from services.common.datasets import NO_DATASETS, SCHEME, NamedDatasets
from services.common.errors import InvalidArgument
from services.monitoring.profiles.sources import FileSource, RowFormat


class RowFiles:
    """Brings files to a folder of our own, where they can be read at will."""

    def __init__(
        self, allowed: AllowedFiles, *, max_bytes: int, folder: Path | None, datasets: NamedDatasets = NO_DATASETS
    ) -> None:
        self._allowed = allowed
        self._datasets = datasets
        self._max_bytes = max_bytes
        self._folder = folder

    @contextmanager
    def sent(self, chunks: Iterable[bytes], *, sha256: str) -> Iterator[tuple[Path, str]]:
        """Take a file that is sent; lends its path, with its digest in hex. An empty `sha256` is not checked.

        Raises:
            InvalidArgument: TOO_LARGE, DIGEST_MISMATCH.
            Unavailable: there is no room for it (SCRATCH_FULL).
        """
        with self._written(chunks) as (path, digest):
            if sha256 and digest != sha256:
                sentence = f"the bytes that came hash to {digest}, not to {sha256}; send the file again"
                raise InvalidArgument.field("sha256", sentence, reason="DIGEST_MISMATCH")
            yield path, digest

    def resolved(self, file: FileSource) -> FileSource:
        """Give a file as a profile keeps it: of a dataset with the version that is meant now and its rows' digest.

        Raises:
            InvalidArgument: INVALID_NAME.
            NotFound: DATASET_NOT_FOUND, DATASET_VERSION_NOT_FOUND.
            FailedPrecondition: TRAINER_NOT_CONFIGURED, DATASET_NOT_READY.
            Unavailable: TRAINER_UNAVAILABLE.
        """
        if not file.uri.startswith(SCHEME):
            return file
        found = self._datasets.find("file.uri", file.uri)
        return FileSource(found.uri, found.digest, RowFormat.PARQUET)

    @contextmanager
    def brought(self, file: FileSource, ignored: Collection[str] = ()) -> Iterator[Path]:
        """Copy a dataset, or a file of an allowed place with its digest checked; lends its path.

        Of a dataset, times are left out, which no feature is, unless they are named as ignored.

        Raises:
            InvalidArgument: URI_NOT_ALLOWED, TOO_LARGE, DIGEST_MISMATCH.
            NotFound: INPUT_NOT_FOUND, and what datasets raise.
            Unavailable: INPUT_UNAVAILABLE (where it lies does not answer now), SCRATCH_FULL.
        """
        if file.uri.startswith(SCHEME):
            found = self._datasets.find("file.uri", file.uri)
            kept = [
                column.name
                for column in found.columns
                if column.type != datasets_pb2.COLUMN_TYPE_TIMESTAMP or column.name in ignored
            ]
            with self._written(self._datasets.chunks(found, kept)) as (path, _):
                yield path
            return
        if not self._allowed.allows(file.uri):
            sentence = f"the file lies in no place that PENSTOCK_PROFILE_INPUT_ROOTS allows ({self._allowed.places})"
            raise InvalidArgument.field("file.uri", sentence, reason="URI_NOT_ALLOWED")
        with self._written(self._allowed.chunks(file.uri)) as (path, digest):
            if digest != file.sha256:
                # What they hash to is not said: whoever knows the digest of a file in the roots may read it.
                sentence = f"the bytes of the file do not hash to {file.sha256}; look at the file, or at the digest"
                raise InvalidArgument.field("file.sha256", sentence, reason="DIGEST_MISMATCH")
            yield path

    @contextmanager
    def _written(self, chunks: Iterable[bytes]) -> Iterator[tuple[Path, str]]:
        with tempfile.TemporaryDirectory(prefix="penstock-profile-", dir=self._folder) as folder:
            path = Path(folder) / "rows"
            digest, size_bytes = hashlib.sha256(), 0
            with path.open("xb") as out:
                for chunk in chunks:
                    size_bytes += len(chunk)
                    if size_bytes > self._max_bytes:
                        sentence = f"the file has more than the {self._max_bytes:,} bytes that are allowed"
                        raise InvalidArgument(f"{sentence}; send a sample of its rows", reason="TOO_LARGE")
                    digest.update(chunk)
                    write_scratch(out, chunk)
            yield path, digest.hexdigest()
