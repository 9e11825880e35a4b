"""Rows of CSV, JSON and Parquet: the same rows are the same whatever they came in, and each wrong one is named."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import InvalidArgument, ResourceExhausted
from services.trainer.datasets.kinds import ColumnType, DatasetFormat
from services.trainer.datasets.models import Rows
from services.trainer.datasets.rows.limits import RowLimits
from services.trainer.datasets.rows.parquet import parquet_batches
from services.trainer.datasets.rows.statistics import ColumnStatistics, DistinctSketch
from services.trainer.datasets.rows.typed import text_batches
from services.trainer.datasets.rows.writing import read_batches, write_rows

LIMITS = RowLimits(max_rows=10_000, max_columns=50, max_unpacked_bytes=1 << 30)
CSV, JSON, PARQUET = DatasetFormat.CSV, DatasetFormat.JSON, DatasetFormat.PARQUET
Table = Mapping[str, Sequence[Any]]


def rows_of(
    data: bytes,
    form: DatasetFormat,
    folder: Path,
    declared: Mapping[str, ColumnType] | None = None,
    delimiter: str = "",
    **limits: int,
) -> tuple[Rows, pa.Table]:
    """Read a file here, without the process that strangers' files are read in; give what was written."""
    bounds = RowLimits(**{**{name: getattr(LIMITS, name) for name in LIMITS.__slots__}, **limits})
    if form is PARQUET:
        schema, batches = parquet_batches(memoryview(data), declared or {}, bounds)
    else:
        schema, batches = text_batches(memoryview(data), form, declared or {}, bounds, delimiter)
    path = folder / "rows.parquet"
    empty = pa.RecordBatch.from_pylist([], schema=schema)
    found = write_rows(chain([empty], batches), path)
    return found, pa.Table.from_batches(read_batches(path), schema)


def as_csv(table: Table) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(table)
    writer.writerows(zip(*([_cell(value) for value in values] for values in table.values()), strict=True))
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.isoformat()
    return json.dumps(value) if isinstance(value, list) else value


def as_json(table: Table, *, array: bool) -> bytes:
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    lines = [json.dumps(row, default=datetime.isoformat) for row in rows]
    return (f"[{', '.join(lines)}]" if array else "\n".join(lines)).encode()


def as_parquet(table: Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(dict(table)), out)
    return out.getvalue()


