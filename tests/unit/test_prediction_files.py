"""Files of rows, kind and hostile, and the results that are written of them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf.struct_pb2 import Struct

from penstock.values import from_value
from services.common.errors import FailedPrecondition
from services.inference.jobs import results
from services.inference.jobs.models import FileFormat, RowError, RowResult
from services.inference.jobs.readers import count_rows, rows_of
from services.inference.jobs.rows import ReadLimits, batches_of
from services.inference.models import ResolvedVersion, Signature, TensorSpec

LIMITS = ReadLimits(max_row_bytes=1_000, max_unpacked_bytes=1_000_000, max_rows=10_000)
SIGNATURE = Signature(
    (
        TensorSpec("x", "FP32", (-1, 2), ("width", "height")),
        TensorSpec("word", "BYTES", (-1,)),
        TensorSpec("yes", "BOOL", (-1,)),
        TensorSpec("n", "INT64", (-1,)),
    ),
    (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("label", "BYTES", (-1,)), TensorSpec("n", "INT64", (-1,))),
)
VERSION = ResolvedVersion("iris", "1", 1, "onnx", "production", SIGNATURE)


def features(row: Struct) -> dict[str, Any]:
    return {name: from_value(value) for name, value in row.fields.items()}


def read(path: Path, content: str | bytes, file_format: FileFormat, limits: ReadLimits = LIMITS) -> list[Any]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = list(rows_of(path, file_format, SIGNATURE, limits))
    assert count_rows(path, file_format, limits, lambda: None) == len(rows)
    return [row.reason if isinstance(row, RowError) else features(row) for row in rows]


def test_lines_of_json_are_rows_and_what_is_none_of_it_fails_by_itself(tmp_path: Path) -> None:
    lines = ['{"x": [1, 2.5], "word": "a"}', "", "  ", "no", "[1]", '{"x": ', "1" * 5_000, '{"n": 1' + "0" * 20 + "}"]
    lines += ["[" * 900, '{"word": "\\ud800"}', '{"x": NaN}', '{"x": null}']
    told = read(tmp_path / "rows", "\n".join(lines), FileFormat.JSONL)
    assert told[0] == {"x": [1.0, 2.5], "word": "a"}
    assert told[1:8] == [
        "MALFORMED_ROW", "MALFORMED_ROW", "MALFORMED_ROW", "ROW_TOO_LONG", "UNSUPPORTED_VALUE", "MALFORMED_ROW",
        "MALFORMED_ROW",
    ]  # fmt: skip
    assert math.isnan(told[8]["x"])
    assert told[9] == {"x": None}
    assert len(told) == 10


def test_cells_are_read_as_the_model_wants_them(tmp_path: Path) -> None:
    content = (
        '\ufeffwidth,height,word,yes,n\n1,2.5,007,true,12\n,nan,,False,1_0\n3\n"a\nb",1,"x,y",no,9007199254740993\n'
    )
    told = read(tmp_path / "rows", content, FileFormat.CSV)
    assert told[0] == {"width": 1.0, "height": 2.5, "word": "007", "yes": True, "n": 12.0}
    assert told[1]["width"] is None
    assert (told[1]["word"], told[1]["yes"], told[1]["n"]) == ("", False, "1_0")
    assert told[2] == "MALFORMED_ROW", "too few cells"
    assert told[3] == "UNSUPPORTED_VALUE", "beyond 2^53 a double would say another number"


def test_a_whole_file_that_is_refused_quotes_no_cell(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("secret,secret\n1,2\n")
    with pytest.raises(FailedPrecondition) as error:
        list(rows_of(tmp_path / "rows", FileFormat.CSV, SIGNATURE, LIMITS))
    assert "secret" not in error.value.message


@pytest.mark.parametrize("file_format", [FileFormat.CSV, FileFormat.JSONL])
def test_counting_a_large_file_is_ended_on_its_way(tmp_path: Path, file_format: FileFormat) -> None:
    (tmp_path / "rows").write_text('{"n": 1}\n' * 5_000)

    class Ended(Exception):
        pass

    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Ended

    with pytest.raises(Ended):
        count_rows(tmp_path / "rows", file_format, LIMITS, check)


def test_rows_that_are_large_go_together_in_small_numbers() -> None:
    large, small = Struct(), Struct()
    large.update({"word": "x" * 4_000})
    small.update({"n": 1})
    batches = list(batches_of([large, large, large, small, small, RowError("BAD", "")], max_rows=3, max_bytes=5_000))
    assert [len(batch) for batch in batches] == [1, 1, 3, 1]


@pytest.mark.parametrize("content", ["", "a,a\n1,2\n", "a,\n1,2\n", "\n\n"])
def test_a_csv_file_without_names_is_unreadable(tmp_path: Path, content: str) -> None:
    (tmp_path / "rows").write_text(content)
    with pytest.raises(FailedPrecondition) as error:
        list(rows_of(tmp_path / "rows", FileFormat.CSV, SIGNATURE, LIMITS))
    assert error.value.reason == "INPUT_UNREADABLE"


def test_a_line_without_end_is_read_past_in_little_memory(tmp_path: Path) -> None:
    told = read(tmp_path / "rows", b'{"n": 1}\n' + b"x" * 5_000_000 + b'\n{"n": 2}\n', FileFormat.JSONL)
    assert told == [{"n": 1.0}, "ROW_TOO_LONG", {"n": 2.0}]
    csv_told = read(tmp_path / "rows", b"n\n1\n" + b"x" * 5_000_000 + b"\n2\n", FileFormat.CSV)
    assert csv_told == [{"n": 1.0}, "ROW_TOO_LONG", {"n": 2.0}]


def test_a_record_of_csv_that_goes_on_over_many_lines_is_cut_at_what_a_row_may_have(tmp_path: Path) -> None:
    told = read(tmp_path / "rows", "n\n1\n" + '"a\n",' * 2_000 + '"a"\n2\n', FileFormat.CSV)
    assert told[0] == {"n": 1.0}
    assert told[-1] == {"n": 2.0}
    assert len(told) > 5, "cut into pieces, none of which is held with the others"
    assert set(told[1:-1]) == {"MALFORMED_ROW"}


def parquet(table: pa.Table, **more: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **more)
    return sink.getvalue()


def test_columns_of_parquet_are_features(tmp_path: Path) -> None:
    table = pa.table({"x": [[1.0, 2.0], [3.0, 4.0], None], "word": [b"a", "ü".encode(), b"\xff"], "n": [1, 2, 2**60]})
    told = read(tmp_path / "rows", parquet(table, row_group_size=2), FileFormat.PARQUET)
    assert told[:2] == [{"x": [1.0, 2.0], "word": "a", "n": 1.0}, {"x": [3.0, 4.0], "word": "ü", "n": 2.0}]
    assert told[2] == "MALFORMED_ROW"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "INPUT_UNREADABLE"),
        (b"PAR1" * 10, "INPUT_UNREADABLE"),
        (parquet(pa.table({"n": [1] * 20_000})), "INPUT_TOO_LARGE"),
        (parquet(pa.table({"word": ["x" * 2_000_000]}), compression="zstd"), "INPUT_TOO_LARGE"),
        (parquet(pa.table({"n": [1, 2, 3]}))[:-20], "INPUT_UNREADABLE"),
    ],
)
def test_parquet_that_is_none_or_too_much_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "rows").write_bytes(content)
    with pytest.raises(FailedPrecondition) as error:
        list(rows_of(tmp_path / "rows", FileFormat.PARQUET, SIGNATURE, LIMITS))
    assert error.value.reason == reason


ROOMY = ReadLimits(max_row_bytes=1_000_000, max_unpacked_bytes=64_000_000, max_rows=10_000)


@pytest.mark.parametrize("nested", [False, True])
def test_a_text_that_a_few_bytes_repeat_is_held_once(tmp_path: Path, nested: bool) -> None:
    text = "x" * 3_000_000
    said = pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int32()), pa.array([text]))
    column = pa.ListArray.from_arrays(pa.array(range(401), pa.int32()), said) if nested else said
    content = parquet(
        pa.table({"word": column}), compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False,
        write_statistics=False,
    )  # fmt: skip
    assert len(content) < 2_000
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        told = read(tmp_path / "rows", content, FileFormat.PARQUET, ROOMY)
    finally:
        pa.set_memory_pool(before)
    assert told == ["ROW_TOO_LONG"] * 400
    assert pool.max_memory() < 30_000_000, "and not the 1.2 GB that the rows say"


def test_a_parquet_row_that_is_too_long_fails_by_itself(tmp_path: Path) -> None:
    table = pa.table({"word": ["a", "x" * 1_100, "b", "c"], "x": [[0.5, 1], [1, 2], [3] * 150, [7, 8]]})
    told = read(tmp_path / "rows", parquet(table), FileFormat.PARQUET)
    assert told[1:3] == ["ROW_TOO_LONG"] * 2
    assert [told[0], told[3]] == [{"word": "a", "x": [0.5, 1.0]}, {"word": "c", "x": [7.0, 8.0]}]


def test_a_list_that_a_few_bytes_make_endless_is_refused_unread(tmp_path: Path) -> None:
    numbers = pa.ListArray.from_arrays(pa.array([0, 500_000], pa.int32()), pa.array([7] * 500_000))
    (tmp_path / "rows").write_bytes(parquet(pa.table({"n": numbers})))
    assert (tmp_path / "rows").stat().st_size < 5_000
    with pytest.raises(FailedPrecondition) as error:
        list(rows_of(tmp_path / "rows", FileFormat.PARQUET, SIGNATURE, LIMITS))
    assert error.value.reason == "INPUT_TOO_LARGE"


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"secret": pa.array([1, 1_000_000_001], pa.timestamp("ns"))}),
        pa.table({"secret": pa.array([2**62], pa.timestamp("us"))}),
        pa.table({"secret": pa.array([2**31 - 1], pa.date32())}),
        pa.table({"secret": pa.array([10], pa.duration("ns"))}),
        pa.table({"secret": pa.array([1], pa.time64("ns"))}),
        pa.table({"secret": [{"at": 1}], "more": pa.array([[1]], pa.list_(pa.timestamp("ns")))}),
        pa.table({"secret": pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string()))}),
        pa.table([pa.array([1]), pa.array([2])], names=["secret", "secret"]),
    ],
)
def test_parquet_columns_that_are_no_features_are_refused_and_said(tmp_path: Path, table: pa.Table) -> None:
    (tmp_path / "rows").write_bytes(parquet(table))
    with pytest.raises(FailedPrecondition) as error:
        list(rows_of(tmp_path / "rows", FileFormat.PARQUET, SIGNATURE, LIMITS))
    assert error.value.reason == "INPUT_UNREADABLE"
    assert "column" in error.value.message
    assert "secret" not in error.value.message


def test_an_encoding_that_repeats_long_texts_without_a_dictionary_is_refused(tmp_path: Path) -> None:
    table = pa.table({"word": ["x" * 900] * 9})
    (tmp_path / "rows").write_bytes(parquet(table, use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY"))
    with pytest.raises(FailedPrecondition, match="DELTA_BYTE_ARRAY"):
        list(rows_of(tmp_path / "rows", FileFormat.PARQUET, SIGNATURE, LIMITS))


def test_damaged_parquet_never_gives_other_rows_than_were_written(tmp_path: Path) -> None:
    table = pa.table({"n": list(range(500)), "word": [f"w{number}" for number in range(500)]})
    content = parquet(table, compression="none", write_page_checksum=True)
    good = {f"w{number}": float(number) for number in range(500)}
    path = tmp_path / "rows"
    refused = 0
    for place in range(4, len(content) - 8, 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            rows = list(rows_of(path, FileFormat.PARQUET, SIGNATURE, LIMITS))
        except FailedPrecondition:
            refused += 1
            continue
        told = [features(row) for row in rows if not isinstance(row, RowError)]
        assert all(good.get(row.get("word", ""), row.get("n")) == row.get("n") for row in told)
    assert refused


def test_more_rows_than_may_be_are_too_many(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('{"n": 1}\n' * 11)
    few = ReadLimits(1_000, 1_000_000, max_rows=10)
    with pytest.raises(FailedPrecondition) as error:
        list(rows_of(tmp_path / "rows", FileFormat.JSONL, SIGNATURE, few))
    assert error.value.reason == "INPUT_TOO_LARGE"


ROWS = [
    RowResult({"y": [1.5, float("nan")], "label": "ja", "n": 2**60}, None, "id-1", 0),
    RowResult({}, RowError("BAD", 'it said "no",\nlouder')),
    RowResult({"y": [float("inf"), -0.0], "label": "", "n": -1}),
]


def composed(file_format: FileFormat, rows: Sequence[RowResult] = ROWS) -> bytes:
    schema = results.schema_of(VERSION)
    chunks = [results.chunk_bytes(schema, 0, rows[:2]), results.chunk_bytes(schema, 2, rows[2:])]
    return b"".join(results.compose(chunks, schema, file_format))


def test_a_result_in_lines_of_json_is_strict_json() -> None:
    lines = [json.loads(line, parse_constant=pytest.fail) for line in composed(FileFormat.JSONL).splitlines()]
    assert lines == [
        {
            "row_index": 0,
            "inference_id": "id-1",
            "inference_row": 0,
            "outputs": {"y": [1.5, "NaN"], "label": "ja", "n": 2**60},
        },
        {"row_index": 1, "error": {"reason": "BAD", "message": 'it said "no",\nlouder'}},
        {"row_index": 2, "outputs": {"y": ["Infinity", -0.0], "label": "", "n": -1}},
    ]


def test_a_result_in_parquet_keeps_every_bit() -> None:
    table = pq.read_table(pa.BufferReader(composed(FileFormat.PARQUET)))
    assert table.column_names == [
        "row_index", "inference_id", "inference_row", "output.y", "output.label", "output.n", "error_reason",
        "error_message",
    ]  # fmt: skip
    assert table.column("output.n").to_pylist() == [2**60, None, -1]
    assert str(table.column("output.y").to_pylist()) == "[[1.5, nan], None, [inf, -0.0]]"
    assert table.column("error_reason").to_pylist() == [None, "BAD", None]


def test_a_result_in_csv_has_lists_as_json() -> None:
    rows = list(csv.DictReader(io.StringIO(composed(FileFormat.CSV).decode(), newline="")))
    assert [row["row_index"] for row in rows] == ["0", "1", "2"]
    assert json.loads(rows[0]["output.y"]) == [1.5, "NaN"]
    assert rows[1]["error_message"] == 'it said "no",\nlouder'


def test_a_label_that_a_spreadsheet_would_run_is_made_harmless_in_csv_as_in_exports() -> None:
    told = [RowResult({"y": [1.0], "label": label, "n": -1}) for label in ("=1+1", "-1", "a=1")]
    rows = list(csv.DictReader(io.StringIO(composed(FileFormat.CSV, told).decode(), newline="")))
    assert [row["output.label"] for row in rows] == ["'=1+1", "'-1", "a=1"]
    assert {row["output.n"] for row in rows} == {"-1"}


def test_outputs_that_are_not_what_the_signature_says_fail_the_job_with_a_reason() -> None:
    with pytest.raises(FailedPrecondition) as error:
        results.chunk_bytes(results.schema_of(VERSION), 0, [RowResult({"y": "text", "label": "a", "n": 1})])
    assert error.value.reason == "OUTPUT_MISMATCH"


def test_only_the_outputs_wanted_are_columns() -> None:
    assert results.schema_of(VERSION, ("n",)).names[3:-2] == ["output.n"]
