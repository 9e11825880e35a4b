"""Which rule an alert stands under, and of what: changed rules, more specific ones, and models as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from services.common.errors import Aborted
from services.common.postgres import Database
from services.monitoring.alerts.models import AlertState, AlertType, Operator, Severity, Target
from tests.alert_replicas import Replica, SetClock
from tests.alerting import HOUR, IRIS, SECOND, Readings, counted, draft, drift_check, drift_result

TURN = 15 * SECOND
BAD, GOOD = counted(50), counted(1)
OLD, WINE, WHOLE = Target("iris", "0.9.0"), Target("wine", "1"), Target("iris", "")
TOLD = ("ops",)
STOPPED: dict[str, Any] = {"name": "stopped", "metric": "inference_count", "operator": Operator.LESS, "threshold": 10.0}


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


def test_a_changed_rule_ends_what_is_open_and_leaves_what_it_says_as_it_was(replica: Replica) -> None:
    rule = replica.create(draft(channels=TOLD))
    replica.readings.counts[IRIS] = BAD
    replica.turn()
    replica.rules.update(rule.id, draft(channels=TOLD, threshold=0.9), rule.etag)
    replica.turn(TURN)
    (alert,) = replica.listed()
    assert (alert.state, alert.threshold, alert.value) == (AlertState.RESOLVED, 0.1, 0.5)
    assert alert.condition == "error_rate over 5m > 0.1"
    assert alert.message == "the rule was changed by anonymous: critical, error_rate over 5m > 0.9"
    assert replica.sent()[-1] == ("ops", [("iris 1.0.0", "RESOLVED")])
    with pytest.raises(Aborted) as refused:
        replica.rules.update(rule.id, draft(), rule.etag)
    assert refused.value.reason == "ETAG_MISMATCH"


@pytest.mark.parametrize("changes", [{"threshold": 0.2}, {"severity": Severity.INFO}], ids=str)
def test_what_a_changed_rule_still_holds_of_is_another_alert(replica: Replica, changes: dict[str, Any]) -> None:
    rule = replica.create(draft())
    replica.readings.counts[IRIS] = BAD
    replica.turn()
    replica.rules.update(rule.id, draft(**changes), rule.etag)
    replica.turn(TURN)
    new, old = replica.listed()
    assert (old.state, old.threshold, old.severity) == (AlertState.RESOLVED, 0.1, Severity.CRITICAL)
    assert (new.state, {name: getattr(new, name) for name in changes}) == (AlertState.FIRING, changes)


def test_a_rule_that_only_tells_others_leaves_its_alerts_as_they_are(replica: Replica) -> None:
    rule = replica.create(draft())
    replica.readings.counts[IRIS] = BAD
    replica.turn()
    replica.create_channel("ops")
    replica.rules.update(rule.id, draft(channels=TOLD, description="new"), rule.etag)
    replica.turn(TURN)
    assert (replica.states(), replica.sent()) == (["FIRING"], [("ops", [("iris 1.0.0", "FIRING")])])


def test_the_most_specific_rule_of_a_name_takes_over(replica: Replica) -> None:
    replica.create(draft(channels=TOLD))
    replica.readings.counts = {IRIS: BAD, OLD: BAD, WINE: BAD}
    replica.turn()
    replica.create(draft(model="iris", threshold=0.9))
    replica.create(draft(model="iris", version="0.9.0", threshold=0.2))
    replica.create(draft(model="wine", enabled=False))
    replica.turn(TURN)
    found = {(alert.target, alert.threshold): alert for alert in replica.listed()}
    assert {key: alert.state.name for key, alert in found.items()} == {
        (IRIS, 0.1): "RESOLVED",
        (OLD, 0.1): "RESOLVED",
        (WINE, 0.1): "RESOLVED",
        (OLD, 0.2): "FIRING",
    }
    assert found[WINE, 0.1].message == "the rule 'errors' of wine holds now"


def test_a_rule_that_is_made_for_another_model_resolves_what_it_is_no_longer_for(replica: Replica) -> None:
    rule = replica.create(draft())
    replica.readings.counts = {IRIS: BAD, WINE: BAD}
    replica.turn()
    replica.rules.update(rule.id, draft(model="wine"), rule.etag)
    replica.turn(TURN)
    found = {alert.target: (alert.state.name, alert.message) for alert in replica.listed()}
    assert found[IRIS] == ("RESOLVED", "the rule no longer holds for this version")
    assert found[WINE][0] == "FIRING"


def test_a_later_check_does_not_take_the_place_of_that_which_an_alert_fired_on(replica: Replica) -> None:
    drift: dict[str, Any] = {"type": AlertType.DRIFT, "metric": "effect", "window": 24 * HOUR, "threshold": 0.2}
    replica.create(draft(name="drift", **drift))
    first = drift_check(drift_result("age", 0.5))
    later = drift_check(drift_result("age", 0.4), id=UUID(int=9))
    for check in (first, later):
        replica.readings.drift_checks[IRIS] = check
        replica.turn(TURN)
    (alert,) = replica.listed()
    assert (alert.check_id, alert.value, alert.last_check_id, alert.last_value) == (first.id, 0.5, later.id, 0.4)


def test_a_model_that_gets_no_traffic_is_one_alert_however_many_versions_answered(replica: Replica) -> None:
    replica.create(draft(**STOPPED))
    replica.readings.counts, replica.readings.lately = {}, {"iris": ("1.0.0", "0.9.0")}
    replica.turn()
    assert [(alert.target, alert.message) for alert in replica.listed()] == [
        (WHOLE, "iris: inference_count over 5m is 0, < 10")
    ]
    replica.readings.counts = {IRIS: counted(0, of=6), OLD: counted(0, of=6)}
    replica.turn(TURN)
    assert replica.states() == ["RESOLVED"]


def test_a_version_that_fails_is_one_alert_though_other_calls_fail_before_one_is_chosen(replica: Replica) -> None:
    replica.create(draft())
    replica.readings.counts = {IRIS: BAD, WHOLE: counted(2, of=2)}
    replica.turn()
    assert [alert.target for alert in replica.listed()] == [IRIS]
    replica.readings.counts = {IRIS: GOOD, WHOLE: counted(50, of=50)}
    replica.turn(TURN)
    open_ = {alert.target: alert.message for alert in replica.listed() if alert.state is AlertState.FIRING}
    said = "iris: error_rate over 5m is 0.333333, > 0.1 (50 of 150 calls failed before a version was chosen)"
    assert open_ == {WHOLE: said}


def test_a_count_has_a_rule_of_a_version_in_the_place_of_the_general_one(replica: Replica) -> None:
    replica.create(draft(**STOPPED))
    replica.create(draft(**{**STOPPED, "threshold": 3.0}, model="iris", version="1.0.0"))
    replica.readings.counts = {IRIS: counted(0, of=5)}
    replica.turn()
    assert replica.listed() == []
    replica.readings.counts = {IRIS: counted(0, of=2), OLD: counted(0, of=2)}  # which has none of its own
    replica.turn(TURN)
    assert {alert.target: alert.threshold for alert in replica.listed()} == {IRIS: 3.0, WHOLE: 10.0}


def test_a_count_that_is_no_longer_of_one_version_is_of_the_model_alone(replica: Replica) -> None:
    rule = replica.create(draft(**STOPPED, model="iris", version="1.0.0"))
    replica.readings.counts = {IRIS: counted(0, of=5)}
    replica.turn()
    replica.rules.update(rule.id, draft(**STOPPED, model="iris"), rule.etag)
    replica.turn(TURN)
    found = {alert.target: (alert.state.name, alert.message) for alert in replica.listed()}
    assert found[IRIS] == ("RESOLVED", "the rule names no version any more: iris is judged as a whole")
    assert found[WHOLE][0] == "FIRING"


def test_alerts_of_one_turn_are_told_apart_by_how_their_ids_begin(replica: Replica) -> None:
    replica.create(draft())
    replica.readings.counts = {Target("iris", f"{number}"): BAD for number in range(40)}
    replica.turn()
    assert len({str(alert.id)[:23] for alert in replica.listed()}) == 40
