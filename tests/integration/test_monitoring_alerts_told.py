"""Who is told of an alert, in which messages, and who hears of its end; what is kept of a turn that stood still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from services.common.outbox import Outbox
from services.common.postgres import Database
from services.monitoring.alerts.models import Operator, Target
from services.monitoring.configuration.models import Scope
from services.monitoring.models import Window
from services.monitoring.rollups.totals import EveryTotal
from tests.alert_replicas import Replica, SetClock
from tests.alerting import HOUR, IRIS, SECOND, Readings, counted, draft

TURN = 15 * SECOND
BAD, GOOD = counted(50), counted(1)
OLD, WINE = Target("iris", "0.9.0"), Target("wine", "1")
FIRING, RESOLVED = ("iris 1.0.0", "FIRING"), ("iris 1.0.0", "RESOLVED")


@pytest.fixture(scope="module")
def database(postgres_server: object) -> Iterator[Database]:
    url = postgres_server.clone("monitoring")  # type: ignore[attr-defined] # a PostgresServer
    with Database(url, pool_size=6) as database:
        yield database
    postgres_server.drop(url)  # type: ignore[attr-defined] # as above


@pytest.fixture
def replica(database: Database) -> Replica:
    """A replica of a database without rules, alerts, silences and messages."""
    made = Replica(database, Readings({IRIS: GOOD}), SetClock())
    made.execute("TRUNCATE monitoring.alert_rules, monitoring.alerts, monitoring.alert_silences CASCADE")
    made.execute("TRUNCATE monitoring.outbox, monitoring.configurations, monitoring.alert_rule_changes")
    return made


def fires(replica: Replica, *channels: str) -> Callable[..., None]:
    """Have an alert fire; gives what has its rule tell others."""
    rule = replica.create(draft(channels=channels))
    replica.readings.counts[IRIS] = BAD
    replica.turn()

    def tell(*others: str) -> None:
        for channel in others:
            replica.create_channel(channel)
        replica.rules.update(rule.id, draft(channels=others), "")
        replica.turn(TURN)

    return tell


def ends(replica: Replica) -> None:
    replica.readings.counts[IRIS] = GOOD
    replica.turn(TURN)


def test_all_that_a_channel_is_to_hear_of_a_model_is_one_message(replica: Replica) -> None:
    replica.create(draft(channels=("ops",)))
    replica.create(draft(name="also", channels=("ops", "slack")))
    replica.readings.counts = {IRIS: BAD, OLD: GOOD, WINE: BAD}
    replica.turn()
    wine = ("wine 1", "FIRING")
    assert sorted(replica.sent()) == [
        ("ops", [FIRING, FIRING]),
        ("ops", [wine, wine]),
        ("slack", [FIRING]),
        ("slack", [wine]),
    ]
    replica.readings.counts.update({IRIS: GOOD, OLD: BAD})
    replica.turn(TURN)
    old = ("iris 0.9.0", "FIRING")
    assert sorted(replica.sent()[4:]) == [("ops", [old, old, RESOLVED, RESOLVED]), ("slack", [old, RESOLVED])]


def test_a_receiver_that_was_away_hears_no_repeats_of_that_time_and_then_the_newest(replica: Replica) -> None:
    replica.create(draft(channels=("ops",), repeat_interval=HOUR))
    replica.create(draft(name="later", channels=("ops",), threshold=0.7))
    replica.readings.counts[IRIS] = BAD
    for _ in range(5):
        replica.turn(HOUR)
    assert replica.sent() == [("ops", [FIRING])], "the first still waits"
    replica.readings.counts[IRIS] = counted(80)
    replica.turn(TURN)
    assert replica.sent()[1:] == [("ops", [FIRING])], "what is new is told at once"
    replica.deliver()
    replica.turn(TURN)
    assert replica.sent()[2:] == [("ops", [("iris 1.0.0", "REPEATED")])]
    replica.turn(TURN)
    ends(replica)
    assert replica.sent()[3:] == [("ops", [RESOLVED, RESOLVED])]


def test_the_end_of_an_alert_waits_for_its_beginning(replica: Replica) -> None:
    outbox = Outbox(replica.database, "monitoring")
    replica.readings.counts[WINE] = GOOD
    fires(replica, "ops")
    firing = outbox.claim("worker", 60)
    assert firing is not None
    outbox.put_back(firing, delay_s=60, reason="DOWN", error="it is down")
    replica.readings.counts[WINE] = BAD
    ends(replica)
    wine = outbox.claim("worker", 60)
    assert wine is not None
    assert b'"model":"wine"' in wine.body
    outbox.delivered(wine)
    again = outbox.claim("worker", 60)
    assert again is not None
    assert again.message_id == firing.message_id
    outbox.put_back(again, delay_s=60, reason="DOWN", error="it is down")
    assert outbox.claim("worker", 60) is None


def test_a_channel_that_is_added_while_it_fires_hears_of_it_and_others_not_again(replica: Replica) -> None:
    tell = fires(replica, "ops")
    tell("ops", "slack")
    assert replica.sent() == [("ops", [FIRING]), ("slack", [FIRING])]
    ends(replica)
    assert replica.sent()[2:] == [("ops", [RESOLVED]), ("slack", [RESOLVED])]


@pytest.mark.parametrize("now", [(), ("slack",)], ids=["nobody", "another"])
def test_a_channel_that_is_taken_out_hears_the_end_of_what_it_was_told(replica: Replica, now: tuple[str, ...]) -> None:
    tell = fires(replica, "ops")
    tell(*now)
    ends(replica)
    assert [told for channel, told in replica.sent() if channel == "ops"] == [[FIRING], [RESOLVED]]


def test_a_channel_that_was_deleted_since_makes_no_message_that_fails(replica: Replica) -> None:
    tell = fires(replica, "ops")
    tell()
    replica.channels.delete("ops")
    ends(replica)
    assert replica.states() == ["RESOLVED"]
    assert replica.execute("SELECT count(*) AS count FROM monitoring.outbox") == [{"count": 1}]


def test_the_end_of_what_was_told_is_told_in_spite_of_a_silence(replica: Replica) -> None:
    fires(replica, "ops")
    replica.silence(HOUR)
    ends(replica)
    assert replica.sent() == [("ops", [FIRING]), ("ops", [RESOLVED])]


def test_a_silence_of_a_model_as_a_whole_leaves_its_versions_alone(replica: Replica) -> None:
    replica.silence(HOUR, model="iris", without_version=True)
    replica.readings.counts[Target("iris", "")] = BAD
    fires(replica, "ops")
    assert replica.sent() == [("ops", [FIRING])]
    assert replica.states() == ["FIRING", "FIRING"]


def test_nobody_hears_of_the_end_of_what_they_never_heard_of(replica: Replica) -> None:
    silence = replica.silence(HOUR)
    fires(replica, "ops")
    replica.silences.end(silence)
    ends(replica)
    assert (replica.states(), replica.sent()) == (["RESOLVED"], [])


def test_a_turn_that_stood_still_while_another_judged_keeps_nothing(replica: Replica) -> None:
    """Else what was seen long ago would open an alert that another replica has just resolved and told."""
    other = Replica(replica.database, Readings({IRIS: GOOD}), replica.clock)
    replica.create(draft(channels=("ops",)))

    class Stopped(Readings):
        def every(self, window: Window, *, latencies: bool) -> EveryTotal:
            found = super().every(window, latencies=latencies)
            other.turn()  # as after a SIGSTOP: the lease ran out, another took it, judged and gave it back
            return found

    Replica(replica.database, Stopped({IRIS: BAD}), replica.clock).turn()
    assert (replica.listed(), replica.sent()) == ([], [])


def test_where_alerts_are_switched_off_none_is_judged_and_those_open_are_resolved(replica: Replica) -> None:
    replica.readings.counts[WINE] = BAD
    fires(replica, "ops")
    replica.configurations.set(Scope("iris"), {"alerts": {"enabled": False}}, etag="", note="")
    replica.turn(TURN)
    found = {alert.target: alert for alert in replica.listed()}
    assert {target: alert.state.name for target, alert in found.items()} == {IRIS: "RESOLVED", WINE: "FIRING"}
    assert found[IRIS].message == "alerts of iris 1.0.0 are switched off"
    replica.configurations.set(Scope(), {"alerts": {"enabled": False}}, etag="", note="")
    replica.turn(TURN)
    assert replica.states() == ["RESOLVED", "RESOLVED"]


def test_an_alert_of_a_version_that_is_gone_for_good_does_not_fire_for_ever(replica: Replica) -> None:
    replica.create(draft(name="stopped", metric="inference_count", operator=Operator.LESS, threshold=10.0))
    fires(replica, "ops")
    replica.readings.counts, replica.readings.lately = {}, {"iris": ("1.0.0",)}
    replica.turn(TURN)
    assert replica.states() == ["FIRING", "FIRING"]
    replica.readings.lately = {}
    replica.turn(timedelta(days=1))
    found = {alert.rule_name: alert.state.name for alert in replica.listed()}
    assert found == {"errors": "RESOLVED", "stopped": "FIRING"}  # an outage is no less one after a day
    replica.readings.archived = {Target("iris", "")}
    replica.turn(TURN)
    (stopped,) = [alert for alert in replica.listed() if alert.rule_name == "stopped"]
    assert (stopped.state.name, stopped.message) == (
        "RESOLVED",
        "iris no longer answers: all of it was deleted or archived",
    )


def test_what_was_done_to_rules_is_kept_with_who_did_it(replica: Replica) -> None:
    rule = replica.create(draft(model="iris", channels=("ops",)))
    replica.rules.update(rule.id, draft(model="iris", threshold=0.5), "")
    replica.rules.delete(rule.id)
    replica.create(draft())
    deleted, changed, made = replica.rules.changes("iris", None, size=0, token="")[0]
    assert (made.before, made.after) == (None, rule)
    assert (changed.before, changed.after and changed.after.threshold) == (rule, 0.5)
    assert (deleted.before, deleted.after) == (changed.after, None)
    assert {each.changed_by for each in (deleted, changed, made)} == {"anonymous"}
    first, token = replica.rules.changes("", rule.id, size=2, token="")
    rest, end = replica.rules.changes("", rule.id, size=2, token=token)
    assert (first, rest, end) == ([deleted, changed], [made], "")
