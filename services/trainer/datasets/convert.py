"""Protobuf ↔ values of datasets; requests are checked here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.struct_pb2 import Struct

from penstock.api.trainer.v1 import datasets_pb2 as pb
from penstock.values import MAX_EXACT, to_struct
from services.common import checks, timestamps
from services.common.blobs import checked_sha256
from services.common.errors import InvalidArgument
from services.trainer.datasets.builds import NewBuild
from services.trainer.datasets.kinds import ColumnType, DatasetFormat
from services.trainer.datasets.models import (
    MAX_NAME_CHARS,
    Column,
    Dataset,
    FeatureSource,
    KeptSplit,
    Source,
    TrafficSource,
    reference_of,
)
from services.trainer.datasets.rows.texts import DELIMITERS
from services.trainer.datasets.splits import Split, SplitBy
from services.trainer.datasets.uploads import NewUpload
from services.trainer.task import Part

MAX_DESCRIPTION_CHARS: Final = 1_000
MAX_REQUEST_ID_CHARS: Final = 128
MAX_FILE_NAME_CHARS: Final = 256
MAX_CHUNK_BYTES: Final = 1024 * 1024
MAX_PREVIEW: Final = 1_000
DEFAULT_PREVIEW: Final = 10
MAX_FILTERS: Final = 64
MAX_VERSIONS: Final = 1_000
MAX_FEATURES: Final = 1_000
_PARTS: Final = {
    pb.DATASET_PART_TRAIN: Part.TRAIN,
    pb.DATASET_PART_VALIDATION: Part.VALIDATION,
    pb.DATASET_PART_TEST: Part.TEST,
}


def upload(requests: Iterable[pb.UploadDatasetRequest]) -> tuple[NewUpload, Iterator[bytes]]:
    """Read an upload: what its header says, and its pieces as they come; raises InvalidArgument."""
    coming = iter(requests)
    first = next(coming, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidArgument("the first message is the header: send it, then the pieces", reason="HEADER_REQUIRED")
    return _header(first.header), _pieces(coming)


def _header(header: pb.UploadDatasetHeader) -> NewUpload:
    checks.model_name("header.name", header.name)
    form = checks.enum_name("header.format", pb.DatasetFormat, header.format, "DATASET_FORMAT_")
    if not form:
        sentence = "say whether it is PARQUET, CSV or JSON"
        raise InvalidArgument.field("header.format", sentence, reason="UNKNOWN_FORMAT")
    types = {}
    for name, number in header.column_types.items():
        kind = checks.enum_name(f"header.column_types[{name}]", pb.ColumnType, number, "COLUMN_TYPE_")
        if kind:
            types[name] = ColumnType(kind)
    return NewUpload(
        name=header.name,
        form=DatasetFormat(form),
        file_name=checks.line("header.file_name", header.file_name, MAX_FILE_NAME_CHARS),
        delimiter=_delimiter(header),
        column_types=types,
        description=checks.text("header.description", header.description, MAX_DESCRIPTION_CHARS),
        labels=checks.labels("header.labels", header.labels),
        sha256=checked_sha256(header.sha256) if header.sha256 else "",
        request_id=checks.line("header.request_id", header.request_id, MAX_REQUEST_ID_CHARS),
        header_sha256=hashlib.sha256(header.SerializeToString(deterministic=True)).hexdigest(),
    )


def _delimiter(header: pb.UploadDatasetHeader) -> str:
    given = header.delimiter
    if given and header.format != pb.DATASET_FORMAT_CSV:
        sentence = f"got {given[:8]!r}; only a CSV has a delimiter: leave it out"
        raise InvalidArgument.field("header.delimiter", sentence, reason="INVALID_DELIMITER")
    if given and given not in DELIMITERS:
        sentence = f"got {given[:8]!r}; cells are divided by one of {', '.join(map(repr, DELIMITERS))}"
        raise InvalidArgument.field("header.delimiter", sentence, reason="INVALID_DELIMITER")
    return given


def _pieces(coming: Iterator[pb.UploadDatasetRequest]) -> Iterator[bytes]:
    for request in coming:
        if request.WhichOneof("part") != "chunk":
            raise InvalidArgument("a second header came; one stream is one file", reason="HEADER_REQUIRED")
        if len(request.chunk) > MAX_CHUNK_BYTES:
            sentence = f"a piece of {len(request.chunk):,} bytes came; {MAX_CHUNK_BYTES:,} are allowed"
            raise InvalidArgument.field("chunk", sentence, reason="TOO_LARGE")
        yield request.chunk


def name(request: pb.GetDatasetRequest | pb.PreviewDatasetRequest | pb.DownloadDatasetRequest
         | pb.SplitDatasetRequest | pb.DeleteDatasetRequest) -> tuple[str, int]:  # fmt: skip
    """Read which version is meant; 0: the newest that is READY."""
    if request.version < 0:
        sentence = f"got {request.version}; versions are 1, 2, 3 …, and 0 is the newest that is READY"
        raise InvalidArgument.field("version", sentence, reason="OUT_OF_BOUNDS")
    return checks.model_name("name", request.name), request.version


def deleted(request: pb.DeleteDatasetRequest) -> tuple[str, int]:
    """Read which version is to be deleted; it is named."""
    if not request.version:
        raise InvalidArgument.field("version", "it is 0; name the version to delete", reason="VERSION_REQUIRED")
    return name(request)


def listed(request: pb.ListDatasetsRequest) -> str:
    """Read whose versions are listed; '': the newest of each."""
    return checks.model_name("name", request.name) if request.name else ""


def preview(request: pb.PreviewDatasetRequest) -> tuple[int, int]:
    """Read which rows: the offset and how many."""
    checks.between("limit", request.limit, 0, MAX_PREVIEW)
    checks.between("offset", request.offset, 0, 2**62)
    return request.offset, request.limit or DEFAULT_PREVIEW


def part(request: pb.DownloadDatasetRequest) -> Part | None:
    """Read which part; None: all rows."""
    checks.enum_name("part", pb.DatasetPart, request.part, "DATASET_PART_")
    checks.between("offset", request.offset, 0, 2**62)
    checks.line("split_id", request.split_id, MAX_NAME_CHARS)
    return _PARTS.get(request.part)


def split(message: pb.DatasetSplit) -> Split:
    """Read how rows are divided; raises InvalidArgument."""
    by = checks.enum_name("split.by", pb.SplitBy, message.by, "SPLIT_BY_")
    return Split(
        by=SplitBy(by or "SEED"),
        train_share=message.train_share,
        validation_share=message.validation_share,
        seed=message.seed,
        column=checks.line("split.column", message.column, MAX_NAME_CHARS),
        stratify_column=checks.line("split.stratify_column", message.stratify_column, MAX_NAME_CHARS),
    )


def build(request: pb.BuildDatasetRequest, now: datetime) -> NewBuild:
    """Read what is gathered into a new version; raises InvalidArgument."""
    return NewBuild(
        name=checks.model_name("name", request.name),
        source=source(request.source, now),
        description=checks.text("description", request.description, MAX_DESCRIPTION_CHARS),
        labels=checks.labels("labels", request.labels),
        request_id=checks.line("request_id", request.request_id, MAX_REQUEST_ID_CHARS),
        body_sha256=hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest(),
    )


def source(message: pb.DatasetSource, now: datetime) -> Source:
    """Read what is gathered; raises InvalidArgument (SOURCE_REQUIRED, INVALID_NAME, INVALID_TIME)."""
    match message.WhichOneof("kind"):
        case "traffic":
            return Source(traffic=_traffic(message.traffic, now))
        case "features":
            return Source(features=_features(message.features))
        case _:
            sentence = "name live traffic or feature views; rows of your own are uploaded"
            raise InvalidArgument.field("source", sentence, reason="SOURCE_REQUIRED")


def _traffic(message: pb.TrafficSource, now: datetime) -> TrafficSource:
    field = "source.traffic"
    checks.model_name(f"{field}.model", message.model)
    if not message.HasField("start_time"):
        raise InvalidArgument.field(f"{field}.start_time", "required: from when on", reason="INVALID_TIME")
    start = timestamps.read(f"{field}.start_time", message.start_time)
    end = timestamps.read(f"{field}.end_time", message.end_time) if message.HasField("end_time") else now
    if start >= end:
        raise InvalidArgument.field(f"{field}.end_time", "it is not after start_time", reason="INVALID_TIME")
    checks.between(f"{field}.max_rows", message.max_rows, 0, 2**62)
    checks.between(f"{field}.where", len(message.where), 0, MAX_FILTERS)
    for feature, value in message.where.items():
        checks.line(f"{field}.where", feature, MAX_NAME_CHARS)
        checks.line(f"{field}.where[{feature}]", value)
    versions = checks.lines(f"{field}.versions", message.versions, count=MAX_VERSIONS, limit=MAX_NAME_CHARS)
    for version in versions:
        checks.version_name(f"{field}.versions", version)
    return TrafficSource(
        message.model, start, end, versions, message.labelled_only, message.max_rows, dict(message.where)
    )


def _features(message: pb.FeatureSource) -> FeatureSource:
    field = "source.features"
    reference_of(f"{field}.rows", message.rows)
    for each in ("key_column", "time_column"):
        if not checks.line(f"{field}.{each}", getattr(message, each), MAX_NAME_CHARS):
            raise InvalidArgument.field(f"{field}.{each}", "required: a column of the rows", reason="INVALID_NAME")
    features = checks.lines(f"{field}.features", message.features, count=MAX_FEATURES, limit=2 * MAX_NAME_CHARS)
    if not features:
        raise InvalidArgument.field(
            f"{field}.features", "required: view, view@2 or view:feature", reason="INVALID_NAME"
        )
    return FeatureSource(message.rows, message.key_column, message.time_column, features)


def rows_proto(rows: Iterable[Mapping[str, Any]]) -> list[Struct]:
    """Write rows as JSON has them."""
    return [to_struct({column: _json(value) for column, value in row.items()}) for row in rows]


def _json(value: Any) -> Any:
    match value:
        case bool() | None | str():
            return value
        case int():
            return value if abs(value) <= MAX_EXACT else str(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case _:
            return [_json(each) for each in value]


def dataset_proto(dataset: Dataset) -> pb.Dataset:
    """Write a version as it stands."""
    building = dataset.state.value == "BUILDING"
    written = pb.Dataset(
        name=dataset.name,
        version=dataset.version,
        state=pb.DatasetState.Value(f"DATASET_STATE_{dataset.state}"),
        message=dataset.message,
        row_count=dataset.rows.row_count,
        columns=map(_column_proto, dataset.rows.columns),
        size_bytes=dataset.size_bytes,
        digest=dataset.rows.digest,
        source=_source_proto(dataset.source),
        description=dataset.description,
        labels=dataset.labels,
        splits=map(split_proto, dataset.splits),
        created_by=dataset.created_by,
        progress_rows=dataset.progress_rows if building else 0,
    )
    written.create_time.FromDatetime(dataset.create_time)
    if dataset.ready_time is not None:
        written.ready_time.FromDatetime(dataset.ready_time)
    return written


def split_proto(kept: KeptSplit) -> pb.DatasetSplit:
    """Write a split."""
    return pb.DatasetSplit(
        id=kept.split_id,
        by=pb.SplitBy.Value(f"SPLIT_BY_{kept.split.by}"),
        train_share=kept.split.train_share,
        validation_share=kept.split.validation_share,
        seed=kept.split.seed,
        column=kept.split.column,
        stratify_column=kept.split.stratify_column,
        train_count=kept.counts[Part.TRAIN],
        validation_count=kept.counts[Part.VALIDATION],
        test_count=kept.counts[Part.TEST],
    )


def _column_proto(column: Column) -> pb.Column:
    return pb.Column(
        name=column.name,
        type=pb.ColumnType.Value(f"COLUMN_TYPE_{column.type}"),
        missing_count=column.missing_count,
        distinct_count=column.distinct_count,
        min=column.min,
        max=column.max,
        mean=column.mean,
        standard_deviation=column.standard_deviation,
        top_values=[pb.ValueCount(value=value, count=count) for value, count in column.top_values],
    )


def _source_proto(source: Source) -> pb.DatasetSource:
    if source.upload is not None:
        return pb.DatasetSource(upload=pb.UploadSource(file_name=source.upload.file_name, sha256=source.upload.sha256))
    if source.traffic is not None:
        traffic = source.traffic
        written = pb.TrafficSource(
            model=traffic.model,
            versions=traffic.versions,
            labelled_only=traffic.labelled_only,
            max_rows=traffic.max_rows,
            where=traffic.where,
        )
        written.start_time.FromDatetime(traffic.start_time)
        written.end_time.FromDatetime(traffic.end_time)
        return pb.DatasetSource(traffic=written)
    features = source.features
    if features is None:
        return pb.DatasetSource()
    return pb.DatasetSource(
        features=pb.FeatureSource(
            rows=features.rows,
            key_column=features.key_column,
            time_column=features.time_column,
            features=features.features,
        )
    )
