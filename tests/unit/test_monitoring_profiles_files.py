"""Files of rows from people nobody vouches for: what is read of them, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from services.common.allowed_files import AllowedFiles
from services.common.errors import DomainError, InvalidArgument, NotFound
from services.monitoring.models import Window
from services.monitoring.profiles import frames
from services.monitoring.profiles import parquet as reading
from services.monitoring.profiles.files import RowFiles
from services.monitoring.profiles.frames import Column, Frame, Tag, numbers_column
from services.monitoring.profiles.models import BUCKET
from services.monitoring.profiles.reference import MAX_FEATURES, Columns
from services.monitoring.profiles.rows import MAX_LINE_BYTES, read_rows
from services.monitoring.profiles.sampling import RowSample
from services.monitoring.profiles.sources import FileSource, RowFormat
from services.monitoring.profiles.traffic import read_traffic
from tests.live_rows import AT, event, fields

CSV, JSONL, PARQUET = RowFormat.CSV, RowFormat.JSONL, RowFormat.PARQUET


def read(tmp_path: Path, data: bytes | str, row_format: RowFormat, **columns: Any) -> Frame:
    path = tmp_path / "rows"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_rows(path, row_format, Columns(**columns))


def table(tmp_path: Path, values: Mapping[str, Any], *, ignored: frozenset[str] = frozenset(), **options: Any) -> Frame:
    """Write and read a table, in this process: what another is for, its own tests show."""
    parquet.write_table(pa.table(values), tmp_path / "rows", **options)
    sample = RowSample()
    for frame in reading.parquet_frames(memoryview((tmp_path / "rows").read_bytes()), ignored, MAX_FEATURES):
        sample.add(frame)
    return sample.frame()


def refusal(tmp_path: Path, data: bytes | str, row_format: RowFormat, **columns: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        read(tmp_path, data, row_format, **columns)
    return caught.value.reason


def tags(column: Column) -> list[Tag]:
    return [Tag(tag) for tag in column.tags]


def texts(column: Column) -> list[str]:
    assert column.texts is not None
    return [column.texts.known[code] for code in column.texts.codes if code >= 0]


def test_cells_of_a_csv_are_what_they_look_like(tmp_path: Path) -> None:
    frame = read(tmp_path, '\ufeffa,b\n1,x\n-2.5e3,TRUE\n,"two\nlines"\n"",[1; 2]\nnan,"[1, 2]"\n1_0,00:1\n', CSV)
    a, b = frame.columns["a"], frame.columns["b"]
    assert tags(a) == [Tag.NUMBER, Tag.NUMBER, Tag.MISSING, Tag.MISSING, Tag.MISSING, Tag.TEXT]
    assert a.numbers is not None
    assert a.numbers[:2].tolist() == [1, -2500]
    assert tags(b) == [Tag.TEXT, Tag.BOOLEAN, Tag.TEXT, Tag.TEXT, Tag.VECTOR, Tag.TEXT]
    assert texts(b) == ["x", "two\nlines", "[1; 2]", "00:1"]


@pytest.mark.parametrize(
    "data",
    [
        "",
        "a,a\n1,2\n",
        "a,\n1,2\n",
        "a,b\n1\n",
        "a,b\n1,2,3\n",
        'a,b\n1,"open\n',
        b"a\n\xff\n",
        "a\n" + "x" * (MAX_LINE_BYTES + 2),
        'a\n"' + "x\n" * MAX_LINE_BYTES,
        "a\n" + '"b\n",' * (MAX_LINE_BYTES // 4),
        ",".join(f"c{number}" for number in range(10_001)),
    ],
)
def test_a_csv_that_is_none_is_refused(tmp_path: Path, data: bytes | str) -> None:
    assert refusal(tmp_path, data, CSV) == "MALFORMED_FILE"


def test_a_csv_with_as_many_features_as_nobody_needs_is_refused(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(2_001)]
    data = ",".join(names) + "\n" + ",".join("1" for _ in names)
    assert refusal(tmp_path, data, CSV) == "TOO_MANY_FEATURES"
    assert len(read(tmp_path, data, CSV, ignored=frozenset({"c7"})).columns) == 2_000


def test_a_column_to_ignore_that_is_not_there_is_refused_and_not_swallowed(tmp_path: Path) -> None:
    """Who mistypes the id's name has an id among the features, and is told of drift for ever."""
    misspelt = frozenset({"rwo"})
    for data, row_format in (("a,row\n1,2\n", CSV), ('{"a": 1, "row": 2}', JSONL)):
        with pytest.raises(InvalidArgument, match="there is no column 'rwo'; there are 'a', 'row'") as caught:
            read(tmp_path, data, row_format, ignored=misspelt)
        assert caught.value.reason == "UNKNOWN_COLUMN"
        assert list(read(tmp_path, data, row_format, ignored=frozenset({"row"})).columns) == ["a"]
    with pytest.raises(InvalidArgument, match="there is no column 'rwo'; there are 'a', 'row'") as caught:
        table(tmp_path, {"a": [1], "row": [2]}, ignored=misspelt)
    assert caught.value.reason == "UNKNOWN_COLUMN"
    events = [event(fields({"a": 1.0, "row": 2.0}))]
    with pytest.raises(InvalidArgument, match="there is no column 'rwo'; there are 'a', 'row'") as caught:
        read_traffic([events], Columns(ignored=misspelt), Window(AT, AT + BUCKET))
    assert list(read_traffic([events], Columns(ignored=frozenset({"row"})), Window(AT, AT + BUCKET)).frame.columns) == [
        "a"
    ]


