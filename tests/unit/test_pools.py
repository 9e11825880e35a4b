"""The pools behind a server: what they hold, whom they turn away, and that nothing ends their threads."""

from __future__ import annotations

import threading

import pytest

from services.common.pools import WAITING, BoundedPool, refused
from tests.kit import eventually
from tests.pools import ENDLESS_S, TIMEOUT_S, Gate, done, pool, settled


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
