"""What comes in is judged by the database's clock: a replica whose own is wrong refuses nothing for good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc
import pytest

from services.monitoring import __main__ as process
from services.monitoring.store import present
from tests.monitoring import Monitoring, new_event, new_id, reason, serve

INVALID = grpc.StatusCode.INVALID_ARGUMENT
DAY_S = 86_400
WRONG = [timedelta(days=31), -timedelta(minutes=6)]


@pytest.fixture(params=WRONG, ids=str)
def monitoring(
    request: pytest.FixtureRequest, clone_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Monitoring]:
    """A replica whose machine has another time."""
    monkeypatch.setattr(process, "utc_now", lambda: datetime.now(UTC) + request.param)
    with serve(clone_database("monitoring")) as running:
        yield running


def test_a_replica_with_a_wrong_clock_takes_good_events_and_refuses_bad_ones(monitoring: Monitoring) -> None:
    ages_s = (0, 20 * DAY_S, 31 * DAY_S, -3_600)
    outcomes = monitoring.record(*(new_event(age_s=age_s) for age_s in ages_s))
    assert outcomes == ["STORED", "STORED", "EVENT_TOO_OLD", "EVENT_IN_FUTURE"]


def test_a_replica_with_a_wrong_clock_takes_feedback_and_gives_it_the_right_time(monitoring: Monitoring) -> None:
    known, early = new_event(), new_id()
    monitoring.record(known)
    before = datetime.now(UTC) - timedelta(minutes=1)
    for inference_id in (known.inference_id, early):
        told = monitoring.feedback(inference_id, correct=True).feedback.feedback_time.ToDatetime(UTC)
        assert before < told < before + timedelta(minutes=5)
        again = monitoring.feedback(inference_id, correct=False, feedback_time=told)
        assert not again.feedback.correct
    assert reason(lambda: monitoring.feedback(new_id(age_s=31 * DAY_S), correct=True)) == (INVALID, "EVENT_TOO_OLD")
    assert reason(lambda: monitoring.feedback(new_id(age_s=-3_600), correct=True)) == (INVALID, "EVENT_IN_FUTURE")
    later = datetime.now(UTC) + timedelta(hours=1)
    ahead = partial(monitoring.feedback, known.inference_id, correct=True, feedback_time=later)
    assert reason(ahead) == (INVALID, "FEEDBACK_IN_FUTURE")


def test_the_databases_clock_is_read_now_and_then_and_followed(
    clone_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(present, "REREAD_S", 3_600.0)
    with serve(clone_database("monitoring")) as monitoring:
        assert monitoring.record(new_event()) == ["STORED"]
        monkeypatch.setattr(present, "_READ", "SELECT clock_timestamp() + interval '40 days' AS time")
        assert monitoring.record(new_event()) == ["STORED"], "no question to the database for each batch"
        monkeypatch.setattr(present, "REREAD_S", 0.0)
        assert monitoring.record(new_event()) == ["EVENT_TOO_OLD"]
        monkeypatch.undo()
        monkeypatch.setattr(present, "REREAD_S", 0.0)
        assert monitoring.record(new_event()) == ["STORED"], "it was set right"
