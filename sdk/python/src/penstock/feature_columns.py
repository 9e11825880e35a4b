"""Features as columns: what a program has as the contract carries it, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.api.features.v1 import features_pb2 as pb
from penstock.api.tensors.v1 import tensors_pb2
from penstock.errors import FieldViolation, InvalidArgument
from penstock.tensors import from_tensor, to_tensor

Values = Sequence[Any] | NDArray[Any]
"""One value a row."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS = {"b": "BOOL", "i": "INT64", "u": "INT64", "f": "FLOAT64", "U": "STRING", "M": "TIMESTAMP"}


@dataclass(frozen=True, slots=True)
class FeatureValues:
    """What a view has of some entities, in the order in which they were asked for.

    Attributes:
        view: the view.
        version: its version.
        keys: the entities.
        statuses: PRESENT, ABSENT or EXPIRED, one a key.
        event_times_us: when each became true, in µs since 1970; 0 where nothing is known.
        columns: an array a feature: float64, int64, bool, strings in an object array, lists with a row each.
        missing: likewise, true where there is no value; what `columns` has there is not one.
    """

    view: str
    version: int
    keys: Sequence[str]
    statuses: Sequence[str]
    event_times_us: NDArray[np.int64]
    columns: Mapping[str, NDArray[Any]]
    missing: Mapping[str, NDArray[np.bool_]]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give each entity's features by name; None where there is no value."""
        lists = {
            name: [None if gone else value for value, gone in zip(values.tolist(), self.missing[name], strict=True)]
            for name, values in self.columns.items()
        }
        for row in range(len(self.keys)):
            yield {name: values[row] for name, values in lists.items()}


def to_us(field: str, time: datetime | int) -> int:
    """Give a point in time in µs since 1970; an aware datetime, or µs already.

    Raises:
        InvalidArgument: the datetime has no time zone (INVALID_TIME).
    """
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise refused(field, f"{time} has no time zone; give it one", "INVALID_TIME")
        since = time - _EPOCH
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return int(time)


def times_us(field: str, times: Sequence[datetime | int] | NDArray[Any]) -> NDArray[np.int64]:
    """Give points in time in µs since 1970: aware datetimes, numpy datetimes (UTC), or µs already."""
    if isinstance(times, np.ndarray):
        if times.dtype.kind == "M":
            return times.astype("datetime64[us]").astype(np.int64)
        return times.astype(np.int64)
    return np.fromiter((to_us(field, time) for time in times), np.int64, len(times))


def to_column(name: str, values: Values, kind: str) -> pb.FeatureColumn:
    """Encode a feature of some rows. None, and what a masked array masks, is missing; NaN is a value.

    Args:
        name: the feature's.
        values: one a row.
        kind: the feature's type, such as FLOAT64.

    Raises:
        InvalidArgument: the values are not of this type (WRONG_TYPE).
    """
    missing: NDArray[np.bool_] | None = None
    if isinstance(values, np.ma.MaskedArray):
        missing, given = np.ma.getmaskarray(values), values.filled(values.dtype.type())
    else:
        given = values if isinstance(values, np.ndarray) else _as_objects(values)
        if given.dtype == object:
            missing = np.fromiter((value is None for value in given), np.bool_, len(given))
    try:
        held = _typed(given, kind)
    except (TypeError, ValueError) as error:
        raise refused(name, f"the values are no {kind}: {error}", "WRONG_TYPE") from error
    gone = missing.astype(np.uint8).tobytes() if missing is not None and missing.any() else b""
    return pb.FeatureColumn(values=to_tensor(name, held), missing=gone)