def test_rows_of_jsonl_may_have_what_they_like(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"a": 1, "b": "x"}, {"a": 10**400, "c": True}, {"a": None}, {"a": {"deep": [1]}}, {"a": [1, 2.5]}, {"a": []},
    ]  # fmt: skip
    data = "\n".join(map(json.dumps, rows)) + '\n\n{"a": NaN, "b": "\\ud800\\u0000"}'
    frame = read(tmp_path, data, JSONL)
    assert frame.row_count == 7
    a = frame.columns["a"]
    assert tags(a) == [Tag.NUMBER, Tag.NUMBER, Tag.MISSING, Tag.NESTED, Tag.VECTOR, Tag.NESTED, Tag.MISSING]
    assert a.numbers is not None
    assert a.numbers[1] == np.inf
    assert tags(frame.columns["c"])[:3] == [Tag.MISSING, Tag.BOOLEAN, Tag.MISSING]
    assert texts(frame.columns["b"]) == ["x", "?\ufffd"]


@pytest.mark.parametrize("data", ["not json", "[1, 2]", "1", '{"a": ' + "[" * 100_000, '{"a": 1', b"\xff\xfe"])
def test_a_line_that_is_no_object_is_refused_by_its_number(tmp_path: Path, data: bytes | str) -> None:
    with pytest.raises(InvalidArgument, match="line 2") as caught:
        read(tmp_path, b'{"a": 1}\n' + (data.encode() if isinstance(data, str) else data), JSONL)
    assert caught.value.reason == "MALFORMED_FILE"


def test_new_names_on_every_line_come_to_an_end(tmp_path: Path) -> None:
    data = "\n".join(json.dumps({f"c{line}_{number}": 1 for number in range(100)}) for line in range(101))
    assert refusal(tmp_path, data, JSONL) == "TOO_MANY_FEATURES"


def test_every_type_of_parquet_that_is_a_feature_is_read(tmp_path: Path) -> None:
    values = {
        "int": pa.array([1, None, 3]),
        "half": pa.array(np.array([1, 2, np.nan], np.float16)),
        "decimal": pa.array([1, 2, None], pa.decimal128(5, 2)),
        "flag": pa.array([True, None, False]),
        "text": pa.array(["a", None, "b" * 2_000_000]),
        "known": pa.array(["a", "b", None]).dictionary_encode(),
        "vector": pa.array([[1.0, 2.0], None, [3.0]]),
        "fixed": pa.array([[1.0, 2.0], [3.0, 4.0], None], pa.list_(pa.float32(), 2)),
        "nothing": pa.nulls(3),
    }
    columns = table(tmp_path, values).columns
    assert tags(columns["int"]) == [Tag.NUMBER, Tag.MISSING, Tag.NUMBER]
    assert tags(columns["half"]) == [Tag.NUMBER, Tag.NUMBER, Tag.MISSING]
    assert tags(columns["decimal"]) == [Tag.NUMBER, Tag.NUMBER, Tag.MISSING]
    assert tags(columns["flag"]) == [Tag.BOOLEAN, Tag.MISSING, Tag.BOOLEAN]
    assert tags(columns["text"]) == [Tag.TEXT, Tag.MISSING, Tag.TEXT]
    assert columns["text"].texts is not None
    assert columns["text"].texts.lengths.tolist() == [1, 2_000_000]
    assert texts(columns["known"]) == ["a", "b"]
    assert tags(columns["vector"]) == [Tag.VECTOR, Tag.MISSING, Tag.NESTED]
    assert columns["fixed"].vectors is not None
    assert columns["fixed"].vectors.tolist() == [[1, 2], [3, 4]]
    assert tags(columns["nothing"]) == [Tag.MISSING] * 3


