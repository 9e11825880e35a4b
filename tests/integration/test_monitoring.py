"""Monitoring over its socket and a real PostgreSQL: from an event to a model's metrics."""

from __future__ import annotations

import pytest

from tests.monitoring import Monitoring, labels, new_event


def test_an_event_and_its_feedback_become_metrics(monitoring: Monitoring) -> None:
    event = new_event(prediction=labels(2, 0, 1), row_count=3, confidence=0.9, user_id="u", session_id="s")
    assert monitoring.record(event) == ["STORED"]
    found = monitoring.get(event.inference_id)
    event.request_id = event.inference_id
    assert found.event == event
    assert [value.number_value for value in found.outcomes] == [2, 0, 1]
    assert monitoring.listed() == [event.inference_id]
    for row, actual in enumerate((2, 0, 2)):
        answer = monitoring.feedback(event.inference_id, row=row, actual=actual)
        assert answer.matched
        assert answer.feedback.correct is (row < 2)
        assert answer.feedback.recorded_by == "anonymous"
    metrics = monitoring.metrics()
    assert (metrics.inference_count, metrics.row_count, metrics.error_count) == (1, 3, 0)
    assert (metrics.feedback_count, metrics.judged_count, metrics.correct_count) == (3, 3, 2)
    assert metrics.accuracy == pytest.approx(2 / 3)
    assert metrics.p99_latency_ms == 1.5
    assert metrics.average_confidence == pytest.approx(0.9)
    assert metrics.throughput_per_s == pytest.approx(1 / 3600)


def test_a_known_event_is_a_duplicate_and_changes_nothing(monitoring: Monitoring) -> None:
    first, second = new_event(model="first"), new_event()
    assert monitoring.record(first) == ["STORED"]
    again = new_event(inference_id=first.inference_id, model="second")
    assert monitoring.record(again, second, second) == ["DUPLICATE", "STORED", "DUPLICATE"]
    assert monitoring.get(first.inference_id).event.model == "first"
    assert monitoring.query("SELECT count(*) FROM monitoring.inferences") == [(2,)]


def test_one_bad_event_among_a_thousand_is_refused_alone(monitoring: Monitoring) -> None:
    events = [new_event() for _ in range(1_000)]
    events[500].inference_id = "not-an-id"
    outcomes = monitoring.record(*events)
    assert outcomes[500] == "INVALID_ID"
    assert outcomes.count("STORED") == 999
