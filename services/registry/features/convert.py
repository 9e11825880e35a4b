"""Protobuf ↔ values of the feature store; requests are checked here."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from penstock.api.features.v1 import feature_views_pb2 as views_pb
from penstock.api.features.v1 import features_pb2 as pb
from penstock.errors import InvalidArgument as Malformed
from penstock.tensors import from_tensor, to_tensor
from services.common.errors import InvalidArgument, ResourceExhausted
from services.registry.features.expressions.plan import plan_of
from services.registry.features.models import (
    FIRST_US,
    LAST_US,
    Column,
    Computation,
    Feature,
    FeatureStatus,
    FeatureType,
    NewView,
    RequestValue,
    Rows,
    Selected,
    Times,
    View,
    ViewChange,
)
from services.registry.features.store.columns import DTYPES
from services.registry.features.values import Selection

MAX_FEATURES: Final = 256
MAX_REQUEST_VALUES: Final = 64
MAX_ROWS: Final = 10_000
MAX_KEYS: Final = 10_000
MAX_BLOCK_ROWS: Final = 65_536
MAX_KEY_CHARS: Final = 256
MAX_TEXT_CHARS: Final = 1_000
MAX_STRING_BYTES: Final = 16 * 1024
MAX_LIST_LENGTH: Final = 4_096
MAX_LABELS: Final = 64
MAX_LABEL_CHARS: Final = 256
MAX_TTL_MS: Final = 100 * 365 * 86_400_000
Answer = TypeVar("Answer", bound=Message)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FEATURE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_COMPUTATIONS = {each: views_pb.FeatureComputation.Value(f"FEATURE_COMPUTATION_{each.value}") for each in Computation}
_STATUSES = {each: pb.FeatureStatus.Value(f"FEATURE_STATUS_{each.value}") for each in FeatureStatus}


def new_view(message: views_pb.FeatureView) -> NewView:
    """Read a view to make; raises InvalidArgument."""
    for field, value in (("name", message.name), ("entity", message.entity)):
        if not _NAME.fullmatch(value):
            sentence = f"got {value[:80]!r}; 1 to 128 of a-z, A-Z, 0-9, '.', '_' and '-', a letter or digit first"
            raise InvalidArgument.field(f"view.{field}", sentence, reason="INVALID_NAME")
    if not message.features:
        raise InvalidArgument.field("view.features", "none came; a view has at least one", reason="NO_FEATURES")
    if len(message.features) > MAX_FEATURES:
        sentence = f"{len(message.features):,} came; {MAX_FEATURES} are allowed"
        raise InvalidArgument.field("view.features", sentence, reason="TOO_MANY")
    if len(message.request_values) > MAX_REQUEST_VALUES:
        sentence = f"{len(message.request_values):,} came; {MAX_REQUEST_VALUES} are allowed"
        raise InvalidArgument.field("view.request_values", sentence, reason="TOO_MANY")
    features = tuple(_feature(number, each) for number, each in enumerate(message.features))
    values = tuple(_request_value(number, each) for number, each in enumerate(message.request_values))
    names = [each.name for each in features] + [each.name for each in values]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidArgument.field("view.features", f"{twice!r} comes twice", reason="DUPLICATE_NAME")
    plan_of(features, values)
    return NewView(
        name=message.name,
        entity=message.entity,
        features=features,
        ttl_ms=_ttl("view.ttl_ms", message.ttl_ms),
        owner=_text("view.owner", message.owner),
        description=_text("view.description", message.description),
        labels=_labels("view.labels", message.labels),
        request_values=values,
    )


def change(request: views_pb.UpdateFeatureViewRequest) -> ViewChange:
    """Read what is to be otherwise."""
    return ViewChange(
        ttl_ms=_ttl("ttl_ms", request.ttl_ms) if request.HasField("ttl_ms") else None,
        owner=_text("owner", request.owner) if request.HasField("owner") else None,
        description=_text("description", request.description) if request.HasField("description") else None,
        labels=_labels("labels", request.labels.labels) if request.HasField("labels") else None,
    )


def named_version(version: int) -> int:
    """Read a version that must be named; raises InvalidArgument."""
    if version < 1:
        raise InvalidArgument.field("version", "name the version, such as 1", reason="VERSION_REQUIRED")
    return version


def view_proto(view: View) -> views_pb.FeatureView:
    """Write a version of a view."""
    message = views_pb.FeatureView(
        name=view.name,
        version=view.version,
        entity=view.entity,
        features=[
            views_pb.Feature(
                name=each.name,
                type=views_pb.FeatureType.Value(f"FEATURE_TYPE_{each.type.value}"),
                description=each.description,
                expression=each.expression,
                computation=_COMPUTATIONS[each.computation]
                if each.expression
                else views_pb.FEATURE_COMPUTATION_UNSPECIFIED,
            )
            for each in view.features
        ],
        request_values=[
            views_pb.RequestValue(
                name=each.name,
                type=views_pb.FeatureType.Value(f"FEATURE_TYPE_{each.type.value}"),
                description=each.description,
            )
            for each in view.request_values
        ],
        ttl_ms=view.ttl_ms,
        owner=view.owner,
        description=view.description,
        labels=view.labels,
        created_by=view.created_by,
    )
    message.create_time.FromDatetime(view.create_time)
    message.update_time.FromDatetime(view.update_time)
    return message


def rows(message: pb.FeatureRows, view: View, *, most: int = MAX_ROWS) -> Rows:
    """Read rows of a view; raises InvalidArgument."""
    count = len(message.keys)
    columns: dict[str, Column] = {}
    by_name = {feature.name: feature for feature in view.features}
    for column in message.columns:
        name = column.values.name
        field = f"rows.columns[{name[:80]!r}]"
        if name not in by_name:
            sentence = f"view {view.name!r} {view.version} has no such feature; it has {', '.join(by_name)}"
            raise InvalidArgument.field(field, sentence, reason="UNKNOWN_FEATURE")
        if name in columns:
            raise InvalidArgument.field(field, "it comes twice", reason="DUPLICATE_NAME")
        if by_name[name].expression:
            sentence = f"it is computed by {by_name[name].expression!r}; leave it out"
            raise InvalidArgument.field(field, sentence, reason="COMPUTED_FEATURE")
        columns[name] = _column(field, by_name[name], column, count)
    given = np.array(message.event_times_us, np.int64)
    times = _times("rows.event_times_us", given, count) if len(given) != 1 else np.full(count, given[0])
    _in_years("rows.event_times_us", times)
    return Rows(keys(message.keys, most=most), times, columns)


def request_values(columns: Sequence[pb.FeatureColumn], row_count: int) -> dict[str, Column]:
    """Read what a request brings along for features that are computed on read; raises InvalidArgument."""
    found: dict[str, Column] = {}
    for column in columns:
        name = column.values.name
        field = f"request_values[{name[:80]!r}]"
        if name in found:
            raise InvalidArgument.field(field, "it comes twice", reason="DUPLICATE_NAME")
        values = _decoded(field, column)
        rank = 2 if values.ndim == 2 else 1
        if values.dtype not in (DTYPES.values() if rank == 1 else [np.dtype("<f8")]):
            raise InvalidArgument.field(field, f"{values.dtype} is no feature's type", reason="WRONG_TYPE")
        found[name] = _checked(field, values, column.missing, row_count, rank)
    return found


def create_times(request: pb.ImportFeaturesRequest, row_count: int) -> Times | None:
    """Read when rows became known; None: now."""
    if not request.create_times_us:
        return None
    times = _times("create_times_us", np.array(request.create_times_us, np.int64), row_count)
    _in_years("create_times_us", times)
    return times


def as_of_times(request: pb.GetFeaturesAsOfRequest) -> Times:
    """Read as of when each row is asked for."""
    times = np.array(request.as_of_times_us, np.int64)
    if len(times) != len(request.keys):
        sentence = f"{len(times):,} came for {len(request.keys):,} keys; each row needs one"
        raise InvalidArgument.field("as_of_times_us", sentence, reason="RAGGED")
    _in_years("as_of_times_us", times)
    return times


def keys(given: Sequence[str], *, most: int = MAX_KEYS) -> list[str]:
    """Read entities; raises InvalidArgument."""
    _most("keys", len(given), most)
    found = list(given)
    for number, key in enumerate(found):
        if not 0 < len(key) <= MAX_KEY_CHARS or "\0" in key:
            sentence = f"got {key[:80]!r}; 1 to {MAX_KEY_CHARS} characters are allowed, NUL is not"
            raise InvalidArgument.field(f"keys[{number}]", sentence, reason="INVALID_NAME")
    return found


def asked_keys(given: Sequence[str], *, most: int = MAX_KEYS) -> list[str]:
    """Read entities of a read, of which there is one at least; raises InvalidArgument."""
    if not given:
        raise InvalidArgument.field("keys", "none came; name the entities", reason="KEYS_REQUIRED")
    return keys(given, most=most)


def fitting(message: Answer, most_bytes: int) -> Answer:
    """See that an answer fits a message; raises ResourceExhausted (TOO_LARGE)."""
    size_bytes = message.ByteSize()
    if size_bytes > most_bytes:
        sentence = f"the answer has {size_bytes:,} bytes, and a message at most {most_bytes:,}"
        raise ResourceExhausted(f"{sentence}; ask for fewer keys, rows or features at once", reason="TOO_LARGE")
    return message


def selections(given: Sequence[pb.FeatureSelection]) -> list[Selection]:
    """Read what is wanted; raises InvalidArgument."""
    if not given:
        raise InvalidArgument.field("selections", "name a view at least", reason="VIEW_REQUIRED")
    return [Selection(each.view, each.version, list(each.features)) for each in given]


def selected_proto(selected: Selected) -> pb.SelectedFeatures:
    """Write what a view has."""
    by_name = {feature.name: feature for feature in selected.view.features}
    return pb.SelectedFeatures(
        view=selected.view.name,
        version=selected.view.version,
        statuses=[_STATUSES[status] for status in selected.statuses],
        event_times_us=selected.event_times.tolist(),
        columns=[column_proto(by_name[name], column) for name, column in selected.columns.items()],
    )


def column_proto(feature: Feature, column: Column) -> pb.FeatureColumn:
    """Write a column; what is missing is 0, empty or nothing in its place."""
    values: NDArray[Any] = column.values
    if feature.type is FeatureType.STRING:
        values = np.where(column.missing, "", values).astype(object)
    elif feature.type is FeatureType.FLOAT64_LIST:
        values = _stacked(values, column.missing)
    missing = column.missing.astype(np.uint8).tobytes() if column.missing.any() else b""
    return pb.FeatureColumn(values=to_tensor(feature.name, values), missing=missing)


def _stacked(values: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give lists of one length as two dimensions; a shorter one is filled up with NaN."""
    longest = max((len(value) for value in values if value is not None), default=0)
    stacked = np.full((len(values), longest), np.nan)
    for row, value in enumerate(values):
        if not missing[row]:
            stacked[row, : len(value)] = value
    return stacked


