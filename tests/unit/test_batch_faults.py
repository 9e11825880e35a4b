"""One request's error, and one client's going away, never fail or strand those that run or wait beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from services.common.errors import Cancelled, DeadlineExceeded, FailedPrecondition
from services.inference.engine.engine import EngineLimits, InferenceAnswer
from services.inference.engine.lane import Lane
from services.inference.engine.requests import State, Ticket
from services.inference.engine.statistics import Timings, VersionStatistics
from services.inference.models import ModelFailed, ServingSettings
from tests.batching import HANGS, LONG_US, POISON, Callers, ToldSession, calling, until_answered, value_of, values
from tests.serving import wait_until


@pytest.fixture
def callers() -> Iterator[Callers]:
    with calling(limits=EngineLimits(max_batch_size=32)) as callers:
        yield callers


def test_one_poisonous_request_among_31_good_ones_fails_alone(callers: Callers) -> None:
    first = callers.ask(1, rows=32)
    good = callers.ask_many(16)
    bad = callers.ask(POISON)
    good += callers.ask_many(15)
    callers.session.go_on()
    assert values([first, *good]) == [2, *(20.0 + 2 * number for number in (*range(16), *range(15)))]
    failed = bad.result().error
    assert isinstance(failed, ModelFailed)
    assert failed.message == "it was poisoned"
    assert callers.session.sizes == [32, 32, *[1] * 32], "once together, and once each alone"
    assert callers.engine.statistics()[0].failures == {"BACKEND": 1}


def test_those_that_come_while_a_failed_batch_runs_one_by_one_wait_behind_it(callers: Callers) -> None:
    callers.ask(1, rows=32)
    bad, good = callers.ask(POISON), callers.ask(2)
    callers.session.go(2)
    callers.until_run(3)
    later = callers.ask(3)
    callers.session.go_on()
    assert values([good, later]) == [4, 6]
    assert bad.result().error is not None
    assert [run[0, 0] for run in callers.session.runs[2:]] == [POISON, 2, 3]


def test_a_model_that_gives_a_batch_other_rows_is_run_one_by_one_and_never_batched_again(
    callers: Callers, caplog: pytest.LogCaptureFixture
) -> None:
    callers.session.answer = lambda x: x[:1] * 2
    callers.ask(1)
    asked = callers.ask_many(4)
    callers.session.go(6)
    assert values(asked) == [20, 22, 24, 26]
    assert callers.session.sizes == [1, 3, 1, 1, 1, 1]
    asked = callers.ask_many(3)
    callers.session.go_on()
    assert values(asked) == [20, 22, 24]
    assert callers.session.sizes[6:] == [1, 1, 1]
    assert "is not batched any more: the model was sent 3 rows and gave 'y' of shape [1, 2]" in caplog.text


def test_a_model_that_ends_its_run_with_more_than_an_error_strands_nobody(callers: Callers) -> None:
    def leave(_: object) -> None:
        raise SystemExit

    callers.session.answer = leave  # type: ignore[assignment]
    callers.ask(1, rows=32)
    asked = callers.ask_many(3)
    callers.session.go_on()
    for future in asked:
        error = future.result(60).error
        assert isinstance(error, ModelFailed)
        assert "SystemExit" in error.message


def test_a_run_that_hangs_is_ended_and_the_others_of_its_batch_are_answered(callers: Callers) -> None:
    callers.ask(1, rows=32)
    good = callers.ask_many(2)
    hanging = callers.ask(HANGS)
    good += callers.ask_many(2)
    callers.session.go_on()
    callers.until_run(2)
    callers.sessions.terminate_runs(longer_than_s=0)  # the batch, and soon the one that hangs
    until_answered(good, 2)
    callers.sessions.terminate_runs(longer_than_s=0)
    assert values(good) == [20, 22, 20, 22]
    error = hanging.result(60).error
    assert isinstance(error, ModelFailed)
    assert error.reason == "RUN_TERMINATED"


def test_the_first_of_those_that_wait_cancels_and_the_seven_are_answered(callers: Callers) -> None:
    first = callers.ask(1, rows=32)
    request = callers.request(2)
    leading = callers.send(request)
    seven = callers.ask_many(7)
    request.cancel()
    error = leading.result(60).error  # at once: nothing has run since
    assert isinstance(error, Cancelled)
    callers.session.go_on()
    assert values([first, *seven]) == [2, 20, 22, 24, 26, 28, 30, 32]
    assert callers.session.sizes == [32, 7], "it never reached the runtime"
    assert callers.engine.statistics()[0].failures == {"CANCELED": 1}


def test_who_runs_cancels_and_those_that_wait_are_answered(callers: Callers) -> None:
    request = callers.request(1, rows=32)
    running = callers.send(request)
    seven = callers.ask_many(7)
    request.cancel()
    callers.session.go_on()
    assert values(seven) == [20, 22, 24, 26, 28, 30, 32]
    assert value_of(running.result()) == 2, "it had begun"


def test_one_that_leads_and_cancels_before_its_run_hands_the_lead_on() -> None:
    with calling() as callers:
        loading = threading.Event()
        load = callers.sessions._load
        callers.sessions._load = lambda *given: loading.wait(60) and load(*given)  # type: ignore[assignment]
        request = callers.request(1)
        leading = callers._pool.submit(callers.engine.infer, request)
        wait_until(lambda: callers.queue.running == 1)
        seven = callers.ask_many(7)
        request.cancel()
        loading.set()
        callers.session.go_on()
        assert isinstance(leading.result(60).error, Cancelled)
        assert values(seven) == [20, 22, 24, 26, 28, 30, 32]


def test_one_that_gathers_others_and_cancels_hands_the_lead_on_at_once() -> None:
    with calling(serving=ServingSettings(max_queue_delay_us=LONG_US)) as callers:
        request = callers.request(1)
        gathering = callers._pool.submit(callers.engine.infer, request)
        wait_until(lambda: request.on_cancel is not None)
        other = callers.ask(2)
        request.cancel()
        callers.session.go_on()
        assert isinstance(gathering.result(60).error, Cancelled)
        assert values([other]) == [4]
        gone = callers.request(3)
        gone.cancel()
        assert isinstance(callers.engine.infer(gone).error, Cancelled)


def test_one_that_cancels_while_its_model_loads_waits_for_nobody() -> None:
    with calling(serving=ServingSettings(max_queue_delay_us=LONG_US)) as callers:
        request = callers.request(1)

        def load(*_: object) -> ToldSession:
            request.cancel()
            return callers.session

        callers.sessions._load = load
        assert isinstance(callers._pool.submit(callers.engine.infer, request).result(60).error, Cancelled)


def test_one_that_waits_and_is_answered_in_time_hears_nothing_of_its_deadline(callers: Callers) -> None:
    first, second = callers.ask(1), callers.ask(2, timeout_ns=10**11)
    callers.session.go_on()
    assert values([first, second]) == [2, 4]


def test_a_request_that_was_cancelled_before_it_came_does_not_wait(callers: Callers) -> None:
    callers.ask(1)
    heard: list[InferenceAnswer] = []
    request = callers.request(2)
    request.cancel()
    callers.engine.submit(request, heard.append)
    assert isinstance(heard[0].error, Cancelled)
    assert callers.queue.waiting == 0


def test_a_cancelled_request_of_a_failed_batch_is_not_run_again(callers: Callers) -> None:
    callers.ask(1, rows=32)
    requests = [callers.request(value) for value in (2, POISON, 3)]
    asked = [callers.send(request) for request in requests]
    callers.session.go()
    callers.until_run(2)
    requests[2].cancel()
    callers.session.go_on()
    assert value_of(asked[0].result(60)) == 4
    assert isinstance(asked[2].result(60).error, Cancelled)
    assert asked[1].result(60).error is not None
    assert callers.session.sizes == [32, 3, 1, 1]


def test_a_cancelled_request_of_a_failed_batch_hears_so_while_the_first_runs_alone(callers: Callers) -> None:
    callers.ask(1, rows=32)
    requests = [callers.request(value) for value in (2, POISON, 3)]
    asked = [callers.send(request) for request in requests]
    callers.session.go()
    callers.until_run(2)
    requests[2].cancel()
    callers.session.go()
    callers.until_run(3)
    assert isinstance(asked[2].result(60).error, Cancelled)
    assert not asked[0].done()


def test_a_blocking_request_that_is_late_is_answered_while_the_model_still_runs(callers: Callers) -> None:
    callers.ask(1)
    late = callers.engine.infer(callers.request(2, deadline_ns=time.monotonic_ns() + 10**6))
    assert isinstance(late.error, DeadlineExceeded)
    assert "Request timeout expired" in late.error.message
    assert callers.queue.waiting == 0


@pytest.mark.parametrize("whose", ["the request's", "the version's", "the tighter of both"])
def test_a_request_waits_as_long_as_it_may_and_no_longer(whose: str) -> None:
    serving = ServingSettings(timeout_ms=0 if whose == "the request's" else 1)
    more = {"timeout_ns": 10**6} if whose == "the request's" else {}
    if whose == "the tighter of both":
        more = {"deadline_ns": time.monotonic_ns() + 10**11}
    with calling(serving=serving) as callers:
        running = callers.ask(1, timeout_ns=10**11)
        late = callers.engine.infer(callers.request(2, **more))
        assert isinstance(late.error, DeadlineExceeded)
        assert late.error.reason == "REQUEST_TIMEOUT"
        callers.session.go_on()
        assert values([running]) == [2], "a run that has begun is not given up"


def test_late_requests_of_streams_are_dropped_when_a_batch_is_formed(callers: Callers) -> None:
    heard: list[InferenceAnswer] = []
    callers.ask(1, rows=32)
    first = callers.ask(2)
    callers.engine.submit(callers.request(3, timeout_ns=1), heard.append)
    last = callers.ask(4)
    callers.session.go_on()
    assert values([first, last]) == [4, 8]
    wait_until(lambda: len(heard) == 1)
    assert isinstance(heard[0].error, DeadlineExceeded)
    assert callers.session.sizes == [32, 2]


def test_one_that_is_late_when_its_turn_comes_hands_the_lead_on(callers: Callers) -> None:
    heard: list[InferenceAnswer] = []
    callers.ask(1, rows=32)
    callers.engine.submit(callers.request(3, timeout_ns=1), heard.append)
    last = callers.ask(4)
    callers.session.go_on()
    assert values([last]) == [8]
    assert isinstance(heard[0].error, DeadlineExceeded)


def test_one_that_is_late_while_its_batch_runs_has_its_answer_all_the_same(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()
    withdraw = Lane._withdraw

    def try_to_leave(lane: Lane, ticket: Ticket, error: Exception) -> bool:
        left = withdraw(lane, ticket, error)
        tried.set()
        return left

    monkeypatch.setattr(Lane, "_withdraw", try_to_leave)
    callers.ask(1, rows=32)
    other = callers.ask(2)
    lane = callers.engine._lanes[callers.version.key]
    ticket = Ticket(callers.request(3), None, time.monotonic_ns())
    assert not lane.admit(ticket)
    callers.session.go()
    callers.until_run(2)
    assert ticket.state is State.TAKEN
    ticket.start_by_ns = 1  # its time is up, and it must not leave the batch that it is in
    waiting = callers._pool.submit(lane.wait, ticket)
    assert tried.wait(60)
    callers.session.go_on()
    waiting.result(60)
    assert values([other]) == [4]
    assert value_of(ticket.answer) == 6


def test_each_that_waits_hears_why_the_model_does_not_load() -> None:
    with calling() as callers:
        loading = threading.Event()

        def fail(*_: object) -> object:
            loading.wait(60)
            raise FailedPrecondition("it is broken", reason="MODEL_LOAD_FAILED")

        callers.sessions._load = fail  # type: ignore[assignment]
        asked = [callers._pool.submit(callers.engine.infer, callers.request(number)) for number in range(5)]
        wait_until(lambda: callers.queue.waiting == 4)
        loading.set()
        for future in asked:
            error = future.result(60).error
            assert isinstance(error, FailedPrecondition)
            assert error.reason == "MODEL_LOAD_FAILED"


def test_a_model_that_is_unloaded_while_requests_wait_is_loaded_again(callers: Callers) -> None:
    first = callers.ask(1)
    others = callers.ask_many(2)
    callers.sessions.unload(callers.version.key)
    callers.session.go_on()
    assert values([first, *others]) == [2, 20, 22]
    assert callers.sessions.counters.loads == 2


def test_counts_that_cannot_be_kept_strand_nobody(callers: Callers, caplog: pytest.LogCaptureFixture) -> None:
    first = callers.ask(1)
    others = callers.ask_many(2)
    lane = callers.engine._lanes[callers.version.key]
    lane.statistics = BrokenStatistics(callers.version, in_flight=3)
    callers.session.go_on()
    assert values([first, *others]) == [2, 20, 22]
    assert "could not be counted" in caplog.text


class BrokenStatistics(VersionStatistics):
    """Counts that are kept where nothing can be written."""

    def count_success(self, rows: int, timings: Timings) -> None:
        """Fail."""
        raise OSError("no space left on device")
