"""Reference profiles: what a version's data looked like when it was good."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import BinaryIO, TypeAlias

from penstock.api.monitoring.v1 import profiles_pb2 as pb
from penstock.errors import InvalidArgument, PenstockError
from penstock.ids import uuid7
from penstock.monitoring_connection import MonitoringConnected, page_size_of
from penstock.paging import pages
from penstock.profile_rows import Table, spooled_rows
from penstock.retries import Tries
from penstock.uploads import Progress, UploadFile
from penstock.values import enum_number, to_timestamp

PROFILE_TIMEOUT_S = 900.0
"""The service answers when the profile is made, and says nothing before."""
Format: TypeAlias = "pb.RowFormat.ValueType | str | None"
"""JSONL, PARQUET or CSV, by number or by name in any case; None: by the file's suffix."""
Kind: TypeAlias = "pb.FeatureKind.ValueType | str"
"""`numeric`, `categorical`, `boolean`, `text_length` or `embedding`, by number or by name in any case."""
_SUFFIXES = {
    ".jsonl": pb.ROW_FORMAT_JSONL,
    ".ndjson": pb.ROW_FORMAT_JSONL,
    ".csv": pb.ROW_FORMAT_CSV,
    ".parquet": pb.ROW_FORMAT_PARQUET,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the columns of a table are, where their values don't say it.

    Attributes:
        kinds: how features are to be read, by name.
        ignored: columns to leave out, such as ids and times.
        predictions: columns that are the model's output; one by itself becomes "prediction".
        label: the column with what really happened; with one prediction it gives the reference's accuracy.
        group: the column with the user, or whatever else rows belong together by: how alike its rows are is allowed
            for.
    """

    kinds: Mapping[str, Kind] = field(default_factory=dict)
    ignored: Iterable[str] = ()
    predictions: Iterable[str] = ()
    label: str = ""
    group: str = ""

    def message(self) -> pb.Columns:
        """Encode them; raises InvalidArgument where there is no such kind (UNKNOWN_NAME)."""
        return pb.Columns(
            kinds={name: enum_number(f"kinds[{name}]", pb.FeatureKind, kind) for name, kind in self.kinds.items()},
            ignored=self.ignored,
            predictions=self.predictions,
            label=self.label,
            group=self.group,
        )


class ProfilesClient(MonitoringConnected):
    """Makes and lists reference profiles. A profile never changes; another one takes its place."""

    def create(
        self,
        model: str,
        version: str,
        rows: str | PathLike[str] | Table,
        *,
        columns: Columns | None = None,
        row_format: Format = None,
        note: str = "",
        progress: Progress | None = None,
        request_id: str = "",
    ) -> pb.Profile:
        """Make a profile of rows, those that the version was trained on for example, and attach it.

        What is odd about it, such as columns that no input of the version is called as, stands in its `warnings`.

        Args:
            model: the model.
            version: the version that is compared with it from now on.
            rows: the path of a file, or a table in memory; at least 50 rows, at most 1 GiB and 2,000 features.
            columns: what the columns are.
            row_format: how the file is written.
            note: for people; at most 1,000 characters.
            progress: called with the bytes sent so far and in all; from the start again where sending is tried again.
            request_id: the same again, with the same bytes, gives the first result for 7 days; empty: a new one.

        Raises:
            NotFound: the registry knows the model, and no such version; nor did one predict (VERSION_NOT_FOUND).
            InvalidArgument: the suffix says no format, and none was given (FORMAT_REQUIRED); the table is none
                (MALFORMED_TABLE); or the service refuses it (TOO_FEW_ROWS, NO_FEATURES, MALFORMED_FILE and others).
            OSError: the file can't be read.
        """
        with ExitStack() as stack:
            source: Path | BinaryIO
            if isinstance(rows, str | PathLike):
                source, number = Path(rows), _format_number(row_format, str(rows))
            else:
                source, number = spooled_rows(rows)
                stack.enter_context(source)
            file = UploadFile.of("rows", source)
            header = pb.UploadProfileHeader(
                model=model,
                version=version,
                format=number,
                columns=columns.message() if columns else None,
                note=note,
                sha256=file.sha256,
                request_id=request_id or uuid7(),
            )
            return self._upload(header, file, progress)

    def create_from_uri(
        self,
        model: str,
        version: str,
        uri: str,
        *,
        sha256: str = "",
        columns: Columns | None = None,
        row_format: Format = None,
        note: str = "",
        request_id: str = "",
    ) -> pb.Profile:
        """Make a profile of a dataset, or of a file in a blob store, and attach it.

        Args:
            model: the model.
            version: the version that is compared with it from now on.
            uri: dataset:NAME or dataset:NAME/VERSION; or file:///path or s3://bucket/key, where the service allows its
                folder or bucket.
            sha256: of its bytes, in hex; checked. Not of a dataset.
            columns: what the columns are.
            row_format: how the file is written; None: as the URI's suffix says.
            note: for people.
            request_id: the same again gives the first result for 7 days; empty: a new one.

        Raises:
            NotFound: there is no such file (INPUT_NOT_FOUND), dataset (DATASET_NOT_FOUND), or version
                (VERSION_NOT_FOUND).
            InvalidArgument: as `create`, URI_NOT_ALLOWED, or other bytes than the digest's (DIGEST_MISMATCH).
        """
        of_dataset = uri.startswith("dataset:")
        number = pb.ROW_FORMAT_PARQUET if of_dataset else _format_number(row_format, uri)
        source = pb.FileSource(uri=uri, sha256=sha256, format=number)
        request = pb.CreateProfileRequest(
            model=model,
            version=version,
            file=source,
            columns=columns.message() if columns else None,
            note=note,
            request_id=request_id or uuid7(),
        )
        return self._create(request)

    def create_from_window(
        self,
        model: str,
        version: str,
        *,
        from_time: datetime,
        to_time: datetime | None = None,
        columns: Columns | None = None,
        note: str = "",
        request_id: str = "",
    ) -> pb.Profile:
        """Make a profile of live traffic of that version with captured features, or of a feature view, and attach it.

        Args:
            model: the model; or `view:NAME`, whose rows are those with event times in the window.
            version: the version.
            from_time: from here on, 14 days before the end at most.
            to_time: up to here, exclusive; None: now.
            columns: `kinds` and `ignored` alone count.
            note: for people.
            request_id: the same again gives the first result for 7 days; empty: a new one.

        Raises:
            InvalidArgument: too few rows were captured in it (TOO_FEW_ROWS), none (NO_FEATURES), or it is too long
                (INVALID_WINDOW).
        """
        window = pb.WindowSource(
            from_time=to_timestamp("from_time", from_time),
            to_time=to_timestamp("to_time", to_time or datetime.now(UTC)),
        )
        request = pb.CreateProfileRequest(
            model=model,
            version=version,
            window=window,
            columns=columns.message() if columns else None,
            note=note,
            request_id=request_id or uuid7(),
        )
        return self._create(request)

    def get(self, profile_id: str) -> pb.Profile:
        """Give a profile with all its features; raises NotFound (PROFILE_NOT_FOUND)."""
        return self._get(pb.GetProfileRequest(id=profile_id))

    def of_version(self, model: str, version: str) -> pb.Profile:
        """Give the profile that a version is compared with; raises NotFound (PROFILE_NOT_FOUND)."""
        return self._get(pb.GetProfileRequest(model=model, version=version))

    def list(self, *, model: str = "", version: str = "", limit: int | None = None) -> Iterator[pb.Profile]:
        """List profiles without their features, the newest first, fetched as they are iterated.

        Args:
            model: only this model's.
            version: only those attached to this version.
            limit: so many at most; None: all.
        """

        def fetch(token: str) -> pb.ListProfilesResponse:
            request = pb.ListProfilesRequest(
                model=model, version=version, page_size=page_size_of(limit), page_token=token
            )
            return self._connection.unary(self._connection.stub.ListProfiles, request)

        return islice((profile for page in pages(fetch) for profile in page.profiles), limit)

    def attach(self, profile_id: str, version: str) -> pb.Profile:
        """Have a version of the same model compared with a profile from now on; live data is counted anew against it.

        Raises:
            NotFound: there is no such profile (PROFILE_NOT_FOUND), or version (VERSION_NOT_FOUND).
        """
        request = pb.AttachProfileRequest(id=profile_id, version=version)
        return self._connection.unary(self._connection.stub.AttachProfile, request).profile

    def _upload(self, header: pb.UploadProfileHeader, file: UploadFile, progress: Progress | None) -> pb.Profile:
        method, kind = self._connection.stub.UploadProfile, pb.UploadProfileRequest
        tries = Tries(self._connection.retry)
        while True:
            try:
                requests = _requests(header, file, progress)
                return self._connection.upload(method, kind, requests, idle_timeout_s=PROFILE_TIMEOUT_S).profile
            except PenstockError as error:
                tries.again(error)

    def _create(self, request: pb.CreateProfileRequest) -> pb.Profile:
        method = self._connection.stub.CreateProfile
        return self._connection.unary(method, request, timeout_s=PROFILE_TIMEOUT_S).profile

    def _get(self, request: pb.GetProfileRequest) -> pb.Profile:
        return self._connection.unary(self._connection.stub.GetProfile, request).profile


def _requests(
    header: pb.UploadProfileHeader, file: UploadFile, progress: Progress | None
) -> Iterator[pb.UploadProfileRequest]:
    yield pb.UploadProfileRequest(header=header)
    sent_bytes = 0
    for chunk in file.chunks():
        yield pb.UploadProfileRequest(chunk=chunk)
        sent_bytes += len(chunk)
        if progress is not None:
            progress(sent_bytes, file.size_bytes)


def _format_number(row_format: Format, name: str) -> pb.RowFormat.ValueType:
    number = enum_number("row_format", pb.RowFormat, row_format)
    number = number or _SUFFIXES.get(Path(name).suffix.lower(), pb.ROW_FORMAT_UNSPECIFIED)
    if not number:
        sentence = f"{Path(name).name} does not say how it is written; give row_format: jsonl, parquet or csv"
        raise InvalidArgument(sentence, reason="FORMAT_REQUIRED")
    return number
