"""Live payloads as columns, placed in the bins of a reference, counted and summed: whatever they hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.struct_pb2 import Struct
from pyarrow import parquet

from penstock.api.monitoring.v1.monitoring_pb2 import Payload
from penstock.api.tensors.v1.tensors_pb2 import DataType, Tensor
from penstock.tensors import to_tensor
from services.monitoring.profiles.frames import ColumnBuilder, Frame, numbers_column
from services.monitoring.profiles.live import floor
from services.monitoring.profiles.models import (
    QUALITY_COUNTS,
    FeatureKind,
    FeatureReference,
)
from services.monitoring.profiles.parquet import parquet_frames
from services.monitoring.profiles.reference import Columns, build_reference
from services.monitoring.profiles.rows import read_rows
from services.monitoring.profiles.sources import RowFormat
from services.monitoring.profiles.values import MAX_UNKNOWN
from tests.live_rows import (
    AT,
    COLOUR,
    FLAG,
    INF,
    NAN,
    NUMBER,
    TEXT,
    VECTOR,
    bins,
    counted,
    event,
    faults,
    fields,
    named,
    reference,
    tensors,
    window,
)


def of_values(values: Sequence[object], feature: FeatureReference) -> tuple[list[int], dict[str, int]]:
    """The bins, and what is bad, of one value an event, by name."""
    live = window([event(fields({"x": value})) for value in values], reference(feature))
    return bins(live.features["x"]), faults(live.features["x"])


def test_a_number_has_a_bin_whatever_comes_in_its_place() -> None:
    values = [-1.0, 0.0, 0.5, None, NAN, INF, -INF, "5", True, {"a": {"b": 1}}, [[1]], [1.0, 2.0], [0.25]]
    found, bad = of_values(values, NUMBER)
    assert found == [2, 2, 2, 7]
    assert bad == {"wrong_type": 5, "not_finite": 2}


def test_numbers_beyond_the_reference_are_out_of_range_and_far_ones_outliers() -> None:
    found, bad = of_values([3.0, 3.2, -9.0], NUMBER)
    assert found == [1, 2, 0, 0]
    assert bad == {"out_of_range": 2, "outlier": 1}
    live = window([event(tensors(x=np.nextafter(np.array([3], np.float32), np.float32(4))))], reference(NUMBER))
    assert faults(live.features["x"]) == {}


def test_a_category_that_nobody_knows_is_other() -> None:
    values = ["red", 2, 2.0, "2", True, "blue", "x" * 1_000_000, 2.5, None, NAN, INF, [1.0, 2.0], {"a": 1}, "nul\0"]
    found, bad = of_values(values, COLOUR)
    assert found == [1, 3, 1, 2, 7]
    assert bad == {"unknown_category": 4, "not_finite": 1, "wrong_type": 2}


def test_booleans_are_also_zero_and_one() -> None:
    found, bad = of_values([True, False, 1, 0, 2, "true", None, NAN, INF], FLAG)
    assert found == [2, 2, 2, 3]
    assert bad == {"wrong_type": 2, "not_finite": 1}


def test_a_text_counts_by_its_length() -> None:
    found, bad = of_values(["abc", "ümlaut", "x" * 900_000, "", 5, None], TEXT)
    assert found == [2, 2, 1, 1]
    assert bad == {"wrong_type": 1, "out_of_range": 2, "outlier": 2}


def test_a_vector_that_is_good_is_in_no_bin() -> None:
    values = [
        [1.0, 2.0, 3.0], [1.0, 2.0], [1.0, NAN, 3.0], [1.0, None, 3.0], [1.0, INF, 3.0], [1.0, "a", 3.0], "text", None,
    ]  # fmt: skip
    live = window([event(fields({"x": value})) for value in values], reference(VECTOR))
    assert bins(live.features["x"]) == [3, 4]
    assert faults(live.features["x"]) == {"wrong_type": 3, "not_finite": 1}
    assert live.features["x"].sample is not None
    assert live.features["x"].sample.vectors.tolist() == [[1.0, 2.0, 3.0]]


def test_an_embedding_that_changes_its_length_is_of_another_type() -> None:
    longer = [event(fields({"x": [1.0, 2.0, 3.0, 4.0]}))] * 2
    live = window([*longer, event(fields({"x": [1.0, 2.0, 3.0]}))], reference(VECTOR))
    assert bins(live.features["x"]) == [0, 2]
    assert faults(live.features["x"]) == {"wrong_type": 2}


def test_lists_are_a_value_a_row_and_single_values_are_of_every_row() -> None:
    live = window([event(fields({"x": [-1, 1, None], "y": 5, "z": [1, 2]}), rows=3)], named("x", "y", "z"))
    assert live.row_count == 3
    assert bins(live.features["x"]) == [1, 1, 1, 0]
    assert bins(live.features["y"]) == [0, 3, 0, 0]
    assert (bins(live.features["z"]), faults(live.features["z"])) == ([0, 0, 0, 3], {"wrong_type": 3})


def test_a_small_payload_claims_no_gigabytes() -> None:
    wide = {f"n{number}": 1.0 for number in range(1_000)} | {"age": [1.0] * 10_000}
    assert counted([event(fields(wide), rows=10_000)], named("age")).row_count == 1
    empty = Tensor(name="age", datatype=DataType.DATA_TYPE_BYTES, shape=[10_000, 4_096])
    live = counted([event(tensors(empty), rows=10_000)], named("age"))
    assert live.row_count == 10_000


def test_of_a_tensor_that_comes_twice_in_an_event_the_first_counts() -> None:
    vector = np.ones((1, 3), np.float32)
    twice = tensors(to_tensor("x", vector), to_tensor("x", vector * 2))
    assert window([event(twice)], reference(VECTOR)).features["x"].sample is not None
    assert counted([event(twice)], reference(VECTOR)).row_count == 1


def test_rows_that_nothing_carries_are_one() -> None:
    live = window([event(fields({"x": 1.0}), rows=2_000_000_000)], reference(NUMBER))
    assert live.row_count == 1


def test_tensors_are_features_by_name_or_by_column() -> None:
    against = named("a", "b", "X[0]", "X[1]")
    payload = tensors(a=np.array([-1.0, 1.0]), b=np.array([[1], [2]]), X=np.array([[-1.0, 1], [-2, 2]]))
    live = window([event(payload, rows=2)] * 3, against)
    assert {name: bins(one) for name, one in live.features.items()} == {
        "a": [3, 3, 0, 0], "b": [0, 6, 0, 0], "X[0]": [6, 0, 0, 0], "X[1]": [0, 6, 0, 0],
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u8"])
def test_tensors_of_every_kind_of_number_are_read(dtype: str) -> None:
    live = window([event(tensors(x=np.array([1], dtype)))], reference(NUMBER))
    assert bins(live.features["x"]) == [0, 1, 0, 0]


def test_tensors_of_bfloat16_booleans_and_texts_are_read() -> None:
    halves = Tensor(name="x", datatype=DataType.DATA_TYPE_BF16, shape=[1], raw=b"\x20\xc0")  # -2.5
    assert bins(window([event(tensors(halves))], reference(NUMBER)).features["x"]) == [1, 0, 0, 0]
    flags = tensors(x=np.array([True, False]))
    assert bins(window([event(flags, rows=2)], reference(FLAG)).features["x"]) == [1, 1, 0, 0]
    texts = tensors(x=np.array(["red", "blue"], object))
    assert bins(window([event(texts, rows=2)], reference(COLOUR)).features["x"]) == [1, 0, 0, 0, 1]


def test_columns_without_names_match_by_their_order() -> None:
    against = reference(*named("sepal", "petal").features.values(), replace(NUMBER, name="p", is_prediction=True))
    live = window([event(tensors(input=np.array([[-1.0, 1.0]])))], against)
    assert bins(live.features["sepal"]) == [1, 0, 0, 0]
    assert bins(live.features["petal"]) == [0, 1, 0, 0]
    assert live.unknown_features == {}
    two = window([event(tensors(input=np.array([[-1.0, 1.0]]), mask=np.array([1.0])))], against)
    assert two.unknown_features == {"input[0]": 1, "input[1]": 1, "mask": 1}


def test_a_wide_tensor_is_an_embedding_unless_its_columns_are_known() -> None:
    wide = np.zeros((1, 64), np.float32)
    assert window([event(tensors(e=wide))], reference(NUMBER)).unknown_features == {"e": 1}
    known = named(*(f"e[{number}]" for number in range(64)))
    assert bins(window([event(tensors(e=wide))], known).features["e[63]"]) == [1, 0, 0, 0]
    embedding = reference(replace(VECTOR, name="e"))
    assert bins(window([event(tensors(e=np.zeros((1, 3))))], embedding).features["e"]) == [0, 0]


@pytest.mark.parametrize(
    "bad",
    [
        Tensor(name="x", datatype=DataType.DATA_TYPE_FP32, shape=[1], raw=b"123"),
        Tensor(name="x", datatype=DataType.DATA_TYPE_FP32, shape=[-1], raw=b"1234"),
        Tensor(name="x", datatype=DataType.DATA_TYPE_FP32, shape=[0], raw=b""),
        Tensor(name="x", datatype=DataType.DATA_TYPE_FP32, shape=[1, 2**40], raw=b"1234"),
        Tensor(name="x", datatype=DataType.DATA_TYPE_BYTES, shape=[1], raw=b"\xff\xff\xff\xff"),
        Tensor(name="x", datatype=DataType.DATA_TYPE_BYTES, shape=[1], raw=b"\1\0\0\0\xff"),
        Tensor(name="x", datatype=99, shape=[1], raw=b"1234"),  # type: ignore[arg-type] # of a later contract
        Tensor(name="x"),
    ],
)
def test_a_tensor_that_cannot_be_read_is_of_the_wrong_type(bad: Tensor) -> None:
    live = window([event(tensors(bad))], reference(NUMBER))
    assert (bins(live.features["x"]), faults(live.features["x"])) == ([0, 0, 0, 1], {"wrong_type": 1})


def test_bytes_that_are_no_payload_are_a_row_without_anything() -> None:
    garbage = event(fields({}))._replace(features=b"\xff\xff garbage")
    live = window([garbage], reference(NUMBER))
    assert (live.row_count, bins(live.features["x"])) == (1, [0, 0, 1, 0])


def test_a_sole_output_is_the_prediction_and_of_several_the_label_is() -> None:
    against = reference(NUMBER, replace(COLOUR, name="prediction", is_prediction=True, categories=("0", "1", "2")))
    rows = fields({"x": 1.0})
    sole = [event(rows, fields({"anything": 1})), event(rows, tensors(label=np.array([1])))]
    several = [
        event(rows, tensors(label=np.array([2]), probabilities=np.array([[0.1, 0.2, 0.7]]))),
        event(rows, tensors(scores=np.array([[0.1, 0.2, 0.7]]))),
        event(rows, fields({"label": 2, "confidence": 0.9})),
    ]
    live = window([*sole, *several], against)
    assert bins(live.features["prediction"]) == [0, 2, 3, 0, 0]


def test_predictions_of_what_failed_or_was_not_captured_are_not_counted() -> None:
    against = reference(NUMBER, replace(NUMBER, name="prediction", is_prediction=True))
    rows = fields({"x": 1.0})
    failed, bare = event(rows, fields({"p": 1}), error="TIMEOUT"), event(rows)
    live = window([failed, bare, event(rows, fields({"p": 1}))], against)
    assert live.row_count == 3
    assert bins(live.features["prediction"]) == [0, 1, 0, 0]


def test_outputs_by_name_are_counted_where_the_reference_has_them_so() -> None:
    names = ("prediction.label", "prediction.p[0]", "prediction.p[1]")
    against = reference(*(replace(NUMBER, name=name, is_prediction=True) for name in names))
    live = window([event(fields({}), tensors(label=np.array([1]), p=np.array([[-1.0, 1.0]])))], against)
    assert [bins(live.features[name]) for name in names] == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]


def test_unknown_features_are_counted_and_no_more_of_them_than_a_hundred() -> None:
    live = window([event(fields({"x": 1, "new": 2})), event(fields({"x": 1, "new": None}))], reference(NUMBER))
    assert live.unknown_features == {"new": 1}
    many = window([event(fields({f"n{number}": 1 for number in range(1_000)}))], reference(NUMBER))
    assert len(many.unknown_features) == MAX_UNKNOWN


def test_a_feature_that_never_came_is_missing() -> None:
    live = window([event(fields({"x": 1}))] * 2, named("x", "gone"))
    assert bins(live.features["gone"]) == [0, 0, 2, 0]
    assert live.features["gone"].last_time is None
    assert np.isnan(live.features["gone"].min)


def test_buckets_begin_at_every_fifth_minute() -> None:
    assert floor(datetime(2026, 7, 1, 12, 4, 59, 999, tzinfo=UTC)) == AT
    assert floor(AT) == AT


def test_a_reference_of_rows_counts_them_as_live_ones() -> None:
    """What a profile says of rows is what is counted when the same rows come live."""
    odd: list[object] = [*np.random.default_rng(1).normal(size=50).tolist(), None, NAN, INF, "a", True, "a"]
    usual = {
        FeatureKind.NUMERIC: 2.5,
        FeatureKind.CATEGORICAL: "b",
        FeatureKind.BOOLEAN: False,
        FeatureKind.TEXT_LENGTH: "b",
    }
    for kind, value in usual.items():
        values = [*odd, *[value] * 50]
        builder = ColumnBuilder(len(values))
        builder.put_values(np.arange(len(values)), values)
        frame = Frame(len(values), {"x": builder.build()})
        feature = build_reference(frame, Columns(kinds={"x": kind})).features["x"]
        live = window([event(fields({"x": value})) for value in values], reference(feature)).features["x"]
        assert bins(live) == list(feature.counts), kind
        shares = live.quality.sum(axis=0) / len(values)
        assert dict(zip(QUALITY_COUNTS, shares.tolist(), strict=True)) == pytest.approx(dict(feature.quality)), kind


def test_a_missing_number_is_no_alarm_however_the_profile_and_the_traffic_wrote_it(tmp_path: Path) -> None:
    """An empty cell, a null and a NaN are one thing: clients and files turn each into another."""
    numbers = np.random.default_rng(3).normal(size=200)
    numbers[:12], numbers[12:14] = np.nan, np.inf
    values = [None if np.isnan(number) else float(number) for number in numbers]
    (tmp_path / "csv").write_text("x\n" + "\n".join('""' if value is None else str(value) for value in values) + "\n")
    (tmp_path / "jsonl").write_text("\n".join(json.dumps({"x": value}) for value in values))
    parquet.write_table(pa.table({"x": pa.array(values, pa.float64())}), tmp_path / "nulls")
    parquet.write_table(
        pa.table({"x": numbers}), tmp_path / "arrays of a file"
    )  # as pandas and the client write a column
    frames = {
        "arrays": Frame(200, {"x": numbers_column(numbers)}),
        "csv": read_rows(tmp_path / "csv", RowFormat.CSV, Columns()),
        "jsonl": read_rows(tmp_path / "jsonl", RowFormat.JSONL, Columns()),
        **{name: next(iter(parquet_frames(memoryview((tmp_path / name).read_bytes()), (), 9)))
           for name in ("nulls", "arrays of a file")},
    }  # fmt: skip
    found = {name: build_reference(frame, Columns()).features["x"] for name, frame in frames.items()}
    shares = {name: (feature.counts[-2:], feature.quality["not_finite"]) for name, feature in found.items()}
    assert shares == dict.fromkeys(shares, ((12, 2), 0.01))
    against = reference(found["csv"])
    live = {
        "values": [event(fields({"x": value})) for value in values],
        "NaN": [event(fields({"x": number})) for number in numbers.tolist()],
        "tensors": [event(tensors(x=numbers.astype(np.float32)), rows=200)],
    }
    for name, events in live.items():
        counted = window(events, against).features["x"]
        assert bins(counted) == list(found["csv"].counts), name
        assert faults(counted)["not_finite"] == 2, name


def test_a_struct_is_read_as_it_is_sent() -> None:
    payload = Payload(fields=Struct())
    payload.fields.fields["x"].SetInParent()
    assert bins(window([event(payload)], reference(NUMBER)).features["x"]) == [0, 0, 1, 0]
