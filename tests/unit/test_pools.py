"""The pools behind a server: what they hold, whom they turn away, and that nothing ends their threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.common.pools import WAITING, BoundedPool, refused

TIMEOUT_S = 10.0


@contextmanager
def pool(
    threads: int, backlog: int, overflow: BoundedPool | None = None, *, awake: int | None = None
) -> Iterator[BoundedPool]:
    made = BoundedPool(threads, backlog, "test", overflow, awake)
    try:
        yield made
    finally:
        made.shutdown(wait=True, cancel_futures=True)


class Gate:
    """Work that begins, and ends when it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def work(self) -> None:
        self.begun.set()
        assert self.open.wait(TIMEOUT_S)


def done(call: object) -> threading.Event:
    event = threading.Event()
    call.add_done_callback(lambda _: event.set())  # type: ignore[attr-defined]
    return event


def test_threads_start_with_the_calls_that_need_them_and_serve_again() -> None:
    names = set()
    with pool(4, 0) as four:
        for _ in range(20):
            assert done(four.submit(lambda: names.add(threading.current_thread().name))).wait(TIMEOUT_S)
    assert names == {"test_0"}


def test_as_many_calls_as_there_are_threads_go_at_once() -> None:
    gates = [Gate() for _ in range(4)]
    with pool(4, 0) as four:
        for gate in gates:
            four.submit(gate.work)
        assert all(gate.begun.wait(TIMEOUT_S) for gate in gates)
        for gate in gates:
            gate.open.set()


def test_calls_beyond_the_threads_wait_in_order_and_the_next_one_is_one_too_many() -> None:
    gate, order = Gate(), list[int]()
    with pool(1, 2) as one:
        one.submit(gate.work)
        assert gate.begun.wait(TIMEOUT_S)
        one.submit(order.append, 1)
        before = one.full
        last = done(one.submit(order.append, 2))
        assert (before, one.full) == (False, True)
        gate.open.set()
        assert last.wait(TIMEOUT_S)
    assert order == [1, 2]


def test_a_call_that_comes_while_all_places_are_taken_is_refused_by_another_pool() -> None:
    gate, said = Gate(), list[tuple[str, bool]]()

    def say() -> None:
        said.append((threading.current_thread().name, refused()))

    with pool(1, 0) as overflow, pool(1, 0, overflow) as one:
        one.submit(gate.work)
        assert gate.begun.wait(TIMEOUT_S)
        assert done(one.submit(say)).wait(TIMEOUT_S)
        # What the other pool does of its own is refused nothing.
        assert done(overflow.submit(say)).wait(TIMEOUT_S)
        gate.open.set()
    assert [refusal for _, refusal in said] == [True, False]
    assert not refused()


def test_a_place_is_free_again_once_the_call_is_said_to_be_done() -> None:
    with pool(1, 0) as one:
        for _ in range(100):
            call = one.submit(lambda: None)
            assert done(call).wait(TIMEOUT_S)
            assert not one.full


def test_whoever_asks_after_the_end_hears_of_it_at_once() -> None:
    heard: list[object] = []
    with pool(1, 0) as one:
        call = one.submit(lambda: None)
        assert done(call).wait(TIMEOUT_S)
        call.add_done_callback(heard.append)
    assert heard == [call]


def test_what_a_call_raises_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("broken")

    with pool(1, 0) as one:
        assert done(one.submit(fail)).wait(TIMEOUT_S)
        assert done(one.submit(lambda: None)).wait(TIMEOUT_S)
    assert "ended the hard way" in caplog.text


def test_closing_drops_what_waits_and_waits_for_what_runs() -> None:
    gate, ran = Gate(), list[int]()
    one = BoundedPool(1, 5, "test")
    one.submit(gate.work)
    assert gate.begun.wait(TIMEOUT_S)
    one.submit(ran.append, 1)
    one.shutdown(wait=False, cancel_futures=True)
    gate.open.set()
    one.shutdown(wait=True)
    assert ran == []


def test_no_more_threads_are_awake_than_may_be() -> None:
    first, second, third = Gate(), Gate(), Gate()
    with pool(8, 0, awake=2) as two:
        for gate in (first, second, third):
            two.submit(gate.work)
        assert first.begun.wait(TIMEOUT_S)
        assert second.begun.wait(TIMEOUT_S)
        assert not third.begun.is_set()
        first.open.set()
        assert third.begun.wait(TIMEOUT_S)
        for gate in (second, third):
            gate.open.set()


def test_a_thread_that_waits_lets_another_work_and_comes_back() -> None:
    inner, other, after = Gate(), Gate(), threading.Event()

    def wait_aside() -> None:
        with WAITING:
            inner.work()
        after.set()

    with pool(8, 0, awake=1) as one:
        one.submit(wait_aside)
        assert inner.begun.wait(TIMEOUT_S)
        one.submit(other.work)
        assert other.begun.wait(TIMEOUT_S)
        inner.open.set()
        # It works on at once; for a while there is one too many.
        assert after.wait(TIMEOUT_S)
        other.open.set()


def test_a_call_that_is_queued_begins_as_soon_as_another_waits() -> None:
    leaving, inner, queued = Gate(), Gate(), Gate()

    def wait_aside() -> None:
        leaving.work()
        with WAITING:
            inner.work()

    with pool(2, 0, awake=1) as one:
        one.submit(wait_aside)
        assert leaving.begun.wait(TIMEOUT_S)
        one.submit(queued.work)
        assert not queued.begun.is_set()
        leaving.open.set()
        assert queued.begun.wait(TIMEOUT_S)
        for gate in (inner, queued):
            gate.open.set()


def test_threads_that_come_back_together_are_too_many_only_until_their_calls_are_done() -> None:
    gates = [Gate() for _ in range(4)]
    busy, most, lock = 0, 0, threading.Lock()

    def wait_aside(gate: Gate) -> None:
        with WAITING:
            gate.work()

    def count() -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        with lock:
            busy -= 1

    with pool(8, 100, awake=1) as one:
        calls = [done(one.submit(wait_aside, gate)) for gate in gates]
        assert all(gate.begun.wait(TIMEOUT_S) for gate in gates)
        for gate in gates:
            gate.open.set()
        assert all(call.wait(TIMEOUT_S) for call in calls)
        later = [done(one.submit(count)) for _ in range(50)]
        assert all(call.wait(TIMEOUT_S) for call in later)
    assert most == 1


def test_elsewhere_than_in_a_pool_waiting_is_nothing_special() -> None:
    with WAITING:
        assert not refused()