def _feature(number: int, message: views_pb.Feature, where: str = "features") -> Feature:
    if not _FEATURE.fullmatch(message.name):
        sentence = f"got {message.name[:80]!r}; a-z, 0-9 and '_', a letter first, at most 63 characters"
        raise InvalidArgument.field(f"view.{where}[{number}].name", sentence, reason="INVALID_NAME")
    kinds = {views_pb.FeatureType.Value(f"FEATURE_TYPE_{each.value}"): each for each in FeatureType}
    if message.type not in kinds:
        sentence = f"required, and one of {', '.join(FeatureType)}"
        raise InvalidArgument.field(f"view.{where}[{number}].type", sentence, reason="INVALID_FIELD")
    description = _text(f"view.features[{number}].description", message.description)
    computations = {number: each for each, number in _COMPUTATIONS.items()}
    if message.computation and (not message.expression or message.computation not in computations):
        sentence = "ON_WRITE or ON_READ, and only with an expression"
        raise InvalidArgument.field(f"view.features[{number}].computation", sentence, reason="INVALID_FIELD")
    return Feature(
        message.name,
        kinds[message.type],
        description,
        message.expression,
        computations.get(message.computation, Computation.ON_WRITE),
    )


def _request_value(number: int, message: views_pb.RequestValue) -> RequestValue:
    read = _feature(number, views_pb.Feature(name=message.name, type=message.type), "request_values")
    description = _text(f"view.request_values[{number}].description", message.description)
    return RequestValue(read.name, read.type, description)


