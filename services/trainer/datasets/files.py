"""Files of rows: where they are kept for good, and where they are looked at."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from services.common.allowed_files import write_scratch
from services.common.blobs import Blob, BlobReader, BlobStore
from services.trainer.datasets.rows.writing import open_writer, read_batches
from services.trainer.datasets.splits import PARTS
from services.trainer.datasets.store import DatasetStore
from services.trainer.task import Part

CHUNK_BYTES: Final = 1024 * 1024


class RowFiles:
    """The files of versions, in the blob store, and copies of them in a folder of this process."""

    def __init__(self, store: DatasetStore, blobs: BlobStore, folder: Path | None, max_bytes: int) -> None:
        self._store = store
        self._blobs = blobs
        self._folder = folder
        self._max_bytes = max_bytes

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Lend an empty folder."""
        with tempfile.TemporaryDirectory(prefix="penstock-dataset-", dir=self._folder) as folder:
            yield Path(folder)

    def keep(self, path: Path, check: Callable[[], None] = lambda: None) -> Blob:
        """Store a file; whoever names it does so soon. `check` is called between its pieces, and may raise."""
        return self._blobs.put(
            chunks_of(path, check=check),
            size_bytes=path.stat().st_size,
            max_bytes=self._max_bytes,
            before_publish=lambda coming: self._store.ledger.keep(coming.sha256),
        )

    def open(self, sha256: str, offset: int = 0) -> BlobReader:
        """Read a file from a byte on."""
        return self._blobs.open(sha256, offset=offset)

    @contextmanager
    def brought(self, sha256: str, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """Lend a copy of a file. `check` is called between its pieces, and may raise."""
        with self.scratch() as folder:
            path = folder / "rows.parquet"
            with path.open("xb") as out, self._blobs.open(sha256) as reader:
                for chunk in reader:
                    check()
                    write_scratch(out, chunk)
            yield path


def chunks_of(path: Path, offset: int = 0, check: Callable[[], None] = lambda: None) -> Iterator[bytes]:
    """Give the bytes of a file from one on. `check` is called between them, and may raise."""
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK_BYTES):
            check()
            yield chunk


def read_column(path: Path, name: str) -> pa.ChunkedArray:
    """Read one column of a file of ours."""
    return pq.read_table(path, columns=[name]).column(name)


def read_rows(path: Path, offset: int, limit: int) -> list[dict[str, Any]]:
    """Read some rows of a file of ours."""
    found: list[dict[str, Any]] = []
    with pq.ParquetFile(path) as file:
        for number in range(file.metadata.num_row_groups):
            rows = int(file.metadata.row_group(number).num_rows)
            if offset >= rows:
                offset -= rows
                continue
            found += file.read_row_group(number).slice(offset, limit - len(found)).to_pylist()
            offset = 0
            if len(found) >= limit:
                break
    return found


def write_columns(path: Path, out: Path, columns: Sequence[str]) -> None:
    """Write some columns into a file of their own."""
    with pq.ParquetFile(path) as file:
        schema = pa.schema([file.schema_arrow.field(name) for name in columns])
        with open_writer(out, schema) as writer:
            for batch in file.iter_batches(columns=list(columns)):
                writer.write_batch(batch.select(list(columns)))


def write_parts(
    path: Path,
    parts: NDArray[Any],
    out: Mapping[Part, Path],
    columns: Sequence[str] | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write the rows of each part that is asked for into a file of its own, in their order.

    `check` is called between batches, and may raise.
    """
    written: dict[Part, Any] = {}
    start = 0
    try:
        for batch in read_batches(path, columns):
            check()
            places = parts[start : start + batch.num_rows]
            start += batch.num_rows
            for number, part in enumerate(PARTS):
                if part not in out:
                    continue
                if part not in written:
                    written[part] = open_writer(out[part], batch.schema)
                chosen = batch.filter(pa.array(places == number))
                if chosen.num_rows:
                    written[part].write_batch(chosen)
    finally:
        for writer in written.values():
            writer.close()
