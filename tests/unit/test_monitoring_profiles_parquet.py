"""Parquet of strangers, read in a process of its own: what comes back, and what a file that lies does to nobody."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from services.common.children.child import Ended
from services.common.errors import FailedPrecondition, InvalidArgument
from services.monitoring.profiles import parquet_reader
from services.monitoring.profiles.frame_bytes import FRAME, OUT_OF_MEMORY, REFUSAL, frame_bytes
from services.monitoring.profiles.frames import Column, Frame, Tag, Texts, numbers_column
from services.monitoring.profiles.parquet_reader import read_parquet
from services.monitoring.profiles.reference import Columns
from services.monitoring.profiles.rows import read_rows
from services.monitoring.profiles.sound_frames import Unsound, frame_from
from services.monitoring.profiles.sources import RowFormat

MIB = 1024 * 1024


def frame() -> Frame:
    texts = Texts(np.array([1, -1, 0], np.int32), ["a", "é"], np.array([1, 1]))
    vectors = np.array([[1, 2], [3, 4]], np.float32)
    return Frame(
        3,
        {
            "number": numbers_column(np.array([1.5, np.nan, 3])),
            "text": Column(np.array([Tag.TEXT, Tag.MISSING, Tag.TEXT], np.uint8), texts=texts),
            "vector": Column(np.array([Tag.VECTOR, Tag.NESTED, Tag.VECTOR], np.uint8), vectors=vectors),
        },
    )


def as_bytes(frame: Frame) -> memoryview:
    return memoryview(bytearray(b"".join(frame_bytes(frame))))


def varint(number: int, *, length: int = 1) -> bytes:
    """Write a number as Thrift's compact protocol does, filled up to a length."""
    number *= 2  # zigzag
    found = bytearray()
    while number >= 0x80 or len(found) < length - 1:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(found) + bytes([number])


def test_a_frame_comes_back_as_it_was() -> None:
    was, found = frame(), frame_from(as_bytes(frame()), 3)
    assert (found.row_count, list(found.columns)) == (3, ["number", "text", "vector"])
    for name, column in found.columns.items():
        np.testing.assert_array_equal(column.tags, was.columns[name].tags)
    np.testing.assert_array_equal(found.columns["number"].numbers, [1.5, np.nan, 3])
    assert found.columns["text"].texts is not None
    assert found.columns["text"].texts.known == ["a", "é"]
    assert found.columns["text"].texts.codes.tolist() == [1, -1, 0]
    np.testing.assert_array_equal(found.columns["vector"].vectors, [[1, 2], [3, 4]])


def test_of_a_number_that_is_none_no_frame_is_made() -> None:
    """What is built in this process says of NaN that it is missing, and all that counts relies on it."""
    for tag in (Tag.NUMBER, Tag.BOOLEAN):
        lying = Frame(2, {"x": Column(np.array([Tag.NUMBER, tag], np.uint8), np.array([1.0, np.nan]))})
        with pytest.raises(Unsound):
            frame_from(as_bytes(lying), 1)


def test_of_bytes_that_are_none_no_frame_is_made() -> None:
    data, random = as_bytes(frame()), np.random.default_rng(3)
    for end in range(0, len(data) - 8, 7):
        with pytest.raises(Unsound):
            frame_from(data[:end], 3)
    for _ in range(3_000):
        broken = bytearray(data)
        broken[random.integers(len(broken))] = random.integers(256)
        try:
            found = frame_from(memoryview(broken), 3)
        except Unsound:
            continue
        for column in found.columns.values():  # whatever is taken, can be worked with
            column.take(np.ones(found.row_count, np.bool_))
            assert column.size_bytes