def _column(field: str, feature: Feature, message: pb.FeatureColumn, row_count: int) -> Column:
    values = _decoded(field, message)
    rank = 2 if feature.type is FeatureType.FLOAT64_LIST else 1
    wanted = np.dtype("<f8") if rank == 2 else DTYPES[feature.type]
    if values.ndim == rank and values.dtype != wanted:
        sentence = f"got {values.dtype}; {feature.type.value} takes {'BYTES' if wanted.kind == 'O' else wanted}"
        raise InvalidArgument.field(field, sentence, reason="WRONG_TYPE")
    return _checked(field, values, message.missing, row_count, rank)


def _decoded(field: str, message: pb.FeatureColumn) -> NDArray[Any]:
    try:
        return from_tensor(message.values)
    except Malformed as error:
        raise InvalidArgument.field(field, error.message, reason=error.reason) from error


def _checked(field: str, values: NDArray[Any], gone: bytes, row_count: int, rank: int) -> Column:
    """See that there is a value a row, none too large; texts are decoded."""
    if values.ndim != rank or len(values) != row_count:
        sentence = f"its shape is {list(values.shape)}; {rank} dimension{'s' * (rank > 1)} with {row_count} rows wanted"
        raise InvalidArgument.field(field, sentence, reason="RAGGED")
    if gone and len(gone) != row_count:
        sentence = f"missing has {len(gone)} bytes for {row_count} rows"
        raise InvalidArgument.field(field, sentence, reason="RAGGED")
    missing = np.frombuffer(gone, np.uint8) != 0 if gone else np.zeros(row_count, np.bool_)
    if values.dtype.kind == "O":
        values = _strings(field, values, missing)
    if rank > 1 and values.shape[1] > MAX_LIST_LENGTH:
        sentence = f"lists of {values.shape[1]:,}; {MAX_LIST_LENGTH:,} values are allowed"
        raise InvalidArgument.field(field, sentence, reason="OUT_OF_BOUNDS")
    return Column(values, missing)


