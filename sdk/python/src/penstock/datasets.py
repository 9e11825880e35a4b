"""The client of datasets: rows to learn from and to judge by, in versions that never change."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from google.protobuf.json_format import MessageToDict

from penstock.api.monitoring.v1 import profiles_pb2
from penstock.api.trainer.v1 import datasets_pb2 as pb
from penstock.channels import Connection
from penstock.dataset_downloads import WORK_TIMEOUT_S, DatasetFetch
from penstock.downloads import download, verified_chunks
from penstock.durations import parse_duration
from penstock.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, PenstockError
from penstock.ids import uuid7
from penstock.paging import pages
from penstock.profile_rows import Table, spooled_rows
from penstock.retries import Tries
from penstock.stubs import TrainerStub
from penstock.uploads import Progress, UploadFile
from penstock.values import enum_number, to_timestamp

UPLOAD_TIMEOUT_S = 900.0
"""The service answers when all rows are read and kept, and says nothing before."""
LOOK_INTERVAL_S = 0.5
Format: TypeAlias = "pb.DatasetFormat.ValueType | str | None"
"""PARQUET, CSV or JSON, by number or by name in any case; None: by the file's suffix."""
Rows: TypeAlias = "str | PathLike[str] | Table"
"""The path of a file; or columns by name, rows by name, or a structured array."""
_SUFFIXES = {
    ".parquet": pb.DATASET_FORMAT_PARQUET,
    ".csv": pb.DATASET_FORMAT_CSV,
    ".json": pb.DATASET_FORMAT_JSON,
    ".jsonl": pb.DATASET_FORMAT_JSON,
    ".ndjson": pb.DATASET_FORMAT_JSON,
}


