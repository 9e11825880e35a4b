"""What really happened: early, late, twice, corrected, contradicting; always joined, never counted twice."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from tests.monitoring import Monitoring, labels, new_event, new_id, reason, serve

INVALID = grpc.StatusCode.INVALID_ARGUMENT
EARLIER = datetime(2026, 1, 1, tzinfo=UTC)
LATER = EARLIER + timedelta(days=1)


@pytest.fixture
def monitoring(clone_database: Callable[[str], str]) -> Iterator[Monitoring]:
    """A monitoring service with nothing in it yet."""
    with serve(clone_database("monitoring")) as running:
        yield running


def counts(metrics: pb.GetMetricsResponse) -> tuple[int, int, int]:
    return metrics.feedback_count, metrics.judged_count, metrics.correct_count


def test_early_feedback_waits_for_its_event(monitoring: Monitoring) -> None:
    event = new_event(prediction=labels(1))
    early = monitoring.feedback(event.inference_id, actual=1)
    assert not early.matched
    assert not early.feedback.HasField("correct")
    assert not monitoring.metrics().HasField("accuracy")
    assert monitoring.record(event) == ["STORED"]
    assert counts(monitoring.metrics()) == (1, 1, 1)
    assert monitoring.get(event.inference_id).feedback[0].correct
    again = monitoring.feedback(event.inference_id, actual=1)
    assert again.matched
    assert again.feedback.correct


def test_an_outcome_that_no_prediction_can_equal_is_taken_with_the_values_that_they_have(
    monitoring: Monitoring,
) -> None:
    def warnings(event: pb.InferenceEvent, **fields: Any) -> list[str]:
        return list(monitoring.feedback(event.inference_id, **fields).warnings)

    def said(model: str, value: str) -> pb.InferenceEvent:
        prediction = pb.Payload()
        prediction.fields["label"] = value
        return new_event(model=model, prediction=prediction)

    numbers, texts = new_event(prediction=labels(0, 1), row_count=2), said("sentiment", "yes")
    unlabelled = new_event(model="embedder")
    monitoring.record(numbers, texts, said("sentiment", "no"), unlabelled)
    sentence = '"yes" is a text, and predictions of iris are numbers, such as 0, 1: it counts as wrong'
    assert warnings(numbers, actual="yes", row=1) == [sentence]
    (otherwise,) = warnings(texts, actual="Yes")
    assert 'predictions of sentiment are written otherwise, such as "no", "yes"' in otherwise
    assert "has no label to compare with" in warnings(unlabelled, actual="yes")[0]
    assert warnings(numbers, actual=1) == [], "another label is no mistake"
    assert warnings(texts, actual="no") == []
    assert warnings(numbers, actual="yes", correct=True) == []
    assert warnings(new_event(), actual="yes") == [], "nobody knows before it comes"


def test_the_latest_feedback_time_wins_and_the_history_stays(monitoring: Monitoring) -> None:
    event = new_event(prediction=labels(1))
    monitoring.record(event)
    tell = partial(monitoring.feedback, event.inference_id)
    assert tell(actual=1, feedback_time=LATER).feedback.correct
    # Said later of an earlier time: it joins the history, and changes nothing.
    assert tell(actual=2, feedback_time=EARLIER).feedback.actual_outcome.number_value == 1
    # Of the same time, the later arrival wins.
    assert not tell(actual=0, feedback_time=LATER).feedback.correct
    assert counts(monitoring.metrics()) == (1, 1, 0)
    found = monitoring.get(event.inference_id)
    assert [one.actual_outcome.number_value for one in found.feedback] == [0]
    assert [one.actual_outcome.number_value for one in found.feedback_history] == [1, 2, 0]
    assert [one.correct for one in found.feedback_history] == [True, False, False]
    assert found.feedback[0].feedback_time.ToDatetime(UTC) == LATER


def test_feedback_of_very_many_rows_is_counted_whole_and_shown_in_part(monitoring: Monitoring) -> None:
    event = new_event(row_count=300_000)
    monitoring.record(event)
    with psycopg.connect(monitoring.database_url) as connection:
        connection.execute(
            """
            INSERT INTO monitoring.feedback (inference_id, row_index, feedback_time, correct, recorded_by)
            SELECT %s, row_index, now(), true, 'anonymous' FROM generate_series(0, 299999) AS row_index
            """,
            [event.inference_id],
        )
    assert [one.row for one in monitoring.get(event.inference_id).feedback] == list(range(10_000))
    assert counts(monitoring.metrics()) == (300_000, 300_000, 300_000)


def test_the_same_again_is_no_news(monitoring: Monitoring) -> None:
    event = new_event(prediction=labels(1))
    monitoring.record(event)
    tell = partial(monitoring.feedback, event.inference_id)

    def history() -> list[float]:
        return [one.actual_outcome.number_value for one in monitoring.get(event.inference_id).feedback_history]

    for _ in range(3):
        tell(actual=1, feedback_time=EARLIER)
        tell(actual=1)
    assert history() == [1]
    tell(actual=2)
    tell(actual=2)
    tell(actual=1, feedback_time=EARLIER)
    assert history() == [1, 2]
    tell(actual=1)
    assert history() == [1, 2, 1]


def test_what_the_caller_judged_goes_before_the_comparison(monitoring: Monitoring) -> None:
    event = new_event(prediction=labels(1))
    monitoring.record(event)
    answer = monitoring.feedback(event.inference_id, actual=1, correct=False)
    assert answer.feedback.correct is False
    assert counts(monitoring.metrics()) == (1, 1, 0)


def test_correct_alone_is_enough_where_nothing_was_captured(monitoring: Monitoring) -> None:
    judged, unjudged = new_event(), new_event()
    monitoring.record(judged, unjudged)
    monitoring.feedback(judged.inference_id, correct=True)
    monitoring.feedback(unjudged.inference_id, actual="cat")
    assert counts(monitoring.metrics()) == (2, 1, 1)
    assert not monitoring.get(unjudged.inference_id).feedback[0].HasField("correct")


def prediction(**fields: Any) -> pb.Payload:
    payload = pb.Payload()
    payload.fields.update(fields)
    return payload


COMPARED = [
    (labels(2), 2.0, True),
    (labels(2), "2", True),
    (labels(2), "two", False),
    (labels(1), True, True),
    (labels(0), True, False),
    (prediction(label="setosa"), "setosa", True),
    (prediction(label="setosa"), "Setosa", False),
    (prediction(label="2"), 2, True),
    (prediction(label=True), True, True),
    (prediction(outcome=0.5, score=1), 0.5, True),
    (prediction(score=1.5), 1.5, True),
]


@pytest.mark.parametrize("early", [False, True])
def test_outcomes_are_compared_by_value(monitoring: Monitoring, early: bool) -> None:
    for captured, actual, right in COMPARED:
        event = new_event(prediction=captured)
        steps: list[Callable[[], object]] = [
            partial(monitoring.record, event),
            partial(monitoring.feedback, event.inference_id, actual=actual),
        ]
        for step in reversed(steps) if early else steps:
            step()
        assert monitoring.get(event.inference_id).feedback[0].correct is right, (captured, actual)


def test_a_row_that_the_inference_does_not_have_is_refused_or_never_joined(monitoring: Monitoring) -> None:
    event = new_event(prediction=labels(1, 1), row_count=2)
    monitoring.feedback(event.inference_id, row=2, actual=1)
    monitoring.feedback(event.inference_id, row=1, actual=1)
    monitoring.record(event)
    assert counts(monitoring.metrics()) == (1, 1, 1)
    found = monitoring.get(event.inference_id)
    assert [one.row for one in found.feedback] == [1]
    assert [one.row for one in found.feedback_history] == [1]
    refused = partial(monitoring.feedback, event.inference_id, row=2, actual=1)
    assert reason(refused) == (INVALID, "ROW_OUT_OF_RANGE")


def test_a_row_without_a_label_cannot_be_judged(monitoring: Monitoring) -> None:
    event = new_event(prediction=prediction(label=["a", None, "c"]), row_count=3)
    monitoring.record(event)
    for row in range(3):
        monitoring.feedback(event.inference_id, row=row, actual="c")
    assert counts(monitoring.metrics()) == (3, 2, 1)
    kinds = [value.WhichOneof("kind") for value in monitoring.get(event.inference_id).outcomes]
    assert kinds == ["string_value", "null_value", "string_value"]


def test_bad_feedback_is_refused_and_nothing_is_kept(monitoring: Monitoring) -> None:
    known = new_event()
    monitoring.record(known)
    tell = partial(monitoring.feedback, known.inference_id)
    assert reason(tell) == (INVALID, "EMPTY_FEEDBACK")
    assert reason(partial(tell, row=-1, actual=1)) == (INVALID, "ROW_OUT_OF_RANGE")
    assert reason(partial(tell, row=1 << 30, actual=1)) == (INVALID, "ROW_OUT_OF_RANGE")
    assert reason(partial(tell, actual=math.nan)) == (INVALID, "INVALID_OUTCOME")
    assert reason(partial(tell, actual="x" * 1_025)) == (INVALID, "INVALID_OUTCOME")
    assert reason(partial(tell, actual="a\0")) == (INVALID, "INVALID_OUTCOME")
    for value in (Value(), Value(null_value=0), Value(list_value=ListValue()), Value(struct_value=Struct())):  # type: ignore[arg-type] # 0 is the one null there is
        assert reason(partial(tell, actual_outcome=value)) == (INVALID, "INVALID_OUTCOME")
    ahead = datetime.now(UTC) + timedelta(minutes=6)
    assert reason(partial(tell, actual=1, feedback_time=ahead)) == (INVALID, "FEEDBACK_IN_FUTURE")
    never = Timestamp(seconds=-(1 << 60))
    assert reason(partial(tell, actual=1, feedback_time=never)) == (INVALID, "INVALID_TIME")
    assert reason(partial(monitoring.feedback, "no id", actual=1)) == (INVALID, "INVALID_ID")
    too_old, too_new = new_id(age_s=31 * 86_400), new_id(age_s=-400)
    assert reason(partial(monitoring.feedback, too_old, actual=1)) == (INVALID, "EVENT_TOO_OLD")
    assert reason(partial(monitoring.feedback, too_new, actual=1)) == (INVALID, "EVENT_IN_FUTURE")
    last = "ffffffff-ffff-7fff-bfff-ffffffffffff"
    assert reason(partial(monitoring.feedback, last, actual=1)) == (INVALID, "EVENT_IN_FUTURE")
    assert monitoring.query("SELECT count(*) FROM monitoring.feedback") == [(0,)]


def test_event_and_feedback_that_arrive_at_once_always_meet(monitoring: Monitoring) -> None:
    events = [new_event(prediction=labels(1)) for _ in range(60)]
    together = threading.Barrier(2)

    def record(event: pb.InferenceEvent) -> object:
        together.wait(60)
        return monitoring.record(event)

    def tell(event: pb.InferenceEvent) -> object:
        together.wait(60)
        return monitoring.feedback(event.inference_id, actual=1)

    with ThreadPoolExecutor(2) as pool:
        for event in events:
            for done in [pool.submit(record, event), pool.submit(tell, event)]:
                done.result(60)
    assert counts(monitoring.metrics()) == (60, 60, 60)


def test_of_identical_reports_at_once_one_is_kept(monitoring: Monitoring) -> None:
    event = new_event(prediction=labels(1))
    monitoring.record(event)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: monitoring.feedback(event.inference_id, actual=1, feedback_time=EARLIER), range(16)))
    assert len(monitoring.get(event.inference_id).feedback_history) == 1
