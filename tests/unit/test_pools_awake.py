"""The pools behind a server: how many of their threads are awake, and who lets whom work."""

from __future__ import annotations

from typing import Any

import pytest

from services.common.pools import WAITING
from tests.kit import eventually
from tests.pools import TIMEOUT_S, Gate, done, pool, settled


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
        eventually(lambda: not one._sentry.awake)  # and is not looked at once more after it came back
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
