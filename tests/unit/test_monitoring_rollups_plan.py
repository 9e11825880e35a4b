"""How a window is taken apart into rollups and events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.monitoring.models import Window
from services.monitoring.rollups.models import FINEST_FIRST, Granularity
from services.monitoring.rollups.plan import MAX_EVENT_BUCKETS, Kept, Plan, make_plan, open_since

FIVE, HOUR, DAY = FINEST_FIRST
NOW = datetime(2026, 11, 21, 12, 33, 20, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC)
KEPT = Kept(
    MIDNIGHT - timedelta(days=30),
    {FIVE: MIDNIGHT - timedelta(days=14), HOUR: MIDNIGHT - timedelta(days=90), DAY: MIDNIGHT - timedelta(days=730)},
)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def at(hour: int, minute: int = 0, second: int = 0, *, days_ago: int = 0) -> datetime:
    return MIDNIGHT - timedelta(days=days_ago) + timedelta(hours=hour, minutes=minute, seconds=second)


def spans(plan: Plan, granularity: Granularity) -> list[tuple[datetime, datetime]]:
    return [(window.from_time, window.to_time) for window in plan.rollups.get(granularity, ())]


def events(plan: Plan) -> list[tuple[datetime, datetime]]:
    return [(window.from_time, window.to_time) for window in plan.events]


def test_a_window_takes_the_coarsest_rollups_and_events_for_what_is_left() -> None:
    plan = make_plan(Window(at(9, 58, 30, days_ago=3), NOW), {}, KEPT, NOW)
    assert events(plan) == [(at(9, 58, 30, days_ago=3), at(10, 0, days_ago=3)), (at(12, 30), NOW)]
    assert spans(plan, HOUR) == [(at(10, days_ago=3), at(24, days_ago=3)), (at(0), at(12))]
    assert spans(plan, DAY) == [(at(0, days_ago=2), at(0))]
    assert spans(plan, FIVE) == [(at(12), at(12, 30))]
    assert plan.complete_until is None
    assert plan.window == Window(at(9, 58, 30, days_ago=3), NOW)


def test_what_waits_for_its_recount_is_read_from_what_is_finer() -> None:
    marked = {FIVE: frozenset([at(10, 20)]), HOUR: frozenset([at(3, days_ago=1)])}
    plan = make_plan(Window(at(0, days_ago=1), at(12)), marked, KEPT, NOW)
    assert spans(plan, DAY) == []
    assert spans(plan, HOUR) == [
        (at(0, days_ago=1), at(3, days_ago=1)),
        (at(4, days_ago=1), at(10)),
        (at(11), at(12)),
    ]
    assert spans(plan, FIVE) == [(at(3, days_ago=1), at(4, days_ago=1)), (at(10), at(10, 20)), (at(10, 25), at(11))]
    assert events(plan) == [(at(10, 20), at(10, 25))]
    assert plan.complete_until is None


def test_of_many_marked_buckets_the_newest_are_counted_and_the_rest_stands() -> None:
    marked = {FIVE: frozenset(at(0) + number * FIVE.span for number in range(100))}
    plan = make_plan(Window(at(0), at(12)), marked, KEPT, NOW)
    from_events = at(0) + (100 - MAX_EVENT_BUCKETS) * FIVE.span
    assert events(plan) == [(from_events, at(0) + 100 * FIVE.span)]
    assert spans(plan, FIVE) == [(at(0), from_events), (at(0) + 100 * FIVE.span, at(9))]
    assert plan.complete_until == at(0)


def test_the_bucket_that_has_just_ended_is_read_from_events_until_it_settles() -> None:
    for second, first in ((4, at(12, 25)), (5, at(12, 30))):
        now = at(12, 30, second)
        plan = make_plan(Window(at(12), at(13)), {}, KEPT, now)
        assert events(plan)[0][0] == first


def test_without_events_a_window_is_widened_to_what_is_left() -> None:
    begin, end = at(3, 17, days_ago=40), at(5, 1, days_ago=35)
    plan = make_plan(Window(begin, end), {}, KEPT, NOW)
    assert plan.window == Window(at(3, days_ago=40), at(6, days_ago=35))
    assert not plan.events
    plan = make_plan(Window(at(3, days_ago=400), at(5, days_ago=390)), {}, KEPT, NOW)
    assert plan.window == Window(at(0, days_ago=400), at(0, days_ago=389))
    assert list(plan.rollups) == [DAY]


def test_events_are_not_counted_by_the_hour_where_five_minutes_are_gone() -> None:
    plan = make_plan(Window(at(3, 17, days_ago=20), at(5, days_ago=20)), {}, KEPT, NOW)
    assert (spans(plan, HOUR), plan.events) == ([(at(3, days_ago=20), at(5, days_ago=20))], [])


def test_what_is_past_every_retention_is_cut_off() -> None:
    plan = make_plan(Window(at(0, days_ago=800), at(0, days_ago=700)), {}, KEPT, NOW)
    assert plan.window == Window(KEPT.rollups[DAY], at(0, days_ago=700))
    nothing = make_plan(Window(at(0, days_ago=800), at(0, days_ago=790)), {}, KEPT, NOW)
    assert (nothing.rollups, nothing.events) == ({}, [])


def test_a_series_reads_nothing_longer_than_its_steps() -> None:
    plan = make_plan(Window(at(0, days_ago=2), at(0)), {}, KEPT, NOW, FIVE)
    assert plan.rollups == {FIVE: [Window(at(0, days_ago=2), at(0))]}


def test_an_end_in_the_far_future_costs_nothing() -> None:
    end = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    plan = make_plan(Window(at(12), end), {}, KEPT, NOW)
    assert plan.window.to_time == end
    assert sum(len(windows) for windows in plan.rollups.values()) + len(plan.events) < 20


def test_a_late_bucket_of_an_hour_whose_buckets_are_gone_hides_no_other_of_it() -> None:
    late = FIVE.floor(ago(minutes=5 * 4_806))
    assert KEPT.events <= late < KEPT.rollups[FIVE]
    plan = make_plan(Window(late, NOW), {FIVE: frozenset({late})}, KEPT, NOW, HOUR)
    assert (HOUR.floor(late), plan.complete_until) == (plan.rollups[HOUR][0].from_time, HOUR.floor(late))


minutes = st.integers(0, 60 * 24 * 60)
marks = st.frozensets(st.integers(0, 60 * 24 * 12), max_size=40)


@given(minutes, minutes, marks, marks, st.sampled_from(FINEST_FIRST))
def test_the_pieces_are_the_window_and_none_that_is_marked_is_read_unsaid(
    one: int, other: int, buckets: frozenset[int], hours: frozenset[int], coarsest: Granularity
) -> None:
    begin, end = sorted((ago(minutes=one), ago(minutes=other)))
    end += timedelta(seconds=7)
    marked = {
        FIVE: frozenset(FIVE.floor(ago(minutes=5 * number)) for number in buckets),
        HOUR: frozenset(HOUR.floor(ago(minutes=5 * number)) for number in hours),
    }
    plan = make_plan(Window(begin, end), marked, KEPT, NOW, coarsest)
    pieces = sorted(
        [(*span, granularity) for granularity in plan.rollups for span in spans(plan, granularity)]
        + [(*span, None) for span in events(plan)],
        key=lambda piece: piece[0],
    )
    if plan.window.from_time >= max(begin, KEPT.rollups[coarsest]) or pieces:
        reached = plan.window.from_time
        for start, until, granularity in pieces:
            assert start == reached
            assert granularity is None or granularity.value <= coarsest.value
            reached = until
        assert not pieces or reached == plan.window.to_time
    for start, until, granularity in pieces:
        if granularity is None:
            continue
        assert granularity.floor(start) == start
        assert until <= open_since(NOW)
        stale = [mark for level in (FIVE, HOUR) for mark in marked[level] if start <= mark < until]
        if granularity is FIVE:
            stale = [mark for mark in stale if mark in marked[FIVE]]
        assert not stale or (plan.complete_until is not None and plan.complete_until <= min(stale))
