"""Arrow's batches of a file as the contract's rows: types are checked, and nothing is guessed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock.api.features.v1 import features_pb2 as pb
from penstock.tensors import to_tensor
from services.common.errors import InvalidArgument
from services.registry.features.imports.models import EVENT_TIME, SourceColumns
from services.registry.features.models import FeatureType

if TYPE_CHECKING:
    import pyarrow

_INT: Final = r"^-?[0-9]{1,18}$"
_ZONE: Final = r":.*(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"  # after a time of day: a date alone ends in digits as well


def block_of(
    batch: pyarrow.RecordBatch, kinds: Mapping[str, FeatureType], columns: SourceColumns, now_us: int
) -> pb.ImportFeaturesRequest:
    """Give rows of a file as a request to write them.

    Raises:
        InvalidArgument: a column is missing (UNKNOWN_COLUMN), is of no feature (UNKNOWN_FEATURE), or its values are not
            of the feature's type (WRONG_TYPE); a row has no entity or time (MISSING_VALUE).
    """
    names = batch.schema.names
    check_columns(names, columns)
    event_name = columns.event_time or (EVENT_TIME if EVENT_TIME in names else "")
    special = {columns.key, event_name, columns.create_time, *columns.ignored}
    features = []
    for name in names:
        if name in special:
            continue
        if name not in kinds:
            sentence = f"the view has no feature {name[:80]!r}; it has {', '.join(kinds)}; leave the column out"
            raise InvalidArgument(sentence, reason="UNKNOWN_FEATURE")
        features.append(_feature(name, kinds[name], batch.column(name)))
    times = _times(event_name, batch.column(event_name)) if event_name else [now_us]
    known = _times(columns.create_time, batch.column(columns.create_time)) if columns.create_time else []
    rows = pb.FeatureRows(keys=_keys(columns.key, batch.column(columns.key)), event_times_us=times, columns=features)
    return pb.ImportFeaturesRequest(rows=rows, create_times_us=known)


def check_columns(names: Sequence[str], columns: SourceColumns) -> None:
    """See that the columns that were named are there; raises InvalidArgument (UNKNOWN_COLUMN)."""
    for name in (columns.key, columns.event_time, columns.create_time):
        if name and name not in names:
            sentence = f"there is no column {name[:80]!r}; there are {', '.join(each[:80] for each in names[:50])}"
            raise InvalidArgument(sentence, reason="UNKNOWN_COLUMN")


def _keys(name: str, array: pyarrow.Array) -> list[str]:
    import pyarrow as pa

    _complete(name, array)
    if not (pa.types.is_integer(array.type) or _is_text(array.type)):
        raise _wrong(name, array, "entities: texts or whole numbers")
    keys: list[str] = array.cast(pa.string()).to_pylist()
    return keys


def _times(name: str, array: pyarrow.Array) -> list[int]:
    _complete(name, array)
    times: list[int] = _points(name, array).to_pylist()
    return times


def _complete(name: str, array: pyarrow.Array) -> None:
    if array.null_count:
        row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        sentence = f"row {row + 1} of a block has nothing in {name[:80]!r}; each row needs its entity and its times"
        raise InvalidArgument(sentence, reason="MISSING_VALUE")


def _feature(name: str, kind: FeatureType, array: pyarrow.Array) -> pb.FeatureColumn:
    values = _values(name, kind, array)
    missing = array.is_null().to_numpy(zero_copy_only=False)
    gone = missing.astype(np.uint8).tobytes() if missing.any() else b""
    return pb.FeatureColumn(values=to_tensor(name, values), missing=gone)


def _values(name: str, kind: FeatureType, array: pyarrow.Array) -> Any:
    import pyarrow as pa

    types = pa.types
    if kind is FeatureType.FLOAT64_LIST:
        return _lists(name, array)
    if kind is FeatureType.STRING:
        if not (_is_text(array.type) or types.is_null(array.type)):
            raise _wrong(name, array, kind.value)
        return array.cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False)
    if kind is FeatureType.TIMESTAMP:
        return _points(name, array).fill_null(0).to_numpy(zero_copy_only=False)
    if kind is FeatureType.BOOL:
        if not (types.is_boolean(array.type) or types.is_null(array.type)):
            raise _wrong(name, array, kind.value)
        return array.cast(pa.bool_()).fill_null(False).to_numpy(zero_copy_only=False)
    whole = types.is_integer(array.type) or types.is_null(array.type)
    if kind is FeatureType.INT64:
        if not whole:
            raise _wrong(name, array, kind.value)
        return array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    if not (whole or types.is_floating(array.type) or types.is_decimal(array.type)):
        raise _wrong(name, array, kind.value)
    return array.cast(pa.float64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False)


def _points(name: str, array: pyarrow.Array) -> pyarrow.Array:
    """Give points in time in µs since 1970: of timestamps, dates, whole numbers, and texts of either."""
    import pyarrow as pa
    from pyarrow import compute

    kind = array.type
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return array.cast(pa.int64())
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return array.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
    if not _is_text(kind):
        raise _wrong(name, array, "points in time")
    texts = array.cast(pa.string())
    if compute.all(compute.match_substring_regex(texts, _INT)).as_py():
        return texts.cast(pa.int64())
    zoned = compute.match_substring_regex(texts, _ZONE)
    aware = compute.if_else(zoned, texts, None).cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    naive = compute.if_else(zoned, None, texts).cast(pa.timestamp("us")).cast(pa.int64())
    return compute.coalesce(aware, naive)


def _lists(name: str, array: pyarrow.Array) -> Any:
    """Give lists as two dimensions; within a block they are of one length."""
    import pyarrow as pa

    kind = array.type
    if _is_text(kind):
        lists = [None if text is None else json.loads(text) for text in array.cast(pa.string()).to_pylist()]
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lists = array.to_pylist()
    elif pa.types.is_null(kind):
        lists = [None] * len(array)
    else:
        raise _wrong(name, array, "lists of numbers")
    lengths = {len(each) for each in lists if each is not None}
    if len(lengths) > 1:
        sentence = f"column {name[:80]!r} has lists of {', '.join(map(str, sorted(lengths)[:10]))} values; one length"
        raise InvalidArgument(f"{sentence} is allowed", reason="RAGGED")
    length = lengths.pop() if lengths else 0
    return np.array([[0.0] * length if each is None else each for each in lists], "<f8").reshape(len(lists), length)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def _wrong(name: str, array: pyarrow.Array, wanted: str) -> InvalidArgument:
    word = str(array.type).partition("<")[0].partition("[")[0]  # what follows has names of the file's own
    return InvalidArgument(f"column {name[:80]!r} is {word}; {wanted} wanted", reason="WRONG_TYPE")