def _strings(field: str, values: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[Any]:
    texts = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        if missing[row]:
            continue
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument.field(field, f"row {row} is not UTF-8", reason="WRONG_TYPE") from error
        if len(value) > MAX_STRING_BYTES or "\0" in text:
            sentence = f"row {row} has {len(value):,} bytes; {MAX_STRING_BYTES:,} are allowed, NUL is not"
            raise InvalidArgument.field(field, sentence, reason="OUT_OF_BOUNDS")
        texts[row] = text
    return texts


def _times(field: str, given: Times, row_count: int) -> Times:
    """Give one time a row; none means now."""
    if not len(given):
        return np.full(row_count, time.time_ns() // 1_000)
    if len(given) != row_count:
        sentence = f"{len(given):,} came for {row_count:,} rows; send one a row, one for all, or none"
        raise InvalidArgument.field(field, sentence, reason="RAGGED")
    return given


def _in_years(field: str, times: Times) -> None:
    if len(times) and not FIRST_US <= int(times.min()) <= int(times.max()) <= LAST_US:
        raise InvalidArgument.field(field, "times of the years 1 to 9999 are allowed, in µs", reason="INVALID_TIME")


def _most(field: str, count: int, most: int) -> None:
    if count > most:
        raise InvalidArgument.field(field, f"{count:,} came; {most:,} are allowed at once", reason="TOO_MANY")


def _ttl(field: str, value: int) -> int:
    if not 0 <= value <= MAX_TTL_MS:
        raise InvalidArgument.field(field, f"got {value}; 0 to {MAX_TTL_MS} ms are allowed", reason="OUT_OF_BOUNDS")
    return value


def _text(field: str, value: str) -> str:
    if len(value) > MAX_TEXT_CHARS or "\0" in value:
        sentence = f"{len(value):,} characters came; {MAX_TEXT_CHARS:,} are allowed, NUL is not"
        raise InvalidArgument.field(field, sentence, reason="OUT_OF_BOUNDS")
    return value


def _labels(field: str, labels: Mapping[str, str]) -> dict[str, str]:
    too_long = any(
        not 0 < len(name) <= MAX_LABEL_CHARS or len(value) > MAX_LABEL_CHARS for name, value in labels.items()
    )
    if len(labels) > MAX_LABELS or too_long or any("\0" in name + value for name, value in labels.items()):
        sentence = f"at most {MAX_LABELS}, of at most {MAX_LABEL_CHARS} characters each, without NUL"
        raise InvalidArgument.field(field, sentence, reason="OUT_OF_BOUNDS")
    return dict(labels)