def test_a_column_that_is_no_feature_is_refused_unless_it_is_ignored(tmp_path: Path) -> None:
    values = {"x": pa.array([1]), "at": pa.array([0], pa.timestamp("ms"))}
    with pytest.raises(InvalidArgument, match=r"'at' is a timestamp.*columns\.ignored") as caught:
        table(tmp_path, values)
    assert caught.value.reason == "MALFORMED_FILE"
    assert list(table(tmp_path, values, ignored=frozenset({"at"})).columns) == ["x"]


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x": list(range(1_000))}), tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    broken = [b"", b"PAR1", good[:-100], good[:100] + b"\xff" * 500 + good[600:], good[:-8] + b"\xff\xff\xff\x7fPAR1"]
    for data in broken:
        with pytest.raises(InvalidArgument) as caught:
            list(reading.parquet_frames(memoryview(data), (), MAX_FEATURES))
        assert caught.value.reason == "MALFORMED_FILE"


def test_a_row_group_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_UNPACKED_BYTES", 100_000)
    with pytest.raises(InvalidArgument, match="smaller row groups") as caught:
        table(tmp_path, {"x": np.zeros(100_000)}, use_dictionary=False)
    assert caught.value.reason == "TOO_LARGE"
    assert table(tmp_path, {"x": np.zeros(100_000)}, row_group_size=10_000, use_dictionary=False).row_count == 100_000


def test_more_rows_than_anybody_sends_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_FILE_ROWS", 2_000)
    with pytest.raises(InvalidArgument, match="2,001 rows") as caught:
        table(tmp_path, {"x": pa.nulls(2_001, pa.float64())}, row_group_size=1_000)
    assert caught.value.reason == "TOO_LARGE"


@pytest.mark.slow
def test_a_long_text_that_is_repeated_is_shortened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def shortened(text: str) -> str:
        seen.append(text)
        return text[:256]

    monkeypatch.setattr(frames, "shortened", shortened)
    frame = table(tmp_path, {"x": ["y" * 100_000, "z"] * 5_000})
    assert len(seen) == 2
    assert texts(frame.columns["x"])[:2] == ["y" * 256, "z"]


def test_of_too_many_rows_a_uniform_sample_is_kept_in_their_order() -> None:
    sample = RowSample(max_rows=1_000, max_bytes=10**9)
    for start in range(0, 20_000, 500):
        sample.add(Frame(500, {"x": numbers_column(np.arange(start, start + 500.0))}))
    kept = sample.frame()
    numbers = kept.columns["x"].numbers
    assert numbers is not None
    assert 400 < kept.row_count <= 1_000
    assert np.all(np.diff(numbers) > 0)
    assert numbers.mean() == pytest.approx(10_000, rel=0.1)


def test_rows_that_come_one_by_one_are_put_together() -> None:
    sample = RowSample()
    for number in range(3_000):
        sample.add(Frame(1, {"x": numbers_column(np.array([float(number)]))}))
    assert len(sample._frames) <= np.log2(3_000) + 1
    numbers = sample.frame().columns["x"].numbers
    assert numbers is not None
    assert numbers.tolist() == list(range(3_000))


def test_rows_take_no_more_than_their_room_however_many_columns_lack_in_each() -> None:
    sample = RowSample(max_rows=10**6, max_bytes=100_000)
    for number in range(50):
        sample.add(Frame(100, {f"c{number}": numbers_column(np.zeros(100))}))
    assert sample.frame().size_bytes <= 100_000