def test_what_a_reader_must_not_say_is_refused() -> None:
    headers: list[object] = [
        {"row_count": 10**15, "columns": [{"name": "x", "numbers": True, "texts": None, "vectors": None}]},
        {"row_count": -1, "columns": [{"name": "x", "numbers": True, "texts": None, "vectors": None}]},
        {"row_count": 0, "columns": [{"name": "x", "numbers": False, "texts": None, "vectors": [10**9, 4]}]},
        {"row_count": 0, "columns": [{"name": "x", "numbers": False, "texts": -1, "vectors": None}]},
        {"row_count": 0, "columns": [{"name": "x", "numbers": False, "texts": 10**7, "vectors": None}]},
        {"row_count": 0, "columns": [{"name": "x", "numbers": False, "texts": None, "vectors": None}] * 4},
        {"row_count": 0, "columns": [], "more": "x" * 10_000},
        {"row_count": 10**7, "columns": []},
        {"row_count": 0, "columns": "x"},
        [],
    ]
    for values in headers:
        header = json.dumps(values).encode()
        with pytest.raises(Unsound):
            frame_from(memoryview(bytearray(len(header).to_bytes(8, "little") + header + bytes(64))), 3)


def test_texts_of_any_alphabet_take_in_an_answer_what_a_sample_says() -> None:
    known = [chr(0x1F600 + number) * 256 for number in range(100)]
    texts = Texts(np.arange(100, dtype=np.int32), known, np.full(100, 256))
    was = Frame(100, {"prompt": Column(np.full(100, Tag.TEXT, np.uint8), texts=texts)})
    data = as_bytes(was)
    assert len(data) < was.size_bytes < 1.1 * 100 * 256 * 4
    found = frame_from(data, 1).columns["prompt"]
    assert found.texts is not None
    assert found.texts.known == known
    assert found.texts.lengths.flags.aligned


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (Ended(-signal.SIGSEGV, bytearray(), bytearray()), "MALFORMED_FILE"),
        (Ended(-signal.SIGKILL, bytearray(), bytearray()), "TOO_LARGE"),
        (Ended(-signal.SIGXCPU, bytearray(), bytearray()), "TOO_LARGE"),
        (Ended(-signal.SIGABRT, bytearray(), bytearray(b"std::bad_alloc")), "TOO_LARGE"),
        (Ended(1, bytearray(), bytearray(b"Traceback")), "MALFORMED_FILE"),
        (Ended(0, bytearray(), bytearray()), "MALFORMED_FILE"),
        (Ended(0, bytearray(OUT_OF_MEMORY), bytearray()), "TOO_LARGE"),
        (Ended(0, bytearray(FRAME + b"junk"), bytearray()), "MALFORMED_FILE"),
        (Ended(0, bytearray(REFUSAL + b'["TOO_MANY_FEATURES", "more"]'), bytearray()), "TOO_MANY_FEATURES"),
        (Ended(0, bytearray(REFUSAL + b'["ANYTHING", "more"]'), bytearray()), "MALFORMED_FILE"),
        (Ended(0, bytearray(REFUSAL + b"[1"), bytearray()), "MALFORMED_FILE"),
    ],
)
def test_however_its_reader_ends_a_caller_is_told_of_the_file(ended: Ended, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parquet_reader._frame(ended, 3, MIB, 1.0)
    assert caught.value.reason == reason


def test_without_the_sandbox_a_file_is_read_with_a_warning_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "ARROW_DEFAULT_MEMORY_POOL", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # the child sets them for itself
    from services.monitoring.profiles import parquet_child

    parquet.write_table(pa.table({"x": [1.0]}), tmp_path / "rows")
    data = memoryview((tmp_path / "rows").read_bytes())

    def read(sandbox: list[str], *, require_sandbox: bool) -> Ended:
        settings = parquet_child.Settings("", 1, require_sandbox, 0, 0, 0)
        said = b"".join(parquet_child._answer(data, frozenset(), settings, sandbox))
        return Ended(0, bytearray(said), bytearray(capsys.readouterr().err.encode()))

    warned: list[str] = []
    log = SimpleNamespace(warning=lambda event, **_: warned.append(event))
    monkeypatch.setattr(parquet_reader, "_log", log)
    for demanded in (True, False):
        assert parquet_reader._frame(read(["seccomp"], require_sandbox=demanded), 1, MIB, 1.0).row_count == 1
    assert warned == []
    assert parquet_reader._frame(read([], require_sandbox=False), 1, MIB, 1.0).row_count == 1
    assert warned == ["file read without a sandbox"]
    with pytest.raises(FailedPrecondition, match="PENSTOCK_PROFILE_REQUIRE_SANDBOX") as caught:
        parquet_reader._frame(read([], require_sandbox=True), 1, MIB, 1.0)
    assert caught.value.reason == "SANDBOX_UNAVAILABLE"


@pytest.mark.slow
def test_a_file_of_every_kind_of_column_is_read_in_a_process_of_its_own(tmp_path: Path) -> None:
    values = {
        "x": [1.5, None, 3],
        "text": ["a", None, "b" * 1_000],
        "vector": [[1.0, 2.0], None, [3.0, 4.0]],
        "no": [1] * 3,
    }
    parquet.write_table(pa.table(values), tmp_path / "rows")
    found = read_rows(tmp_path / "rows", RowFormat.PARQUET, Columns(ignored=frozenset({"no"})))
    assert list(found.columns) == ["x", "text", "vector"]
    np.testing.assert_array_equal(found.columns["x"].numbers, [1.5, np.nan, 3])
    assert found.columns["text"].texts is not None
    assert found.columns["text"].texts.lengths.tolist() == [1, 1_000]
    assert found.columns["text"].texts.lengths.flags.aligned
    np.testing.assert_array_equal(found.columns["vector"].vectors, [[1, 2], [3, 4]])
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
    (tmp_path / "rows").write_bytes(b"PAR1 none PAR1")
    with pytest.raises(InvalidArgument, match="no Parquet") as caught:
        read_parquet(tmp_path / "rows", Columns())
    assert caught.value.reason == "MALFORMED_FILE"


@pytest.mark.slow
def test_a_file_of_long_texts_in_another_alphabet_is_read(tmp_path: Path) -> None:
    prompts = [f"{number:06}" + "数" * 250 for number in range(200_000)]
    parquet.write_table(pa.table({"prompt": prompts}), tmp_path / "rows", row_group_size=20_000, compression="zstd")
    found = read_parquet(tmp_path / "rows", Columns())
    texts = found.columns["prompt"].texts
    assert texts is not None
    assert 50_000 < found.row_count < 200_000  # 160 MB are more than are kept
    assert set(texts.known) < set(prompts)


@pytest.mark.slow
def test_a_page_that_unpacks_to_more_than_its_footer_says_ends_in_a_refusal(tmp_path: Path) -> None:
    column = pa.table({"x": ["a" * (100 * MIB)]})
    options = {"use_dictionary": False, "compression": "zstd", "write_statistics": False}
    parquet.write_table(column, tmp_path / "rows", **options)
    honest = (tmp_path / "rows").read_bytes()
    group = parquet.ParquetFile(tmp_path / "rows").metadata.row_group(0)
    said = varint(group.total_byte_size)
    footer = len(honest) - 8 - int.from_bytes(honest[-8:-4], "little")
    lying = honest[:footer] + honest[footer:].replace(said, varint(1_000, length=len(said)))
    assert len(lying) == len(honest) < MIB
    (tmp_path / "rows").write_bytes(lying)
    assert parquet.ParquetFile(tmp_path / "rows").metadata.row_group(0).total_byte_size == 1_000
    with pytest.raises(InvalidArgument, match="64 MiB of memory") as caught:
        read_parquet(tmp_path / "rows", Columns(), memory_limit_bytes=64 * MIB)
    assert caught.value.reason == "TOO_LARGE"


@pytest.mark.slow
def test_a_file_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x": [1.0]}), tmp_path / "rows")
    with pytest.raises(InvalidArgument, match="send a sample") as caught:
        read_parquet(tmp_path / "rows", Columns(), timeout_s=0.01)
    assert caught.value.reason == "TOO_LARGE"