class DatasetsClient:
    """Calls the trainer, which keeps datasets."""

    def __init__(self, connection: Connection[TrainerStub]) -> None:
        self._connection = connection

    def upload(
        self,
        name: str,
        rows: Rows,
        *,
        file_format: Format = None,
        delimiter: str = "",
        column_types: Mapping[str, pb.ColumnType.ValueType | str] | None = None,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
        progress: Progress | None = None,
    ) -> pb.UploadDatasetResponse:
        """Make a version of a dataset; the same rows as in its newest version are that version (`existed`).

        Args:
            name: the dataset's.
            rows: the path of a file, or a table in memory.
            file_format: how the file is written; None: as its suffix says.
            delimiter: what stands between the cells of a CSV: `,`, `;`, a tab or `|`; empty: a comma, and a file that
                likely has another is refused.
            column_types: name → FLOAT64, INT64, BOOL, STRING, TIMESTAMP or FLOAT64_LIST, where the rows do not say what
                is meant.
            description: what it is.
            labels: for search.
            request_id: the same again gives the first result; empty: one is made, so that a retry makes no second
                version.
            progress: told the bytes so far and in all.

        Raises:
            InvalidArgument: a row is not as the others are (MALFORMED_ROWS; `metadata["row"]` is its number, from 1),
                there is none (NO_ROWS), or the suffix says no format (FORMAT_REQUIRED).
            ResourceExhausted: too many bytes or rows (TOO_LARGE).
            OSError: the file can't be read.
        """
        types = {
            column: enum_number("column_types", pb.ColumnType, kind) for column, kind in (column_types or {}).items()
        }
        with ExitStack() as stack:
            file, number = _source(rows, file_format, stack)
            header = pb.UploadDatasetHeader(
                name=name,
                format=number,
                file_name=file.path,
                delimiter=delimiter,
                column_types=types,
                description=description,
                labels=labels or {},
                sha256=file.sha256,
                request_id=request_id or uuid7(),
            )
            tries = Tries(self._connection.retry)
            while True:
                try:
                    return self._connection.upload(
                        self._connection.stub.UploadDataset,
                        pb.UploadDatasetRequest,
                        _requests(header, file, progress),
                        idle_timeout_s=UPLOAD_TIMEOUT_S,
                    )
                except PenstockError as error:
                    tries.again(error)

    def from_traffic(
        self,
        name: str,
        model: str,
        *,
        versions: Sequence[str] = (),
        from_time: datetime | None = None,
        to_time: datetime | None = None,
        window: timedelta | str | None = None,
        labelled_only: bool = False,
        max_rows: int = 0,
        where: Mapping[str, str] | None = None,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> pb.Dataset:
        """Begin a version of what a model was asked and what really happened; gives it in BUILDING, see `wait`.

        Args:
            name: the dataset's.
            model: whose traffic.
            versions: only of these versions.
            from_time: from here on; None: `window` before `to_time`.
            to_time: up to here, exclusive; None: now.
            window: how long: a timedelta, or text such as `6h`; None: 7 days.
            labelled_only: only rows of which somebody said what really happened.
            max_rows: at most so many, the same each time; 0: all.
            where: only rows whose features have these values.
            description: what it is.
            labels: for search.
            request_id: as in `upload`.

        Raises:
            FailedPrecondition: the trainer knows no monitoring (MONITORING_NOT_CONFIGURED).
        """
        until = to_time or datetime.now(UTC)
        since = from_time or until - _length(window)
        source = pb.TrafficSource(
            model=model,
            versions=versions,
            start_time=to_timestamp("from_time", since),
            end_time=to_timestamp("to_time", until),
            labelled_only=labelled_only,
            max_rows=max_rows,
            where=where or {},
        )
        return self._build(name, pb.DatasetSource(traffic=source), description, labels, request_id)

    def from_features(
        self,
        name: str,
        rows: str,
        features: Sequence[str],
        *,
        key_column: str,
        time_column: str,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> pb.Dataset:
        """Begin a version of another dataset's rows with features beside them, as they were known at each row's time.

        Args:
            name: the dataset's.
            rows: the other one, NAME or NAME/VERSION; its columns stay.
            features: `view`, `view@2` or `view:feature`; the columns are called view.feature.
            key_column: names the entity.
            time_column: has the time of each row.
            description: what it is.
            labels: for search.
            request_id: as in `upload`.

        Raises:
            NotFound: there are no such rows.
        """
        source = pb.FeatureSource(rows=rows, key_column=key_column, time_column=time_column, features=features)
        return self._build(name, pb.DatasetSource(features=source), description, labels, request_id)

    def wait(self, name: str, version: int, *, timeout_s: float = 600.0) -> pb.Dataset:
        """Wait until a version is READY, and give it.

        Raises:
            FailedPrecondition: it FAILED (DATASET_FAILED); the message says why.
            DeadlineExceeded: it is still BUILDING.
        """
        deadline = time.monotonic() + timeout_s
        while (found := self.get(name, version)).state == pb.DATASET_STATE_BUILDING:
            if time.monotonic() >= deadline:
                raise DeadlineExceeded(f"{name}/{version} is still BUILDING after {timeout_s:g} s; wait on")
            time.sleep(LOOK_INTERVAL_S)
        if found.state == pb.DATASET_STATE_FAILED:
            raise FailedPrecondition(f"{name}/{version} FAILED: {found.message}", reason="DATASET_FAILED")
        return found

    def get(self, name: str, version: int = 0) -> pb.Dataset:
        """Give a version, 0: the newest that is READY.

        Raises:
            NotFound: DATASET_NOT_FOUND, DATASET_VERSION_NOT_FOUND.
        """
        request = pb.GetDatasetRequest(name=name, version=version)
        return self._connection.unary(self._connection.stub.GetDataset, request).dataset

    def list(self, name: str = "", *, page_size: int = 0) -> Iterator[pb.Dataset]:
        """List the newest version of each dataset by name, or all versions of one, the newest first."""

        def fetch(token: str) -> pb.ListDatasetsResponse:
            request = pb.ListDatasetsRequest(name=name, page_size=page_size, page_token=token)
            return self._connection.unary(self._connection.stub.ListDatasets, request)

        for page in pages(fetch):
            yield from page.datasets

    def preview(self, name: str, version: int = 0, *, limit: int = 10, offset: int = 0) -> Iterable[dict[str, Any]]:
        """Give some rows, 1,000 at the most; times, and whole numbers beyond 2^53, are texts."""
        request = pb.PreviewDatasetRequest(name=name, version=version, limit=limit, offset=offset)
        answer = self._connection.unary(self._connection.stub.PreviewDataset, request, timeout_s=WORK_TIMEOUT_S)
        return [MessageToDict(row) for row in answer.rows]

    def download(
        self,
        name: str,
        destination: str | PathLike[str],
        version: int = 0,
        *,
        split_id: str = "",
        part: pb.DatasetPart.ValueType | str | None = None,
        columns: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Path:
        """Download a version, or one part of a split, as Parquet; gives its final path.

        It appears whole and verified, or not at all. A break is resumed where it happened.

        Args:
            name: the dataset's.
            destination: the file's new path, or an existing folder for it.
            version: 0: the newest that is READY.
            split_id: the split.
            part: TRAIN, VALIDATION or TEST of the split.
            columns: only these; none: all.
            progress: told the bytes so far and in all.

        Raises:
            DataLoss: the bytes are not those that the trainer keeps.
            OSError: the destination can't be written.
        """
        fetch = DatasetFetch(self._connection, name, version, split_id, part, columns)
        return download(fetch, Path(destination), self._connection.retry, progress)

    def download_chunks(
        self,
        name: str,
        version: int = 0,
        *,
        split_id: str = "",
        part: pb.DatasetPart.ValueType | str | None = None,
        columns: Sequence[str] = (),
    ) -> Generator[bytes, None, None]:
        """Give a version's bytes as they come, resumed where the connection breaks; see `download`."""
        fetch = DatasetFetch(self._connection, name, version, split_id, part, columns)
        with closing(verified_chunks(fetch, self._connection.retry)) as parts:
            for _, chunk in parts:
                yield chunk

    def split(
        self,
        name: str,
        version: int = 0,
        *,
        by: pb.SplitBy.ValueType | str | None = None,
        train_share: float = 0.7,
        validation_share: float = 0.15,
        seed: int = 0,
        column: str = "",
        stratify_column: str = "",
    ) -> pb.DatasetSplit:
        """Divide a version, for good; the same again gives the same split.

        Args:
            name: the dataset's.
            version: 0: the newest that is READY.
            by: SEED, TIME or KEY; None: SEED.
            train_share: of the rows.
            validation_share: likewise; the rest is for the test.
            seed: another one divides otherwise.
            column: of TIME and KEY.
            stratify_column: of SEED: its values are spread evenly over the parts.

        Raises:
            InvalidArgument: INVALID_SHARES, UNKNOWN_COLUMN, EMPTY_PART.
        """
        split = pb.DatasetSplit(
            by=enum_number("by", pb.SplitBy, by),
            train_share=train_share,
            validation_share=validation_share,
            seed=seed,
            column=column,
            stratify_column=stratify_column,
        )
        request = pb.SplitDatasetRequest(name=name, version=version, split=split)
        return self._connection.unary(self._connection.stub.SplitDataset, request, timeout_s=WORK_TIMEOUT_S).split

    def delete(self, name: str, version: int, *, force: bool = False) -> None:
        """Delete a version; by `force` also while a run reads it, which ends as if it were there.

        Raises:
            FailedPrecondition: a run that has not ended reads it, or it is BUILDING (DATASET_IN_USE).
        """
        request = pb.DeleteDatasetRequest(name=name, version=version, force=force)
        self._connection.unary(self._connection.stub.DeleteDataset, request)

    def _build(
        self,
        name: str,
        source: pb.DatasetSource,
        description: str,
        labels: Mapping[str, str] | None,
        request_id: str,
    ) -> pb.Dataset:
        request = pb.BuildDatasetRequest(
            name=name, source=source, description=description, labels=labels or {}, request_id=request_id or uuid7()
        )
        return self._connection.unary(self._connection.stub.BuildDataset, request).dataset


def _length(window: timedelta | str | None) -> timedelta:
    if window is None:
        return timedelta(days=7)
    return parse_duration(window) if isinstance(window, str) else window


def _source(rows: Rows, file_format: Format, stack: ExitStack) -> tuple[UploadFile, pb.DatasetFormat.ValueType]:
    number = enum_number("file_format", pb.DatasetFormat, file_format)
    if isinstance(rows, str | PathLike):
        path = Path(rows)
        number = number or _SUFFIXES.get(path.suffix.lower(), pb.DATASET_FORMAT_UNSPECIFIED)
        if not number:
            sentence = f"{path.name} does not say how it is written; give file_format: parquet, csv or json"
            raise InvalidArgument(sentence, reason="FORMAT_REQUIRED")
        return UploadFile.of(path.name, path), number
    source, kind = spooled_rows(rows)
    held: BinaryIO = stack.enter_context(source)
    is_parquet = kind == profiles_pb2.ROW_FORMAT_PARQUET
    return UploadFile.of("rows", held), pb.DATASET_FORMAT_PARQUET if is_parquet else pb.DATASET_FORMAT_JSON


def _requests(
    header: pb.UploadDatasetHeader, file: UploadFile, progress: Progress | None
) -> Iterator[pb.UploadDatasetRequest]:
    yield pb.UploadDatasetRequest(header=header)
    sent_bytes = 0
    for chunk in file.chunks():
        yield pb.UploadDatasetRequest(chunk=chunk)
        sent_bytes += len(chunk)
        if progress is not None:
            progress(sent_bytes, file.size_bytes or None)
