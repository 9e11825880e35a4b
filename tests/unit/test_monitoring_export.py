"""What exports write: payloads as JSON, and rows as the bytes of files that others' readers take."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from penstock.api.monitoring.v1.monitoring_pb2 import Payload
from penstock.api.tensors.v1.tensors_pb2 import DataType, Tensor, TensorList
from penstock.tensors import to_tensor
from penstock.values import to_value
from services.monitoring.export.files import GROUP_ROWS, MAX_CHUNK_BYTES, file_chunks
from services.monitoring.export.models import Column, ExportFormat, Row
from services.monitoring.export.payloads import payload_json

NOON = datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)
COLUMNS = (Column("name", "text"), Column("count", "whole"), Column("share", "number"), Column("time", "time"))


def read_json(text: str) -> Any:
    """Read JSON as the standard has it: NaN is none."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def of_fields(**values: Any) -> Any:
    payload = Payload()
    for name, value in values.items():
        payload.fields.fields[name].CopyFrom(to_value(name, value))
    return read_json(payload_json(payload.SerializeToString()))


def of_tensors(*tensors: Tensor) -> Any:
    return read_json(payload_json(Payload(tensors=TensorList(tensors=tensors)).SerializeToString()))


def test_named_values_are_written_as_they_were_sent() -> None:
    values = {"age": 41, "share": 0.1, "plan": "größer", "member": True, "none": None, "deep": {"list": [1, [2.5]]}}
    assert of_fields(**values) == values


def test_what_json_has_no_number_for_is_a_string() -> None:
    found = of_fields(a=math.nan, b=math.inf, c=[1.0, -math.inf], d={"e": math.nan})
    assert found == {"a": "NaN", "b": "Infinity", "c": [1, "-Infinity"], "d": {"e": "NaN"}}
    assert of_tensors(to_tensor("x", np.array([1.5, math.nan], np.float32))) == {"x": [1.5, "NaN"]}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_come_back_as_they_were_and_read_as_people_wrote_them(dtype: Any) -> None:
    values = np.array([[5.1, 3.5], [1e-5, 6.25]], dtype)
    found = of_tensors(to_tensor("x", values))["x"]
    np.testing.assert_array_equal(np.array(found, dtype), values)
    assert found[0] == [5.1, 3.5]


def test_tensors_of_all_kinds_are_written() -> None:
    found = of_tensors(
        to_tensor("whole", np.array([[2**63 - 1]], np.int64)),
        to_tensor("yes", np.array([True, False])),
        to_tensor("text", np.array([b"caf\xc3\xa9", b"\xff\x00"], object)),
        Tensor(name="brain", datatype=DataType.DATA_TYPE_BF16, shape=[2], raw=b"\x80\x3f\x00\xc0"),
    )
    assert found == {
        "whole": [[2**63 - 1]],
        "yes": [True, False],
        "text": ["café", {"base64": "/wA="}],
        "brain": [1.0, -2.0],
    }


@pytest.mark.parametrize("datatype", [DataType.DATA_TYPE_FP32, DataType.DATA_TYPE_BF16, DataType.DATA_TYPE_BYTES])
def test_a_tensor_whose_bytes_do_not_fit_is_written_as_they_are(datatype: DataType.ValueType) -> None:
    broken = of_tensors(Tensor(name="x", datatype=datatype, shape=[7], raw=b"abc"))["x"]
    assert broken["base64"] == "YWJj"
    assert broken["shape"] == [7]


def test_a_tensor_of_no_bytes_and_a_thousand_million_rows_is_written_as_it_is() -> None:
    empty = of_tensors(Tensor(name="x", datatype=DataType.DATA_TYPE_FP32, shape=[10**9, 0]))["x"]
    assert empty == {"datatype": "FP32", "shape": [10**9, 0], "base64": ""}
    assert of_tensors(Tensor(name="x", datatype=DataType.DATA_TYPE_FP32, shape=[0, 4]))["x"] == []


def test_an_empty_payload_is_an_empty_object() -> None:
    assert payload_json(b"") == "{}"


def slices_of(*rows: Row) -> Iterator[list[Row]]:
    for row in rows:
        yield [row]


ROWS: tuple[Row, ...] = (
    ('a,"b"\nc', 1, 0.5, NOON),
    (None, None, None, None),
    ("=ä", 2**62, 1e-300, NOON),
    ("b\rc", 0, 0.0, NOON),
)


def test_a_csv_file_is_read_by_any_reader() -> None:
    data = b"".join(file_chunks(slices_of(*ROWS), COLUMNS, ExportFormat.CSV))
    assert list(csv.reader(io.StringIO(data.decode(), newline=""))) == [
        ["name", "count", "share", "time"],
        ['a,"b"\nc', "1", "0.5", "2026-03-01T12:00:00.123Z"],
        ["", "", "", ""],
        ["'=ä", str(2**62), "1e-300", "2026-03-01T12:00:00.123Z"],
        ["b\rc", "0", "0.0", "2026-03-01T12:00:00.123Z"],
    ]


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(1)", "\t=1", "\r=1"])
def test_a_text_that_a_spreadsheet_would_run_is_made_harmless_and_numbers_stay_numbers(text: str) -> None:
    rows: tuple[Row, ...] = ((text, -1, -0.5, NOON), (f"a{text}", 1, 0.5, NOON))
    data = b"".join(file_chunks(slices_of(*rows), COLUMNS, ExportFormat.CSV))
    _, first, second = csv.reader(io.StringIO(data.decode(), newline=""))
    assert (first[:3], second[0]) == ([f"'{text}", "-1", "-0.5"], f"a{text}")
    parquet = b"".join(file_chunks(slices_of(*rows), COLUMNS, ExportFormat.PARQUET))
    assert pq.read_table(io.BytesIO(parquet)).to_pylist()[0]["name"] == text


def test_a_parquet_file_holds_values_and_their_types() -> None:
    data = b"".join(file_chunks(slices_of(*ROWS), COLUMNS, ExportFormat.PARQUET))
    table = pq.read_table(io.BytesIO(data))
    assert table.to_pylist() == [dict(zip(table.column_names, row, strict=True)) for row in ROWS]
    assert [str(kind) for kind in table.schema.types] == ["string", "int64", "double", "timestamp[us, tz=UTC]"]


@pytest.mark.parametrize("form", ExportFormat)
def test_a_file_without_rows_has_its_columns(form: ExportFormat) -> None:
    data = b"".join(file_chunks(iter(()), COLUMNS, form))
    if form is ExportFormat.CSV:
        assert data == b"name,count,share,time\n"
    else:
        assert pq.read_table(io.BytesIO(data)).column_names == ["name", "count", "share", "time"]


@pytest.mark.parametrize("form", ExportFormat)
def test_a_file_goes_out_while_it_is_written_in_chunks_of_a_bounded_size(form: ExportFormat) -> None:
    taken = 0
    noise = np.random.default_rng(1)

    def slices() -> Iterator[list[Row]]:
        nonlocal taken
        for _ in range(2 * GROUP_ROWS // 1_000):
            taken += 1
            yield [(noise.bytes(60_000).hex(), 1, 0.5, NOON)] * 10 + [("", 1, 0.5, NOON)] * 990

    chunks = file_chunks(slices(), COLUMNS, form)
    first = next(chunks)
    assert taken <= GROUP_ROWS // 1_000, "not all is read before the first chunk goes out"
    assert max(map(len, (first, *chunks))) <= MAX_CHUNK_BYTES
