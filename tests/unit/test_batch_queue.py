"""How long the queue may be, who goes first, and those that lend no thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import Cancelled, ResourceExhausted
from services.inference.engine import runners
from services.inference.engine.engine import EngineLimits, InferenceAnswer, InferenceRequest
from services.inference.models import ModelFailed, QueueFullAction, ServingSettings
from tests.batching import POISON, Callers, calling, value_of, values
from tests.serving import wait_until


def submit(callers: Callers, value: float, **more: Any) -> list[InferenceAnswer]:
    """Submit a request without waiting; its answer will be in the list."""
    heard: list[InferenceAnswer] = []
    callers.engine.submit(callers.request(value, **more), heard.append)
    return heard


def refusal(answer: InferenceAnswer) -> str:
    """The sentence of a refusal at the queue's limit."""
    assert isinstance(answer.error, ResourceExhausted)
    assert answer.error.reason == "QUEUE_FULL"
    assert "Exceeds maximum queue size" in answer.error.message
    return answer.error.message


@pytest.mark.parametrize(
    ("serving", "limits"),
    [(ServingSettings(max_queue_size=2), EngineLimits()), (ServingSettings(), EngineLimits(max_queue_size=2))],
    ids=["the version's", "the server's"],
)
def test_a_queue_at_its_limit_refuses(serving: ServingSettings, limits: EngineLimits) -> None:
    with calling(serving=serving, limits=limits) as callers:
        running, waiting = callers.ask(1), callers.ask_many(2)
        assert "2 requests for doubler wait" in refusal(callers.engine.infer(callers.request(2)))
        assert "2 requests for doubler wait" in refusal(submit(callers, 2)[0])
        callers.session.go_on()
        assert values([running, *waiting]) == [2, 20, 22]
        assert callers.engine.statistics()[0].failures == {"REJECTED": 2}


DISPLACING = ServingSettings(
    max_batch_size=1,
    max_queue_size=3,
    queue_full_action=QueueFullAction.DISPLACE,
    priority_levels=3,
    default_priority=2,
)


def test_a_full_queue_gives_up_its_youngest_of_the_lowest_priority_for_a_more_urgent_request() -> None:
    with calling(serving=DISPLACING) as callers:
        callers.ask(1)
        older, younger, middle = callers.ask(2, priority=3), callers.ask(3, priority=3), callers.ask(4)
        urgent = callers.ask(5, priority=1)
        assert "a more urgent request took this one's place" in refusal(younger.result(60))
        refusal(callers.engine.infer(callers.request(6, priority=3)))
        also = callers.ask(7)
        refusal(older.result(60))
        refusal(callers.engine.infer(callers.request(8)))
        callers.session.go_on()
        assert values([urgent, middle, also]) == [10, 8, 14]


def test_a_full_share_of_threads_gives_up_one_that_lent_its_own() -> None:
    with calling(serving=DISPLACING, limits=EngineLimits(max_in_flight=2)) as callers:
        callers.ask(1)
        lends, lends_none = callers.ask(2, priority=3), submit(callers, 3, priority=3)
        urgent = callers.ask(4, priority=1)
        refusal(lends.result(60))
        refusal(callers.engine.infer(callers.request(5, priority=1)))
        callers.session.go_on()
        assert values([urgent]) == [8]
        wait_until(lambda: len(lends_none) == 1)
        assert value_of(lends_none[0]) == 6


def test_the_most_urgent_go_first_and_within_a_level_the_oldest() -> None:
    serving = ServingSettings(max_batch_size=1, priority_levels=3, default_priority=2)
    with calling(serving=serving) as callers:
        asked = [callers.ask(1)]
        for value, priority in ((2, 3), (3, 0), (4, 1), (5, 9), (6, 1), (7, 3)):
            asked.append(callers.ask(value, priority=priority))
        callers.session.go_on()
        values(asked)
        assert [run[0, 0] for run in callers.session.runs] == [1, 4, 6, 3, 5, 2, 7]


def test_without_a_default_the_last_level_is_where_requests_go_that_name_none() -> None:
    with calling(serving=ServingSettings(max_batch_size=1, priority_levels=2)) as callers:
        asked = [callers.ask(1), callers.ask(2), callers.ask(3, priority=1)]
        callers.session.go_on()
        values(asked)
        assert [run[0, 0] for run in callers.session.runs] == [1, 3, 2]


def test_a_batch_takes_the_most_urgent_along_first() -> None:
    serving = ServingSettings(max_batch_size=2, priority_levels=2)
    with calling(serving=serving) as callers:
        asked = [callers.ask(1, rows=2), callers.ask(2), callers.ask(3), callers.ask(4, priority=1)]
        callers.session.go_on()
        values(asked)
        assert [run[:, 0].tolist() for run in callers.session.runs[1:]] == [[4, 2], [3]]


