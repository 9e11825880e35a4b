"""The life of an alert: every step of it, and what holds whatever is seen and however the clock goes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import FailedPrecondition
from services.monitoring.alerts.life import (
    FLAPPING_CHANGES,
    FLAPPING_QUIET,
    Birth,
    Finding,
    Moment,
    Step,
    Verdict,
    acknowledge,
    begin,
    end,
    go_on,
)
from services.monitoring.alerts.models import Acknowledgement, Alert, AlertEvent, AlertState, Rule
from tests.alerting import IRIS, MINUTE, NOON, SECOND, rule

GAP = MINUTE
P, F, R = AlertState
FOR_2M = rule(hold=2 * MINUTE)
AT_ONCE = rule()


def finding(verdict: Verdict, value: float | None = 0.2, check: int = 7) -> Finding:
    return Finding(verdict, value, verdict.value, UUID(int=check) if verdict is Verdict.HOLDS else None)


HOLDS, CLEAR, UNKNOWN = (finding(verdict) for verdict in Verdict)


def at(seconds: float) -> Moment:
    return Moment(NOON + seconds * SECOND, GAP)


def begun(by: Rule, *, recent_changes: int = 0) -> Alert:
    step = begin(Birth(UUID(int=2), IRIS, recent_changes), by, "condition", HOLDS, at(0))
    assert step is not None
    assert step.alert is not None
    return step.alert


def judged(alert: Alert, by: Rule, seen: Finding, seconds: float, recent_changes: int = 0) -> Step:
    step = go_on(alert, by, seen, at(seconds), recent_changes)
    assert step is not None
    return step


def kept(step: Step) -> Alert:
    assert step.alert is not None
    return step.alert


def test_nothing_begins_unless_the_condition_holds() -> None:
    birth = Birth(UUID(int=2), IRIS, 0)
    assert begin(birth, AT_ONCE, "condition", CLEAR, at(0)) is None
    assert begin(birth, AT_ONCE, "condition", UNKNOWN, at(0)) is None


def test_without_a_time_to_hold_an_alert_fires_at_once() -> None:
    alert = begun(AT_ONCE)
    assert (alert.state, alert.begin_time, alert.fire_time, alert.check_id) == (F, NOON, NOON, UUID(int=7))


def test_an_alert_is_pending_until_its_condition_was_seen_to_hold_for_long_enough() -> None:
    alert = begun(FOR_2M)
    assert (alert.state, alert.fire_time) == (P, None)
    waiting = judged(alert, FOR_2M, HOLDS, 60)
    assert (kept(waiting).state, waiting.events, waiting.fired) == (P, (), False)
    fired = judged(kept(waiting), FOR_2M, HOLDS, 120)
    assert fired.fired
    assert kept(fired).fire_time == NOON + 2 * MINUTE
    assert [(event.state, event.message) for event in fired.events] == [(F, "holds")]


def test_a_pending_alert_whose_condition_ends_is_forgotten() -> None:
    assert judged(begun(FOR_2M), FOR_2M, CLEAR, 15) == Step(None)


def test_a_clock_that_jumps_ahead_and_a_service_that_was_away_make_nothing_fire() -> None:
    alert = kept(judged(begun(FOR_2M), FOR_2M, HOLDS, 86_400))
    assert (alert.state, alert.held) == (P, GAP)
    assert kept(judged(alert, FOR_2M, HOLDS, 86_460)).state is F


def test_a_clock_that_jumps_back_stops_no_alert() -> None:
    alert = kept(judged(begun(FOR_2M), FOR_2M, HOLDS, -86_400))
    assert (alert.state, alert.held) == (P, timedelta())
    alert = kept(judged(alert, FOR_2M, HOLDS, -86_340))
    fired = kept(judged(alert, FOR_2M, HOLDS, -86_280))
    assert fired.state is F
    assert fired.fire_time == NOON  # no history runs backwards


def test_what_a_replica_a_little_ahead_has_judged_is_left_to_it() -> None:
    assert go_on(begun(FOR_2M), FOR_2M, CLEAR, at(-30), 0) is None


def test_no_value_leaves_an_alert_as_it_is() -> None:
    pending, firing = begun(FOR_2M), begun(AT_ONCE)
    assert kept(judged(pending, FOR_2M, UNKNOWN, 60)) == replace(
        pending, judge_time=NOON + MINUTE, change_time=NOON + MINUTE
    )
    assert kept(judged(firing, AT_ONCE, UNKNOWN, 60)).value == firing.value


def test_a_firing_alert_keeps_what_it_fired_on_beside_what_is_seen_later() -> None:
    going = judged(begun(AT_ONCE), AT_ONCE, finding(Verdict.HOLDS, 0.7, check=8), 15)
    assert (kept(going).value, kept(going).last_value, going.events, going.fired) == (0.2, 0.7, (), False)
    assert (kept(going).check_id, kept(going).last_check_id) == (UUID(int=7), UUID(int=8))
    over = judged(kept(going), AT_ONCE, finding(Verdict.CLEAR, 0.05), 30)
    assert (kept(over).state, kept(over).resolve_time, kept(over).value) == (R, NOON + 30 * SECOND, 0.2)
    assert (kept(over).check_id, kept(over).last_check_id) == (UUID(int=7), UUID(int=8))
    assert [(event.state, event.value) for event in over.events] == [(R, 0.05)]


def test_an_alert_fires_on_the_value_that_it_had_then_and_not_on_that_it_began_with() -> None:
    waiting = kept(judged(begun(FOR_2M), FOR_2M, finding(Verdict.HOLDS, 0.7, check=8), 60))
    fired = kept(judged(waiting, FOR_2M, finding(Verdict.HOLDS, 0.9, check=9), 120))
    assert (fired.state, fired.value, fired.check_id) == (F, 0.9, UUID(int=9))


def test_a_resolved_alert_has_no_more_steps() -> None:
    over = kept(judged(begun(AT_ONCE), AT_ONCE, CLEAR, 15))
    assert go_on(over, AT_ONCE, HOLDS, at(30), 0) is None
    assert end(over, "the rule was deleted", at(30)) is None
    with pytest.raises(FailedPrecondition, match="resolved") as refused:
        acknowledge(over, Acknowledgement(NOON, "ada", ""))
    assert refused.value.reason == "ALERT_RESOLVED"


def test_a_rule_that_holds_no_longer_ends_its_alerts() -> None:
    assert end(begun(FOR_2M), "switched off", at(15)) == Step(None)
    step = end(begun(AT_ONCE), "switched off", at(15), actor="ada")
    assert step is not None
    assert kept(step).state is R
    assert [(event.actor, event.message) for event in step.events] == [("ada", "switched off")]


def test_an_acknowledgement_is_kept_with_who_when_and_why_and_the_last_counts() -> None:
    first, event = acknowledge(begun(AT_ONCE), Acknowledgement(NOON + MINUTE, "ada", "looking"))
    assert (event.actor, event.message, event.time) == ("ada", "acknowledged: looking", NOON + MINUTE)
    second, event = acknowledge(first, Acknowledgement(NOON, "bob", ""))
    assert event.message == "acknowledged"
    assert second.acknowledgement == Acknowledgement(NOON + MINUTE, "bob", "")  # never before what came before it


def test_an_alert_that_comes_and_goes_too_often_stays_open_until_it_stays_away() -> None:
    assert not begun(AT_ONCE, recent_changes=FLAPPING_CHANGES - 1).flapping
    alert = begun(AT_ONCE, recent_changes=FLAPPING_CHANGES)
    assert alert.flapping
    seconds = 0
    for _ in range(FLAPPING_QUIET // GAP - 1):
        seconds += 60
        away = judged(alert, AT_ONCE, CLEAR, seconds)
        alert = kept(away)
        assert (alert.state, away.events) == (F, ())
    back = kept(judged(alert, AT_ONCE, HOLDS, seconds + 60))
    assert back.held == timedelta()
    assert kept(judged(back, AT_ONCE, CLEAR, seconds + 120)).state is F
    assert kept(judged(alert, AT_ONCE, CLEAR, seconds + 60)).state is R


def test_a_pending_alert_that_fires_too_often_is_damped_and_says_so() -> None:
    alert = kept(judged(begun(FOR_2M), FOR_2M, HOLDS, 60))
    fired = judged(alert, FOR_2M, HOLDS, 120, recent_changes=FLAPPING_CHANGES)
    assert kept(fired).flapping
    assert "come and gone often" in fired.events[-1].message


MOVES = st.lists(
    st.tuples(
        st.sampled_from([*Verdict, "end", "change", "acknowledge"]),
        st.integers(-7_200, 90_000) | st.integers(0, 120),
        st.integers(0, FLAPPING_CHANGES + 1),
        st.sampled_from([0, 30, 90]),
    ),
    max_size=40,
)


@given(MOVES)
def test_whatever_is_seen_and_however_the_clock_goes(moves: list[tuple[Any, int, int, int]]) -> None:
    """One alert at a time; none is resolved that did not fire, or fires before it was seen to hold; no way back."""
    alert: Alert | None = None
    by, history, seconds, held = rule(hold=30 * SECOND), list[AlertEvent](), 0, timedelta()
    for number, (what, elapsed, recent, hold) in enumerate(moves, start=2):
        before_s, seconds = seconds, seconds + elapsed
        moment = at(seconds)
        if what == "change":
            by, seconds = replace(by, hold=hold * SECOND, revision=number), before_s
            continue
        was = alert
        if alert is None:
            seen = finding(what) if isinstance(what, Verdict) else UNKNOWN
            step = begin(Birth(UUID(int=number), IRIS, recent), by, "c", seen, moment)
            history, held = [], timedelta()
        elif what == "end":
            step = end(alert, "ended", moment)
        elif what == "acknowledge":
            alert, event = acknowledge(alert, Acknowledgement(moment.time, "ada", ""))
            history.append(event)
            seconds = before_s  # nobody judged
            continue
        else:
            step = go_on(alert, by, finding(what), moment, recent)
            if step is None:
                assert 0 < before_s - seconds <= GAP.total_seconds()
                seconds = before_s
                continue
            if what is Verdict.HOLDS:
                held += min(max((seconds - before_s) * SECOND, timedelta()), GAP)
        if step is None:
            assert was is None
            continue
        if step.alert is None:
            assert was is not None
            assert was.state is P
            alert = None
            continue
        history += step.events
        check(step, history, was, held, by)
        alert = None if step.alert.state is R else step.alert


def check(step: Step, history: list[AlertEvent], was: Alert | None, held: timedelta, by: Rule) -> None:
    alert = kept(step)
    assert all(first.time <= second.time for first, second in itertools.pairwise(history))
    states = [event.state.value for event in history]
    assert states == sorted(states)
    assert step.fired == (alert.fire_time is not None and (was is None or was.fire_time is None))
    if alert.state is P:
        assert alert.fire_time is None
        return
    assert alert.fire_time is not None
    assert alert.begin_time <= alert.fire_time
    if step.fired:
        assert held >= by.hold
    if alert.state is R:
        assert was is not None
        assert was.state is F
        assert alert.resolve_time is not None
        assert alert.resolve_time >= alert.fire_time
