"""Turns of judging over a real PostgreSQL: what is opened, told and resolved, by whichever replica."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest

from services.common.errors import Aborted, DeadlineExceeded, FailedPrecondition, InvalidArgument, Unavailable
from services.common.postgres import Database
from services.monitoring.alerts.models import Alert, AlertState, AlertType, MissingData, Operator, Severity, Target
from services.monitoring.models import Window
from services.monitoring.retraining.requests import RetrainingRequests
from services.monitoring.rollups.totals import EveryTotal
from tests.alert_replicas import Replica, SetClock
from tests.alerting import HOUR, IRIS, MINUTE, SECOND, Readings, counted, draft, drift_check, drift_result
from tests.monitoring import eventually

TURN = 15 * SECOND
BAD, GOOD = counted(50), counted(1)
OLD, WINE = Target("iris", "0.9.0"), Target("wine", "1")
TOLD = ("ops",)
LAST_TURN = "penstock_monitoring_alert_last_turn_time_seconds"
WAITING = """
SELECT count(*) AS count FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
def database(clone_database: Callable[[str], str]) -> Iterator[Database]:
    with Database(clone_database("monitoring"), pool_size=6) as database:
        yield database


@pytest.fixture
def replica(database: Database) -> Replica:
    """A replica without the rules that come with the service."""
    made = Replica(database, Readings({IRIS: GOOD}), SetClock())
    made.execute("DELETE FROM monitoring.alert_rules")
    return made


def another(replica: Replica) -> Replica:
    """Another process, or the same after a restart: nothing is shared but the database, what is read and the clock."""
    return Replica(replica.database, replica.readings, replica.clock)


def test_an_alert_lives_from_pending_to_resolved_each_turn_by_another_replica(replica: Replica) -> None:
    replica.create(draft(hold=30 * SECOND, channels=("ops", "slack")))
    replica.readings.counts[IRIS] = BAD
    states = []
    for number, counts in enumerate([BAD, BAD, BAD, BAD, GOOD, GOOD]):
        replica.readings.counts[IRIS] = counts
        another(replica).turn(TURN if number else timedelta())
        states.append(replica.states())
    assert states == [["PENDING"], ["PENDING"], ["FIRING"], ["FIRING"], ["RESOLVED"], ["RESOLVED"]]
    ((_, told), *_) = replica.sent()
    assert told == [("iris 1.0.0", "FIRING")]
    assert [(channel, alerts[0][1]) for channel, alerts in replica.sent()] == [
        ("ops", "FIRING"),
        ("slack", "FIRING"),
        ("ops", "RESOLVED"),
        ("slack", "RESOLVED"),
    ]
    (alert,) = replica.listed()
    assert (alert.value, alert.last_value, alert.threshold) == (0.5, 0.01, 0.1)
    history = replica.alerts.get(alert.id).history
    assert [event.state.name for event in history] == ["PENDING", "FIRING", "RESOLVED"]
    assert [event.value for event in history] == [0.5, 0.5, 0.01]


def test_a_pending_alert_that_goes_away_leaves_nothing(replica: Replica) -> None:
    replica.create(draft(hold=MINUTE, channels=TOLD))
    replica.readings.counts[IRIS] = BAD
    replica.turn()
    replica.readings.counts[IRIS] = GOOD
    replica.turn(TURN)
    assert replica.listed() == []
    assert replica.sent() == []
    assert replica.execute("SELECT count(*) AS count FROM monitoring.alert_events") == [{"count": 0}]


def test_two_replicas_at_once_open_one_alert_and_tell_once(replica: Replica) -> None:
    replica.create(draft(channels=TOLD))
    replica.readings.counts[IRIS] = BAD
    both_have_read = threading.Barrier(2)

    class Meeting(Readings):
        def every(self, window: Window, *, latencies: bool) -> EveryTotal:
            both_have_read.wait(60)
            return super().every(window, latencies=latencies)

    readings = Meeting(replica.readings.counts)
    replicas = [Replica(replica.database, readings, replica.clock) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(each.turn) for each in replicas]:
            done.result(60)
    assert replica.states() == ["FIRING"]
    assert replica.sent() == [("ops", [("iris 1.0.0", "FIRING")])]


