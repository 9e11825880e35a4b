"""PostgreSQL gone from under the running suite: frozen, so that it takes connections and answers nothing, and dead."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import psutil
import pytest

from penstock import Client, Unavailable
from penstock.ids import uuid7
from penstock.retries import NO_RETRIES
from tests.embedded import eventually
from tests.suite import Callers, RunningSuite, start_suite, suite

pytestmark = pytest.mark.slow
__all__ = ["start_suite", "suite"]
NEED_IT = ("registry", "monitoring")


@contextmanager
def frozen(suite: RunningSuite) -> Iterator[None]:
    """Stop PostgreSQL's processes in the middle of whatever they do."""
    postmaster = suite.process("postgres")
    postmaster.suspend()  # first: it then starts no other
    eventually(lambda: stands(postmaster))
    processes = [postmaster, *postmaster.children()]
    for process in processes[1:]:
        process.suspend()
    eventually(lambda: all(map(stands, processes)))
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def stands(process: psutil.Process) -> bool:
    """Say whether it does nothing; one that ended just before remains, as nobody who is stopped counts it."""
    return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)


@contextmanager
def dead(suite: RunningSuite) -> Iterator[None]:
    """Kill PostgreSQL, and let nobody start it again meanwhile."""
    with suite.unsupervised():
        suite.kill("postgres")
        yield


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(Unavailable) as refused:
        call()
    return refused.value.reason


def test_predictions_go_on_without_postgresql_and_all_their_events_arrive_after_it_is_back(
    suite: RunningSuite,
) -> None:
    outages: list[Callable[[RunningSuite], AbstractContextManager[None]]] = [frozen, dead]
    with Callers(suite.client) as callers, suite.client(retry=NO_RETRIES) as client:
        callers.wait_for(500)
        for outage in outages:
            with outage(suite):
                eventually(lambda: not any(map(suite.is_serving, NEED_IT)))
                for call in calls_of_the_database(client):
                    assert refusal(call) == "DATABASE_UNAVAILABLE"
                callers.wait_for(500)
                assert suite.is_serving("inference")
            eventually(lambda: all(map(suite.is_serving, NEED_IT)))
            for call in calls_of_the_database(client):
                call()
            callers.wait_for(500)
    assert callers.all_failures == []
    answered = {inference_id for each in callers.answered for inference_id in each}
    statement = "SELECT inference_id::text FROM monitoring.inferences WHERE user_id LIKE 'caller-%'"
    eventually(lambda: {row[0] for row in suite.query(statement)} == answered)
    assert suite.state.restarts == {"postgres": 1}


def calls_of_the_database(client: Client) -> list[Callable[[], object]]:
    return [
        lambda: client.registry.get_model("tiny"),
        lambda: client.registry.promote("tiny", "1"),
        lambda: client.monitoring.get_metrics("tiny"),
        lambda: client.monitoring.record_feedback(uuid7(), correct=True),
    ]
