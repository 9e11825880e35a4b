"""What versions were asked and how long it took, of one process and of several workers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from services.common.counters import Counters, create_file
from services.common.errors import Cancelled
from services.inference.engine.statistics import BatchTally, StatisticsBook, Timings, VersionStatistics
from tests.serving import plain_version

TIMINGS = Timings(queue_ns=1, compute_input_ns=2, compute_infer_ns=3, compute_output_ns=4, total_ns=10)
IRIS = plain_version("iris")


@pytest.fixture
def files() -> Iterator[list[int]]:
    made = [create_file() for _ in range(2)]
    yield made
    for each in made:
        os.close(each)


def ask(counts: VersionStatistics, times: int = 1) -> None:
    """Count as the engine does."""
    for _ in range(times):
        counts.count_success(2, TIMINGS)
        counts.count_run(2, TIMINGS)


def numbers(counts: VersionStatistics) -> dict[str, object]:
    """All that is counted, but for the clock."""
    names = (name for name in VersionStatistics.__dataclass_fields__ if name not in ("version", "kept"))
    return {name: getattr(counts, name) for name in names if name != "last_inference_ms"}


def test_all_workers_together_are_what_one_process_would_have_counted(files: list[int]) -> None:
    alone = VersionStatistics(IRIS)
    workers = [StatisticsBook(Counters(files, slot)).open(IRIS) for slot in range(2)]
    for counts in (alone, workers[0]):
        ask(counts, 3)
        counts.count_failure(Cancelled("gone"), 7)
        counts.count_look(True, 5)
    for counts in (alone, workers[1]):
        ask(counts, 2)
        counts.count_look(False, 6)
        counts.count_failure(RuntimeError(), 1)
    (together,) = StatisticsBook(Counters(files, 1)).of_all_workers()
    assert numbers(together) == numbers(alone)
    assert together.failures == {"CANCELED": 1, "OTHER": 1}
    assert together.batches == {2: BatchTally(5, 10, 15, 20)}
    assert (together.version.model, together.version.version) == ("iris", "1")
    assert together.last_inference_ms == workers[1].last_inference_ms


def test_a_replacement_counts_on_where_the_dead_worker_ended(files: list[int]) -> None:
    ask(StatisticsBook(Counters(files, 0)).open(IRIS), 3)
    replacement = StatisticsBook(Counters(files, 0))
    (before,) = replacement.of_all_workers()
    assert (before.successes, before.executions) == (3, 3)  # and nobody has asked it for anything
    ask(replacement.open(IRIS))
    (after,) = StatisticsBook(Counters(files, 1)).of_all_workers()
    assert (after.successes, after.success_ns, after.executions, after.inferences) == (4, 40, 4, 8)
    assert after.batches == {2: BatchTally(4, 8, 12, 16)}


def test_a_name_that_bears_other_bytes_counts_on(files: list[int]) -> None:
    book = StatisticsBook(Counters(files, 0))
    ask(book.open(IRIS))
    ask(book.open(plain_version("iris", size_bytes=7)))
    assert [each.successes for each in book.of_all_workers()] == [2]
