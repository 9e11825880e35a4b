"""The pools behind a server: what they hold, whom they turn away, and that nothing ends their threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from services.common.pools import WAITING, BoundedPool, refused
from tests.kit import eventually

TIMEOUT_S = 10.0
ENDLESS_S = 600.0
"""A patience that no test outlasts: what begins did not begin because of it."""


@contextmanager
def pool(
    threads: int,
    backlog: int,
    overflow: BoundedPool | None = None,
    *,
    awake: int | None = None,
    patience_s: float = ENDLESS_S,
) -> Iterator[BoundedPool]:
    made = BoundedPool(threads, backlog, "test", overflow, awake, patience_s)
    try:
        yield made
    finally:
        made.shutdown(wait=True, cancel_futures=True, timeout_s=TIMEOUT_S)
        assert not any(worker.thread.is_alive() for worker in made._workers)


def settled(made: BoundedPool) -> bool:
    """Whether every thread sleeps, and every place among those awake was given back."""
    return made._awake == 0 and len(made._asleep) == len(made._workers)


class Gate:
    """Work that begins, and ends when it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def work(self) -> None:
        self.begun.set()
        assert self.open.wait(3 * TIMEOUT_S)  # whoever waits for what it holds up gives up first


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
    gates = [Gate() for _ in range(2)]
    order = list[str]()

    def first() -> None:
        gates[0].work()
        order.append("the first has ended")

    with pool(8, 0, awake=2) as two:
        ends = [done(two.submit(first)), done(two.submit(gates[1].work))]
        assert all(gate.begun.wait(TIMEOUT_S) for gate in gates)
        third = done(two.submit(order.append, "the third begins"))
        # A thread starts before `submit` returns, so there would be one for it by now.
        assert len(two._workers) == 2
        gates[0].open.set()
        assert third.wait(TIMEOUT_S)
        gates[1].open.set()
        assert all(end.wait(TIMEOUT_S) for end in ends)
        eventually(lambda: settled(two))
    assert order == ["the first has ended", "the third begins"]


def test_a_sleeping_thread_is_not_woken_while_as_many_are_awake_as_may_be() -> None:
    gates = [Gate() for _ in range(5)]

    def wait_aside(gate: Gate) -> None:
        with WAITING:
            gate.work()

    with pool(8, 100, awake=2) as two:
        for gate in gates:
            two.submit(wait_aside, gate)
            assert gate.begun.wait(TIMEOUT_S)
            gate.begun.clear()
        assert len(two._workers) == 5
        for gate in gates:
            gate.open.set()
        eventually(lambda: settled(two))
        held = [Gate() for _ in range(2)]
        ends = [done(two.submit(gate.work)) for gate in held]
        assert all(gate.begun.wait(TIMEOUT_S) for gate in held)
        last = done(two.submit(int))
        assert (two._awake, len(two._asleep), len(two._calls)) == (2, 3, 1)
        for gate in held:
            gate.open.set()
        assert last.wait(TIMEOUT_S)
        assert all(end.wait(TIMEOUT_S) for end in ends)
        eventually(lambda: settled(two))


def test_a_thread_that_waits_lets_another_work_and_comes_back() -> None:
    inner, other, after = Gate(), Gate(), Gate()

    def wait_aside() -> None:
        with WAITING:
            inner.work()
        after.work()

    with pool(8, 5, awake=1) as one:
        ends = [done(one.submit(wait_aside))]
        assert inner.begun.wait(TIMEOUT_S)
        ends.append(done(one.submit(other.work)))
        assert other.begun.wait(TIMEOUT_S)
        assert one._awake == 1
        inner.open.set()
        # It works on at once; for a while there is one too many, and the next call waits for both.
        assert after.begun.wait(TIMEOUT_S)
        assert one._awake == 2
        order = list[str]()
        ends.append(done(one.submit(order.append, "begun")))
        other.open.set()
        eventually(lambda: len(one._asleep) == 1)
        assert order == []
        after.open.set()
        assert all(end.wait(TIMEOUT_S) for end in ends)
        assert order == ["begun"]
        eventually(lambda: settled(one))


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
        assert len(one._workers) == 1
        leaving.open.set()
        assert queued.begun.wait(TIMEOUT_S)
        for gate in (inner, queued):
            gate.open.set()
        eventually(lambda: settled(one))


