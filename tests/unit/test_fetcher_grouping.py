"""Steps done for all who wait: none is left out, none is done twice, and each hears of what went wrong with its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.fetcher.downloading.grouping import Grouped
from tests.registry import wait_until


class Steps:
    """Steps that wait until they may go on."""

    def __init__(self) -> None:
        self.begun: list[Sequence[int]] = []
        self.go_on = threading.Event()

    def __call__(self, items: Sequence[int]) -> None:
        self.begun.append(items)
        assert self.go_on.wait(60)
        if 13 in items:
            raise ValueError(items)


def test_who_comes_meanwhile_shares_the_next_step() -> None:
    steps = Steps()
    grouped = Grouped(steps)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(grouped.do, 0)
        wait_until(lambda: steps.begun or None)
        others = [pool.submit(grouped.do, number) for number in range(1, 9)]
        wait_until(lambda: len(grouped._wishes) == 8 or None)
        assert not any(each.done() for each in (first, *others))
        steps.go_on.set()
        for each in (first, *others):
            assert each.result(60) is None
    assert [sorted(items) for items in steps.begun] == [[0], list(range(1, 9))]


def test_a_step_that_fails_fails_for_all_that_shared_it_and_for_nobody_else() -> None:
    steps = Steps()
    grouped = Grouped(steps)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(grouped.do, 0)
        wait_until(lambda: steps.begun or None)
        others = [pool.submit(grouped.do, number) for number in (13, 14)]
        wait_until(lambda: len(grouped._wishes) == 2 or None)
        steps.go_on.set()
        assert first.result(60) is None
        for each in others:
            with pytest.raises(ValueError, match="13"):
                each.result(60)
    assert grouped.do(15) is None  # type: ignore[func-returns-value]
