"""What of Arrow's batches becomes rows of features, and what does not."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from penstock.api.features.v1 import features_pb2 as pb
from penstock.feature_columns import from_selected
from services.common.errors import InvalidArgument
from services.registry.features.imports.batches import block_of
from services.registry.features.imports.models import SourceColumns
from services.registry.features.models import FeatureType

KINDS = {
    "amount": FeatureType.FLOAT64, "visits": FeatureType.INT64, "member": FeatureType.BOOL,
    "city": FeatureType.STRING, "taste": FeatureType.FLOAT64_LIST, "since": FeatureType.TIMESTAMP,
}  # fmt: skip
NOW, DAY_US = 7, 86_400_000_000


def block(columns: dict[str, Any], named: SourceColumns | None = None) -> pb.ImportFeaturesRequest:
    held = {"who": ["a"] * len(next(iter(columns.values()))), **columns}
    return block_of(pa.record_batch(held), KINDS, named or SourceColumns("who"), NOW)


def read(name: str, values: Any) -> list[Any]:
    rows = block({name: values}).rows
    selected = pb.SelectedFeatures(view="x", columns=rows.columns)
    return [row[name] for row in from_selected(rows.keys, selected).rows()]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("amount", pa.array([1, None], pa.int32()), [1.0, None]),
        ("amount", pa.array([1.5, None], pa.float32()), [1.5, None]),
        ("amount", pa.array([Decimal("1.25"), None]), [1.25, None]),
        ("amount", pa.nulls(2), [None, None]),
        ("visits", pa.array([1, None], pa.uint8()), [1, None]),
        ("member", pa.array([True, None]), [True, None]),
        ("city", pa.array(["x", None, ""], pa.large_string()), ["x", None, ""]),
        ("city", pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        ("taste", pa.array([[1, 2], None], pa.list_(pa.int64())), [[1.0, 2.0], None]),
        ("taste", pa.array([[1.0], [2.0]], pa.list_(pa.float32(), 1)), [[1.0], [2.0]]),
        ("taste", pa.array(["[1, 2.5]", None]), [[1.0, 2.5], None]),
        ("since", pa.array([datetime(1970, 1, 2, tzinfo=UTC), None]), [DAY_US, None]),
        ("since", pa.array([datetime(1970, 1, 2)], pa.timestamp("ns")), [DAY_US]),  # noqa: DTZ001 - without a zone: UTC
        ("since", pa.array([date(1970, 1, 2)]), [DAY_US]),
        ("since", pa.array([5]), [5]),
        ("since", pa.array(["5", None]), [5, None]),
        ("since", pa.array(["1970-01-02T02:00:00+02:00", None]), [DAY_US, None]),
        ("since", pa.array(["1970-01-02", "1970-01-02 00:00:00"]), [DAY_US, DAY_US]),
        ("since", pa.array(["1970-01-02", None]), [DAY_US, None]),
        ("since", pa.array(["1970-01-02T00:00:00", "1970-01-02T01:00:00+01"]), [DAY_US, DAY_US]),
    ],
)
def test_what_fits_a_type_is_read(name: str, values: pa.Array, expected: list[Any]) -> None:
    assert read(name, values) == expected


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("amount", pa.array(["1"])),
        ("amount", pa.array([True])),
        ("visits", pa.array([1.0])),
        ("visits", pa.array([True])),
        ("member", pa.array([1])),
        ("city", pa.array([1])),
        ("city", pa.array([b"x"])),
        ("taste", pa.array([1.0])),
        ("since", pa.array([1.0])),
        ("since", pa.array([{"x": 1}])),
    ],
)
def test_what_does_not_fit_a_type_is_refused(name: str, values: pa.Array) -> None:
    with pytest.raises(InvalidArgument, match=name) as refused:
        block({name: values})
    assert refused.value.reason == "WRONG_TYPE"


@pytest.mark.parametrize(
    ("columns", "named", "reason"),
    [
        ({"income": [1]}, SourceColumns("who"), "UNKNOWN_FEATURE"),
        ({"amount": [1]}, SourceColumns("customer"), "UNKNOWN_COLUMN"),
        ({"amount": [1]}, SourceColumns("who", "at"), "UNKNOWN_COLUMN"),
        ({"amount": [1]}, SourceColumns("who", "", "at"), "UNKNOWN_COLUMN"),
        ({"who": ["a", None]}, SourceColumns("who"), "MISSING_VALUE"),
        ({"who": [1.5]}, SourceColumns("who"), "WRONG_TYPE"),
        ({"event_time": [1, None]}, SourceColumns("who"), "MISSING_VALUE"),
        ({"taste": [[1.0], [1.0, 2.0]]}, SourceColumns("who"), "RAGGED"),
    ],
)
def test_columns_that_do_not_do_are_refused(columns: dict[str, Any], named: SourceColumns, reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        block(columns, named)
    assert refused.value.reason == reason


def test_special_columns_are_no_features() -> None:
    named = SourceColumns("who", "at", "known", frozenset({"note"}))
    found = block({"who": [1, 2], "at": [3, 4], "known": [5, 6], "note": ["x", "y"], "amount": [1.0, 2.0]}, named)
    assert list(found.rows.keys) == ["1", "2"]
    assert list(found.rows.event_times_us) == [3, 4]
    assert list(found.create_times_us) == [5, 6]
    assert [each.values.name for each in found.rows.columns] == ["amount"]
    assert list(block({"amount": [1.0, 2.0]}).rows.event_times_us) == [NOW]