def to_value_column(name: str, values: Values) -> pb.FeatureColumn:
    """Encode values of a request, whose type the values themselves say; one without any value is a FLOAT64.

    Raises:
        InvalidArgument: they are of no feature's type, or of several (WRONG_TYPE).
    """
    if isinstance(values, np.ndarray) and values.dtype != object:
        kinds = {_KINDS.get(values.dtype.kind, "") if values.ndim == 1 else "FLOAT64_LIST"}
    else:
        kinds = {_kind_of(value) for value in values if value is not None} or {"FLOAT64"}
    if kinds == {"FLOAT64", "INT64"}:
        kinds = {"FLOAT64"}
    kind = kinds.pop()
    if kinds or not kind:
        raise refused(name, "the values are of no feature's type, or of several; give one type", "WRONG_TYPE")
    return to_column(name, values, kind)


def from_selected(keys: Sequence[str], selected: pb.SelectedFeatures) -> FeatureValues:
    """Decode what a view has."""
    columns: dict[str, NDArray[Any]] = {}
    missing: dict[str, NDArray[np.bool_]] = {}
    for column in selected.columns:
        name = column.values.name
        values = from_tensor(column.values)
        if column.values.datatype == tensors_pb2.DATA_TYPE_BYTES:
            texts = np.empty(len(values), dtype=object)
            texts[:] = [value.decode() for value in values]
            values = texts
        columns[name] = values
        missing[name] = (
            np.frombuffer(column.missing, np.uint8) != 0 if column.missing else np.zeros(len(values), np.bool_)
        )
    statuses = [pb.FeatureStatus.Name(each).removeprefix("FEATURE_STATUS_") for each in selected.statuses]
    times = np.array(selected.event_times_us, np.int64)
    return FeatureValues(selected.view, selected.version, list(keys), statuses, times, columns, missing)


def _kind_of(value: Any) -> str:
    if isinstance(value, datetime):
        return "TIMESTAMP"
    if isinstance(value, list | tuple | np.ndarray):
        return "FLOAT64_LIST"
    return _KINDS.get(np.asarray(value).dtype.kind, "")


def _as_objects(values: Values) -> NDArray[Any]:
    held = np.empty(len(values), dtype=object)
    held[:] = list(values)
    return held


def _typed(values: NDArray[Any], kind: str) -> NDArray[Any]:
    if kind == "STRING":
        texts = np.empty(len(values), dtype=object)
        texts[:] = ["" if value is None else value for value in values.tolist()]
        return texts
    if kind == "FLOAT64_LIST":
        return _stacked(values)
    dtype = {"FLOAT64": np.dtype("<f8"), "BOOL": np.dtype("?")}.get(kind, np.dtype("<i8"))
    if kind == "TIMESTAMP" and values.dtype.kind in "OM":
        values = times_us(
            kind, values if values.dtype.kind == "M" else [0 if each is None else each for each in values]
        )
    if values.dtype == object:
        values = np.array([dtype.type() if value is None else value for value in values.tolist()])
    if not np.can_cast(values.dtype, dtype, "same_kind"):
        raise TypeError(f"{values.dtype} is no {dtype}")
    return values.astype(dtype, copy=False)


def _stacked(values: NDArray[Any]) -> NDArray[np.float64]:
    if values.ndim == 2:
        return values.astype("<f8", copy=False)
    lengths = {len(value) for value in values if value is not None}
    if len(lengths) > 1:
        raise ValueError(f"lists of {', '.join(map(str, sorted(lengths)))} values; all of one write are of one length")
    length = lengths.pop() if lengths else 0
    held = [np.zeros(length) if value is None else value for value in values]
    return np.array(held, "<f8").reshape(len(values), length)


def refused(field: str, sentence: str, reason: str) -> InvalidArgument:
    """Make the error of a field that is not sent."""
    return InvalidArgument(f"{field}: {sentence}", reason=reason, violations=[FieldViolation(field, sentence)])


def versioned(view: str) -> tuple[str, int]:
    """Read the name of a view, or `name@2`; version 0 is the newest."""
    name, mark, version = view.partition("@")
    if not mark:
        return name, 0
    if not (version.isascii() and version.isdigit()):
        raise refused("view", f"got {view!r}; write name or name@2", "INVALID_NAME")
    return name, int(version)