def test_a_wait_within_a_wait_gives_away_one_place_only() -> None:
    inner, after = Gate(), Gate()

    def wait_aside() -> None:
        with WAITING, WAITING:
            inner.work()
        after.work()

    with pool(8, 0, awake=1) as one:
        one.submit(wait_aside)
        assert inner.begun.wait(TIMEOUT_S)
        assert one._awake == 0
        inner.open.set()
        assert after.begun.wait(TIMEOUT_S)
        assert one._awake == 1
        after.open.set()
        eventually(lambda: settled(one))


def test_threads_that_come_back_together_are_too_many_only_until_their_calls_are_done() -> None:
    gates = [Gate() for _ in range(4)]
    most = list[int]()

    def wait_aside(gate: Gate) -> None:
        with WAITING:
            gate.work()

    with pool(8, 100, awake=1) as one:
        calls = [done(one.submit(wait_aside, gate)) for gate in gates]
        assert all(gate.begun.wait(TIMEOUT_S) for gate in gates)
        for gate in gates:
            gate.open.set()
        assert all(call.wait(TIMEOUT_S) for call in calls)
        eventually(lambda: settled(one))
        later = [done(one.submit(lambda: most.append(one._awake))) for _ in range(50)]
        assert all(call.wait(TIMEOUT_S) for call in later)
        eventually(lambda: settled(one))
    assert set(most) == {1}


def test_calls_that_go_on_and_on_unannounced_do_not_stop_the_others() -> None:
    hung = [Gate() for _ in range(3)]
    with pool(8, 100, awake=2, patience_s=0.001) as two:
        calls = [done(two.submit(gate.work)) for gate in hung]
        assert all(gate.begun.wait(TIMEOUT_S) for gate in hung)
        # Not one call for each look round: the places of those that hang are others' until they end.
        for _ in range(50):
            assert done(two.submit(int)).wait(TIMEOUT_S)
        for gate in hung:
            gate.open.set()
        assert all(call.wait(TIMEOUT_S) for call in calls)
        eventually(lambda: settled(two))
        eventually(lambda: not two._sentry.awake)


def test_a_call_that_finds_its_thread_one_too_many_does_not_stay_behind_one_that_goes_on_and_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inner, after, woken = Gate(), Gate(), list[Any]()

    def come_back_and_hang() -> None:
        with WAITING:
            inner.work()
        after.work()

    with pool(8, 100, awake=1, patience_s=0.001) as one:
        one.submit(come_back_and_hang)
        assert inner.begun.wait(TIMEOUT_S)
        assert done(one.submit(int)).wait(TIMEOUT_S)
        eventually(lambda: len(one._asleep) == 1)
        with monkeypatch.context() as late:
            late.setattr(type(one._workers[0]), "wake", lambda worker: woken.append(worker))
            call = done(one.submit(int))
            inner.open.set()
            assert after.begun.wait(TIMEOUT_S)
        assert not one._sentry.awake
        woken[0].wake()
        assert call.wait(TIMEOUT_S)
        after.open.set()
        eventually(lambda: settled(one))


def test_a_call_that_went_on_for_long_and_then_says_that_it_waits_gives_away_one_place_only() -> None:
    first, inner, after = Gate(), Gate(), Gate()

    def hang() -> None:
        first.work()
        with WAITING:
            inner.work()
        after.work()

    with pool(8, 100, awake=1, patience_s=0.001) as one:
        one.submit(hang)
        assert first.begun.wait(TIMEOUT_S)
        assert done(one.submit(int)).wait(TIMEOUT_S)
        eventually(lambda: one._awake == 0)  # it is excused
        first.open.set()
        assert inner.begun.wait(TIMEOUT_S)
        assert one._awake == 0
        inner.open.set()
        assert after.begun.wait(TIMEOUT_S)
        assert one._awake == 1
        after.open.set()
        eventually(lambda: settled(one))