def test_a_failure_while_it_is_told_leaves_nothing_half_done(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    replica.create(draft(channels=TOLD))
    replica.readings.counts[IRIS] = BAD

    def cut(*_: object) -> None:
        raise Unavailable("the database is away", reason="DATABASE_UNAVAILABLE")

    with monkeypatch.context() as cutting:
        cutting.setattr(replica.channels, "notify", cut)
        with pytest.raises(Unavailable):
            replica.turn()
    assert replica.listed() == []
    replica.turn(TURN)
    assert (replica.states(), len(replica.sent())) == (["FIRING"], 1)


def test_it_is_told_again_after_a_while_until_somebody_acknowledges_it(replica: Replica) -> None:
    replica.create(draft(channels=TOLD, repeat_interval=HOUR))
    replica.readings.counts[IRIS] = BAD
    for elapsed in (timedelta(), 59 * MINUTE, MINUTE, 30 * MINUTE):
        replica.turn(elapsed)
        replica.deliver()
    assert [told for _, told in replica.sent()] == [[("iris 1.0.0", "FIRING")], [("iris 1.0.0", "REPEATED")]]
    (alert,) = replica.listed()
    shown = replica.alerts.acknowledge(alert.id, "a bad deployment")
    assert shown.alert.acknowledgement is not None
    assert (shown.alert.acknowledgement.by, shown.alert.acknowledgement.note) == ("anonymous", "a bad deployment")
    replica.turn(5 * HOUR)
    assert len(replica.sent()) == 2
    replica.readings.counts[IRIS] = GOOD
    replica.turn(TURN)
    assert replica.sent()[-1] == ("ops", [("iris 1.0.0", "RESOLVED")])
    with pytest.raises(FailedPrecondition) as refused:
        replica.alerts.acknowledge(alert.id, "")
    assert refused.value.reason == "ALERT_RESOLVED"


def test_a_silenced_alert_is_kept_and_told_when_the_silence_is_over(replica: Replica) -> None:
    replica.create(draft(channels=TOLD))
    replica.silence(HOUR, model="iris")
    replica.readings.counts.update({IRIS: BAD, WINE: BAD})
    replica.turn()
    assert replica.sent() == [("ops", [("wine 1", "FIRING")])]
    shown = {each.alert.target: each.silenced for each in (replica.alerts.get(one.id) for one in replica.listed())}
    assert shown == {IRIS: True, WINE: False}
    replica.turn(HOUR)
    assert replica.sent()[-1] == ("ops", [("iris 1.0.0", "FIRING")])


def test_an_alert_that_flaps_is_told_once_and_stays_until_it_is_quiet(replica: Replica) -> None:
    replica.create(draft(channels=TOLD))
    for number in range(20):
        replica.readings.counts[IRIS] = GOOD if number % 2 else BAD
        replica.turn(MINUTE)
    told = [alerts[0][1] for _, alerts in replica.sent()]
    assert told == ["FIRING", "RESOLVED"] * 3 + ["FLAPPING FIRING"]
    assert replica.states() == ["RESOLVED"] * 3 + ["FIRING"]
    for _ in range(30):
        replica.turn(MINUTE)
    assert replica.states() == ["RESOLVED"] * 4
    assert [alerts[0][1] for _, alerts in replica.sent()][7:] == ["FLAPPING RESOLVED"]


def test_a_rule_that_is_switched_off_resolves_its_alerts_at_once(replica: Replica) -> None:
    rule = replica.create(draft(channels=TOLD))
    pending = replica.create(draft(name="waiting", hold=HOUR, channels=TOLD))
    replica.readings.counts[IRIS] = BAD
    replica.turn()
    replica.rules.update(rule.id, draft(channels=TOLD, enabled=False), "")
    replica.rules.update(pending.id, draft(name="waiting", enabled=False), "")
    (alert,) = replica.listed()
    assert (alert.state, alert.message) == (AlertState.RESOLVED, "the rule was switched off by anonymous")
    assert replica.sent()[-1] == ("ops", [("iris 1.0.0", "RESOLVED")])
    replica.turn(TURN)
    assert replica.states() == ["RESOLVED"]


def test_a_rule_that_is_deleted_resolves_its_alerts_and_leaves_their_history(replica: Replica) -> None:
    rule = replica.create(draft(channels=TOLD))
    replica.readings.counts[IRIS] = BAD
    replica.turn()
    replica.rules.delete(rule.id)
    replica.turn(TURN)
    (alert,) = replica.listed()
    assert [event.message for event in replica.alerts.get(alert.id).history][1:] == [
        "the rule was deleted by anonymous"
    ]
    assert replica.sent()[-1] == ("ops", [("iris 1.0.0", "RESOLVED")])


def test_a_rule_that_is_changed_while_it_is_judged_is_judged_at_the_next_turn(replica: Replica) -> None:
    rule = replica.create(draft())
    replica.readings.counts[IRIS] = BAD

    class Changing(Readings):
        def every(self, window: Window, *, latencies: bool) -> EveryTotal:
            replica.rules.update(rule.id, draft(threshold=0.9), "")
            return super().every(window, latencies=latencies)

    Replica(replica.database, Changing(replica.readings.counts), replica.clock).turn()
    assert replica.listed() == []


def test_a_rule_that_is_just_being_deleted_opens_nothing(replica: Replica) -> None:
    rule = replica.create(draft())
    replica.readings.counts[IRIS] = BAD
    with ThreadPoolExecutor(1) as judging, replica.database.transaction() as connection:
        connection.execute("DELETE FROM monitoring.alert_rules WHERE rule_id = %s", [rule.id])
        turn = judging.submit(replica.turn)
        eventually(lambda: turn.done() or replica.execute(WAITING) == [{"count": 1}])
        assert not turn.done()
    turn.result(60)
    assert replica.listed() == []


def test_a_version_that_another_replaced_is_done_with(replica: Replica) -> None:
    replica.create(draft(channels=TOLD))
    replica.readings.counts[IRIS] = BAD
    replica.turn()
    replica.readings.counts = {OLD: GOOD}  # rolled back
    replica.turn(TURN)
    (alert,) = replica.listed()
    assert (alert.state, alert.message) == (
        AlertState.RESOLVED,
        "iris 1.0.0 no longer answers: another version does",
    )


def test_without_any_traffic_an_alert_stays_or_goes_as_its_rule_says(replica: Replica) -> None:
    replica.create(draft(name="stays"))
    replica.create(draft(name="goes", missing_data=MissingData.RESOLVE))
    replica.create(draft(name="misses", missing_data=MissingData.ALERT))
    replica.create(draft(name="stopped", metric="inference_count", operator=Operator.LESS, threshold=10.0))
    replica.readings.counts[IRIS] = BAD
    replica.turn()
    replica.readings.counts, replica.readings.lately = {}, {"iris": ("1.0.0",)}
    replica.turn(TURN)
    assert {(alert.rule_name, str(alert.target)): (alert.state.name, alert.value) for alert in replica.listed()} == {
        ("stays", "iris 1.0.0"): ("FIRING", 0.5),
        ("goes", "iris 1.0.0"): ("RESOLVED", 0.5),
        ("misses", "iris 1.0.0"): ("RESOLVED", 0.5),
        ("misses", "iris"): ("FIRING", None),
        ("stopped", "iris"): ("FIRING", 0.0),
    }
    replica.readings.counts[IRIS] = GOOD
    replica.turn(TURN)
    assert {alert.rule_name: alert.message for alert in replica.listed() if alert.target.version == ""} == {
        "misses": "versions of iris answer, and no call failed before one was chosen any more",
        "stopped": "iris: inference_count over 5m is 100, no longer < 10",
    }


def test_retraining_hears_of_what_may_be_cured_by_it_in_the_same_turn(replica: Replica) -> None:
    drift: dict[str, Any] = {"type": AlertType.DRIFT, "metric": "effect", "window": 24 * HOUR, "threshold": 0.2}
    checked = drift_check(drift_result("age", 0.5))
    replica.create(draft(metric="server_error_rate"))
    replica.create(draft(name="drift", **drift, drift_type=checked.drifted_types[0]))
    replica.create(draft(name="many", metric="inference_count", threshold=10.0))
    replica.readings.counts[IRIS] = BAD
    replica.readings.drift_checks[IRIS] = checked
    replica.turn()
    replica.turn(TURN)
    causes = replica.execute("SELECT reason, alert_id, check_id FROM monitoring.retraining_causes ORDER BY reason")
    by_rule = {alert.rule_name: alert.id for alert in replica.listed()}
    assert [tuple(cause.values()) for cause in causes] == [
        ("DRIFT_DETECTED", by_rule["drift"], checked.id),
        ("ERROR_RATE_THRESHOLD", by_rule["errors"], None),
    ]


@pytest.mark.parametrize("error", [Aborted("the database took too long"), ZeroDivisionError("a defect")], ids=repr)
def test_a_rule_that_cannot_be_judged_keeps_nobody_from_the_others(replica: Replica, error: Exception) -> None:
    class Slow(Readings):
        def every(self, window: Window, *, latencies: bool) -> EveryTotal:
            if window.seconds == 3_600:
                raise error
            return super().every(window, latencies=latencies)

    replica.create(draft(name="a", window=HOUR))
    replica.create(draft(name="b"))
    slow = Replica(replica.database, Slow({IRIS: BAD}), replica.clock)
    slow.turn()
    assert [alert.rule_name for alert in replica.listed()] == ["b"]
    assert slow.registry.get_sample_value("penstock_monitoring_alert_rules_not_judged_total") == 1
    assert slow.registry.get_sample_value(LAST_TURN) == replica.clock.now.timestamp()


def test_an_alert_that_cannot_be_kept_keeps_nobody_from_the_others(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.create(draft(channels=TOLD))
    replica.readings.counts = {IRIS: BAD, OLD: BAD, WINE: BAD}
    consider = RetrainingRequests.consider_alert

    def failing(self: RetrainingRequests, connection: Any, alert: Alert) -> None:
        if alert.target == OLD:
            raise ZeroDivisionError("a defect")
        consider(self, connection, alert)

    monkeypatch.setattr(RetrainingRequests, "consider_alert", failing)
    replica.turn()
    assert {alert.target for alert in replica.listed()} == {IRIS, WINE}
    assert sorted(told for _, told in replica.sent()) == [[("iris 1.0.0", "FIRING")], [("wine 1", "FIRING")]]
    assert replica.registry.get_sample_value("penstock_monitoring_alert_rules_not_judged_total") == 1


@pytest.mark.parametrize("error", [Aborted("a lock"), DeadlineExceeded("too slow")], ids=repr)
def test_a_database_without_time_is_not_asked_for_each_alert_alone(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    replica.create(draft())
    replica.readings.counts = {IRIS: BAD, OLD: BAD, WINE: BAD}
    asked = Mock(side_effect=error)
    with monkeypatch.context() as slow:
        slow.setattr(RetrainingRequests, "consider_alert", asked)
        with pytest.raises(type(error)):
            replica.turn()
    assert (asked.call_count, replica.listed()) == (1, [])
    replica.turn(TURN)
    assert replica.states() == ["FIRING"] * 3


def test_a_turn_ends_when_the_service_does(replica: Replica) -> None:
    replica.create(draft())
    replica.readings.counts[IRIS] = BAD
    turn = replica.new_turn()
    turn._stopping.set()
    replica.evaluation.take(turn)
    assert replica.listed() == []
    assert replica.registry.get_sample_value(LAST_TURN) == 0


def test_a_channel_that_is_not_there_is_refused_and_one_that_a_rule_tells_is_not_deleted(replica: Replica) -> None:
    rule = replica.create(draft(channels=TOLD))
    with pytest.raises(InvalidArgument) as refused:
        replica.rules.update(rule.id, draft(channels=("ops", "nobody")), "")
    assert refused.value.reason == "CHANNEL_NOT_FOUND"
    with pytest.raises(FailedPrecondition, match="errors") as in_use:
        replica.channels.delete("ops")
    assert in_use.value.reason == "CHANNEL_IN_USE"
    replica.rules.update(rule.id, draft(), "")
    replica.channels.delete("ops")


def test_firing_alerts_are_counted_by_model_and_severity(replica: Replica) -> None:
    replica.create(draft())
    replica.create(draft(name="other"))
    replica.create(draft(name="waits", hold=HOUR))
    replica.readings.counts = {IRIS: BAD, OLD: GOOD, WINE: BAD}
    replica.turn()
    assert counts_of(replica) == {("iris", "CRITICAL"): (2, 2), ("wine", "CRITICAL"): (2, 2)}


def test_what_is_acknowledged_or_silenced_is_counted_as_attended_and_again_when_the_silence_is_over(
    replica: Replica,
) -> None:
    replica.create(draft())
    replica.create(draft(name="other", severity=Severity.WARNING))
    replica.readings.counts = {IRIS: BAD, WINE: BAD}
    replica.turn()
    replica.silence(HOUR, model="iris", severity=Severity.CRITICAL)
    for alert in replica.listed():
        if alert.target == WINE:
            replica.alerts.acknowledge(alert.id, "on it")
    attended = {("wine", "CRITICAL"): (1, 0), ("wine", "WARNING"): (1, 0), ("iris", "WARNING"): (1, 1)}
    assert counts_of(replica) == {**attended, ("iris", "CRITICAL"): (1, 0)}
    replica.clock.forward(HOUR)
    assert counts_of(replica) == {**attended, ("iris", "CRITICAL"): (1, 1)}


def counts_of(replica: Replica) -> dict[tuple[str, str], tuple[int, int]]:
    """Of each model and severity, how many fire, and how many of those nobody attends to."""
    return {(each.model, each.severity.name): (each.count, each.unattended) for each in replica.alerts.open_counts()}
