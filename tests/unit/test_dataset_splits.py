"""Splits: disjoint, complete, and the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.trainer.datasets.files import chunks_of, write_parts
from services.trainer.datasets.splits import PARTS, Split, SplitBy, check_filled, counts_of, parts_of
from services.trainer.task import Part

shares = st.tuples(st.floats(0.05, 0.9), st.floats(0, 0.1))
keys = st.lists(st.none() | st.sampled_from("abcdefgh"), min_size=1, max_size=60)


def column(values: list[Any], kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


@given(st.integers(1, 300), shares, st.integers(-(2**63), 2**63 - 1))
def test_by_seed_each_row_is_in_one_part_and_the_shares_are_kept(
    count: int, share: tuple[float, float], seed: int
) -> None:
    split = Split(train_share=share[0], validation_share=share[1], seed=seed)
    parts = parts_of(split, count, None)
    counts = counts_of(parts)
    assert sum(counts.values()) == count == len(parts)
    assert abs(counts[Part.TRAIN] - share[0] * count) <= 1
    assert abs(counts[Part.VALIDATION] - share[1] * count) <= 1
    assert (parts == parts_of(split, count, None)).all()


@given(keys, st.integers(0, 5))
def test_by_key_rows_of_one_key_are_never_divided_nor_moved_by_others(names: list[str | None], seed: int) -> None:
    split = Split(by=SplitBy.KEY, column="user", seed=seed)
    parts = parts_of(split, len(names), column(names, pa.string()))
    by_key: dict[str, set[int]] = {}
    for name, part in zip(names, parts.tolist(), strict=True):
        if name is not None:
            by_key.setdefault(name, set()).add(part)
    assert all(len(found) == 1 for found in by_key.values())
    more = ["zz", *names]
    grown = dict(zip(more, parts_of(split, len(more), column(more, pa.string())).tolist(), strict=True))
    assert all(grown[name] in found for name, found in by_key.items())


@given(st.lists(st.none() | st.integers(0, 20), min_size=1, max_size=60))
def test_by_time_no_row_of_an_earlier_part_is_later(offsets: list[int | None]) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    times = [None if offset is None else start + timedelta(hours=offset) for offset in offsets]
    split = Split(by=SplitBy.TIME, column="at", train_share=0.6, validation_share=0.2)
    parts = parts_of(split, len(times), column(times, pa.timestamp("us", tz="UTC")))
    known = [time or datetime.min.replace(tzinfo=UTC) for time in times]
    held = [[time for time, part in zip(known, parts, strict=True) if part == number] for number in range(len(PARTS))]
    for earlier, later in ((0, 1), (1, 2), (0, 2)):
        if held[earlier] and held[later]:
            assert max(held[earlier]) < min(held[later])


def test_a_stratum_is_divided_like_the_whole() -> None:
    labels = ["rare"] * 20 + ["common"] * 180
    split = Split(stratify_column="label", train_share=0.7, validation_share=0.15, seed=3)
    parts = parts_of(split, 200, column(labels))
    of = np.array(labels)
    assert [int(((of == "rare") & (parts == number)).sum()) for number in range(3)] == [14, 3, 3]
    assert [int(((of == "common") & (parts == number)).sum()) for number in range(3)] == [126, 27, 27]
    assert set(parts_of(split, 4, column(["a", "b", None, None]))) <= {0, 1, 2}


def test_the_hash_is_the_one_that_the_documents_define() -> None:
    """Computed by hand, from the definition in splits.py alone."""

    def hashed(text: str) -> int:
        return int.from_bytes(hashlib.sha256(f"42\n{text}".encode()).digest()[:8], "big")

    order = sorted(range(50), key=lambda place: hashed(str(place)))
    expected = {place: 0 if (rank + 0.5) / 50 < 0.5 else 2 for rank, place in enumerate(order)}
    split = Split(train_share=0.5, validation_share=0, seed=42)
    assert parts_of(split, 50, None).tolist() == [expected[place] for place in range(50)]
    by_key = Split(by=SplitBy.KEY, column="k", train_share=0.5, validation_share=0, seed=42)
    names = [f"user {number}" for number in range(50)]
    wanted = [0 if hashed(name) / 2**64 < 0.5 else 2 for name in names]
    assert parts_of(by_key, 50, column(names)).tolist() == wanted
    assert parts_of(by_key, 3, column([7, None, 7])).tolist() == [
        0 if hashed(text) / 2**64 < 0.5 else 2 for text in ("7", "row 1", "7")
    ]


def test_another_seed_divides_otherwise_and_has_another_id() -> None:
    one, other = Split(seed=1), Split(seed=2)
    assert (parts_of(one, 100, None) != parts_of(other, 100, None)).any()
    assert one.id_for("d") != other.id_for("d")
    assert one.id_for("d") == Split(seed=1).id_for("d") != one.id_for("e")


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        (Split(train_share=0), "INVALID_SHARES"),
        (Split(train_share=float("nan")), "INVALID_SHARES"),
        (Split(train_share=0.9, validation_share=0.2), "INVALID_SHARES"),
        (Split(by=SplitBy.TIME), "UNKNOWN_COLUMN"),
        (Split(by=SplitBy.KEY), "UNKNOWN_COLUMN"),
        (Split(column="a"), "UNKNOWN_COLUMN"),
        (Split(by=SplitBy.KEY, column="a", stratify_column="b"), "UNKNOWN_COLUMN"),
    ],
)
def test_a_split_that_cannot_be_meant_is_refused(split: Split, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        split.check()
    assert caught.value.reason == reason


def test_columns_that_are_no_times_or_keys_are_refused() -> None:
    for split, values in (
        (Split(by=SplitBy.TIME, column="a"), column(["x"])),
        (Split(by=SplitBy.KEY, column="a"), column([1.5])),
        (Split(stratify_column="a"), column([[1.0]])),
    ):
        with pytest.raises(InvalidArgument) as caught:
            parts_of(split, 1, values)
        assert caught.value.reason == "UNKNOWN_COLUMN"


def test_a_part_that_was_asked_for_and_has_no_row_is_refused() -> None:
    split = Split(train_share=0.7, validation_share=0.15)
    with pytest.raises(InvalidArgument, match="the part test") as caught:
        check_filled(split, counts_of(parts_of(split, 2, None)))
    assert caught.value.reason == "EMPTY_PART"
    whole = Split(train_share=1.0, validation_share=0.0)
    check_filled(whole, counts_of(parts_of(whole, 1, None)))


def test_by_time_rows_count_those_before_them() -> None:
    split = Split(by=SplitBy.TIME, column="at", train_share=0.6, validation_share=0.2)
    assert parts_of(split, 4, column([3, 1, 1, 2])).tolist() == [2, 0, 0, 1]
    assert parts_of(split, 4, column([3, None, 1, 2])).tolist() == [2, 0, 0, 1], "without a time is the earliest"


class Asked(Exception):
    """A run is to end."""


def ending_after(calls: int) -> Callable[[], None]:
    """Make a check that a run is asked to end at."""
    left = iter(range(calls))

    def check() -> None:
        if next(left, None) is None:
            raise Asked

    return check


@pytest.mark.parametrize(
    ("split", "values"),
    [
        (Split(), None),
        (Split(by=SplitBy.KEY, column="k"), [str(number) for number in range(70_000)]),
        (Split(by=SplitBy.KEY, column="k"), [None] * 70_000),
    ],
)
def test_many_rows_are_hashed_in_batches_between_which_a_run_may_end(split: Split, values: list[str] | None) -> None:
    with pytest.raises(Asked):
        parts_of(split, 70_000, None if values is None else column(values, pa.string()), ending_after(1))


def test_a_run_may_end_while_its_rows_are_written(tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": np.arange(70_000)}), rows)
    with pytest.raises(Asked):
        write_parts(rows, np.zeros(70_000, np.int8), {Part.TRAIN: tmp_path / "train"}, check=ending_after(1))
    with pytest.raises(Asked):
        list(chunks_of(rows, check=ending_after(0)))
