"""kill -9 while predictions flow: every event that reached the spool is in the database exactly once."""

from __future__ import annotations

import pytest

from penstock import Unavailable
from penstock.api.monitoring.v1.monitoring_pb2 import InferenceEvent
from services.inference.events.segments import parse, segment_paths
from tests.embedded import eventually
from tests.suite import Callers, RunningSuite, start_suite, suite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # ten thousand predictions take as long as they take
__all__ = ["start_suite", "suite"]


def stored(suite: RunningSuite, *, by: str = "%") -> set[str]:
    """What is in the database, of some callers: no inference twice, and no request twice."""
    rows = suite.query(f"SELECT inference_id::text, request_id FROM monitoring.inferences WHERE user_id LIKE '{by}'")
    ids = {inference_id for inference_id, _ in rows}
    assert len(rows) == len(ids) == len({request_id for _, request_id in rows})
    return ids


def spooled(suite: RunningSuite) -> set[str]:
    """What a dead inference service left in its spool."""
    paths = [path for folder in suite.folder.spool.glob("slot-*") for path in segment_paths(folder)]
    records = [record for path in paths for record in parse(path.read_bytes()).records]
    return {InferenceEvent.FromString(record).inference_id for record in records}


def test_monitoring_killed_while_10000_predictions_flow_costs_no_answer_and_no_event(suite: RunningSuite) -> None:
    with Callers(suite.client) as callers:
        for _ in range(3):
            callers.wait_for(2_500)
            suite.kill("monitoring")
        callers.wait_for(2_500)
    assert callers.all_failures == []
    answered = {inference_id for each in callers.answered for inference_id in each}
    assert len(answered) == callers.answer_count >= 10_000
    eventually(lambda: stored(suite, by="caller-%") == answered)
    assert suite.state.restarts == {"monitoring": 3}


def test_inference_killed_while_10000_predictions_flow_loses_nothing_that_reached_the_spool(
    suite: RunningSuite,
) -> None:
    """And what it loses is the last of what it held in memory: whatever it counted as written is there."""
    reached: set[str] = set()
    told = [0, 0, 0, 0]
    with Callers(suite.client, len(told)) as callers:
        for monitoring_is_down in (False, True, False):
            callers.wait_for(2_500)
            with suite.unsupervised():
                if monitoring_is_down:
                    suite.kill("monitoring")
                    callers.wait_for(500)
                written = suite.metrics("inference")["penstock_spool_written_events_total"]
                suite.kill("inference")
                callers.wait_for_refusals()
                left = spooled(suite)
                found = left | stored(suite)
            assert len(left) >= (400 if monitoring_is_down else 0)
            assert reached <= found
            assert len(found) - len(reached) >= written
            for caller, ids in enumerate(callers.answered):
                kept = [inference_id in found for inference_id in ids[told[caller] :]]
                told[caller] += len(kept)
                assert kept == sorted(kept, reverse=True), "an event is gone that came before one that is kept"
            reached = found
        callers.wait_for(2_500)
    assert callers.answer_count >= 10_000
    assert {type(failure) for failure in callers.all_failures} == {Unavailable}
    last = {inference_id for caller, ids in enumerate(callers.answered) for inference_id in ids[told[caller] :]}
    eventually(lambda: reached | last <= stored(suite))
    eventually(lambda: not spooled(suite))
    assert suite.state.restarts == {"inference": 3, "monitoring": 1}
