"""Batches of a stream at work at once, answered in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from services.monitoring.in_order import in_order

WITHIN_S = 60.0


def test_results_come_in_the_order_of_the_items_whichever_is_done_first() -> None:
    second_done = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            assert second_done.wait(WITHIN_S)  # the second overtakes the first
        else:
            second_done.set()
        return item * 10

    assert list(in_order(iter([1, 2, 3, 4]), work, at_once=2)) == [10, 20, 30, 40]


def test_no_more_are_at_work_at_once_than_was_said() -> None:
    lock, gate = threading.Lock(), threading.Barrier(2)
    now, most = 0, 0

    def work(_: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        gate.wait(WITHIN_S)
        with lock:
            now -= 1

    assert len(list(in_order(iter(range(1, 9)), work, at_once=2))) == 8
    assert most == 2


def test_a_result_waits_for_no_item_that_has_not_come() -> None:
    answered = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert answered.wait(WITHIN_S)  # as a client that sends more when it has its answer
        yield 2

    results = in_order(items(), lambda item: item, at_once=2)
    assert next(results) == 1
    answered.set()
    assert list(results) == [2]


def test_where_reading_fails_the_results_before_come_first() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("no item")

    results = in_order(items(), lambda item: item, at_once=2)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ValueError, match="no item"):
        next(results)


def test_where_work_fails_the_results_before_come_first() -> None:
    results = in_order(iter([4, 2, 0, 1]), lambda item: 8 // item, at_once=2)
    assert [next(results), next(results)] == [2, 4]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_work_is_done_in_the_context_of_the_caller() -> None:
    who: ContextVar[str] = ContextVar("who")
    who.set("someone")
    assert list(in_order(iter([1, 2]), lambda item: (item, who.get()), at_once=2)) == [(1, "someone"), (2, "someone")]


def test_whoever_stops_listening_leaves_no_work_behind() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work(item: int) -> int:
        if item == 1:
            assert begun.wait(WITHIN_S)
        else:
            begun.set()
            assert go_on.wait(WITHIN_S)
            ended.set()
        return item

    results = in_order(iter([1, 2]), work, at_once=2)
    assert next(results) == 1
    threading.Timer(0.01, go_on.set).start()
    results.close()  # type: ignore[attr-defined] # a generator
    assert ended.is_set()
