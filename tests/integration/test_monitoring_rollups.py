"""Rollups of real events, from RecordEvents to the answers that are read of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.ids import time_of
from services.monitoring.models import Window
from services.monitoring.rollups import recounts
from services.monitoring.rollups.latency import RELATIVE_ERROR
from services.monitoring.rollups.models import FINEST_FIRST, Granularity, Question, Totals
from services.monitoring.rollups.store import aside, counting, feedback
from tests.monitoring import Monitoring, eventually, labels, new_event, serve
from tests.rollups import Rollups, leave_to_the_test, rollups

FIVE, HOUR, DAY = FINEST_FIRST
CloneDatabase = Callable[[str], str]


@pytest.fixture
def url(clone_database: CloneDatabase) -> str:
    return clone_database("monitoring")


@pytest.fixture
def monitoring(url: str) -> Iterator[Monitoring]:
    """A service that leaves the rollups to the test."""
    leave_to_the_test(url)
    with serve(url) as running:
        yield running


@pytest.fixture
def rolled(url: str) -> Iterator[Rollups]:
    with rollups(url) as found:
        yield found


def traffic(seed: int, count: int, *, hours: float = 40) -> list[pb.InferenceEvent]:
    """Events of two versions in bursts over some hours, some failed, some slow, some without confidence."""
    dice = random.Random(seed)
    bursts = [dice.uniform(600, hours * 3_600) for _ in range(30)]
    events = []
    for _ in range(count):
        failed = dice.random() < 0.1
        events.append(
            new_event(
                age_s=dice.choice(bursts) + dice.uniform(0, 60),
                version=dice.choice(["1.0.0", "1.1.0"]),
                latency_ms=dice.choice([0.0, dice.lognormvariate(1, 1), dice.gauss(300, 20)]),
                error_code=dice.choice(["INTERNAL", "DEADLINE_EXCEEDED"]) if failed else "",
                confidence=None if dice.random() < 0.3 else dice.random(),
                row_count=3,
                prediction=labels(1, 2, 0),
            )
        )
    return events


def sent(monitoring: Monitoring, events: list[pb.InferenceEvent]) -> None:
    for begin in range(0, len(events), 500):
        assert set(monitoring.record(*events[begin : begin + 500])) == {"STORED"}


def expected(events: list[pb.InferenceEvent], totals: Totals) -> None:
    """Compare totals with what the events say themselves."""
    good = [event.latency_ms for event in events if not event.error_code]
    confidences = [event.confidence for event in events if event.HasField("confidence")]
    counts = totals.counts
    assert counts.inference_count == len(events)
    assert counts.error_count == len(events) - len(good)
    assert counts.row_count == 3 * len(events)
    assert counts.errors == {
        code: sum(event.error_code == code for event in events) for code in ("INTERNAL", "DEADLINE_EXCEEDED")
    }
    assert totals.average_latency_ms == pytest.approx(np.mean(good), rel=1e-12)
    assert totals.max_latency_ms == max(good)
    assert totals.average_confidence == pytest.approx(np.mean(confidences), rel=1e-12)
    for percent in (50, 95, 99):
        exact = np.percentile(good, percent, method="inverted_cdf")
        assert totals.percentile_ms(percent) == pytest.approx(exact, rel=RELATIVE_ERROR * (1 + 1e-9), abs=0)


@pytest.mark.slow
def test_a_window_is_answered_alike_from_events_and_from_rollups_of_every_length(
    monitoring: Monitoring, rolled: Rollups
) -> None:
    events = traffic(1, 1_500)
    sent(monitoring, events)
    for event in events[::7]:
        monitoring.feedback(event.inference_id, row=1, actual=2 if event.latency_ms else 1)
    before = rolled.total(hours=48)
    assert before.complete_until is not None  # so many buckets are not counted on the way
    rolled.recount()
    assert rolled.marks() == 0
    after = rolled.total(hours=48)
    assert after.complete_until is None
    expected(events, after)
    told = events[::7]
    right = sum(event.latency_ms > 0 for event in told)
    assert (after.counts.feedback_count, after.counts.judged_count) == (len(told), len(told))
    assert after.counts.correct_count == right
    lags = [(datetime.now(UTC) - time_of(event.inference_id)).total_seconds() for event in told]
    assert after.average_feedback_lag_s == pytest.approx(np.mean(lags), abs=60)
    for granularity in FINEST_FIRST:
        assert rolled.rows(granularity)
    one = [event for event in events if event.version == "1.1.0"]
    expected(one, rolled.total(version="1.1.0", hours=48))
    since, until = sorted(map(time_of, (events[3].inference_id, events[4].inference_id)))
    inside = [event for event in events if since <= time_of(event.inference_id) < until]
    expected(inside, rolled.reader.total("iris", "", Window(since, until)))


def test_a_bucket_is_counted_again_when_more_of_it_comes(monitoring: Monitoring, rolled: Rollups) -> None:
    early, late = traffic(2, 200, hours=0.8), traffic(3, 200, hours=0.8)
    sent(monitoring, early)
    rolled.recount()
    sent(monitoring, late)
    monitoring.record(*early)  # duplicates mark nothing
    expected(early + late, rolled.total(hours=3))
    rolled.recount()
    expected(early + late, rolled.total(hours=3))
    monitoring.record(*early)
    assert rolled.marks() == 0
    twice = rolled.rows(FIVE)
    rolled.recount()
    assert rolled.rows(FIVE) == twice


@pytest.mark.parametrize("few", [0, counting.FEW])
def test_feedback_is_counted_in_the_bucket_of_its_prediction(
    monitoring: Monitoring, rolled: Rollups, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(counting, "FEW", few)
    event = new_event(age_s=7_200, prediction=labels(1))

    def counts() -> tuple[int, int, int]:
        waiting, found = rolled.marks(), rolled.total(hours=3)
        rolled.recount()
        again = rolled.total(hours=3)
        assert (found.complete_until, again.complete_until, again.feedback_complete_until) == (None, None, None)
        assert found.counts == again.counts or (waiting and found.feedback_complete_until is not None)
        return again.counts.feedback_count, again.counts.judged_count, again.counts.correct_count

    monitoring.feedback(event.inference_id, actual=1)  # before its event
    assert counts() == (0, 0, 0)
    monitoring.record(event)
    assert counts() == (1, 1, 1)
    monitoring.feedback(event.inference_id, actual=1)  # the same again
    assert rolled.marks() == 0
    monitoring.feedback(event.inference_id, actual=2)  # contradicting
    assert counts() == (1, 1, 0)
    monitoring.feedback(event.inference_id, actual=1, feedback_time=time_of(event.inference_id))  # an older word
    assert counts() == (1, 1, 0)
    monitoring.feedback(event.inference_id, actual=5, correct=True)
    assert counts() == (1, 1, 1)


def test_a_label_has_the_feedback_of_its_spans_counted_anew_and_nothing_else(
    monitoring: Monitoring, rolled: Rollups
) -> None:
    events = [new_event(age_s=age_s, prediction=labels(1)) for age_s in (90_000, 90_001, 93_000)]
    monitoring.record(*events)
    rolled.recount()
    # What nobody counts again stays as it is, however wrong; and no profile is told to decode its payloads once more.
    rolled.change("UPDATE monitoring.rollups_five_minutes SET inference_count = 70")
    rolled.change("DELETE FROM monitoring.profile_marks")
    monitoring.feedback(events[0].inference_id, actual=1)
    monitoring.feedback(events[2].inference_id, actual=2)
    rolled.recount()
    assert {row["inference_count"] for row in rolled.rows(FIVE)} == {70}
    assert monitoring.query("SELECT * FROM monitoring.profile_marks") == []
    for granularity in FINEST_FIRST:
        found = rolled.rows(granularity)
        assert [sum(row[f"{name}_count"] for row in found) for name in ("feedback", "judged", "correct")] == [2, 2, 1]
        assert sum(row["feedback_lag_s"] for row in found) == pytest.approx(183_000, abs=120)
    assert rolled.marks() == 0


def test_labels_that_wait_all_over_a_day_make_no_query_read_its_events(monitoring: Monitoring, rolled: Rollups) -> None:
    events = [new_event(age_s=86_400 + 300 * number) for number in range(40)]
    monitoring.record(*events)
    rolled.recount()
    for event in events:
        monitoring.feedback(event.inference_id, correct=True)
    rolled.now = Granularity.HOUR.floor(rolled.now)  # a window of whole hours
    rolled.change("DELETE FROM monitoring.inferences")
    found = rolled.total(hours=48)
    assert (found.counts.inference_count, found.complete_until) == (40, None)
    assert found.feedback_complete_until == FIVE.floor(time_of(events[-1].inference_id))


def test_feedback_of_a_day_whose_buckets_are_gone_is_counted_in_its_hour(
    monitoring: Monitoring, rolled: Rollups
) -> None:
    old = new_event(age_s=20 * 86_400)
    monitoring.record(old, new_event())
    rolled.recount()
    monitoring.feedback(old.inference_id, correct=True)
    rolled.recount()
    assert [row["correct_count"] for granularity in FINEST_FIRST for row in rolled.rows(granularity)] == [1, 1]


def test_an_hour_that_is_the_finest_kept_is_counted_once_for_all_its_labels(
    monitoring: Monitoring, rolled: Rollups, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = (rolled.now - timedelta(days=20)).replace(hour=12, minute=1)
    ages_s = [(rolled.now - noon).total_seconds() - 600 * number for number in range(5)]
    old = [new_event(age_s=age_s) for age_s in ages_s]
    monitoring.record(*old, new_event())
    rolled.recount()
    for event in old:
        monitoring.feedback(event.inference_id, correct=True)
    spans: list[datetime] = []
    count = counting.count_feedback

    def count_once(connection: Any, model: str, version: str, window: Window) -> Any:
        spans.append(window.from_time)
        return count(connection, model, version, window)

    monkeypatch.setattr(feedback, "count_feedback", count_once)
    rolled.recount()
    assert spans == [HOUR.floor(noon)]
    assert [row["correct_count"] for granularity in FINEST_FIRST for row in rolled.rows(granularity)] == [5, 5]


def test_feedback_for_ids_that_nobody_knows_is_done_with_in_one_turn(
    monitoring: Monitoring, rolled: Rollups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recounts, "MARKS_A_TURN", 2)
    for _ in range(5):
        monitoring.feedback(new_event(age_s=7_200).inference_id, correct=True)
    rolled.recount()
    assert monitoring.query("SELECT * FROM monitoring.early_feedback") == []


def test_each_bucket_that_was_counted_leaves_a_mark_for_the_profiles(monitoring: Monitoring, rolled: Rollups) -> None:
    event = new_event(age_s=7_200)
    monitoring.record(event)
    rolled.recount()
    found = monitoring.query("SELECT model, version, start_time FROM monitoring.profile_marks")
    assert ("iris", "1.0.0", FIVE.floor(time_of(event.inference_id))) in found


def test_a_bucket_that_is_open_is_left_alone_and_read_from_its_events(monitoring: Monitoring, rolled: Rollups) -> None:
    monitoring.record(new_event(latency_ms=7))
    rolled.now = datetime.now(UTC)
    rolled.recount()
    assert rolled.rows(FIVE) == []
    assert rolled.total(minutes=10).p50_latency_ms == 7
    rolled.now += timedelta(minutes=5, seconds=5)
    rolled.recount()
    assert rolled.total(minutes=20).p50_latency_ms == 7


@pytest.mark.slow
def test_series_are_by_step_and_by_version(monitoring: Monitoring, rolled: Rollups) -> None:
    events = traffic(5, 600, hours=30)
    sent(monitoring, events)

    def check() -> None:
        for granularity in FINEST_FIRST:
            for by_version in (False, True):
                answer = rolled.reader.series(
                    Question("iris", "", rolled.now - timedelta(hours=40), None, granularity, by_version)
                )
                for series in answer.series:
                    mine = [event for event in events if not by_version or event.version == series.version]
                    expected(mine, series.total)
                    steps = {granularity.floor(time_of(event.inference_id)) for event in mine}
                    assert [point.window.from_time for point in series.points] == sorted(steps)
                    for point in series.points[::9]:
                        count = sum(granularity.floor(time_of(e.inference_id)) == point.window.from_time for e in mine)
                        assert point.counts.inference_count == count
                assert [series.version for series in answer.series] == (["1.0.0", "1.1.0"] if by_version else [""])

    rolled.recount()
    check()


def test_who_needs_no_percentiles_reads_no_histograms(monitoring: Monitoring, rolled: Rollups) -> None:
    monitoring.record(*(new_event(age_s=7_200, latency_ms=number + 1) for number in range(9)))
    rolled.recount()
    window = Window(rolled.now - timedelta(hours=4), rolled.now - timedelta(hours=1))
    found = rolled.reader.total("iris", "", window, latencies=False)
    assert (found.counts.inference_count, found.average_latency_ms, found.max_latency_ms) == (9, 5, 9)
    assert found.p50_latency_ms is None


def test_a_day_that_is_under_way_has_the_throughput_until_now(monitoring: Monitoring, rolled: Rollups) -> None:
    monitoring.record(*(new_event() for _ in range(9)))
    rolled.now = datetime.now(UTC)
    (series,) = rolled.reader.series(Question("iris", "", None, None, DAY, by_version=False)).series
    seconds = max((rolled.now - DAY.floor(rolled.now)).total_seconds(), 1)
    assert series.points[-1].throughput_per_s == series.points[-1].counts.inference_count / seconds
    assert series.total.window.to_time <= rolled.now


def test_models_and_versions_are_those_with_traffic(monitoring: Monitoring, rolled: Rollups) -> None:
    monitoring.record(
        new_event(age_s=400, version="now"),
        new_event(age_s=5_000, version="earlier"),
        new_event(age_s=90_000, version="yesterday"),
        new_event(age_s=90_000, model="wine"),
        new_event(model="rose"),
    )
    for _ in range(2):  # from the marks alone, then from rollups
        now = rolled.now + timedelta(minutes=1)
        assert rolled.reader.versions("iris", Window(now - timedelta(minutes=10), now)) == ("now",)
        assert rolled.reader.versions("iris", Window(now - timedelta(hours=2), now)) == ("earlier", "now")
        assert rolled.reader.versions("iris", Window(now - timedelta(days=3), now)) == ("earlier", "now", "yesterday")
        assert rolled.reader.models(Window(now - timedelta(days=3), now)) == ("iris", "rose", "wine")
        assert rolled.reader.models(Window(now - timedelta(minutes=20), now)) == ("iris", "rose")
        rolled.recount()


def test_of_very_many_error_codes_the_rest_is_other(monitoring: Monitoring, rolled: Rollups) -> None:
    events = [new_event(age_s=4_000 + number % 3, error_code=f"E{number % 250:03}") for number in range(500)]
    monitoring.record(*events, *(new_event(age_s=4_000, error_code="E249") for _ in range(5)))
    rolled.recount()
    errors = rolled.total(hours=3).counts.errors
    assert (len(errors), sum(errors.values())) == (101, 505)
    assert (next(iter(errors)), errors["E249"], list(errors)[-1]) == ("E249", 7, "OTHER")


def test_odd_latencies_are_counted(monitoring: Monitoring, rolled: Rollups) -> None:
    odd = [0.0, 5e-324, 1e-300, 1e300, 1.7976931348623157e308]
    monitoring.record(*(new_event(age_s=4_000, latency_ms=latency) for latency in odd))
    rolled.recount()
    totals = rolled.total(hours=3)
    assert totals.counts.latencies.count == 5
    assert totals.max_latency_ms == odd[-1]
    assert totals.p99_latency_ms == pytest.approx(odd[-1], rel=0.0101)
    assert totals.p50_latency_ms == pytest.approx(1e-300, rel=0.0101)


@pytest.mark.slow
def test_the_service_rolls_up_by_itself(url: str) -> None:
    with ExitStack() as stack:
        replicas = [stack.enter_context(serve(url, rollup_interval_ms=50)) for _ in range(2)]
        rolled = stack.enter_context(rollups(url))
        events = traffic(7, 400, hours=3)
        sent(replicas[0], events[:200])
        sent(replicas[1], events[200:])
        eventually(lambda: sum(row["inference_count"] for row in rolled.rows(FIVE)) == 400)
        expected(events, rolled.total(hours=4))


def test_while_rollups_are_off_marks_stay_few_and_profiles_get_theirs(monitoring: Monitoring, rolled: Rollups) -> None:
    rolled.configure(enabled=False)
    first = new_event(age_s=4_000)
    start_time = FIVE.floor(time_of(first.inference_id))
    for number in range(1, 4):
        monitoring.record(first, new_event(inference_id=f"{first.inference_id[:-2]}{number:02}"))
        monitoring.feedback(first.inference_id, correct=bool(number % 2))
        monitoring.record(new_event(age_s=40 * 60 * number))
        rolled.recount()
        rolled.recount()
        told = monitoring.query(f"SELECT count(*) FROM monitoring.profile_marks WHERE start_time = '{start_time}'")
        assert told == [(number,)]  # each time that its events changed, not each turn
        assert rolled.marks() == number + 2
    assert (rolled.rows(FIVE), rolled.total(hours=3).counts.inference_count) == ([], 7)
    rolled.change("UPDATE monitoring.rollup_marks SET start_time = start_time - interval '40 days' WHERE set_aside")
    rolled.change("UPDATE monitoring.feedback_marks SET start_time = start_time - interval '40 days'")
    rolled.recount()
    assert rolled.marks() == 0


def test_what_is_switched_off_is_rolled_up_later(monitoring: Monitoring, rolled: Rollups) -> None:
    monitoring.record(new_event(age_s=4_000))
    rolled.configure(enabled=False)
    rolled.recount()
    assert (rolled.rows(FIVE), rolled.marks()) == ([], 1)
    assert rolled.total(hours=3).counts.inference_count == 1
    rolled.configure(enabled=True)
    rolled.recount()
    assert len(rolled.rows(FIVE)) == 1


def test_what_was_set_aside_long_ago_costs_a_turn_nothing(monitoring: Monitoring, rolled: Rollups) -> None:
    rolled.change(
        "INSERT INTO monitoring.rollup_marks SELECT 1, now() - number * interval '5 minutes', 'iris', '1.0.0', true "
        "FROM generate_series(1, 20000) AS number"
    )
    rolled.change("ANALYZE monitoring.rollup_marks")
    with rolled.database.transaction() as connection:
        values = {"latest": rolled.now, "limit": 1_000}
        plan = [line["QUERY PLAN"] for line in connection.execute(f"EXPLAIN {aside._SET_ASIDE}".encode(), values)]
    waiting = "".join(plan).partition("CTE waiting")[2].partition("CTE ")[0]
    assert "rollup_marks_new" in waiting
    assert "Filter" not in waiting