def test_a_call_that_says_that_it_waits_gives_no_second_place_away_however_long_it_waits() -> None:
    inner, hung = Gate(), Gate()

    def wait_aside() -> None:
        with WAITING:
            inner.work()

    with pool(8, 100, awake=1, patience_s=0.001) as one:
        one.submit(wait_aside)
        assert inner.begun.wait(TIMEOUT_S)
        one.submit(hung.work)
        assert hung.begun.wait(TIMEOUT_S)
        assert done(one.submit(int)).wait(TIMEOUT_S)  # the one that hangs is excused
        eventually(lambda: len(one._asleep) == 1)
        assert one._awake == 0
        for gate in (inner, hung):
            gate.open.set()
        eventually(lambda: settled(one))


def test_as_many_calls_may_hang_as_there_are_threads_and_then_the_others_wait() -> None:
    hung, order = [Gate() for _ in range(3)], list[int]()
    with pool(3, 100, awake=1, patience_s=0.001) as one:
        for gate in hung:
            one.submit(gate.work)
        assert all(gate.begun.wait(TIMEOUT_S) for gate in hung)
        last = done(one.submit(order.append, 1))
        assert order == []
        hung[1].open.set()
        assert last.wait(TIMEOUT_S)
        for gate in hung:
            gate.open.set()
        eventually(lambda: settled(one))


@pytest.mark.parametrize(
    "raised", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=lambda it: type(it).__name__
)
@pytest.mark.parametrize("where", ["the call", "what follows it"])
def test_not_even_an_exit_ends_a_thread_or_keeps_its_place(raised: BaseException, where: str) -> None:
    def leave(*_: object) -> None:
        raise raised

    with pool(4, 0, awake=1) as one:
        for _ in range(5):
            gate = Gate()
            call = one.submit(leave if where == "the call" else gate.work)
            if where == "what follows it":
                call.add_done_callback(leave)
            gate.open.set()
            eventually(lambda: settled(one))
        assert not one.held
        assert done(one.submit(int)).wait(TIMEOUT_S)
        assert len(one._workers) == 1


def test_closing_waits_for_a_call_that_hangs_no_longer_than_it_is_told_to() -> None:
    gate = Gate()
    one = BoundedPool(1, 5, "test")
    ended = done(one.submit(gate.work))
    assert gate.begun.wait(TIMEOUT_S)
    one.shutdown(wait=True, cancel_futures=True, timeout_s=0)
    assert not ended.is_set()
    gate.open.set()
    one.shutdown(wait=True)


@pytest.mark.parametrize("cancel", [False, True])
def test_a_closed_pool_ends_though_more_threads_sleep_than_may_be_awake(cancel: bool) -> None:
    gates, held, ran = [Gate() for _ in range(4)], Gate(), list[int]()

    def wait_aside(gate: Gate) -> None:
        with WAITING:
            gate.work()

    one = BoundedPool(8, 100, "test", None, 1, ENDLESS_S)
    for gate in gates:
        one.submit(wait_aside, gate)
        assert gate.begun.wait(TIMEOUT_S)
    for gate in gates:
        gate.open.set()
    eventually(lambda: settled(one))
    one.submit(held.work)
    assert held.begun.wait(TIMEOUT_S)
    for number in range(20):
        one.submit(ran.append, number)
    one.shutdown(wait=False, cancel_futures=cancel)
    eventually(lambda: len(ran) == (0 if cancel else 20))  # though one hangs
    held.open.set()
    one.shutdown(wait=True, timeout_s=TIMEOUT_S)
    assert not any(worker.thread.is_alive() for worker in one._workers)
    assert sorted(ran) == ([] if cancel else list(range(20)))
    assert (one._awake, one.held) == (0, 0)


def test_elsewhere_than_in_a_pool_waiting_is_nothing_special() -> None:
    with WAITING:
        assert not refused()