def test_settings_that_change_hold_for_those_that_wait_already() -> None:
    with calling(serving=ServingSettings(max_batch_size=1, priority_levels=2)) as callers:
        asked = [callers.ask(1), callers.ask(2), callers.ask(3, priority=1)]
        callers.version = replace(callers.version, serving=ServingSettings(max_batch_size=8))
        asked += [callers.ask(4)]
        callers.session.go_on()
        assert values(asked) == [2, 4, 6, 8]
        assert sorted(callers.session.sizes) == [1, 1, 2]


def test_submitting_never_waits_and_is_answered_on_a_runner() -> None:
    with calling() as callers:
        heard = [submit(callers, value) for value in range(4)]
        callers.session.go_on()
        wait_until(lambda: all(heard))
        assert [value_of(answers[0]) for answers in heard] == [0, 2, 4, 6]
        assert threading.get_ident() not in callers.session.threads


def test_submitted_requests_take_none_of_their_models_share_of_threads() -> None:
    with calling(limits=EngineLimits(max_in_flight=1)) as callers:
        heard = [submit(callers, value) for value in range(3)]
        blocking = callers.ask(3)
        refusal(callers.engine.infer(callers.request(4)))
        callers.session.go_on()
        assert values([blocking]) == [6]
        wait_until(lambda: all(heard))


def test_callers_and_runners_hand_the_lead_to_each_other() -> None:
    with calling(serving=ServingSettings(max_batch_size=1)) as callers:
        heard = [submit(callers, 0)]
        callers.until_run(1)
        asked = []
        for value in range(1, 4):
            asked.append(callers.ask(value))
            heard.append(submit(callers, value))
        callers.session.go_on()
        assert values(asked) == [2, 4, 6]
        wait_until(lambda: all(heard))
        assert [run[0, 0] for run in callers.session.runs] == [0, 1, 1, 2, 2, 3, 3]


def test_a_cancelled_submission_is_answered_at_once_and_never_runs() -> None:
    with calling() as callers:
        callers.ask(1)
        heard: list[InferenceAnswer] = []
        request = callers.request(2)
        callers.engine.submit(request, heard.append)
        request.cancel()
        assert isinstance(heard[0].error, Cancelled)
        request.cancel()
        assert len(heard) == 1
        callers.session.go_on()
    assert callers.session.sizes == [1]


class Manual(Executor):
    """Runs what it was given when told to, on the thread that tells."""

    def __init__(self) -> None:
        self.tasks: list[Callable[[], object]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Keep a task."""
        self.tasks.append(lambda: fn(*args, **kwargs))
        return Future()

    def run_all(self) -> None:
        """Run every task, those that come meanwhile too."""
        while self.tasks:
            self.tasks.pop(0)()


def test_a_runner_lets_other_versions_have_its_thread_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "RUNNER_BATCHES", 2)
    with calling(serving=ServingSettings(max_batch_size=1)) as callers:
        callers.session.go_on()
        callers.engine._runners._executor = manual = Manual()
        heard = [submit(callers, value) for value in range(5)]
        for batches in (2, 4, 5):
            manual.tasks.pop(0)()
            assert sum(map(len, heard)) == batches
        assert manual.tasks == []


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.sampled_from([1.0, 2.0, 3.0, POISON]),
            st.integers(0, 5),
            st.integers(0, 2),
            st.sampled_from([2, 3]),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("run")),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, during=STEPS)
def test_whatever_happens_everybody_is_answered_once_and_rightly(steps: Any, during: Any) -> None:
    """Any history of asking, cancelling and running; `during` is what happens in the midst of the runs."""
    serving = ServingSettings(
        max_batch_size=4, priority_levels=2, max_queue_size=6, queue_full_action=QueueFullAction.DISPLACE
    )
    with calling(serving=serving) as callers:
        callers.session.go_on()
        callers.engine._runners._executor = manual = Manual()
        asked: list[tuple[InferenceRequest, float, list[InferenceAnswer]]] = []
        midst = iter(during)

        def take(step: Any) -> None:
            if step[0] == "ask":
                _, value, rows, priority, columns = step
                request = callers.request(value, rows=rows, priority=priority, columns=columns)
                heard: list[InferenceAnswer] = []
                asked.append((request, value, heard))
                callers.engine.submit(request, heard.append)
            elif step[0] == "cancel" and step[1] < len(asked):
                asked[step[1]][0].cancel()

        def answer(x: Any) -> Any:
            for step in midst:
                if step[0] == "run":
                    break
                take(step)
            return x * 2

        callers.session.answer = answer
        for step in steps:
            take(step)
            if step[0] == "run":
                manual.run_all()
        manual.run_all()
        for request, value, heard in asked:
            assert len(heard) == 1
            error = heard[0].error
            if error is None:
                assert heard[0].outputs["y"].shape == request.inputs["x"].shape
                assert (heard[0].outputs["y"] == 2 * value).all()
                assert value != POISON or not request.inputs["x"].size
            elif isinstance(error, Cancelled):
                assert request.cancelled
            elif isinstance(error, ModelFailed):
                assert value == POISON
            else:
                refusal(heard[0])
        sizes = callers.session.sizes
        assert all(size <= 4 or size == 5 for size in sizes), "at most a batch's, or one request of more"
        assert callers.queue.waiting == callers.queue.waiting_rows == 0
