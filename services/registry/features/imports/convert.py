"""Protobuf ↔ values of imports; requests are checked here."""

from __future__ import annotations

from typing import Final

from penstock.api.features.v1 import features_pb2 as pb
from services.common.errors import InvalidArgument
from services.registry.features.imports.models import (
    BigQuerySource,
    FileFormat,
    FileSource,
    Progress,
    QuerySource,
    Source,
    SourceColumns,
)
from services.registry.features.models import View

MAX_URI_CHARS: Final = 2_048
MAX_SQL_BYTES: Final = 16 * 1024
MAX_PROJECT_CHARS: Final = 256
MAX_COLUMN_CHARS: Final = 256
MAX_IGNORED: Final = 1_024
_FORMATS: Final = {
    pb.FEATURE_FILE_FORMAT_CSV: FileFormat.CSV,
    pb.FEATURE_FILE_FORMAT_PARQUET: FileFormat.PARQUET,
}


def source(request: pb.ImportFeatureSourceRequest) -> Source:
    """Read what is to be imported; raises InvalidArgument."""
    match request.WhichOneof("source"):
        case "file":
            return _file(request.file)
        case "query":
            return _query(request.query)
        case "big_query":
            return _big_query(request.big_query)
    raise InvalidArgument.field("source", "give a file or a query", reason="SOURCE_REQUIRED")


def columns(request: pb.ImportFeatureSourceRequest, view: View) -> SourceColumns:
    """Read which columns are what; raises InvalidArgument."""
    named = {
        "key_column": request.key_column,
        "event_time_column": request.event_time_column,
        "create_time_column": request.create_time_column,
    }
    for field, name in named.items():
        if len(name) > MAX_COLUMN_CHARS:
            raise InvalidArgument.field(field, f"at most {MAX_COLUMN_CHARS} characters", reason="OUT_OF_BOUNDS")
    if len(request.ignored_columns) > MAX_IGNORED or any(
        len(name) > MAX_COLUMN_CHARS for name in request.ignored_columns
    ):
        sentence = f"at most {MAX_IGNORED:,}, of at most {MAX_COLUMN_CHARS} characters each"
        raise InvalidArgument.field("ignored_columns", sentence, reason="OUT_OF_BOUNDS")
    return SourceColumns(
        request.key_column or view.entity,
        request.event_time_column,
        request.create_time_column,
        frozenset(request.ignored_columns),
    )


def progress_proto(progress: Progress) -> pb.ImportFeatureSourceResponse:
    """Write how far an import is."""
    return pb.ImportFeatureSourceResponse(
        row_count=progress.row_count,
        written_count=progress.written.written_count,
        late_count=progress.written.late_count,
        duplicate_count=progress.written.duplicate_count,
        done=progress.done,
    )


def _file(message: pb.FeatureFile) -> FileSource:
    if not 0 < len(message.uri) <= MAX_URI_CHARS:
        sentence = f"1 to {MAX_URI_CHARS:,} characters, such as s3://warehouse/spending.parquet"
        raise InvalidArgument.field("file.uri", sentence, reason="INVALID_URI")
    found = _FORMATS.get(message.format)
    if found is None:
        found = next((each for each in FileFormat if message.uri.lower().endswith(f".{each.value}")), None)
    if found is None:
        sentence = "neither it nor the URI's suffix says how the file is written; CSV and PARQUET are read"
        raise InvalidArgument.field("file.format", sentence, reason="FORMAT_REQUIRED")
    return FileSource(message.uri, found)


def _query(message: pb.FeatureQuery) -> QuerySource:
    if not message.connection:
        sentence = "name a database among PENSTOCK_FEATURE_CONNECTIONS_FILE"
        raise InvalidArgument.field("query.connection", sentence, reason="UNKNOWN_CONNECTION")
    return QuerySource(message.connection, _select("query.sql", message.sql))


def _big_query(message: pb.FeatureBigQuery) -> BigQuerySource:
    if not 0 < len(message.project) <= MAX_PROJECT_CHARS:
        sentence = "name the project that runs the query, among PENSTOCK_FEATURE_BIGQUERY_PROJECTS"
        raise InvalidArgument.field("big_query.project", sentence, reason="OUT_OF_BOUNDS")
    return BigQuerySource(message.project, _select("big_query.sql", message.sql))


def _select(field: str, sql: str) -> str:
    text = sql.strip().rstrip(";").rstrip()
    if not text or len(text.encode()) > MAX_SQL_BYTES or "\0" in text:
        sentence = f"one SELECT of 1 to {MAX_SQL_BYTES:,} bytes, without NUL"
        raise InvalidArgument.field(field, sentence, reason="OUT_OF_BOUNDS")
    return text
