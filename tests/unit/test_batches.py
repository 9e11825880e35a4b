"""Who runs with whom: requests that come while their model is busy run together, and each is answered as if alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.common.errors import DeadlineExceeded
from services.inference.engine.engine import EngineLimits, InferenceAnswer, InferenceRequest
from services.inference.models import ModelFailed, ServingSettings, Signature, TensorSpec
from tests.batching import LONG_US, Callers, calling, until_answered, value_of, values
from tests.serving import wait_until


@pytest.fixture
def callers() -> Iterator[Callers]:
    with calling(limits=EngineLimits(max_batch_size=8)) as callers:
        yield callers


def test_a_request_that_finds_its_model_idle_runs_at_once_on_its_own_thread(callers: Callers) -> None:
    callers.session.go_on()
    assert value_of(callers.engine.infer(callers.request(3))) == 6
    assert callers.session.threads == [threading.get_ident()]
    assert callers.session.runs[0].base is None, "its own array, not a copy"


def test_those_that_come_meanwhile_run_as_one_and_each_has_its_own_rows(callers: Callers) -> None:
    first = callers.ask(1)
    others = [callers.ask(2, rows=2), callers.ask(3), callers.ask(4)]
    assert (callers.queue.waiting, callers.queue.waiting_rows) == (3, 4)
    callers.session.go_on()
    assert values([first, *others]) == [2, 4, 6, 8]
    assert others[0].result().outputs["y"].shape == (2, 2)
    assert callers.session.sizes == [1, 3, 1]


def test_an_answer_from_a_batch_is_a_view_of_it(callers: Callers) -> None:
    callers.ask(rows=8)
    others = [callers.ask(2, rows=2), callers.ask(3)]
    callers.session.go_on()
    outputs = [other.result().outputs["y"] for other in others]
    assert outputs[0].base is not None
    assert all(output.flags["C_CONTIGUOUS"] for output in outputs)


def test_batches_of_one_and_of_all_the_others_do_not_take_turns(callers: Callers) -> None:
    # Eight callers, each of which asks anew once it is answered: the classic closed loop.
    asked = callers.ask_many(8)
    for round_number in range(1, 7):
        callers.session.go()
        until_answered(asked, callers.session.sizes[round_number - 1])
        callers.until_run(round_number + 1)
        answered = [future for future in asked if future.done()]
        asked = [future for future in asked if not future.done()] + [callers.ask() for _ in answered]
    assert callers.session.sizes == [1, 4, 4, 4, 4, 4, 4]


def test_rows_are_counted_and_not_requests(callers: Callers) -> None:
    callers.ask(1, rows=8)
    others = [callers.ask(2, rows=5), callers.ask(3, rows=5), callers.ask(4, rows=3)]
    callers.session.go_on()
    assert values(others) == [4, 6, 8]
    assert callers.session.sizes == [8, 8, 5], "the third fits beside the first, and the second leads next"


def test_a_request_of_more_rows_than_a_batch_has_runs_alone(callers: Callers) -> None:
    callers.ask(1, rows=8)
    others = [callers.ask(2, rows=20), callers.ask(3), callers.ask(4)]
    callers.session.go_on()
    assert values(others) == [4, 6, 8]
    assert callers.session.sizes == [8, 20, 2]


def test_shapes_that_disagree_never_meet_in_one_batch(callers: Callers) -> None:
    callers.ask(1, rows=8)
    others = [callers.ask(number, columns=2 + number % 2) for number in range(6)]
    callers.session.go_on()
    assert values(others) == [0, 2, 4, 6, 8, 10]
    assert [run.shape for run in callers.session.runs] == [(8, 2), (3, 2), (3, 3)]


def test_requests_for_different_outputs_never_meet_in_one_batch(callers: Callers) -> None:
    callers.ask(1, rows=8)
    others = [callers.ask(2, outputs=("y",)), callers.ask(3), callers.ask(4, outputs=("y",))]
    callers.session.go_on()
    assert values(others) == [4, 6, 8]
    assert callers.session.sizes == [8, 2, 1]


def test_inputs_whose_rows_disagree_run_alone_and_are_the_models_to_refuse() -> None:
    two = Signature(
        (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("z", "FP32", (-1,))), (TensorSpec("y", "FP32", (-1, 2)),)
    )
    with calling(signature=two) as callers:
        x, z = np.ones((1, 2), np.float32), np.ones(1, np.float32)
        callers.send(InferenceRequest("doubler", "", {"x": np.ones((8, 2), np.float32), "z": np.ones(8, np.float32)}))
        others = [
            callers.send(InferenceRequest("doubler", "", {"x": x, "z": rows}))
            for rows in (z, np.ones(3, np.float32), z)
        ]
        callers.session.go_on()
        assert values(others) == [2, 2, 2]
        assert callers.session.sizes == [8, 2, 1]


def test_a_batch_of_no_rows_is_the_models_own_affair(callers: Callers) -> None:
    callers.ask(1, rows=8)
    empty, full = callers.ask(rows=0), callers.ask(3)
    callers.session.go_on()
    assert empty.result().outputs["y"].shape == (0, 2)
    assert empty.result().row_count == 0
    assert values([full]) == [6]
    assert callers.session.sizes == [8, 0, 1]


@pytest.mark.parametrize(
    ("independent", "serving"),
    [(False, ServingSettings(max_batch_size=8)), (True, ServingSettings(max_batch_size=1))],
    ids=["rows depend on each other", "never batched, by its settings"],
)
def test_such_a_version_is_never_batched(independent: bool, serving: ServingSettings) -> None:
    with calling(independent=independent, serving=serving) as callers:
        asked = callers.ask_many(4)
        callers.session.go_on()
        assert values(asked) == [20, 22, 24, 26]
        assert callers.session.sizes == [1, 1, 1, 1]


def test_a_signature_without_rows_is_never_batched() -> None:
    fixed = Signature((TensorSpec("x", "FP32", (1, 2)),), (TensorSpec("y", "FP32", (1, 2)),))
    with calling(signature=fixed) as callers:
        asked = callers.ask_many(3)
        callers.session.go_on()
        assert values(asked) == [20, 22, 24]
        assert callers.session.sizes == [1, 1, 1]


@pytest.mark.parametrize("source", ["the version", "the session", "the server"])
def test_as_many_runs_go_on_at_once_as_are_wanted(source: str) -> None:
    serving = ServingSettings(instances=2 if source == "the version" else 0)
    limits = EngineLimits(parallel_runs=2 if source == "the server" else 7)
    with calling(independent=False, serving=serving, limits=limits) as callers:
        if source == "the session":
            callers.session.max_parallel_runs = 2  # type: ignore[attr-defined]
        asked = callers.ask_many(2)
        callers.until_run(2)
        asked += callers.ask_many(2)
        assert (callers.queue.running, callers.queue.waiting) == (2, 2)
        callers.session.go_on()
        assert values(asked) == [20, 22, 20, 22]


def test_those_that_waited_for_the_load_run_as_soon_as_more_runs_than_one_may_go_on() -> None:
    with calling(independent=False, serving=ServingSettings(instances=3)) as callers:
        loading = threading.Event()
        load = callers._load
        callers.sessions._load = lambda *given: loading.wait(60) and load(*given)  # type: ignore[assignment]
        asked = [callers._pool.submit(callers.engine.infer, callers.request(number)) for number in range(4)]
        wait_until(lambda: callers.queue.waiting == 3)
        loading.set()
        callers.until_run(3)
        assert (callers.queue.running, callers.queue.waiting) == (3, 1)
        callers.session.go_on()
        assert sorted(values(asked)) == [0, 2, 4, 6]


def test_fewer_runs_at_once_hold_from_the_next_run_on() -> None:
    with calling(independent=False, serving=ServingSettings(instances=2)) as callers:
        asked = callers.ask_many(2)
        callers.until_run(2)
        callers.version = replace(callers.version, serving=ServingSettings(instances=1))
        asked += callers.ask_many(2)
        callers.session.go()  # who runs next learns of it
        callers.until_run(3)
        callers.session.go()
        wait_until(lambda: callers.queue.running == 1)
        assert callers.queue.waiting == 1
        callers.session.go_on()
        assert values(asked) == [20, 22, 20, 22]


def test_who_leads_under_steady_overload_is_answered_with_its_own_batch(callers: Callers) -> None:
    asked = [callers.ask(1), *callers.ask_many(12)]
    for run in range(1, 6):
        callers.session.go()
        callers.until_run(run + 1)  # and there it stands, with more behind it
        until_answered(asked, sum(callers.session.sizes[:run]))
        asked += callers.ask_many(4)
    callers.session.go_on()
    values(asked)


def test_the_statistics_count_a_batch_as_one_run(callers: Callers) -> None:
    first = callers.ask(1, rows=8)
    others = callers.ask_many(3)
    assert callers.queue.oldest_s > 0
    callers.session.go_on()
    values([first, *others])
    (counts,) = callers.engine.statistics()
    assert (counts.successes, counts.inferences, counts.executions) == (4, 11, 2)
    assert {rows: tally.executions for rows, tally in counts.batches.items()} == {8: 1, 3: 1}
    timings = others[0].result().timings
    assert timings.queue_ns > 0
    parts = (timings.queue_ns, timings.compute_input_ns, timings.compute_infer_ns, timings.compute_output_ns)
    assert sum(parts) <= timings.total_ns
    assert callers.queue.oldest_s == 0


def gather(callers: Callers, value: float, **more: Any) -> Future[InferenceAnswer]:
    """Send a request, and wait until it waits for others."""
    request = callers.request(value, **more)
    future = callers._pool.submit(callers.engine.infer, request)
    wait_until(lambda: request.on_cancel is not None)
    return future


def test_requests_that_find_the_model_idle_wait_for_others_where_the_version_says_so() -> None:
    serving = ServingSettings(max_batch_size=3, max_queue_delay_us=LONG_US)
    with calling(serving=serving) as callers:
        callers.session.go_on()
        asked = [gather(callers, 1), callers.ask(2), callers.ask(3)]
        assert values(asked) == [2, 4, 6]
        assert callers.session.sizes == [3], "a full batch waits no longer"


def test_a_full_batch_ends_the_waiting_for_others() -> None:
    with calling(serving=ServingSettings(max_batch_size=2, max_queue_delay_us=LONG_US)) as callers:
        callers.session.go_on()
        assert values([gather(callers, 1), callers.ask(2)]) == [2, 4]


@pytest.mark.parametrize("ends", ["full", "cancelled"])
def test_what_cannot_join_runs_on_an_idle_instance_once_the_waiting_for_others_ends(ends: str) -> None:
    serving = ServingSettings(max_batch_size=3, max_queue_delay_us=LONG_US, instances=3)
    with calling(serving=serving) as callers:
        callers.session.go()
        assert values([callers.ask(1, rows=3)]) == [2]  # full by itself: now the model is loaded
        request = callers.request(2)
        gathering = callers._pool.submit(callers.engine.infer, request)
        wait_until(lambda: request.on_cancel is not None)
        others = [callers.ask(3, columns=3)]
        if ends == "full":
            others.append(callers.ask(4, columns=4))
            callers.until_run(4)
        else:
            request.cancel()
            callers.until_run(2)
        callers.session.go_on()
        assert values(others) == [6, 8][: len(others)]
        assert (gathering.result(60).error is None) is (ends == "full")


def test_nobody_waits_for_others_past_its_own_deadline() -> None:
    with calling(serving=ServingSettings(max_queue_delay_us=LONG_US)) as callers:
        callers.session.go_on()
        answer = gather(callers, 1, timeout_ns=10**8).result(60)
        assert isinstance(answer.error, DeadlineExceeded)


def test_one_that_waits_for_others_in_vain_runs_alone() -> None:
    with calling(serving=ServingSettings(max_queue_delay_us=1000)) as callers:
        callers.session.go_on()
        assert value_of(callers.engine.infer(callers.request(1))) == 2
        assert value_of(callers.engine.infer(callers.request(1, rows=50))) == 2
        assert callers.session.sizes == [1, 50]


def test_one_error_on_the_way_out_harms_no_neighbour(callers: Callers) -> None:
    heard: list[InferenceAnswer] = []

    def fail(answer: InferenceAnswer) -> None:
        heard.append(answer)
        raise RuntimeError("the caller broke")

    callers.ask(1, rows=8)
    callers.engine.submit(callers.request(2), fail)
    neighbours = callers.ask_many(2)
    callers.session.go_on()
    assert values(neighbours) == [20, 22]
    assert value_of(heard[0]) == 4


def test_a_model_that_gives_another_number_of_rows_is_the_callers_failure(callers: Callers) -> None:
    callers.session.go_on()
    callers.session.answer = lambda x: x[1:]
    answer = callers.engine.infer(callers.request(1, rows=2))
    assert isinstance(answer.error, ModelFailed)
    assert answer.error.reason == "WRONG_ROW_COUNT"
    assert "was sent 2 rows and gave 'y' of shape [1, 2]" in answer.error.message
