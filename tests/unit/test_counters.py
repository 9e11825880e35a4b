"""Counts in the files of worker slots: added up over all, and carried on by whoever takes a slot over."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from services.common import counters
from services.common.counters import Counters, create_file

KEY = ("rpc", "unary", "Service", "Method")


@pytest.fixture
def files() -> Iterator[list[int]]:
    made = [create_file() for _ in range(2)]
    yield made
    for each in made:
        os.close(each)


@pytest.mark.parametrize("shared", [False, True], ids=["one process", "a slot's file"])
def test_what_is_counted_is_in_the_sums(shared: bool, files: list[int]) -> None:
    counts = Counters(files, slot=1) if shared else Counters()
    row = counts.row(KEY, 3)
    row.add(0, 1)
    row.add(2, 2**40)
    row.own[2] = row.cells[2] = row.own[2] + 1
    counts.row(("other",), 1).add(0, 7)
    assert counts.sums("rpc") == {KEY: [1, 0, 2**40 + 1]}
    assert counts.row(KEY, 3).own == [1, 0, 2**40 + 1]


def test_the_slots_are_added_up_wherever_they_are_read(files: list[int]) -> None:
    first, second = Counters(files, slot=0), Counters(files, slot=1)
    first.row(KEY, 2).add(0, 1)
    second.row(KEY, 2).add(0, 10)
    second.row(("rpc", "späte"), 1).add(0, 5)
    for reader in (first, second):
        assert reader.sums("rpc") == {KEY: [11, 0], ("rpc", "späte"): [5]}
    first.row(("rpc", "späte"), 1).add(0, 1)
    assert second.sums("rpc")["rpc", "späte"] == [6]


def test_a_killed_workers_counts_stay_and_its_replacement_counts_on(files: list[int]) -> None:
    script = (
        "import os, signal, sys; from services.common.counters import Counters\n"
        "row = Counters([int(sys.argv[1]), int(sys.argv[2])], slot=0).row(('rpc', 'x'), 1)\n"
        "for _ in range(1000): row.add(0, 1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    descriptors = [str(each) for each in files]
    subprocess.run([sys.executable, "-c", script, *descriptors], pass_fds=files, check=False)
    survivor = Counters(files, slot=1)
    assert survivor.sums("rpc") == {("rpc", "x"): [1000]}
    Counters(files, slot=0).row(("rpc", "x"), 1).add(0, 1)
    assert survivor.sums("rpc") == {("rpc", "x"): [1001]}


def test_a_row_that_a_kill_left_half_written_is_not_there(files: list[int]) -> None:
    worker = Counters(files, slot=0)
    worker.row(("rpc", "whole"), 1).add(0, 1)
    length = os.pread(files[0], 8, 8)
    worker.row(("rpc", "half"), 1)
    os.pwrite(files[0], length, 8)  # as if it had been killed before the last step
    assert list(Counters(files, slot=1).sums("rpc")) == [("rpc", "whole")]
    Counters(files, slot=0).row(("rpc", "next"), 1).add(0, 3)
    assert Counters(files, slot=1).sums("rpc") == {("rpc", "whole"): [1], ("rpc", "next"): [3]}


def test_a_row_is_seen_once_all_of_its_key_is_there_and_not_before(files: list[int]) -> None:
    worker, reader = Counters(files, slot=0), Counters(files, slot=1)
    worker.row(("rpc", "before"), 1).add(0, 1)
    begin = counters.KEYS_AT + int.from_bytes(os.pread(files[0], 8, 8), "little")
    worker.row(("rpc", "slow"), 1).add(0, 2)
    worker.row(("rpc", "next"), 1).add(0, 3)
    entry = os.pread(files[0], 16 + len('["rpc", "slow"]'), begin)
    for missing in range(len(entry)):  # another core may show the length of all keys before any byte of this one
        os.pwrite(files[0], entry[:missing] + bytes([entry[missing] ^ 0xFF]) + entry[missing + 1 :], begin)
        assert list(reader.sums("rpc")) == [("rpc", "before")]
    os.pwrite(files[0], bytes(len(entry)), begin)
    assert list(reader.sums("rpc")) == [("rpc", "before")]
    os.pwrite(files[0], entry, begin)
    assert reader.sums("rpc") == {("rpc", "before"): [1], ("rpc", "slow"): [2], ("rpc", "next"): [3]}


def test_once_the_file_is_full_new_rows_count_in_their_process_alone(
    files: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(counters, "CELLS", 4)
    counts = Counters(files, slot=0)
    counts.row(("rpc", "fits"), 3).add(0, 1)
    for name in ("a", "b"):
        counts.row(("rpc", name), 2).add(1, 9)
    assert counts.sums("rpc") == {("rpc", "fits"): [1, 0, 0], ("rpc", "a"): [0, 9], ("rpc", "b"): [0, 9]}
    assert list(Counters(files, slot=1).sums("rpc")) == [("rpc", "fits")]
    assert len(caplog.records) == 1


def test_a_row_of_another_shape_is_refused(files: list[int]) -> None:
    Counters(files, slot=0).row(KEY, 2)
    with pytest.raises(ValueError, match="2 cells, not 3"):
        Counters(files, slot=0).row(KEY, 3)