floats = st.floats(allow_nan=False, allow_infinity=False).map(
    lambda value: value + 0.5 if value.is_integer() else value
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1).map(lambda text: f"t{text}")
times = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - zones come
VALUES = (
    st.integers(-(2**62), 2**62),
    floats,
    st.booleans(),
    texts,
    times,
    st.lists(floats, max_size=3),
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Draw columns of one type each, of which every first value is there."""
    count = draw(st.integers(1, 8))
    columns = draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=4))
    return {
        f"c{number}": [draw(values), *(draw(st.none() | values) for _ in range(count - 1))]
        for number, values in enumerate(columns)
    }


@settings(max_examples=60)
@given(tables())
def test_the_same_rows_have_one_digest_in_every_format(tmp_path_factory: pytest.TempPathFactory, table: Table) -> None:
    folder = tmp_path_factory.mktemp("rows")
    written = {
        "csv": rows_of(as_csv(table), CSV, folder),
        "lines": rows_of(as_json(table, array=False), JSON, folder),
        "array": rows_of(as_json(table, array=True), JSON, folder),
        "parquet": rows_of(as_parquet(table), PARQUET, folder),
    }
    digests = {name: rows.digest for name, (rows, _) in written.items()}
    assert len(set(digests.values())) == 1, digests
    assert len({rows.columns for rows, _ in written.values()}) == 1
    for _, found in written.values():
        assert found.to_pylist() == pa.table(dict(table)).to_pylist()


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_csv_with_another_delimiter_is_the_same_rows(tmp_path: Path, delimiter: str) -> None:
    data = 'a,b\n1,"x,y"\n2,z\n'
    other = data.replace('"x,y"', "X").replace(",", delimiter).replace("X", "x,y")
    rows, _ = rows_of(other.encode(), CSV, tmp_path, delimiter=delimiter)
    assert rows.digest == rows_of(data.encode(), CSV, tmp_path)[0].digest


@pytest.mark.parametrize(
    ("data", "delimiter"),
    [(b"a;b\nx;1\n", ","), (b'"a;b"\nx\n', ""), (b"a\nx;y\n", "")],
    ids=["said to be a comma", "quoted", "in the rows alone"],
)
def test_one_column_of_texts_that_hold_semicolons_is_taken(tmp_path: Path, data: bytes, delimiter: str) -> None:
    rows, table = rows_of(data, CSV, tmp_path, delimiter=delimiter)
    assert (len(rows.columns), table.num_rows) == (1, 1)


def test_the_digest_is_the_one_that_the_documents_define(tmp_path: Path) -> None:
    """Computed by hand, from the definition in rows/digest.py alone."""
    import hashlib
    import struct

    def sha(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    rows, _ = rows_of(b'{"n":1,"t":"ab"}\n{"n":null,"t":"\xc3\xa9"}\n', JSON, tmp_path)
    columns = sha(b"\x01\x00") + sha(b"") + sha(struct.pack("<q", 1))
    columns += sha(b"\x01\x01") + sha(struct.pack("<qq", 2, 2)) + sha("abé".encode())
    head = b'penstock-rows-1\n[["n", "INT64"], ["t", "STRING"]]\n2\n'
    assert rows.digest == hashlib.sha256(head + columns).hexdigest()


@pytest.mark.parametrize(
    ("form", "data", "row", "sentence"),
    [
        (CSV, b"a,b\n1,2\n3\n", "2", "1 cells"),
        (CSV, b"a,b\n1,2,3\n", "1", "3 cells"),
        (CSV, b"a\n1\n2\nx\n", "3", "'x' is a text"),
        (CSV, b'a\n1\n"2\n', "2", "quote"),
        (CSV, b"", "", "first line names the columns"),
        (CSV, b"a,a\n1,2\n", "", "two columns"),
        (CSV, b"a;b\n1;2\n", "", "semicolons and no comma between cells; set header.delimiter to ';'"),
        (CSV, b'\xef\xbb\xbf"a"\t"b"\n1\t2\n', "", "tabs and no comma"),
        (CSV, b"a,\n1,2\n", "", "column 2"),
        (CSV, b"a\n\xff\n", "", "line 2 is no UTF-8"),
        (CSV, b"a\n1\0\n", "", "NUL"),
        (JSON, b'{"a":1}\n{"a":\n', "2", "line 2 is no JSON"),
        (JSON, b'{"a":1}\n[1]\n', "2", "a row is an object"),
        (JSON, b'[{"a":1},{"a":"x"},{"a":2}]', "2", "'x' is a text"),
        (JSON, b'[{"a":1},{"a":{"b":1}}]', "2", "neither a number"),
        (JSON, b'[{"a":1},{"a":[1,"x"]}]', "2", "neither a number"),
        (JSON, b'[{"a":1},', "2", "ends before its array"),
        (JSON, b'[{"a":1}', "1", "neither a comma"),
        (JSON, b'[{"a":1}]{', "", "after the array's end"),
        (JSON, b'{"a":"\\ud800"}', "1", "surrogate"),
        (JSON, b"[" * 100_000, "1", "nested too deeply"),
        (JSON, b'{"a\\u0000":1}', "", "can be printed"),
        (PARQUET, b"PAR1", "", "magic|small"),
    ],
)
def test_a_wrong_row_is_refused_by_its_number(
    form: DatasetFormat, data: bytes, row: str, sentence: str, tmp_path: Path
) -> None:
    expected = (InvalidArgument, pa.ArrowException) if form is PARQUET else InvalidArgument
    with pytest.raises(expected, match=sentence) as caught:
        rows_of(data, form, tmp_path)
    if isinstance(caught.value, InvalidArgument):
        assert caught.value.reason == "MALFORMED_ROWS"
        assert caught.value.metadata.get("row", "") == row


def test_rows_beyond_the_limits_are_refused(tmp_path: Path) -> None:
    for form, data in (
        (CSV, b"a\n1\n2\n3\n"),
        (JSON, b'{"a":1}\n{"a":2}\n{"a":3}\n'),
        (PARQUET, as_parquet({"a": [1] * 3})),
    ):
        with pytest.raises(ResourceExhausted) as caught:
            rows_of(data, form, tmp_path, max_rows=2)
        assert caught.value.reason == "TOO_LARGE"
    for form, data in (
        (CSV, b"a,b,c\n1,2,3\n"),
        (JSON, b'{"a":1,"b":2}\n{"c":1}\n'),
        (PARQUET, as_parquet({"a": [1], "b": [1], "c": [1]})),
    ):
        with pytest.raises(InvalidArgument) as few:
            rows_of(data, form, tmp_path, max_columns=2)
        assert few.value.reason == "TOO_MANY"
    with pytest.raises(InvalidArgument, match="field larger than"):
        rows_of(b"a\n" + b"x" * 2_000_000 + b"\n", CSV, tmp_path)
    with pytest.raises(InvalidArgument, match="more than 1 MiB"):
        rows_of(b'{"a":"' + b"x" * 2_000_000 + b'"}', JSON, tmp_path)
    with pytest.raises(InvalidArgument, match="a row has fewer"):
        rows_of(b'{"a":"' + b"x" * 9_000_000 + b'"}', JSON, tmp_path)


def test_a_declared_type_says_what_is_meant(tmp_path: Path) -> None:
    data = b"zip,n\n01234,1\n99999,2\n"
    rows, found = rows_of(data, CSV, tmp_path, {"zip": ColumnType.STRING, "n": ColumnType.FLOAT64})
    assert [column.type for column in rows.columns] == [ColumnType.STRING, ColumnType.FLOAT64]
    assert found.column("zip").to_pylist() == ["01234", "99999"]
    with pytest.raises(InvalidArgument, match="the column is declared BOOL") as caught:
        rows_of(data, CSV, tmp_path, {"n": ColumnType.BOOL})
    assert caught.value.metadata["row"] == "1"
    with pytest.raises(InvalidArgument) as unknown:
        rows_of(data, CSV, tmp_path, {"m": ColumnType.BOOL})
    assert unknown.value.reason == "UNKNOWN_COLUMN"
    parquet = as_parquet({"a": [1.0, 1.5]})
    with pytest.raises(InvalidArgument, match="declare another") as lossy:
        rows_of(parquet, PARQUET, tmp_path, {"a": ColumnType.INT64})
    assert lossy.value.metadata["row"] == "2"


def test_words_among_numbers_are_text_where_they_are_not_the_exception(tmp_path: Path) -> None:
    rows, _ = rows_of(b"a\n1\nx\n2\ny\n", CSV, tmp_path)
    assert rows.columns[0].type is ColumnType.STRING
    rows, _ = rows_of(b"a\n\n1\n2.5\n", CSV, tmp_path)
    assert rows.columns[0].type is ColumnType.FLOAT64


def test_what_is_missing_is_missing_however_it_is_written(tmp_path: Path) -> None:
    nan = float("nan")
    digests = {
        rows_of(b"a,b\n1.5,x\n,\nnan,y\n", CSV, tmp_path)[0].digest,
        rows_of(b'{"a":1.5,"b":"x"}\n{"b":null}\n{"a":NaN,"b":"y"}\n', JSON, tmp_path)[0].digest,
        rows_of(as_parquet({"a": [1.5, None, nan], "b": ["x", None, "y"]}), PARQUET, tmp_path)[0].digest,
    }
    assert len(digests) == 1
    rows, found = rows_of(b"a,b\n1.5,\n,\n", CSV, tmp_path)
    assert [column.missing_count for column in rows.columns] == [1, 2]
    assert rows.columns[1].type is ColumnType.FLOAT64, "a column without a value is one of numbers"
    assert found.column("b").null_count == 2


def test_parquet_of_other_types_is_widened_or_refused_by_its_column(tmp_path: Path) -> None:
    table = {
        "small": pa.array([1, 2], pa.uint8()),
        "half": pa.array(np.array([0.5, 1.5], np.float16)),
        "word": pa.array(["a", "b"]).dictionary_encode(),
        "day": pa.array([0, 1], pa.date32()),
        "nano": pa.array([1_500, 2_500], pa.timestamp("ns", tz="Europe/Berlin")),
        "pair": pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)),
        "none": pa.nulls(2),
    }
    rows, found = rows_of(as_parquet(table), PARQUET, tmp_path)
    types = [column.type.value for column in rows.columns]
    assert types == ["INT64", "FLOAT64", "STRING", "TIMESTAMP", "TIMESTAMP", "FLOAT64_LIST", "FLOAT64"]
    assert found.column("day").to_pylist()[1] == datetime(1970, 1, 2, tzinfo=UTC)
    assert found.column("nano").to_pylist()[0] == datetime(1970, 1, 1, microsecond=1, tzinfo=UTC)
    for bad in (pa.array([{"a": 1}]), pa.array([b"\xff"]), pa.array([[["a"]]])):
        with pytest.raises(InvalidArgument, match="column 'bad' is a"):
            rows_of(as_parquet({"bad": bad}), PARQUET, tmp_path)
    with pytest.raises(InvalidArgument, match="row 2, column 'big'"):
        rows_of(as_parquet({"big": pa.array([1, 2**63], pa.uint64())}), PARQUET, tmp_path)
    with pytest.raises(InvalidArgument, match="row 2, column 'gap'"):
        rows_of(as_parquet({"gap": pa.array([[1.0], [None, 2.0]])}), PARQUET, tmp_path)


def test_columns_are_counted_as_numpy_counts_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(1e6, 2.0, 20_000)
    statistics = ColumnStatistics("x", ColumnType.FLOAT64)
    for start in range(0, len(values), 777):
        statistics.add(pa.array(values[start : start + 777]))
    found = statistics.column()
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.standard_deviation == pytest.approx(values.std(ddof=1), rel=1e-9)
    assert (found.min, found.max) == (values.min(), values.max())
    assert found.distinct_count == pytest.approx(20_000, rel=0.05)
    rows, _ = rows_of(b"c\nb\na\nb\n\ntrue\n", CSV, tmp_path)
    assert rows.columns[0].top_values == (("b", 2), ("a", 1), ("true", 1))
    assert rows.columns[0].mean is None
    rows, _ = rows_of(b"x\ninf\n1\n2\n", CSV, tmp_path)
    assert rows.columns[0].max == math.inf
    assert rows.columns[0].mean is None


def test_few_different_values_are_counted_exactly() -> None:
    sketch = DistinctSketch()
    for _ in range(3):
        sketch.add(np.arange(4_000, dtype=np.uint64))
    assert sketch.estimate() == 4_000
