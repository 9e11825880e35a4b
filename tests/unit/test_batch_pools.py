"""The engine on a pool that keeps few threads awake: whoever waits makes room, for else nobody would go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.common.pools import BoundedPool
from services.inference.engine.engine import InferenceRequest
from services.inference.engine.pace import QUICK_NS
from services.inference.models import ServingSettings
from tests.batching import POISON, Callers, calling
from tests.serving import wait_until

WITHIN_S = 60
"""Less than a run waits to be told to go on: nobody is to be let go by its end."""


@contextmanager
def one_awake() -> Iterator[BoundedPool]:
    pool = BoundedPool(8, 8, "test", awake=1)
    try:
        yield pool
    finally:
        pool.shutdown()


def goes_on(pool: BoundedPool) -> bool:
    """Whether another call is worked on now."""
    worked = threading.Event()
    pool.submit(worked.set)
    return worked.wait(WITHIN_S)


def ask(callers: Callers, pool: BoundedPool, value: float = 1.0) -> InferenceRequest:
    request = callers.request(value)
    pool.submit(callers.engine.infer, request)
    return request


def test_others_go_on_while_a_model_runs_that_may_take_long() -> None:
    with one_awake() as pool, calling() as callers:
        ask(callers, pool)
        callers.until_run(1)
        assert goes_on(pool)
        callers.session.go_on()


def test_others_go_on_while_one_waits_for_such_a_run() -> None:
    with one_awake() as pool, calling() as callers:
        ask(callers, pool)
        callers.until_run(1)
        ask(callers, pool)
        wait_until(lambda: callers.queue.waiting == 1)
        assert goes_on(pool)
        callers.session.go_on()


def test_others_go_on_while_one_waits_for_a_run_that_should_have_been_quick() -> None:
    with one_awake() as pool, calling() as callers:
        callers.session.go()
        callers.engine.infer(callers.request())
        callers.engine._lanes[callers.version.key]._pace.ran(1, QUICK_NS // 100)
        callers.ask(1)  # on a thread of its own; it hangs, say
        ask(callers, pool)
        wait_until(lambda: callers.queue.waiting == 1)
        assert goes_on(pool)
        callers.session.go_on()


def test_others_go_on_while_one_waits_for_others_to_join_it() -> None:
    with one_awake() as pool, calling(serving=ServingSettings(max_queue_delay_us=30_000_000)) as callers:
        gathering = ask(callers, pool)
        wait_until(lambda: gathering.on_cancel is not None)
        assert goes_on(pool)
        gathering.cancel()


def test_a_batch_that_was_parted_says_nothing_of_how_quick_so_many_rows_are() -> None:
    with calling() as callers:
        callers.session.go()
        callers.engine.infer(callers.request())
        pace = callers.engine._lanes[callers.version.key]._pace
        asked = [callers.ask(1, rows=32), *(callers.ask(value) for value in (2, POISON, 3))]
        noted: list[int] = []
        ran = pace.ran

        def note(rows: int, duration_ns: int) -> None:
            noted.append(rows)
            ran(rows, duration_ns)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(pace), "ran", lambda _, rows, duration_ns: note(rows, duration_ns))
            callers.session.go_on()
            for each in asked:
                each.result(WITHIN_S)
            wait_until(lambda: callers.queue.running == 0)
        assert noted == [32, 1, 1]