def files(tmp_path: Path, *roots: str, max_bytes: int = 1_000) -> RowFiles:
    store = SimpleNamespace(blob_url="file:///blobs", blob_access_key=None, blob_secret_key=None)
    allowed = AllowedFiles(roots, store, unreadable=partial(NotFound, reason="INPUT_NOT_FOUND"))
    return RowFiles(allowed, max_bytes=max_bytes, folder=tmp_path)


def brought(files: RowFiles, uri: str, data: bytes = b"rows") -> str:
    """OK, or the reason of the refusal."""
    try:
        with files.brought(FileSource(uri, hashlib.sha256(data).hexdigest(), CSV)) as path:
            assert path.read_bytes() == data
    except DomainError as error:
        return error.reason
    return "OK"


@pytest.mark.parametrize("moment", ["before it is opened", "while it is opened"])
def test_a_folder_that_becomes_a_link_after_the_check_leads_to_no_file_outside(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, outside = tmp_path / "in" / "day", tmp_path / "outside"
    for folder in (inner, outside):
        folder.mkdir(parents=True)
        (folder / "rows.csv").write_bytes(folder.name.encode())
    store = SimpleNamespace(blob_url="file:///blobs", blob_access_key=None, blob_secret_key=None)
    allowed = AllowedFiles([inner.parent.as_uri()], store, unreadable=partial(NotFound, reason="INPUT_NOT_FOUND"))
    uri, resolve = (inner / "rows.csv").as_uri(), Path.resolve

    def swap() -> None:
        inner.rename(tmp_path / "aside")
        inner.symlink_to(outside)

    def swapped(path: Path, *, strict: bool = False) -> Path:
        found = resolve(path, strict=strict)
        if strict:
            swap()
        return found

    assert allowed.allows(uri)
    assert b"".join(allowed.chunks(uri)) == b"day"
    if moment == "before it is opened":
        swap()
    else:
        monkeypatch.setattr(Path, "resolve", swapped)
    with pytest.raises(NotFound):
        list(allowed.chunks(uri))


def test_files_are_read_from_the_roots_alone(tmp_path: Path) -> None:
    root, outside = tmp_path / "in", tmp_path / "secret"
    root.mkdir()
    for path in (root / "rows.csv", outside):
        path.write_bytes(b"rows")
    (root / "link").symlink_to(outside)
    os.mkfifo(root / "pipe")
    allowed = files(tmp_path, root.as_uri())
    assert brought(allowed, (root / "rows.csv").as_uri()) == "OK"
    assert brought(allowed, (root / "rows.csv").as_uri(), b"other") == "DIGEST_MISMATCH"
    assert brought(allowed, (root / "gone.csv").as_uri()) == "INPUT_NOT_FOUND"
    assert brought(allowed, root.as_uri()) == "INPUT_NOT_FOUND"
    assert brought(allowed, (root / "pipe").as_uri()) == "DIGEST_MISMATCH"  # empty, and nobody waits for it
    for uri in (
        outside.as_uri(),
        (root / "link").as_uri(),
        f"{root.as_uri()}/../secret",
        f"{root.as_uri()}/%2e%2e/secret",
        f"{root.as_uri()}/rows.csv?x=1",
        "s3://bucket/rows.csv",
        "http://127.0.0.1/rows.csv",
        "rows.csv",
        "file://[",
        f"{root.as_uri()}/%00",
    ):
        assert brought(allowed, uri) == "URI_NOT_ALLOWED", uri
    assert brought(files(tmp_path), (root / "rows.csv").as_uri()) == "URI_NOT_ALLOWED"
    assert brought(files(tmp_path, root.as_uri(), max_bytes=3), (root / "rows.csv").as_uri()) == "TOO_LARGE"


def test_what_is_sent_is_held_to_its_digest_and_its_size(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"rows").hexdigest()
    with files(tmp_path).sent([b"ro", b"ws"], sha256=digest) as (path, found):
        assert (path.read_bytes(), found) == (b"rows", digest)
    assert not path.exists()
    for chunks, reason in (([b"other"], "DIGEST_MISMATCH"), ([b"x" * 600] * 2, "TOO_LARGE")):
        with pytest.raises(InvalidArgument) as caught, files(tmp_path).sent(chunks, sha256=digest):
            pass
        assert caught.value.reason == reason
    assert list(tmp_path.iterdir()) == []
